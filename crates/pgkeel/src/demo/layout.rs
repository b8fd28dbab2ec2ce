//! Where the files of a local cluster are, and what its configuration files say.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::session::Address;

/// How commits reach the standbys of a local cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// So many standbys confirm each commit.
    Quorum(usize),
    /// No standby is waited for; a failover may lose so much WAL, as the configuration file writes it ("1MiB").
    Async(String),
}

/// Where the proxies of a local cluster run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxies {
    /// One, in a process of its own.
    Separate,
    /// One inside every node's agent process.
    OnEveryNode,
    /// Nowhere.
    Nowhere,
}

/// On which hosts the parts of a local cluster run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// All on 127.0.0.1.
    Loopback,
    /// Each on its own, such as a network namespace.
    Hosts {
        /// Those of the nodes, n1 first.
        nodes: Vec<Host>,
        /// That of the proxy with a process of its own.
        proxy: Host,
    },
}

/// A host that programs are started on from this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its address.
    pub address: String,
    /// The words before a command that run it there; none: it runs here.
    pub enter: Vec<String>,
}

impl Host {
    /// This host, by its loopback address.
    #[must_use]
    pub fn loopback() -> Host {
        Host { address: "127.0.0.1".to_owned(), enter: Vec::new() }
    }
}

impl Placement {
    /// The host of the node with this number, counted from 0; `None` when too few hosts were named.
    #[must_use]
    pub fn node(&self, number: usize) -> Option<Host> {
        match self {
            Placement::Loopback => Some(Host::loopback()),
            Placement::Hosts { nodes, .. } => nodes.get(number).cloned(),
        }
    }

    /// The host of the proxy with a process of its own.
    #[must_use]
    pub fn proxy(&self) -> Host {
        match self {
            Placement::Loopback => Host::loopback(),
            Placement::Hosts { proxy, .. } => proxy.clone(),
        }
    }

    /// From where clients come, as pg_hba.conf writes it.
    fn clients(host: &Host) -> &'static str {
        if *host == Host::loopback() { "127.0.0.1/32" } else { "all" }
    }
}

/// What all configuration files of a local cluster have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Common {
    /// Name of the cluster.
    pub cluster: String,
    /// Replication.
    pub mode: Mode,
    /// The timer `detect`; `None`: its default.
    pub detect: Option<Duration>,
    /// The server programs; `None`: found by itself.
    pub bin_dir: Option<PathBuf>,
    /// Node names with the addresses of their agents.
    pub members: Vec<(String, String)>,
    /// Where the certificates are, a directory for each node and one for the proxy; `None`: there is no TLS between them.
    pub tls: Option<PathBuf>,
}

/// Where one node's files and ports are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name of the node.
    pub name: String,
    /// The agent's directory.
    pub dir: PathBuf,
    /// The data directory.
    pub data_dir: PathBuf,
    /// The configuration file.
    pub config: PathBuf,
    /// What the agent says.
    pub log: PathBuf,
    /// The host it runs on.
    pub host: Host,
    /// The agent's address.
    pub agent: String,
    /// The server's port.
    pub postgres_port: u16,
    /// The port of the proxy in the node's process, if there is one.
    pub proxy_port: Option<u16>,
}

impl Place {
    /// The usual place of a node under the cluster's directory.
    #[must_use]
    pub fn under(
        root: &Path,
        name: &str,
        host: Host,
        agent_port: u16,
        postgres_port: u16,
        proxy_port: Option<u16>,
    ) -> Place {
        let dir = root.join(name);
        Place {
            name: name.to_owned(),
            data_dir: dir.join("pgdata"),
            config: root.join(format!("{name}.toml")),
            log: root.join(format!("{name}.log")),
            agent: format!("{}:{agent_port}", host.address),
            host,
            dir,
            postgres_port,
            proxy_port,
        }
    }

    /// The server's Unix socket, which this host's superuser may use. It needs no network.
    #[must_use]
    pub fn socket(&self) -> Address {
        Address { host: self.dir.join("run").display().to_string(), port: self.postgres_port }
    }

