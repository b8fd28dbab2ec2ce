//! Where the files of a local cluster are, and what its configuration files say.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

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
    /// Node names with the ports of their agents.
    pub members: Vec<(String, u16)>,
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
    /// The agent's address.
    pub agent: String,
    /// The server's port on 127.0.0.1.
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
            agent: format!("127.0.0.1:{agent_port}"),
            dir,
            postgres_port,
            proxy_port,
        }
    }
}

/// The configuration file of one node.
#[must_use]
pub fn node_file(common: &Common, place: &Place) -> String {
    let mut text = head(common);
    let (dir, data_dir) = (place.dir.display(), place.data_dir.display());
    let _ = write!(
        text,
        "[node]\nname = \"{}\"\ndir = \"{dir}\"\n\n[postgres]\ndata_dir = \"{data_dir}\"\nhost = \"127.0.0.1\"\n\
         port = {}\nhba = [\"host all all 127.0.0.1/32 trust\"]\n",
        place.name, place.postgres_port
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
        text.push_str(&proxy_section(port));
    }
    text
}

/// The configuration file of a proxy with a process of its own.
#[must_use]
pub fn proxy_file(common: &Common, port: u16) -> String {
    head(common) + &proxy_section(port)
}

fn head(common: &Common) -> String {
    let mut text = format!("cluster = \"{}\"\n\n[members]\n", common.cluster);
    for (name, port) in &common.members {
        let _ = writeln!(text, "{name} = \"127.0.0.1:{port}\"");
    }
    text.push('\n');
    text
}

fn proxy_section(port: u16) -> String {
    format!("\n[proxy]\nlisten = \"127.0.0.1:{port}\"\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn common(mode: Mode) -> Common {
        let members = vec![("n1".to_owned(), 20_001), ("n2".to_owned(), 20_002), ("n3".to_owned(), 20_003)];
        let detect = Some(Duration::from_millis(1_500));
        Common { cluster: "demo".to_owned(), mode, detect, bin_dir: Some("/usr/lib/x/bin".into()), members }
    }

    #[test]
    fn what_is_written_is_what_the_configuration_accepts() {
        let place = Place::under(Path::new("/tmp/demo"), "n2", 20_002, 20_005, Some(20_006));
        for mode in [Mode::Quorum(1), Mode::Async("1MiB".to_owned())] {
            let text = node_file(&common(mode.clone()), &place);
            let config = config::parse("n2.toml", &text, || Err("not asked".to_owned())).unwrap();
            let agent = config.agent.unwrap();
            assert_eq!((agent.node.as_str(), agent.listen.as_str()), ("n2", "127.0.0.1:20002"));
            assert_eq!(agent.postgres.unwrap().port, 20_005);
            assert!(config.proxy.is_some());
            let text = proxy_file(&common(mode), 20_007);
            let config = config::parse("proxy.toml", &text, || Err("not asked".to_owned())).unwrap();
            assert!(config.agent.is_none());
            assert_eq!(config.proxy.unwrap().agents.len(), 3);
        }
    }
}
