//! The pools of this host's proxy: keys of `[proxy]`.

use std::time::Duration;

use proxy::{ClientAuth, Lookup, PoolSettings};

use super::report::Report;
use super::section::Section;
use super::units;

/// The keys that are read here.
pub(super) const KEYS: [&str; 7] =
    ["pool_mode", "pool_size", "query_wait", "auth", "lookup_user", "lookup_password", "lookup_database"];

const POOL_SIZE_DEFAULT: u32 = 20;
const POOL_SIZE_MAX: u32 = 10_000;
const QUERY_WAIT_DEFAULT: Duration = Duration::from_secs(120);
/// A client that waits should hear of it before somebody asks what is wrong.
const NOTICE_AFTER: Duration = Duration::from_secs(5);
const IDLE_MAX: Duration = Duration::from_secs(600);
const AGE_MAX: Duration = Duration::from_secs(3_600);
/// Pools beside each other, each with `pool_size`.
const POOLS_FULL: usize = 10;

/// Whether server connections are lent for a transaction or kept for a session.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Session,
    Pooled,
}

/// How clients are let in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Auth {
    Scram,
    Trust,
}

/// The outer `None` goes with a reported error, the inner one is the session mode.
pub(super) fn read(section: &Section<'_>, report: &mut Report<'_>) -> Option<Option<PoolSettings>> {
    let mode = section.parsed_or(report, "pool_mode", Mode::Session, mode);
    let size = section.integer_or(report, "pool_size", POOL_SIZE_DEFAULT, 1..=POOL_SIZE_MAX);
    let query_wait = section.parsed_or(report, "query_wait", QUERY_WAIT_DEFAULT, units::duration);
    let auth = section.parsed_or(report, "auth", Auth::Scram, auth);
    let user = section.parsed_or(report, "lookup_user", None, name);
    let password = section.parsed_or(report, "lookup_password", None, name);
    let database = section.parsed_or(report, "lookup_database", None, name);
    let (mode, size, query_wait, auth) = (mode?, size? as usize, query_wait?, auth?);
    let (user, password, database) = (user?, password?, database?);
    if mode == Mode::Session {
        refuse_alone(section, report);
        return Some(None);
    }
    let auth = match (auth, user) {
        (Auth::Trust, _) => ClientAuth::Trust,
        (Auth::Scram, Some(user)) => ClientAuth::Scram(Lookup {
            user,
            password,
            database: database.unwrap_or_else(|| "postgres".to_owned()),
        }),
        (Auth::Scram, None) => {
            section.require(report, "lookup_user", "\"pgkeel_proxy\", a role that may read pg_authid");
            return None;
        }
    };
    Some(Some(PoolSettings {
        servers_max: size,
        open_max: size * POOLS_FULL,
        query_wait,
        notice_after: NOTICE_AFTER,
        idle_max: IDLE_MAX,
        age_max: AGE_MAX,
        auth,
    }))
}

/// Keys that mean nothing in the session mode.
fn refuse_alone(section: &Section<'_>, report: &mut Report<'_>) {
    for key in KEYS.iter().filter(|key| **key != "pool_mode" && section.has(key)) {
        let problem = "needs pool_mode = \"pooled\"".to_owned();
        report.error(section.line_of(report, key), &section.path(key), problem);
    }
}

fn mode(text: &str) -> Result<Mode, String> {
    match text {
        "session" => Ok(Mode::Session),
        "pooled" => Ok(Mode::Pooled),
        _ => Err(format!("{text:?} is not a mode; write \"session\" or \"pooled\"")),
    }
}

fn auth(text: &str) -> Result<Auth, String> {
    match text {
        "scram" => Ok(Auth::Scram),
        "trust" => Ok(Auth::Trust),
        _ => Err(format!("{text:?} is not a way to let clients in; write \"scram\" or \"trust\"")),
    }
}

fn name(text: &str) -> Result<Option<String>, String> {
    match text.is_empty() || text.contains('\0') {
        true => Err("must not be empty, nor contain a zero byte".to_owned()),
        false => Ok(Some(text.to_owned())),
    }
}
