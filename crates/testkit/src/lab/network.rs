//! A network for one test: a host of its own for every node, for the proxy and for this process, joined by a switch.
//!
//! Hosts are network namespaces (ip-netns(8)) in which programs are started; files and processes are those of this
//! host. The switch is a bridge in a namespace of its own, where no firewall of this host reaches it. This process has
//! one link to the switch, with the address from which it asks and writes.
//!
//! Names begin with the number of the process that made them. What a process that is gone left behind is removed before
//! the next network is made.

use std::fs;
use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use pgkeel::demo::layout::Host;
use pgkeel::demo::processes;
use rustix::process::Signal;

/// Where ip(8) keeps the namespaces that have names.
const NAMED: &str = "/run/netns";
/// Before the process number in the names of all that is made here. A link's name has at most 15 bytes.
const MARK: &str = "pkl";
/// Networks are taken from 198.18.0.0/15, which is for tests of networks (RFC 2544).
const SUBNETS: u8 = 250;
/// In the name of the switch.
const SWITCH: &str = "switch";
/// For processes that were killed to be gone.
const GONE_LIMIT: Duration = Duration::from_secs(10);

/// Networks that this process has made.
static MADE: AtomicUsize = AtomicUsize::new(0);

/// The network; removed when dropped.
#[derive(Debug)]
pub struct Network {
    prefix: String,
    subnet: u8,
    hosts: Vec<String>,
    _claim: UnixDatagram,
}

/// What came of the wish for a network.
#[derive(Debug)]
pub enum Offer {
    /// Here it is.
    Network(Network),
    /// This host does not let this process make one: why.
    Refused(String),
}

impl Network {
    /// Makes a network with these hosts.
    ///
    /// # Errors
    /// When something fails that is no refusal: ip(8) is missing, a name is taken, ...
    pub fn make(hosts: &[String]) -> Result<Offer> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Offer::Refused("only root can make network namespaces".to_owned()));
        }
        remove_stale()?;
        let (subnet, claim) = claim_subnet()?;
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let network = Network {
            prefix: format!("{MARK}{}x{number}", std::process::id()),
            subnet,
            hosts: hosts.to_vec(),
            _claim: claim,
        };
        let switch = network.namespace(SWITCH);
        if let Err(error) = ip(&["netns", "add", &switch]) {
            let text = format!("{error:#}");
            let refused = text.contains("Operation not permitted") || text.contains("Permission denied");
            return if refused { Ok(Offer::Refused(text)) } else { Err(error) };
        }
        network.build(&switch).context("the test's network cannot be made")?;
        Ok(Offer::Network(network))
    }

    fn build(&self, switch: &str) -> Result<()> {
        ip(&["-n", switch, "link", "add", "bridge", "type", "bridge"])?;
        ip(&["-n", switch, "link", "set", "bridge", "up"])?;
        ip(&["link", "add", &self.prefix, "type", "veth", "peer", "name", "here", "netns", switch])?;
        self.plug("here")?;
        ip(&["addr", "add", &format!("{}/24", self.address(0)), "dev", &self.prefix])?;
        ip(&["link", "set", &self.prefix, "up"])?;
        for (name, number) in self.hosts.iter().zip(1..) {
            let host = self.namespace(name);
            ip(&["netns", "add", &host])?;
            ip(&["-n", &host, "link", "set", "lo", "up"])?;
            ip(&["-n", &host, "link", "add", "eth0", "type", "veth", "peer", "name", name, "netns", switch])?;
            self.plug(name)?;
            ip(&["-n", &host, "addr", "add", &format!("{}/24", self.address(number)), "dev", "eth0"])?;
            ip(&["-n", &host, "link", "set", "eth0", "up"])?;
        }
        Ok(())
    }

    fn plug(&self, port: &str) -> Result<()> {
        ip(&["-n", &self.namespace(SWITCH), "link", "set", port, "master", "bridge", "up"])
    }

    /// How to start programs on the host with this number, counted from 0 in the order they were named in.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn host(&self, number: usize) -> Result<Host> {
        let name = self.hosts.get(number).context("there is no such host")?;
        // Not `ip netns exec`: it makes a mount namespace too, in which some containers refuse the devices of /dev.
        let enter = vec!["nsenter".to_owned(), format!("--net={NAMED}/{}", self.namespace(name))];
        Ok(Host { address: self.address(number + 1), enter })
    }

    /// Pulls a host's cable out of the switch.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn cut(&self, number: usize) -> Result<()> {
        self.set_port(number, "down")
    }

    /// Puts it back in.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn restore(&self, number: usize) -> Result<()> {
        self.set_port(number, "up")
    }

    fn set_port(&self, number: usize, state: &str) -> Result<()> {
        let name = self.hosts.get(number).context("there is no such host")?;
        ip(&["-n", &self.namespace(SWITCH), "link", "set", name, state])
    }

    /// The processes of a host.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn pids(&self, number: usize) -> Result<Vec<i32>> {
        let name = self.hosts.get(number).context("there is no such host")?;
        pids_in(&self.namespace(name))
    }

    fn namespace(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    /// The address of this process's link to the switch.
    #[must_use]
    pub fn here(&self) -> String {
        self.address(0)
    }

    fn address(&self, number: usize) -> String {
        format!("198.18.{}.{}", self.subnet, number + 1)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let names = std::iter::once(SWITCH).chain(self.hosts.iter().map(String::as_str));
        let failed: Vec<_> = names.filter_map(|name| remove(&self.namespace(name)).err()).collect();
        let _ = ip(&["link", "del", &self.prefix]);
        // One that was never made is no news.
        if let Some(error) = failed.first().filter(|_| !std::thread::panicking()) {
            eprintln!("a part of the test's network stays until the next one is made: {error:#}");
        }
    }
}

