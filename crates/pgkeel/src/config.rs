//! The configuration file: TOML, one per host; which sections it has decides what runs there.
//!
//! Text goes in, settings that are wholly checked come out, or every error at once with its line. Nothing outside this
//! module knows the file's syntax. What depends on the host (programs, users, directories) is checked by
//! `agent::settings::check_host`. Every key is described in docs/configuration.md.

mod cluster_tls;
pub mod cluster_wide;
mod console;
mod hooks_section;
mod log_section;
mod managed;
mod members;
pub(crate) mod pool;
mod postgres;
mod proxy_section;
pub(crate) mod proxy_servers;
mod report;
mod section;
pub(crate) mod store_section;
mod timing;
pub(crate) mod tls_section;
mod units;

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::log::LogFormat;
use agent::settings::Settings;
use agent::store::StoreKind;
use toml::de::DeTable;

pub use cluster_tls::{ClusterTls, DIR_DEFAULT as TLS_DIR, Shower};
use members::{Record, Standing};
pub use report::ConfigError;
use report::Report;
use section::Section;

/// Where the commands that ask a cluster look for it when no file is named.
pub const FILE_DEFAULT: &str = "/etc/pgkeel.toml";

/// A longer file is refused unread: nobody writes one by hand.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What one host is to run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the cluster.
    pub cluster: String,
    /// Settings of this host's agent, when the file has a `[node]`.
    pub agent: Option<Settings>,
    /// Settings of this host's proxy, when the file has a `[proxy]`.
    pub proxy: Option<proxy::Settings>,
    /// Where the certificates are by which this host is known in the cluster, when there is TLS between its processes.
    pub tls: Option<ClusterTls>,
    /// How the log is written, when the file says so.
    pub log_format: Option<LogFormat>,
    /// What is allowed but likely not wanted, one sentence each.
    pub warnings: Vec<String>,
}

/// Why no configuration came out of a file.
#[derive(Clone, Debug)]
pub enum LoadError {
    /// The file could not be read.
    Unreadable {
        /// The file as named.
        file: PathBuf,
        /// Why.
        problem: String,
    },
    /// The file was read, and this is wrong with it, in the order of its lines.
    Invalid(Vec<ConfigError>),
}

impl fmt::Display for LoadError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::Unreadable { file, problem } => {
                write!(out, "{}: cannot be read: {problem}", file.display())
            }
            LoadError::Invalid(errors) => {
                let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
                out.write_str(&lines.join("\n"))
            }
        }
    }
}

impl std::error::Error for LoadError {}

/// Reads and checks a configuration file.
///
/// # Errors
/// When the file cannot be read, or with everything that is wrong in it.
pub fn load(path: &Path) -> Result<Config, LoadError> {
    let text = read(path).map_err(|problem| LoadError::Unreadable { file: path.to_owned(), problem })?;
    parse(&path.display().to_string(), &text, agent::settings::find_bin_dir).map_err(LoadError::Invalid)
}

/// Checks the text of a configuration file that is called `file` in errors. `find_bin_dir` is asked only when the file
/// has a `[postgres]` that does not name its programs.
///
/// # Errors
/// Everything that is wrong with the text, in the order of its lines.
pub fn parse(
    file: &str,
    text: &str,
    find_bin_dir: impl FnOnce() -> Result<PathBuf, String>,
) -> Result<Config, Vec<ConfigError>> {
    let mut report = Report::new(file, text);
    let (document, syntax) = DeTable::parse_recoverable(text);
    let readable = report.syntax(&syntax);
    let config =
        if readable { check(&Section::root(document.get_ref()), &mut report, find_bin_dir) } else { None };
    match config {
        Some(config) if report.errors.is_empty() => Ok(Config { warnings: report.warnings, ..config }),
        _ => {
            report.errors.sort();
            Err(report.errors)
        }
    }
}

/// Checks the whole file. `None` goes with at least one reported error.
fn check(
    root: &Section<'_>,
    report: &mut Report<'_>,
    find_bin_dir: impl FnOnce() -> Result<PathBuf, String>,
) -> Option<Config> {
    root.refuse_unknown(
        report,
        &[
            "cluster",
            "node",
            "members",
            "store",
            "postgres",
            "replication",
            "timing",
            "fence",
            "tls",
            "hooks",
            "log",
            "proxy",
        ],
    );
    refuse_nothing_to_run(root, report);
    let cluster = members::read_cluster(root, report);
    let voters = members::read_members(root, report);
    let store = store_section::read(root, report, cluster.as_deref());
    let record = match store {
        Some(StoreKind::Etcd(_)) => Record::Elsewhere,
        Some(StoreKind::Embedded) | None => Record::Members,
    };
    let node = members::read_node(root, report, voters.as_ref(), record);
    // Of a cluster that exists the file does not know who belongs to it.
    let joined = node.as_ref().is_some_and(|node| node.standing == Standing::Joined);
    let replication = timing::read_replication(root, report, voters.as_ref().filter(|_| !joined));
    let timing = timing::read_timing(root, report, record);
    let second_line = timing::read_fence(root, report);
    let own_address = node.as_ref().and_then(|node| node.address.as_ref());
    let postgres = postgres::read(root, report, own_address, find_bin_dir);
    let hooks = hooks_section::read(root, report);
    let log_format = log_section::read(root, report);
    let tls = cluster_tls::read(root, report, voters.as_ref());
    let proxy = proxy_section::read(root, report, cluster.as_deref(), voters.as_ref());

    postgres::refuse_overlap(root, report, node.as_ref(), postgres.as_ref());
    postgres::refuse_adoption(root, report, node.as_ref(), voters.as_ref(), postgres.as_ref());
    proxy_section::refuse_taken_port(root, report, proxy.as_ref(), postgres.as_ref(), own_address);
    let fenced = node.as_ref().map(|node| (node, second_line));
    proxy_servers::refuse_way_around_fence(root, report, proxy.as_ref(), fenced);
    let agent = match (root.has("node"), node.zip(store), replication, timing.zip(hooks)) {
        (false, ..) => None,
        (true, Some((node, store)), Some(replication), Some((timing, hooks))) => Some(Settings {
            cluster: cluster.clone()?,
            node: node.name,
            dir: node.dir,
            tags: node.tags,
            listen: node.address?.text(),
            members: voters?.texts(),
            founded: joined,
            store,
            postgres,
            replication,
            second_line,
            detect: timing.detect,
            drift_ppm: timing.drift_ppm,
            hooks,
        }),
        (true, ..) => return None,
    };
    Some(Config { cluster: cluster?, agent, proxy, tls: tls?, log_format, warnings: Vec::new() })
}

/// A file must start something, and `[postgres]` only means something beside a `[node]`.
fn refuse_nothing_to_run(root: &Section<'_>, report: &mut Report<'_>) {
    match (root.has("node"), root.has("postgres"), root.has("proxy")) {
        (false, true, _) => {
            let problem = "this server has no agent: add [node] with the name of this host's node";
            report.error(root.line_of(report, "postgres"), "postgres", problem.to_owned());
        }
        (false, false, false) => {
            let problem = "nothing to run: add [node] (an agent) or [proxy] (a proxy), or both";
            report.error(1, "", problem.to_owned());
        }
        (true, ..) | (false, false, true) => {}
    }
}

fn read(path: &Path) -> Result<String, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err("it is longer than 1 MiB; is it a configuration file?".to_owned());
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text; is it a configuration file?".to_owned())
}
