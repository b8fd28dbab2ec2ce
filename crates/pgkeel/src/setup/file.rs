//! The configuration file that `create`, `join` and `add-proxy` write: short, and with a word on each part, because a person will
//! go on from it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use agent::settings::{check_host, find_bin_dir};
use cluster::state::{Degrade, Replication};
use rustix::fs::{Access, access};

use crate::config::{self, Config};

/// Anybody of the host may read it; there is no secret in it.
const MODE: u32 = 0o644;

/// What one host is to run.
#[derive(Clone, Debug)]
pub struct HostFile {
    /// Name of the cluster.
    pub cluster: String,
    /// The agent, unless there is only a proxy.
    pub node: Option<NodePart>,
    /// Names and addresses of the agents that are known.
    pub members: BTreeMap<String, String>,
    /// Where the certificates are.
    pub tls: PathBuf,
    /// The server, if there is to be one.
    pub postgres: Option<PostgresPart>,
    /// Where a proxy listens, if there is to be one.
    pub proxy: Option<String>,
}

/// `[node]`, `[replication]` and `[timing]`.
#[derive(Clone, Debug)]
pub struct NodePart {
    /// Its name.
    pub name: String,
    /// Its own directory.
    pub dir: PathBuf,
    /// Whether the cluster exists already.
    pub joined: bool,
    /// How commits reach standbys.
    pub replication: Replication,
    /// The timer, as the file has it; `None`: its default.
    pub detect: Option<String>,
    /// In millionths; `None`: its default.
    pub drift_ppm: Option<u64>,
}

/// `[postgres]`.
#[derive(Clone, Debug)]
pub struct PostgresPart {
    /// The data directory.
    pub data_dir: PathBuf,
    /// Its port.
    pub port: u16,
    /// The server's programs; `None`: found when it starts.
    pub bin_dir: Option<PathBuf>,
    /// What it takes along, if it ran before.
    pub before: Option<Before>,
}

/// A server that ran before its host became a node: what of it the node's file says.
#[derive(Clone, Debug, Default)]
pub struct Before {
    /// The owner of the data directory.
    pub os_user: String,
    /// Where it listens.
    pub listen_addresses: String,
    /// Where clients of its host find it.
    pub socket_dirs: Vec<PathBuf>,
    /// Rules, in their order; `None`: those of all nodes hold.
    pub hba: Option<Vec<String>>,
    /// Maps of user names.
    pub ident: Vec<String>,
    /// Parameters of its own.
    pub settings: BTreeMap<String, String>,
}

