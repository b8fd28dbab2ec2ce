//! A whole cluster on one host: nodes and a proxy as child processes of one program, all under one directory.
//!
//! Used by the demonstration, the lab and the benchmark. Everything it starts ends with it: [`LocalCluster::stop`] in
//! order, dropping it at once. See [`super::observe`] for looking at it and [`super::harm`] for breaking it.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use identity::authority::GOOD_DEFAULT;
use identity::{Authority, Caller, Credentials, Folder, Plain, Role, Subject};
use rustix::process::Signal;
use tokio::time::sleep;

use super::layout::{self, Common, Host, Mode, Place, Placement, Proxies};
use super::ports::{self, Claim};
use super::processes;
use super::session::Address;
use crate::config;

/// Agents that have not ended in order after so long are killed.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// The name of who looks after a local cluster.
pub const OWNER: &str = "owner";

/// Where the authority's key is, beside the certificates.
pub const AUTHORITY: &str = "authority";

/// Between two looks at processes that are to end.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What to build.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// The pgkeel program.
    pub program: PathBuf,
    /// Directory for everything: absolute, existing, empty. When this process is root the server's user must be able
    /// to reach it.
    pub root: PathBuf,
    /// How many nodes: n1, n2, ...
    pub nodes: usize,
    /// Replication.
    pub mode: Mode,
    /// The timer `detect`; `None`: its default.
    pub detect: Option<Duration>,
    /// Where the proxies run.
    pub proxies: Proxies,
    /// On which hosts.
    pub placement: Placement,
    /// Whether its processes show each other certificates.
    pub security: Security,
}

/// Whether the processes of a local cluster speak TLS with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// They do, and each knows the others by the certificates of an authority of this cluster.
    Tls,
    /// They do not.
    Plain,
}

/// One node.
#[derive(Debug)]
pub struct LocalNode {
    /// Its files and ports.
    pub place: Place,
    /// Its agent, while it is meant to run.
    pub(super) child: Option<Child>,
    /// How its agent is asked.
    pub(super) caller: Caller,
}

/// The proxy with a process of its own.
#[derive(Debug)]
struct LocalProxy {
    host: Host,
    port: u16,
    config: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

/// The cluster.
#[derive(Debug)]
pub struct LocalCluster {
    /// What was asked for.
    pub options: ClusterOptions,
    /// The nodes, n1 first.
    pub nodes: Vec<LocalNode>,
    proxy: Option<LocalProxy>,
    /// The ports are this cluster's as long as it lives.
    _claims: Vec<Claim>,
}

impl LocalCluster {
    /// Chooses ports and writes the configuration files; starts nothing.
    ///
    /// # Errors
    /// When ports or files cannot be had, or this host cannot run what the files ask for (no PostgreSQL, no such user):
    /// every problem with what to do about it.
    pub fn create(options: ClusterOptions) -> Result<LocalCluster> {
        let claims = ports::claim(3 * options.nodes + 1)?;
        let mut port = claims.iter().map(|claim| claim.port);
        let mut next = || port.next().context("too few ports were claimed");
        let mut nodes = Vec::new();
        let mut members = Vec::new();
        for number in 1..=options.nodes {
            let host = options.placement.node(number - 1).context("too few hosts were named")?;
            let (name, agent_port, postgres_port, proxy_port) =
                (format!("n{number}"), next()?, next()?, next()?);
            let proxy_port = (options.proxies == Proxies::OnEveryNode).then_some(proxy_port);
            let place = Place::under(&options.root, &name, host, agent_port, postgres_port, proxy_port);
            members.push((name, place.agent.clone()));
            nodes.push(LocalNode { place, child: None, caller: Caller::plain() });
        }
        let (mode, detect) = (options.mode.clone(), options.detect);
        let tls = (options.security == Security::Tls).then(|| options.root.join("tls"));
        let common = Common { cluster: "demo".to_owned(), mode, detect, bin_dir: None, members, tls };
        if let Some(dir) = &common.tls {
            let caller = issue(dir, &common)?;
            nodes.iter_mut().for_each(|node| node.caller = caller.clone());
        }
        for node in &nodes {
            make_dir(&node.place.dir)?;
            write(&node.place.config, &layout::node_file(&common, &node.place))?;
        }
        let proxy = match options.proxies {
            Proxies::Separate => {
                Some(LocalProxy::create(&options.root, &common, options.placement.proxy(), next()?)?)
            }
            Proxies::OnEveryNode | Proxies::Nowhere => None,
        };
        nodes.iter().try_for_each(|node| check(&node.place.config))?;
        Ok(LocalCluster { options, nodes, proxy, _claims: claims })
    }

