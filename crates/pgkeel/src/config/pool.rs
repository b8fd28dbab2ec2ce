//! The pools of this host's proxy: keys of `[proxy]`.

use std::time::Duration;

use proxy::{ClientAuth, ClientLimits, Io, Lookup, PoolSettings, RuleFiles, Verifiers, WholeSessions};

use super::console;
use super::members::absolute_path;
use super::report::Report;
use super::section::Section;
use super::units;

/// The keys that are read here.
pub(super) const KEYS: [&str; 19] = [
    "pool_mode",
    "pool_size",
    "pool_min",
    "pool_reserve",
    "pool_reserve_after",
    "query_wait",
    "auth",
    "hba_file",
    "ident_file",
    "lookup_user",
    "lookup_password",
    "lookup_database",
    "clients_max_per_user",
    "clients_max_per_database",
    "idle_in_transaction_max",
    "client_idle_max",
    "session_users",
    "session_databases",
    "io",
];

const LOOKUP_KEYS: [&str; 3] = ["lookup_user", "lookup_password", "lookup_database"];
const POOL_SIZE_DEFAULT: u32 = 20;
const POOL_SIZE_MAX: u32 = 10_000;
const RESERVE_AFTER_DEFAULT: Duration = Duration::from_secs(5);
/// More clients than a proxy takes.
const CLIENTS_MAX: u32 = 1_000_000;
const QUERY_WAIT_DEFAULT: Duration = Duration::from_secs(120);
/// A client that waits should hear of it before somebody asks what is wrong.
const NOTICE_AFTER: Duration = Duration::from_secs(5);
/// Shorter than that is no silence.
const SILENCE_MIN: Duration = Duration::from_secs(1);
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
    Md5,
    Trust,
    Rules,
}

/// The outer `None` goes with a reported error, the inner one is the session mode.
pub(super) fn read(section: &Section<'_>, report: &mut Report<'_>) -> Option<Option<PoolSettings>> {
    let mode = section.parsed_or(report, "pool_mode", Mode::Pooled, mode);
    let size = section.integer_or(report, "pool_size", POOL_SIZE_DEFAULT, 1..=POOL_SIZE_MAX);
    let query_wait = section.parsed_or(report, "query_wait", QUERY_WAIT_DEFAULT, units::duration);
    let auth = section.parsed_or(report, "auth", Auth::Scram, auth);
    let min = section.integer_or(report, "pool_min", 0, 0..=POOL_SIZE_MAX);
    let reserve = section.integer_or(report, "pool_reserve", 0, 0..=POOL_SIZE_MAX);
    let reserve_after =
        section.parsed_or(report, "pool_reserve_after", RESERVE_AFTER_DEFAULT, units::duration);
    if let (Some(min), Some(size)) = (min, size)
        && min > size
    {
        let problem = format!("{min} is more than pool_size, which is {size}");
        report.error(section.line_of(report, "pool_min"), &section.path("pool_min"), problem);
    }
    let limits = read_limits(section, report);
    let whole = ["session_users", "session_databases"].map(|key| console::roles(section, report, key));
    let io = section.parsed_or(report, "io", Io::Auto, io);
    let (mode, size, query_wait, auth) = (mode?, size? as usize, query_wait?, auth?);
    let (min, reserve, reserve_after) = (min? as usize, reserve? as usize, reserve_after?);
    let (limits, io) = (limits?, io?);
    let [Some(users), Some(databases)] = whole else { return None };
    if mode == Mode::Session {
        refuse_alone(section, report);
        return Some(None);
    }
    let files = read_rule_files(section, report, auth)?;
    let auth = match (auth, files) {
        (Auth::Trust, _) => ClientAuth::Trust,
        (Auth::Scram, _) | (Auth::Rules, None) => ClientAuth::Scram(read_verifiers(section, report)?),
        (Auth::Md5, _) => ClientAuth::Md5(read_verifiers(section, report)?),
        (Auth::Rules, Some(files)) => ClientAuth::Rules(files, read_verifiers(section, report)?),
    };
    Some(Some(PoolSettings {
        servers_max: size,
        reserve,
        reserve_after,
        servers_min: min,
        open_max: (size + reserve) * POOLS_FULL,
        query_wait,
        notice_after: NOTICE_AFTER,
        idle_max: IDLE_MAX,
        age_max: AGE_MAX,
        auth,
        limits,
        whole_sessions: WholeSessions { users, databases },
        io,
    }))
}

/// Files of rules, which go with `auth = "hba"` alone; the outer `None` goes with a reported error.
fn read_rule_files(section: &Section<'_>, report: &mut Report<'_>, auth: Auth) -> Option<Option<RuleFiles>> {
    let mut file = |key| section.parsed_or(report, key, None, |text| absolute_path(text).map(Some));
    let (hba, ident) = (file("hba_file"), file("ident_file"));
    let (hba, ident) = (hba?, ident?);
    match (auth, hba) {
        (Auth::Rules, Some(hba)) => Some(Some(RuleFiles { hba, ident })),
        (Auth::Rules, None) => {
            section.require(report, "hba_file", "\"/etc/pgkeel/pg_hba.conf\", who may come and how");
            None
        }
        (Auth::Scram | Auth::Md5 | Auth::Trust, _) => {
            for key in ["hba_file", "ident_file"].into_iter().filter(|key| section.has(key)) {
                let problem = "needs auth = \"hba\"".to_owned();
                report.error(section.line_of(report, key), &section.path(key), problem);
            }
            Some(None)
        }
    }
}

