//! Takes settings in anew while clients are connected: when the process is sent SIGHUP, and by RELOAD at the console.
//!
//! What can hold from one moment to the next does so at once, for clients that are here too; of the rest people are told
//! that it waits for the next start. Files of certificates and rules are watched by themselves (`file_changes`).

use crate::console::{Answers, Wish, silence};
use crate::settings::{PoolSettings, Settings};
use crate::worker::Shared;
use std::fmt;
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::{Mutex, watch};
use tokio::task::spawn_blocking;

/// Reads the settings where the proxy's came from; what is wrong with them, for people. It may block.
pub type Reader = Arc<dyn Fn() -> Result<Settings, String> + Send + Sync>;

/// How a proxy comes by new settings.
pub struct Reload {
    /// See [`Reader`].
    pub reader: Reader,
    /// Each change asks for it.
    pub asked: watch::Receiver<u64>,
}

/// In the workers' hands.
pub struct Reloads {
    reader: Option<Reader>,
    one_at_a_time: Mutex<()>,
}

impl fmt::Debug for Reloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloads").finish_non_exhaustive()
    }
}

impl Reloads {
    pub fn by(reader: Option<Reader>) -> Reloads {
        Reloads { reader, one_at_a_time: Mutex::default() }
    }
}

/// What became of new settings; names as in the configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// They hold now.
    pub taken: Vec<&'static str>,
    /// They differ, and will hold after a restart.
    pub at_restart: Vec<&'static str>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.taken.as_slice() {
            [] => f.write_str("nothing has changed that can be changed while the proxy runs")?,
            taken => write!(f, "changed: {}", taken.join(", "))?,
        }
        match self.at_restart.as_slice() {
            [] => Ok(()),
            waiting => write!(f, "; for the next start: {}", waiting.join(", ")),
        }
    }
}

/// What [`merge`] takes in, by its name in the configuration file.
pub const CHANGEABLE: [&str; 17] = [
    "hold",
    "peers",
    "server_sockets",
    "takeover_drain",
    "console_users",
    "console_viewers",
    "pool_size",
    "pool_min",
    "pool_reserve",
    "pool_reserve_after",
    "query_wait",
    "clients_max_per_user",
    "clients_max_per_database",
    "idle_in_transaction_max",
    "client_idle_max",
    "session_users",
    "session_databases",
];

/// The settings that hold from now on.
fn merge(now: &Settings, new: Settings) -> (Settings, Outcome) {
    let mut outcome = Outcome { taken: Vec::new(), at_restart: differ(now, &new) };
    let mut merged = now.clone();
    let taken = &mut outcome.taken;
    take(&mut merged.hold, new.hold, "hold", taken);
    take(&mut merged.peers, new.peers, "peers", taken);
    take(&mut merged.server_sockets, new.server_sockets, "server_sockets", taken);
    take(&mut merged.drain, new.drain, "takeover_drain", taken);
    take(&mut merged.console.users, new.console.users, "console_users", taken);
    take(&mut merged.console.viewers, new.console.viewers, "console_viewers", taken);
    if let (Some(old), Some(new)) = (&mut merged.pool, new.pool) {
        take_pool(old, new, taken);
    }
    (merged, outcome)
}

/// What waits for a restart.
fn differ(now: &Settings, new: &Settings) -> Vec<&'static str> {
    let mut names = Vec::new();
    let mut stays = |same: bool, name: &'static str| names.extend((!same).then_some(name));
    stays(now.cluster == new.cluster, "cluster");
    stays(now.listen == new.listen, "listen");
    stays(
        now.unix_listen.as_ref().map(|l| &l.dir) == new.unix_listen.as_ref().map(|l| &l.dir),
        "unix_socket_dir",
    );
    stays(
        now.unix_listen.as_ref().map(|l| l.mode) == new.unix_listen.as_ref().map(|l| l.mode),
        "unix_socket_mode",
    );
    stays(now.agents == new.agents, "agents");
    stays(now.servers == new.servers, "servers");
    stays(now.takeover == new.takeover, "takeover");
    stays(now.tls == new.tls, "tls");
    stays(now.server_tls == new.server_tls, "server_tls");
    stays(now.verifiers() == new.verifiers() && now.ask_as == new.ask_as, "lookup_user");
    match (&now.pool, &new.pool) {
        (Some(now), Some(new)) => {
            stays(now.auth == new.auth, "auth");
            stays(now.io == new.io, "io");
        }
        (None, None) => {}
        (_, _) => stays(false, "pool_mode"),
    }
    names
}

