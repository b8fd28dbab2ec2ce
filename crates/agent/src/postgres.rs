//! One node's PostgreSQL: its programs, its files, its process, its answers. One file per task.
//!
//! Only documented interfaces of PostgreSQL 13 to 18 are used: its programs, its configuration files and SQL functions.

pub mod adopt;
pub mod aside;
pub mod basebackup;
pub mod configuration;
mod conflict;
pub mod connection;
pub mod control;
pub mod files;
pub mod follow;
pub mod history;
pub mod initialise;
pub mod judge;
pub mod layers;
pub mod lost;
mod overrides;
pub mod pending;
pub mod prepare;
pub mod probe;
pub mod process;
pub mod programs;
pub mod promote;
pub mod rewind;
pub mod room;
pub mod session;
pub mod slots;
pub mod sync;
pub mod wal;

use crate::os_user::OsUser;
use crate::settings::PostgresSettings;
use std::path::{Path, PathBuf};

/// Role for WAL streaming, base backups and pg_rewind.
pub const REPLICATION_ROLE: &str = "pgkeel_replication";
/// Role for the agent's own questions, over the Unix socket.
pub const SUPERUSER: &str = "postgres";

/// Where a node's PostgreSQL lives and as whom it runs.
#[derive(Clone, Debug)]
pub struct Place {
    /// From the configuration file.
    pub settings: PostgresSettings,
    /// The agent's own directory.
    pub dir: PathBuf,
    /// The operating-system user of the server; `None`: the agent's own.
    pub user: Option<OsUser>,
}

impl Place {
    /// The data directory.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.settings.data_dir
    }

    /// Where a new copy grows until it takes the data directory's place.
    #[must_use]
    pub fn data_new(&self) -> PathBuf {
        self.beside("new")
    }

    /// A directory beside the data directory, on the same file system, so that a rename is enough.
    #[must_use]
    pub fn beside(&self, suffix: &str) -> PathBuf {
        let name = self.data().file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        self.data().with_file_name(format!("{name}.{suffix}"))
    }

    /// Directory of the server's Unix socket.
    #[must_use]
    pub fn socket_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// The guard's socket.
    #[must_use]
    pub fn guard_socket(&self) -> PathBuf {
        self.dir.join("guard.sock")
    }

    /// The server's own log.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.dir.join("postgresql.log")
    }
}

#[cfg(test)]
impl Place {
    /// For tests: a data directory under `root`, and no programs.
    pub(crate) fn under(root: &Path) -> Place {
        let settings = PostgresSettings {
            data_dir: root.join("data"),
            bin_dir: root.join("bin"),
            host: "127.0.0.1".to_owned(),
            port: 5432,
            listen_addresses: String::new(),
            os_user: None,
            hba: None,
            ident: Vec::new(),
            socket_dirs: Vec::new(),
            adopt: false,
            settings: std::collections::BTreeMap::new(),
        };
        Place { settings, dir: root.join("own"), user: None }
    }
}

/// Why something about PostgreSQL did not work.
#[derive(Debug, thiserror::Error)]
pub enum PgError {
    /// A file could not be read or written.
    #[error("cannot {doing} {}: {source}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A program could not be started or failed.
    #[error("{program} failed: {said}")]
    Program {
        /// Its name.
        program: String,
        /// Its last words.
        said: String,
    },
    /// The server refused or broke a connection, or a query failed.
    #[error("the server answered: {}", said(.0))]
    Sql(#[from] tokio_postgres::Error),
    /// Something took longer than it may.
    #[error("{doing} took longer than {limit_s} s")]
    Slow {
        /// What.
        doing: String,
        /// The limit, in seconds.
        limit_s: u64,
    },
    /// The disk is full, or would be.
    #[error("{0}")]
    NoRoom(String),
    /// The guard.
    #[error(transparent)]
    Guard(#[from] crate::guard::GuardError),
    /// Something was not as it must be.
    #[error("{0}")]
    Unexpected(String),
}

/// All that it says: by itself it names only the kind of error.
fn said(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(answer) => format!("{}: {} ({})", answer.severity(), answer.message(), answer.code().code()),
        None => match std::error::Error::source(error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        },
    }
}

impl PgError {
    /// For `map_err` on file operations.
    pub fn file(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> PgError {
        let path = path.to_owned();
        move |source| PgError::File { doing, path, source }
    }
}