/// A network that no other test on this host uses, as long as the claim lives.
fn claim_subnet() -> Result<(u8, UnixDatagram)> {
    let first = u8::try_from(std::process::id() % u32::from(SUBNETS)).unwrap_or(0);
    let all = (0..SUBNETS).cycle().skip(usize::from(first)).take(usize::from(SUBNETS));
    let claim = |subnet: u8| {
        let name = SocketAddr::from_abstract_name(format!("pgkeel-lab-subnet-{subnet}")).ok()?;
        Some((subnet, UnixDatagram::bind_addr(&name).ok()?))
    };
    all.into_iter().find_map(claim).context("every network for tests is in use")
}

/// Ends what runs in a namespace, then removes it.
fn remove(namespace: &str) -> Result<()> {
    if !Path::new(NAMED).join(namespace).exists() {
        return Ok(());
    }
    let began = Instant::now();
    loop {
        let left = pids_in(namespace)?;
        if left.is_empty() {
            return ip(&["netns", "del", namespace]);
        }
        ensure!(began.elapsed() < GONE_LIMIT, "processes in {namespace} do not end: {left:?}");
        // A frozen one ends too: SIGKILL asks nobody.
        processes::kill_all(&left);
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Removes the networks of processes that are gone.
fn remove_stale() -> Result<()> {
    for name in names_in(NAMED)? {
        if is_stale(&name) {
            remove(&name)?;
        }
    }
    // Their links go with the namespaces of their switches, unless a switch could not be made.
    for name in names_in("/sys/class/net")?.iter().filter(|name| is_stale(name)) {
        let _ = ip(&["link", "del", name]);
    }
    Ok(())
}

fn names_in(dir: &str) -> Result<Vec<String>> {
    match fs::read_dir(dir) {
        Ok(entries) => {
            Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("{dir} cannot be read")),
    }
}

fn is_stale(name: &str) -> bool {
    maker(name).is_some_and(|pid| processes::find(pid).is_none())
}

/// Which process made what has this name; `None`: it is not ours.
fn maker(name: &str) -> Option<i32> {
    name.strip_prefix(MARK)?.split_once('x')?.0.parse().ok()
}

fn pids_in(namespace: &str) -> Result<Vec<i32>> {
    let inode = fs::metadata(Path::new(NAMED).join(namespace))
        .with_context(|| format!("there is no network namespace {namespace}"))?
        .ino();
    let wanted = format!("net:[{inode}]");
    let lives_there = |pid: &i32| {
        fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|link| link.as_os_str() == wanted.as_str())
    };
    Ok(processes::all().iter().map(|process| process.pid).filter(lives_there).collect())
}

/// Signals all processes of a host, and those that they start meanwhile, until none is left that had no signal.
pub(super) fn signal_all(network: &Network, number: usize, signal: Signal) -> Result<usize> {
    let mut done = Vec::new();
    loop {
        let new: Vec<i32> = network.pids(number)?.into_iter().filter(|pid| !done.contains(pid)).collect();
        if new.is_empty() {
            return Ok(done.len());
        }
        new.iter().for_each(|pid| processes::send(*pid, signal));
        done.extend(new);
    }
}

fn ip(args: &[&str]) -> Result<()> {
    let output = match Command::new("ip").args(args).output() {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("there is no program ip here; run script/bootstrap, which installs iproute2")
        }
        Err(error) => return Err(error).context("ip cannot be started"),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {}: {}", args.join(" "), said.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_who_made_them() {
        assert_eq!(maker("pkl4194304x3-switch"), Some(4_194_304));
        assert_eq!(maker("pkl12x0"), Some(12));
        assert_eq!(maker("docker0"), None);
        assert!(!is_stale(&format!("{MARK}{}x0", std::process::id())));
    }

    #[test]
    fn a_link_name_is_short_enough() {
        assert!(format!("{MARK}{}x{}", 4_194_304, 999).len() <= 15);
    }
}