impl HostFile {
    /// The file.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!(
            "# Written by pgkeel. What each key means: docs/configuration.md; `pgkeel config check` checks this file.\n\
             cluster = {}\n",
            quoted(&self.cluster)
        );
        if let Some(node) = &self.node {
            let _ = write!(text, "\n# The agent of this host.\n[node]\nname = {}\n", quoted(&node.name));
            if node.joined {
                text.push_str(JOINED);
            }
            let _ = writeln!(text, "dir = {}", path(&node.dir));
        }
        text.push_str("\n# The agents that are asked at first; who belongs to the cluster is recorded there.\n[members]\n");
        for (name, address) in &self.members {
            let _ = writeln!(text, "{name} = {}", quoted(address));
        }
        let _ = write!(text, "\n# Who this host is in the cluster.\n[tls]\ndir = {}\n", path(&self.tls));
        if let Some(postgres) = &self.postgres {
            let _ = write!(
                text,
                "\n# Its server. Parameters for all nodes are set by `pgkeel config set`.\n[postgres]\ndata_dir = {}\nport = {}\n",
                path(&postgres.data_dir),
                postgres.port
            );
            if let Some(bin_dir) = &postgres.bin_dir {
                let _ = writeln!(text, "bin_dir = {}", path(bin_dir));
            }
            if let Some(before) = &postgres.before {
                text.push_str(&before.text());
            }
        }
        if let Some(node) = &self.node {
            text.push_str("\n# Recorded when the cluster was formed; repeated here.\n");
            text.push_str(&replication(node.replication));
            if node.detect.is_some() || node.drift_ppm.is_some() {
                text.push_str("\n[timing]\n");
            }
            if let Some(detect) = &node.detect {
                let _ = writeln!(text, "detect = {}", quoted(detect));
            }
            if let Some(ppm) = node.drift_ppm {
                let _ = writeln!(text, "drift = \"{}%\"", ppm as f64 / 10_000.0);
            }
        }
        if let Some(listen) = &self.proxy {
            let _ = write!(
                text,
                "\n# A proxy: clients connect here, and reach the primary.\n[proxy]\nlisten = {}\n",
                quoted(listen)
            );
        }
        text
    }

    /// The same as it will be understood, checked against this host.
    ///
    /// # Errors
    /// Everything that is wrong with it, or stands in its way on this host.
    pub fn checked(&self, file: &Path) -> Result<Config, String> {
        let name = file.display().to_string();
        let config = config::parse(&name, &self.text(), find_bin_dir).map_err(|errors| {
            let lines: Vec<String> = errors.iter().map(|error| by_option(&error.to_string())).collect();
            lines.join("\n")
        })?;
        let problems = config.agent.as_ref().map(check_host).unwrap_or_default();
        match problems.as_slice() {
            [] => Ok(config),
            problems => Err(problems.iter().map(|problem| by_option(problem)).collect::<Vec<_>>().join("\n")),
        }
    }
}

impl Before {
    fn text(&self) -> String {
        let list = |texts: &[String]| serde_json::Value::from(texts.to_vec()).to_string();
        let dirs: Vec<String> =
            self.socket_dirs.iter().map(|dir| dir.to_string_lossy().into_owned()).collect();
        let mut text = String::from(ADOPT);
        let _ = writeln!(text, "os_user = {}", quoted(&self.os_user));
        let _ = writeln!(text, "listen_addresses = {}", quoted(&self.listen_addresses));
        let _ = writeln!(text, "socket_dirs = {}", list(&dirs));
        if let Some(hba) = &self.hba {
            let _ = writeln!(text, "hba = {}", list(hba));
        }
        if !self.ident.is_empty() {
            let _ = writeln!(text, "ident = {}", list(&self.ident));
        }
        if !self.settings.is_empty() {
            text.push_str("[postgres.settings]\n");
        }
        for (name, value) in &self.settings {
            let _ = writeln!(text, "{} = {}", quoted(name), quoted(value));
        }
        text
    }
}

/// What people gave by an option they are told by that, as there is no file yet.
fn by_option(problem: &str) -> String {
    let options = [
        ("postgres.data_dir", "--data"),
        ("postgres.bin_dir", "--bin-dir"),
        ("postgres.port", "--port"),
        ("node.dir", "--dir"),
        ("node.name", "--node"),
        ("timing.detect", "--detect"),
        ("proxy.listen", "--proxy"),
        ("tls.dir", "--tls"),
    ];
    match options.iter().find(|(key, _)| problem.contains(key)) {
        Some((_, option)) => format!("{problem} (here by {option})"),
        None => problem.to_owned(),
    }
}

fn replication(replication: Replication) -> String {
    let mut text = String::from("[replication]\n");
    let _ = match replication {
        Replication::Async { max_loss_bytes, loss_bound_bytes } => {
            let bound =
                loss_bound_bytes.map_or_else(String::new, |bytes| format!("loss_bound = \"{bytes}B\"\n"));
            write!(text, "mode = \"async\"\nmax_loss = \"{max_loss_bytes}B\"\n{bound}")
        }
        Replication::Quorum { k, degrade } => {
            let degrade = match degrade {
                Degrade::Strict => "strict",
                Degrade::Available => "available",
            };
            write!(text, "mode = \"quorum\"\nsync_standbys = {k}\ndegrade = \"{degrade}\"\n")
        }
    };
    text
}