    /// The port of a proxy: the one with its own process, or that of the first node that has one.
    ///
    /// # Errors
    /// When the cluster was built without one.
    pub fn proxy_port(&self) -> Result<u16> {
        let of_a_node = || self.nodes.iter().find_map(|node| node.place.proxy_port);
        self.proxy.as_ref().map(|proxy| proxy.port).or_else(of_a_node).context("this cluster has no proxy")
    }

    /// Where a proxy listens: the one that [`LocalCluster::proxy_port`] means.
    ///
    /// # Errors
    /// When the cluster was built without one.
    pub fn proxy_address(&self) -> Result<Address> {
        let port = self.proxy_port()?;
        let own = self.proxy.as_ref().map(|proxy| &proxy.host);
        let of_a_node = || self.nodes.iter().find(|node| node.place.proxy_port.is_some());
        let host = own.or_else(|| of_a_node().map(|node| &node.place.host));
        Ok(Address { host: host.context("this cluster has no proxy")?.address.clone(), port })
    }

    /// Which node has this name.
    ///
    /// # Errors
    /// When none has.
    pub fn index(&self, name: &str) -> Result<usize> {
        let found = self.nodes.iter().position(|node| node.place.name == name);
        found.with_context(|| format!("{name} is no node of this cluster"))
    }

    /// Starts everything that does not run.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(&mut self) -> Result<()> {
        (0..self.nodes.len()).try_for_each(|node| self.start_node(node))?;
        self.start_proxy()
    }

