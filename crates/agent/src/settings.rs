//! What one node's agent must be told before it can run: plain values, already checked.
//!
//! The configuration file is read elsewhere; nothing here knows its syntax. Whoever fills these in has checked names,
//! ranges and combinations. What depends on the host (programs, users, directories) is asked from [`check_host`].

mod host;
pub mod managed;
pub mod nearest;
mod programs;

use crate::hooks::Hooks;
use crate::store::StoreKind;
use cluster::state::{Degrade, Tags};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

pub use host::check_host;
pub use programs::{PROGRAMS, choose_bin_dir, find_bin_dir, major_version};

/// The operating-system user that owns the server when the agent is root and the file names nobody.
pub const OS_USER_DEFAULT: &str = "postgres";

/// The rule of pg_hba.conf where neither the node's file nor the cluster has any.
pub const HBA_DEFAULT: &str = "host all all samenet scram-sha-256";

/// Oldest major version of PostgreSQL that is supported.
pub const MAJOR_MIN: u32 = 13;

/// Everything one agent is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Name of the cluster, the same on every host.
    pub cluster: String,
    /// Name of this node; a key of `members`.
    pub node: String,
    /// The agent's own directory: store, guard socket, markers, logs. Absolute, and not inside the data directory.
    pub dir: PathBuf,
    /// What this node may become.
    pub tags: Tags,
    /// Own address for the other agents and the proxies, "host:port": this node's entry of `members`.
    pub listen: String,
    /// Every voter: name to the "host:port" of its agent.
    pub members: BTreeMap<String, String>,
    /// Whether the cluster is known to exist: then this node never founds one, whatever it has lost.
    pub founded: bool,
    /// Where the cluster's record is kept.
    pub store: StoreKind,
    /// The PostgreSQL server of this node; `None` makes it a witness.
    pub postgres: Option<PostgresSettings>,
    /// How commits reach the standbys.
    pub replication: Replication,
    /// What ends a primary's service when its lease ends, besides the guard.
    pub second_line: SecondLine,
    /// The one timer from which all others are derived.
    pub detect: Duration,
    /// How much faster or slower than true time a clock may run, in millionths.
    pub drift_ppm: u32,
    /// A person's commands.
    pub hooks: Hooks,
}

/// The PostgreSQL server that an agent looks after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresSettings {
    /// The data directory. Absolute.
    pub data_dir: PathBuf,
    /// Where `postgres`, `initdb` and the other server programs are. Absolute.
    pub bin_dir: PathBuf,
    /// Address at which the other nodes and the proxies reach this server, without the port.
    pub host: String,
    /// TCP port of the server.
    pub port: u16,
    /// PostgreSQL's `listen_addresses`.
    pub listen_addresses: String,
    /// Operating-system user named in the file. Ask [`PostgresSettings::run_as`] which one to use.
    pub os_user: Option<String>,
    /// Lines for pg_hba.conf, after those that pgkeel needs itself; `None`: not given.
    pub hba: Option<Vec<String>>,
    /// Lines for pg_ident.conf, after those that pgkeel needs itself.
    pub ident: Vec<String>,
    /// Directories in which clients of this host look for the server's Unix socket; it has one in the agent's directory besides.
    pub socket_dirs: Vec<PathBuf>,
    /// What the data directory holds was there before the cluster, and is taken over once.
    pub adopt: bool,
    /// The user's own PostgreSQL settings, name to value as PostgreSQL reads it (not quoted). None of them is managed.
    pub settings: BTreeMap<String, String>,
}

impl PostgresSettings {
    /// The user to change to before a server program is started, or `None` to stay who we are (the agent is not root).
    #[must_use]
    pub fn run_as(&self) -> Option<&str> {
        if rustix::process::geteuid().is_root() {
            Some(self.os_user.as_deref().unwrap_or(OS_USER_DEFAULT))
        } else {
            None
        }
    }
}

/// What ends a primary's service when its lease ends, although no process of its host may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecondLine {
    /// Nothing.
    None,
    /// The kernel closes the server's port (see [`crate::fence`]).
    Nftables,
}

/// How commits reach the standbys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replication {
    /// Commits do not wait for standbys.
    Async {
        /// A standby that lacks more than this many bytes of WAL is not promoted without a person's word.
        max_loss_bytes: u64,
        /// New commits wait while no standby is this near; at most `max_loss_bytes`.
        loss_bound_bytes: Option<u64>,
    },
    /// Commits wait for this many standbys, whichever they are.
    Quorum {
        /// How many confirmations a commit needs, at least 1.
        sync_standbys: u32,
        /// What happens when too few standbys are there.
        degrade: Degrade,
    },
}