/// Who tells verifiers: the cluster's agents, unless a role is named. In front of servers that have no agents, one must be.
pub(super) fn read_verifiers(section: &Section<'_>, report: &mut Report<'_>) -> Option<Verifiers> {
    let is_named = LOOKUP_KEYS.iter().any(|key| section.has(key));
    if section.has("servers") || is_named {
        return Some(Verifiers::Role(read_lookup(section, report, "a role that may read pg_authid")?));
    }
    Some(Verifiers::Agents)
}

/// The role that looks up verifiers, which must be given; `why` is said if it is not.
pub(super) fn read_lookup(section: &Section<'_>, report: &mut Report<'_>, why: &str) -> Option<Lookup> {
    let user = section.parsed_or(report, "lookup_user", None, |text| name(text).map(Some));
    let password = section.parsed_or(report, "lookup_password", None, |text| name(text).map(Some));
    let database = section.parsed_or(report, "lookup_database", None, |text| name(text).map(Some));
    let (user, password, database) = (user?, password?, database?);
    let Some(user) = user else {
        section.require(report, "lookup_user", &format!("\"pgkeel_proxy\", {why}"));
        return None;
    };
    Some(Lookup { user, password, database: database.unwrap_or_else(|| "postgres".to_owned()) })
}

/// The role that asks servers which of them is the primary: the one that looks up verifiers, if there is one anyhow.
pub(super) fn asking_role(
    section: &Section<'_>,
    report: &mut Report<'_>,
    pool: Option<&PoolSettings>,
) -> Option<Lookup> {
    match pool.map(|pool| &pool.auth) {
        Some(
            ClientAuth::Scram(Verifiers::Role(lookup))
            | ClientAuth::Md5(Verifiers::Role(lookup))
            | ClientAuth::Rules(_, Verifiers::Role(lookup)),
        ) => Some(lookup.clone()),
        Some(ClientAuth::Scram(_) | ClientAuth::Md5(_) | ClientAuth::Rules(..) | ClientAuth::Trust)
        | None => read_lookup(section, report, "a role that asks the servers which of them is the primary"),
    }
}

/// What the summary says of it.
pub(crate) fn line(pool: Option<&PoolSettings>) -> String {
    let Some(pool) = pool else {
        return "each client has a server connection of its own, on whose server it logs in".to_owned();
    };
    let told = |verifiers: &Verifiers| match verifiers {
        Verifiers::Agents => "the agents tell verifiers".to_owned(),
        Verifiers::Role(role) => format!("the role {} reads verifiers", role.user),
    };
    let who = match &pool.auth {
        ClientAuth::Trust => "anybody may come, under any name".to_owned(),
        ClientAuth::Scram(verifiers) => format!("clients come by SCRAM, {}", told(verifiers)),
        ClientAuth::Md5(verifiers) => format!("clients come by SCRAM or MD5, {}", told(verifiers)),
        ClientAuth::Rules(files, verifiers) => {
            format!("clients come as {} says, {}", files.hba.display(), told(verifiers))
        }
    };
    format!("lends {} server connections for each database and user; {who}", pool.servers_max)
}

fn read_limits(section: &Section<'_>, report: &mut Report<'_>) -> Option<ClientLimits> {
    let mut count = |key| {
        let number = section.integer_or(report, key, CLIENTS_MAX, 1..=CLIENTS_MAX)?;
        Some(section.has(key).then_some(number as usize))
    };
    let (per_user_max, per_database_max) = (count("clients_max_per_user"), count("clients_max_per_database"));
    let mut time = |key| section.parsed_or(report, key, None, |text| silence(text).map(Some));
    let (idle_in_transaction_max, idle_max) = (time("idle_in_transaction_max"), time("client_idle_max"));
    Some(ClientLimits {
        per_user_max: per_user_max?,
        per_database_max: per_database_max?,
        idle_in_transaction_max: idle_in_transaction_max?,
        idle_max: idle_max?,
    })
}

/// Keys that mean nothing in the session mode.
fn refuse_alone(section: &Section<'_>, report: &mut Report<'_>) {
    // The console looks up verifiers in this mode, too, and servers are asked which of them is the primary.
    let has_role = console::is_wanted(section) || section.has("servers");
    let alone =
        |key: &&&str| **key != "pool_mode" && section.has(key) && !(has_role && key.starts_with("lookup_"));
    for key in KEYS.iter().filter(alone) {
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

fn io(text: &str) -> Result<Io, String> {
    match text {
        "auto" => Ok(Io::Auto),
        "epoll" => Ok(Io::Epoll),
        _ => Err(format!("{text:?} is not known; write \"auto\" or \"epoll\"")),
    }
}

fn auth(text: &str) -> Result<Auth, String> {
    match text {
        "scram" => Ok(Auth::Scram),
        "md5" => Ok(Auth::Md5),
        "trust" => Ok(Auth::Trust),
        "hba" => Ok(Auth::Rules),
        _ => Err(format!(
            "{text:?} is not a way to let clients in; write \"scram\", \"md5\", \"hba\" or \"trust\""
        )),
    }
}

pub(super) fn name(text: &str) -> Result<String, String> {
    match text.is_empty() || text.contains('\0') {
        true => Err("must not be empty, nor contain a zero byte".to_owned()),
        false => Ok(text.to_owned()),
    }
}

/// How long a client may say nothing. It is looked at ten times a second.
fn silence(text: &str) -> Result<Duration, String> {
    let given = units::duration(text)?;
    if given >= SILENCE_MIN { Ok(given) } else { Err(format!("{text:?} is out of range; at least \"1s\"")) }
}