const JOINED: &str = "# The cluster exists: this node never founds one.\njoined = true\n";

const ADOPT: &str =
    "# The database was there before and is taken over; this line goes when that is done.\nadopt = true\n";

/// The text of a file whose database has been taken over.
#[must_use]
pub fn without_adopt(text: &str) -> String {
    text.replacen(ADOPT, "", 1)
}

/// The text of a file with `joined = true` in its `[node]`, and nothing else changed; `None` when there is no place for it.
#[must_use]
pub fn with_joined(text: &str) -> Option<String> {
    let line = "\n[node]\n";
    let at = text.find(line)? + line.len();
    Some(format!("{}{JOINED}{}", &text[..at], &text[at..]))
}

/// What is the same in JSON and in TOML.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

/// Checks that this user could write `path`, or make it: before anything irrevocable is done for its sake.
///
/// # Errors
/// It cannot.
pub fn check_writable(path: &Path, option: &str) -> Result<(), String> {
    let nearest = path.ancestors().skip(1).find(|ancestor| ancestor.symlink_metadata().is_ok());
    let Some(nearest) = nearest else { return Ok(()) };
    access(nearest, Access::WRITE_OK | Access::EXEC_OK).map_err(|error| {
        format!(
            "{} cannot be written: {} is not writable for this user ({error}); run this as root, or name another place by {option}",
            path.display(),
            nearest.display()
        )
    })
}

/// Writes a file whole or not at all, with its directories.
///
/// # Errors
/// What the system says, with the file.
pub fn write(file: &Path, text: &str) -> Result<(), String> {
    write_with(file, text, MODE)
}

/// The same for the owner's eyes only: rules of pg_hba.conf, and parameters, may hold passwords.
///
/// # Errors
/// As [`write`].
pub fn write_private(file: &Path, text: &str) -> Result<(), String> {
    write_with(file, text, 0o600)
}