    /// Where the server listens for clients.
    #[must_use]
    pub fn server(&self) -> Address {
        Address { host: self.host.address.clone(), port: self.postgres_port }
    }
}

/// The configuration file of one node.
#[must_use]
pub fn node_file(common: &Common, place: &Place) -> String {
    let mut text = head(common, &place.name);
    let (dir, data_dir) = (place.dir.display(), place.data_dir.display());
    let _ = write!(
        text,
        "[node]\nname = \"{}\"\ndir = \"{dir}\"\n\n[postgres]\ndata_dir = \"{data_dir}\"\nhost = \"{}\"\n\
         port = {}\nhba = [\"host all all {} trust\"]\n",
        place.name,
        place.host.address,
        place.postgres_port,
        Placement::clients(&place.host)
    );
    if let Some(bin_dir) = &common.bin_dir {
        let _ = writeln!(text, "bin_dir = \"{}\"", bin_dir.display());
    }
    text.push_str("\n[replication]\n");
    let _ = match &common.mode {
        Mode::Quorum(standbys) => writeln!(text, "mode = \"quorum\"\nsync_standbys = {standbys}"),
        Mode::Async(max_loss) => writeln!(text, "mode = \"async\"\nmax_loss = \"{max_loss}\""),
    };
    if let Some(detect) = common.detect {
        let _ = write!(text, "\n[timing]\ndetect = \"{}ms\"\n", detect.as_millis());
    }
    if let Some(port) = place.proxy_port {
        text.push_str(&proxy_section(&place.host, port));
    }
    text
}

/// The configuration file of a proxy with a process of its own.
#[must_use]
pub fn proxy_file(common: &Common, host: &Host, port: u16) -> String {
    head(common, PROXY) + &proxy_section(host, port)
}

/// The name by which the proxy is known in the cluster.
pub const PROXY: &str = "proxy";

fn head(common: &Common, name: &str) -> String {
    let mut text = format!("cluster = \"{}\"\n\n[members]\n", common.cluster);
    for (name, address) in &common.members {
        let _ = writeln!(text, "{name} = \"{address}\"");
    }
    if let Some(tls) = &common.tls {
        let _ = write!(text, "\n[tls]\ndir = \"{}\"\n", tls.join(name).display());
    }
    text.push('\n');
    text
}

fn proxy_section(host: &Host, port: u16) -> String {
    // The servers ask no passwords either: nobody else is meant to reach them.
    format!("\n[proxy]\nlisten = \"{}:{port}\"\nauth = \"trust\"\n", host.address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn common(mode: Mode) -> Common {
        let member = |number: u16| (format!("n{number}"), format!("127.0.0.1:{}", 20_000 + number));
        let members = [1, 2, 3].map(member).to_vec();
        let detect = Some(Duration::from_millis(1_500));
        let (bin_dir, tls) = (Some("/usr/lib/x/bin".into()), Some("/tmp/demo/tls".into()));
        Common { cluster: "demo".to_owned(), mode, detect, bin_dir, members, tls }
    }

    #[test]
    fn what_is_written_is_what_the_configuration_accepts() {
        let place =
            Place::under(Path::new("/tmp/demo"), "n2", Host::loopback(), 20_002, 20_005, Some(20_006));
        for mode in [Mode::Quorum(1), Mode::Async("1MiB".to_owned())] {
            let text = node_file(&common(mode.clone()), &place);
            let config = config::parse("n2.toml", &text, || Err("not asked".to_owned())).unwrap();
            let agent = config.agent.unwrap();
            assert_eq!((agent.node.as_str(), agent.listen.as_str()), ("n2", "127.0.0.1:20002"));
            assert_eq!(agent.postgres.unwrap().port, 20_005);
            assert!(config.proxy.is_some());
            let text = proxy_file(&common(mode), &Host::loopback(), 20_007);
            let config = config::parse("proxy.toml", &text, || Err("not asked".to_owned())).unwrap();
            assert!(config.agent.is_none());
            assert_eq!(config.proxy.unwrap().agents.len(), 3);
        }
    }
}