    /// Starts the agent of one node, unless it runs.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start_node(&mut self, node: usize) -> Result<()> {
        let program = self.options.program.clone();
        let node = self.nodes.get_mut(node).context("there is no such node")?;
        if node.child.is_none() {
            node.child = Some(spawn(&node.place.host, &program, &node.place.config, &node.place.log)?);
        }
        Ok(())
    }

    /// Starts the proxy with its own process, if there is to be one.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start_proxy(&mut self) -> Result<()> {
        if let Some(proxy) = self.proxy.as_mut().filter(|proxy| proxy.child.is_none()) {
            proxy.child = Some(spawn(&proxy.host, &self.options.program, &proxy.config, &proxy.log)?);
        }
        Ok(())
    }

    /// Stops one node in order and waits for its end; kills what is left of it after a generous time.
    ///
    /// # Errors
    /// When it had to be killed, or ended with an error.
    pub async fn stop_node(&mut self, node: usize) -> Result<()> {
        let node = self.nodes.get_mut(node).context("there is no such node")?;
        let Some(mut child) = node.child.take() else { return Ok(()) };
        terminate(&child);
        let status = wait_for_end(&mut child, STOP_LIMIT).await;
        let name = &node.place.name;
        processes::kill_all(&processes::of_cluster(&node.place.dir, &processes::all()));
        match status {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("the agent of {name} was told to stop and ended with {status}"),
            None => {
                let _ = child.kill();
                let _ = child.wait();
                bail!("the agent of {name} did not stop within {} s and was killed", STOP_LIMIT.as_secs())
            }
        }
    }

    /// Waits for an agent that ends by itself.
    ///
    /// # Errors
    /// When it still runs after `limit`, or was never started.
    pub async fn wait_for_exit(&mut self, node: usize, limit: Duration) -> Result<ExitStatus> {
        let node = self.nodes.get_mut(node).context("there is no such node")?;
        let child = node.child.as_mut().with_context(|| format!("{} does not run", node.place.name))?;
        let status = wait_for_end(child, limit).await;
        let status = status.with_context(|| {
            format!("the agent of {} still runs after {} s", node.place.name, limit.as_secs())
        })?;
        node.child = None;
        Ok(status)
    }

    /// Stops everything in order, then makes sure that nothing is left.
    pub async fn stop(&mut self) {
        let proxy = self.proxy.iter_mut().filter_map(|proxy| proxy.child.take());
        let mut children: Vec<Child> =
            proxy.chain(self.nodes.iter_mut().filter_map(|node| node.child.take())).collect();
        children.iter().for_each(terminate);
        let began = Instant::now();
        for child in &mut children {
            if wait_for_end(child, STOP_LIMIT.saturating_sub(began.elapsed())).await.is_none() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        self.kill_everything();
    }

    /// Kills whatever of the cluster still runs, and waits until it is gone.
    pub fn kill_everything(&mut self) {
        let proxy = self.proxy.iter_mut().filter_map(|proxy| proxy.child.take());
        for mut child in proxy.chain(self.nodes.iter_mut().filter_map(|node| node.child.take())) {
            let _ = child.kill();
            let _ = child.wait();
        }
        let began = Instant::now();
        while began.elapsed() < STOP_LIMIT {
            let left = processes::of_cluster(&self.options.root, &processes::all());
            if left.is_empty() {
                return;
            }
            processes::kill_all(&left);
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// The proxy's own process and log, and those of the nodes: name, whether it has ended although it was not told to.
    pub(super) fn children(&mut self) -> impl Iterator<Item = (&str, &Path, &mut Child)> {
        let proxy = self.proxy.iter_mut().map(|proxy| ("proxy", proxy.log.as_path(), &mut proxy.child));
        let nodes =
            self.nodes.iter_mut().map(|n| (n.place.name.as_str(), n.place.log.as_path(), &mut n.child));
        proxy.chain(nodes).filter_map(|(name, log, child)| child.as_mut().map(|child| (name, log, child)))
    }

    /// All logs, name first.
    pub(super) fn logs(&self) -> impl Iterator<Item = (&str, &Path)> {
        let nodes = self.nodes.iter().map(|node| (node.place.name.as_str(), node.place.log.as_path()));
        nodes.chain(self.proxy.iter().map(|proxy| ("proxy", proxy.log.as_path())))
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        self.kill_everything();
    }
}

impl LocalProxy {
    fn create(root: &Path, common: &Common, host: Host, port: u16) -> Result<LocalProxy> {
        let config = root.join("proxy.toml");
        write(&config, &layout::proxy_file(common, &host, port))?;
        Ok(LocalProxy { host, port, config, log: root.join("proxy.log"), child: None })
    }
}

/// An authority, a certificate for each process, and one for who looks after the cluster.
fn issue(dir: &Path, common: &Common) -> Result<Caller> {
    let folder = |name: &str| Folder::at(&dir.join(name));
    let pair = Authority::found(&common.cluster)?;
    folder(AUTHORITY).write_authority(&pair)?;
    let authority = folder(AUTHORITY).authority()?;
    let nodes = common.members.iter().map(|(name, _)| (Role::Agent, name.as_str()));
    for (role, name) in nodes.chain([(Role::Proxy, layout::PROXY), (Role::Admin, OWNER)]) {
        let subject = Subject::new(&common.cluster, role, name).map_err(anyhow::Error::msg)?;
        folder(name).write_authorities(&pair.certificate)?;
        folder(name).write_own(&authority.issue(&subject, GOOD_DEFAULT)?)?;
    }
    Ok(Caller::with(Some(Credentials::load(folder(OWNER), Plain::Refused)?)))
}

/// Makes a directory that every user may enter: the server may run as another user than this process.
fn make_dir(dir: &Path) -> Result<()> {
    let made = fs::create_dir_all(dir).and_then(|()| fs::set_permissions(dir, Permissions::from_mode(0o755)));
    made.with_context(|| format!("{} cannot be made", dir.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))
}

/// Asks beforehand what an agent would find out after its start.
fn check(path: &Path) -> Result<()> {
    let config = config::load(path)?;
    let problems = config.agent.as_ref().map(agent::settings::check_host).unwrap_or_default();
    if problems.is_empty() { Ok(()) } else { bail!("{}", problems.join("\n")) }
}

/// Starts `program run -c CONFIG` on a host, in a process group of its own: a Ctrl-C on the terminal is for this process alone,
/// which then stops the others in order.
fn spawn(host: &Host, program: &Path, config: &Path, log: &Path) -> Result<Child> {
    let open = || -> std::io::Result<(File, File)> {
        let log = OpenOptions::new().append(true).create(true).open(log)?;
        Ok((log.try_clone()?, log))
    };
    let (out, err) = open().with_context(|| format!("{} cannot be written", log.display()))?;
    let mut words = host.enter.iter().map(OsStr::new).chain([program.as_os_str()]);
    Command::new(words.next().unwrap_or(program.as_os_str()))
        .args(words)
        .args(["run", "-c"])
        .arg(config)
        .env("NO_COLOR", "1")
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .spawn()
        .with_context(|| format!("{} cannot be started", program.display()))
}

fn terminate(child: &Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        processes::send(pid, Signal::TERM);
    }
}

/// `None` when it still runs after `limit`.
async fn wait_for_end(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let began = Instant::now();
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if began.elapsed() >= limit {
            return None;
        }
        sleep(LOOK_AGAIN).await;
    }
}