fn write_with(file: &Path, text: &str, mode: u32) -> Result<(), String> {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = file.with_file_name(name);
    let written = (|| {
        if let Some(dir) = file.parent() {
            fs::create_dir_all(dir)?;
        }
        let _ = fs::remove_file(&temporary);
        let mut out = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        out.write_all(text.as_bytes())?;
        out.sync_all()?;
        fs::rename(&temporary, file)
    })();
    written.map_err(|error: std::io::Error| {
        let _ = fs::remove_file(&temporary);
        format!("{} cannot be written: {error}", file.display())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(replication: Replication, joined: bool) -> HostFile {
        HostFile {
            cluster: "shop".to_owned(),
            node: Some(NodePart {
                name: "n2".to_owned(),
                dir: "/var/lib/pgkeel".into(),
                joined,
                replication,
                detect: Some("1500ms".to_owned()),
                drift_ppm: Some(20_000),
            }),
            members: [("n1", "10.0.0.1:7400"), ("n2", "10.0.0.2:7400")]
                .map(|(name, at)| (name.to_owned(), at.to_owned()))
                .into(),
            tls: "/etc/pgkeel/tls".into(),
            postgres: Some(PostgresPart {
                data_dir: "/data".into(),
                port: 5433,
                bin_dir: Some("/bin".into()),
                before: None,
            }),
            proxy: Some("10.0.0.2:6432".to_owned()),
        }
    }

    fn read(text: &str) -> Config {
        config::parse("x.toml", text, || Err("not asked".to_owned())).unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let quorum = Replication::Quorum { k: 2, degrade: Degrade::Strict };
        let agent = read(&host(quorum, true).text()).agent.unwrap();
        assert!(agent.founded && agent.members.len() == 2 && agent.listen == "10.0.0.2:7400");
        let server = agent.postgres.unwrap();
        assert_eq!((server.port, server.host.as_str()), (5433, "10.0.0.2"));
        assert_eq!(
            agent.replication,
            agent::settings::Replication::Quorum { sync_standbys: 2, degrade: Degrade::Strict }
        );
        assert_eq!((agent.detect.as_millis(), agent.drift_ppm), (1500, 20_000));
        let bound = Replication::Async { max_loss_bytes: 1 << 20, loss_bound_bytes: Some(1 << 19) };
        let config = read(&host(bound, true).text());
        assert!(config.proxy.is_some() && config.tls.is_some() && config.warnings.is_empty());
        assert_eq!(
            config.agent.unwrap().replication,
            agent::settings::Replication::Async { max_loss_bytes: 1 << 20, loss_bound_bytes: Some(1 << 19) }
        );
    }

    #[test]
    fn a_file_is_made_that_of_a_node_that_has_joined() {
        let plain = Replication::Async { max_loss_bytes: 1, loss_bound_bytes: None };
        let text = host(plain, false).text();
        assert!(!read(&text).agent.unwrap().founded);
        let joined = with_joined(&text).unwrap();
        assert!(read(&joined).agent.unwrap().founded, "{joined}");
        assert_eq!(joined.replacen(JOINED, "", 1), text);
        assert_eq!(with_joined("cluster = \"shop\"\n"), None);
    }

    #[test]
    fn a_server_that_ran_before_keeps_what_is_its_own() {
        let before = Before {
            os_user: "dba".to_owned(),
            listen_addresses: "*".to_owned(),
            socket_dirs: vec!["/tmp".into()],
            hba: Some(vec!["host all \"a b\" all md5".to_owned()]),
            ident: vec!["ops ada postgres".to_owned()],
            settings: [("work_mem", "8MB"), ("wal_level", "logical"), ("plpgsql.extra_errors", "'x\\\"")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        };
        let mut file = host(Replication::Async { max_loss_bytes: 1, loss_bound_bytes: None }, true);
        if let Some(postgres) = &mut file.postgres {
            postgres.before = Some(before.clone());
        }
        let server = read(&file.text()).agent.and_then(|agent| agent.postgres).unwrap();
        assert!(server.adopt && server.os_user.as_deref() == Some("dba") && server.listen_addresses == "*");
        assert_eq!((server.socket_dirs, server.hba), (before.socket_dirs, before.hba));
        assert_eq!((server.ident, server.settings), (before.ident, before.settings));
        let done = without_adopt(&file.text());
        assert!(!read(&done).agent.and_then(|agent| agent.postgres).unwrap().adopt, "{done}");
    }

    #[test]
    fn a_proxy_s_file_has_no_node() {
        let plain = Replication::Async { max_loss_bytes: 1, loss_bound_bytes: None };
        let file = HostFile { node: None, postgres: None, ..host(plain, true) };
        let config = read(&file.text());
        assert!(config.agent.is_none());
        assert_eq!(config.proxy.unwrap().agents.len(), 2);
    }

    #[test]
    fn what_cannot_be_written_is_told_beforehand() {
        assert_eq!(check_writable(&std::env::temp_dir().join("a/b/c"), "--config"), Ok(()));
        let said = check_writable(Path::new("/dev/null/a/b"), "--config").unwrap_err();
        assert!(said.contains("/dev/null is not writable") || said.contains("/dev/null"), "{said}");
    }

    #[test]
    fn a_file_is_written_whole() {
        let dir = std::env::temp_dir().join(format!("pgkeel-file-{}", std::process::id()));
        let file = dir.join("deep/pgkeel.toml");
        write(&file, "one").unwrap();
        write(&file, "two").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "two");
        assert_eq!(fs::read_dir(dir.join("deep")).unwrap().count(), 1);
        fs::remove_dir_all(&dir).unwrap();
        assert!(write(Path::new("/dev/null/x/y.toml"), "x").unwrap_err().contains("/dev/null/x/y.toml"));
    }
}