fn take_pool(old: &mut PoolSettings, new: PoolSettings, taken: &mut Vec<&'static str>) {
    take(&mut old.servers_max, new.servers_max, "pool_size", taken);
    take(&mut old.servers_min, new.servers_min, "pool_min", taken);
    take(&mut old.reserve, new.reserve, "pool_reserve", taken);
    take(&mut old.reserve_after, new.reserve_after, "pool_reserve_after", taken);
    take(&mut old.query_wait, new.query_wait, "query_wait", taken);
    let limits = &mut old.limits;
    take(&mut limits.per_user_max, new.limits.per_user_max, "clients_max_per_user", taken);
    take(&mut limits.per_database_max, new.limits.per_database_max, "clients_max_per_database", taken);
    let idle = &mut limits.idle_in_transaction_max;
    take(idle, new.limits.idle_in_transaction_max, "idle_in_transaction_max", taken);
    take(&mut limits.idle_max, new.limits.idle_max, "client_idle_max", taken);
    let (whole, new_whole) = (&mut old.whole_sessions, new.whole_sessions);
    take(&mut whole.users, new_whole.users, "session_users", taken);
    take(&mut whole.databases, new_whole.databases, "session_databases", taken);
    // Not in the configuration file.
    (old.open_max, old.notice_after) = (new.open_max, new.notice_after);
    (old.idle_max, old.age_max) = (new.idle_max, new.age_max);
}

fn take<T: PartialEq>(old: &mut T, new: T, name: &'static str, taken: &mut Vec<&'static str>) {
    if *old != new {
        *old = new;
        taken.push(name);
    }
}

/// Why settings were not read again.
#[derive(Debug, Error)]
pub enum NotReloaded {
    #[error("this proxy was not started from a configuration file")]
    NoFile,
    /// Nothing has changed.
    #[error("the proxy's settings stay as they are: {0}")]
    Wrong(String),
    /// Who was not silent has them.
    #[error("{0}")]
    Silent(String),
}

impl NotReloaded {
    /// For the console's client: the SQLSTATE, and what to do.
    pub fn advice(&self) -> (&'static str, &'static str) {
        match self {
            NotReloaded::NoFile => {
                ("0A000", "Check a file with `pgkeel config check FILE`, then restart the process with it.")
            }
            NotReloaded::Wrong(_) => ("F0000", "`pgkeel config check FILE` tells what is wrong with a file."),
            NotReloaded::Silent(_) => ("58000", "Try again."),
        }
    }
}

/// Reads the settings and takes in what can be taken in.
///
/// # Errors
/// [`NotReloaded`]
pub async fn reload(shared: &Shared) -> Result<Outcome, NotReloaded> {
    let reader = shared.reloads.reader.clone().ok_or(NotReloaded::NoFile)?;
    let _alone = shared.reloads.one_at_a_time.lock().await;
    let read = spawn_blocking(move || reader()).await.unwrap_or_else(|error| Err(error.to_string()));
    let (merged, outcome) = merge(&shared.settings(), read.map_err(NotReloaded::Wrong)?);
    shared.set_settings(Arc::new(merged));
    let Answers { silent, .. } = shared.desks.ask(&Wish::Settle).await;
    if silent.is_empty() {
        Ok(outcome)
    } else {
        Err(NotReloaded::Silent(silence(&silent, "the others have the new settings")))
    }
}

/// Reloads whenever it is asked for from outside; returns when nobody can ask any more.
pub async fn reload_when_asked(shared: Arc<Shared>, mut asked: watch::Receiver<u64>) {
    while asked.changed().await.is_ok() {
        match reload(&shared).await {
            Ok(outcome) => tracing::info!("the proxy's settings were read again: {outcome}"),
            Err(problem) => tracing::error!("{problem}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{ClientAuth, ServerTls, Verifiers};
    use std::time::Duration;

    fn settings() -> Settings {
        Settings {
            cluster: "c".to_owned(),
            listen: Vec::new(),
            unix_listen: None,
            agents: vec!["a:1".to_owned()],
            servers: Vec::new(),
            ask_as: None,
            server_sockets: Default::default(),
            peers: Vec::new(),
            takeover: None,
            drain: Duration::from_secs(60),
            hold: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            startup_timeout: Duration::from_secs(10),
            clients_max: 100,
            workers: 1,
            pool: Some(PoolSettings::for_lookups(1)),
            tls: None,
            server_tls: ServerTls::Disable,
            console: Default::default(),
        }
    }

    #[test]
    fn what_can_hold_at_once_does_and_the_rest_is_named() {
        let now = settings();
        assert_eq!(merge(&now, settings()).1, Outcome::default());
        let mut new = settings();
        new.hold = Duration::from_secs(1);
        new.agents.push("b:1".to_owned());
        let pool = new.pool.as_mut().unwrap();
        pool.servers_max = 77;
        let (merged, outcome) = merge(&now, new);
        assert_eq!(merged.hold, Duration::from_secs(1));
        assert_eq!(merged.pool.as_ref().map(|pool| pool.servers_max), Some(77));
        assert_eq!(merged.agents, ["a:1"], "who is listened to stays");
        assert_eq!(outcome.to_string(), "changed: hold, pool_size; for the next start: agents");
    }

    #[test]
    fn what_is_called_changeable_is() {
        let now = settings();
        let second = Some(Duration::from_secs(1));
        let mut new = settings();
        (new.hold, new.peers) = (Duration::from_secs(1), vec!["p:1".to_owned()]);
        new.server_sockets = [("n1".to_owned(), "/run".into())].into();
        new.drain = Duration::from_secs(1);
        (new.console.users, new.console.viewers) = (vec!["a".to_owned()], vec!["b".to_owned()]);
        let pool = new.pool.as_mut().unwrap();
        (pool.servers_max, pool.servers_min, pool.reserve) = (77, 7, 7);
        (pool.reserve_after, pool.query_wait) = (Duration::from_secs(7), Duration::from_secs(7));
        pool.whole_sessions.users = vec!["u".to_owned()];
        pool.whole_sessions.databases = vec!["d".to_owned()];
        pool.limits = crate::settings::ClientLimits {
            per_user_max: Some(7),
            per_database_max: Some(7),
            idle_in_transaction_max: second,
            idle_max: second,
        };
        assert_eq!(merge(&now, new).1, Outcome { taken: CHANGEABLE.to_vec(), at_restart: Vec::new() });
    }

    #[test]
    fn another_way_in_waits_for_a_restart() {
        let mut now = settings();
        let lookup =
            crate::settings::Lookup { user: "u".to_owned(), password: None, database: "postgres".to_owned() };
        now.pool.as_mut().unwrap().auth = ClientAuth::Scram(Verifiers::Role(lookup));
        let (merged, outcome) = merge(&now, settings());
        assert!(matches!(merged.pool.unwrap().auth, ClientAuth::Scram(_)));
        assert_eq!(outcome.at_restart, ["lookup_user", "auth"]);
        let (merged, outcome) = merge(&now, Settings { pool: None, ..settings() });
        assert!(merged.pool.is_some());
        assert_eq!(outcome.at_restart, ["lookup_user", "pool_mode"]);
    }
}
