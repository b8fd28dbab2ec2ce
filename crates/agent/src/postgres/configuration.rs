//! PostgreSQL's configuration files as we write them.
//!
//! postgresql.conf stays as initdb made it, but for two include lines at its end: `pgkeel.user.conf` (the user's settings in
//! their layers, see [`super::layers`]) and `pgkeel.conf` (what we manage; it comes last, so it holds, and what ALTER SYSTEM
//! says otherwise is taken back). pg_hba.conf and pg_ident.conf are ours, with the user's lines.

use super::layers::{self, Doors, quote};
use super::{PgError, Place, REPLICATION_ROLE, files, overrides};
use cluster::NodeName;
use cluster::configuration::Content;
use cluster::state::{PgAddress, SyncSet};
use std::fmt::Write as _;
use std::path::Path;

/// What ends a postgresql.conf that is ours.
pub(super) const INCLUDES: &str = "include 'pgkeel.user.conf'\ninclude 'pgkeel.conf'\n";

/// Where a standby receives WAL from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// The node.
    pub node: NodeName,
    /// Its PostgreSQL.
    pub address: PgAddress,
    /// Password of the replication role.
    pub password: String,
}

impl Upstream {
    /// How PostgreSQL's programs reach it, without the password. A host that vanishes is noticed within seconds.
    #[must_use]
    pub fn conninfo(&self) -> String {
        let host = self.address.host.replace('\\', "\\\\").replace('\'', "\\'");
        format!(
            "host='{host}' port={} user={REPLICATION_ROLE} dbname=postgres connect_timeout=5 \
             keepalives_idle=2 keepalives_interval=1 keepalives_count=3 tcp_user_timeout=10000",
            self.address.port
        )
    }
}

/// What changes from moment to moment; everything else follows from the node's settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Managed {
    /// `None`: sealed.
    pub upstream: Option<Upstream>,
    /// The synchronous standbys.
    pub sync: Option<SyncSet>,
    /// What a standby needs to replay its WAL, for this start: less is configured, and waits for the primary.
    pub needed: Vec<(&'static str, String)>,
}

/// Writes all files into the data directory `data`. Returns what was taken back of what ALTER SYSTEM said.
///
/// # Errors
/// When a file cannot be read or written.
pub fn write_all(
    place: &Place,
    data: &Path,
    me: &NodeName,
    managed: &Managed,
    (content, doors): (&Content, Doors),
) -> Result<Vec<String>, PgError> {
    let owner = place.owner();
    let main = data.join("postgresql.conf");
    let text = std::fs::read_to_string(&main).map_err(PgError::file("read", &main))?;
    if !text.ends_with(INCLUDES) {
        let kept: Vec<&str> = text.lines().filter(|line| !INCLUDES.lines().any(|i| i == *line)).collect();
        files::replace(&main, format!("{}\n{INCLUDES}", kept.join("\n")), owner)?;
    }
    layers::write(place, data, content, doors)?;
    write_managed(place, data, me, managed)
}

/// Writes only what changes from moment to moment; takes effect with a reload. Returns what was taken back of what ALTER SYSTEM
/// said.
///
/// # Errors
/// When the file cannot be written.
pub fn write_managed(
    place: &Place,
    data: &Path,
    me: &NodeName,
    managed: &Managed,
) -> Result<Vec<String>, PgError> {
    let settings = managed_settings(place, me, managed);
    let mut text = String::from("# Written by pgkeel. Do not edit: it is replaced without warning.\n");
    let all: Vec<&(&str, String)> = settings.iter().chain(&managed.needed).collect();
    for (name, value) in &all {
        let _ = writeln!(text, "{name} = {}", quote(value));
    }
    files::replace(&data.join("pgkeel.conf"), &text, place.owner())?;
    let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
    // Most often there is nothing to take back, and what is there is then noticed where it is not obeyed.
    Ok(overrides::take_back(place, data, &names).unwrap_or_else(|e| {
        tracing::error!("{e}");
        Vec::new()
    }))
}

fn managed_settings(place: &Place, me: &NodeName, managed: &Managed) -> [(&'static str, String); 11] {
    let pg = &place.settings;
    let (conninfo, slot) = match &managed.upstream {
        Some(upstream) => (conninfo(upstream, me), me.slot()),
        None => (String::new(), String::new()),
    };
    let sync = managed.sync.as_ref().map(sync_setting).unwrap_or_default();
    [
        ("listen_addresses", pg.listen_addresses.clone()),
        ("port", pg.port.to_string()),
        ("unix_socket_directories", socket_dirs(place)),
        ("hot_standby", "on".into()),
        ("wal_log_hints", "on".into()),
        ("recovery_target_timeline", "latest".into()),
        // A receiver that lost its primary looks for the next one ten times a second, not every 5 s.
        ("wal_retrieve_retry_interval", "100ms".into()),
        // Confirmations come at least once a second, so that WAL senders are seen to obey a new sync set.
        ("wal_receiver_status_interval", "1s".into()),
        ("primary_conninfo", conninfo),
        ("primary_slot_name", slot),
        ("synchronous_standby_names", sync),
    ]
}

/// Where the server has its Unix sockets. A server does not start when it cannot make one, so a directory that is not there, as
/// after a start of the host, is left out.
fn socket_dirs(place: &Place) -> String {
    let own = place.socket_dir();
    let others = place.settings.socket_dirs.iter().filter(|dir| dir.is_dir());
    let all: Vec<String> = [&own].into_iter().chain(others).map(|dir| dir.display().to_string()).collect();
    all.join(",")
}

/// The value of `synchronous_standby_names`. With fewer members than must confirm, commits must wait: a name that no
/// standby has keeps the list from being empty.
#[must_use]
pub fn sync_setting(sync: &SyncSet) -> String {
    if sync.k == 0 {
        return String::new();
    }
    let mut members: Vec<String> = sync.members.iter().map(|n| format!("\"{n}\"")).collect();
    while members.len() < sync.k {
        members.push(format!("\"pgkeel nobody {}\"", members.len()));
    }
    format!("ANY {} ({})", sync.k, members.join(", "))
}

/// A libpq connection string; values quoted as libpq reads them.
fn conninfo(upstream: &Upstream, me: &NodeName) -> String {
    let value = |v: &str| format!("'{}'", v.replace('\\', "\\\\").replace('\'', "\\'"));
    format!(
        "host={} port={} user={REPLICATION_ROLE} password={} application_name={} \
         fallback_application_name='{UPSTREAM_MARK}{}' dbname=postgres sslmode=prefer \
         connect_timeout=3 keepalives_idle=2 keepalives_interval=1 keepalives_count=3",
        value(&upstream.address.host),
        upstream.address.port,
        value(&upstream.password),
        value(me.as_str()),
        upstream.node,
    )
}

/// Names the upstream in a connection string; libpq does not use it, because `application_name` is given too.
const UPSTREAM_MARK: &str = "pgkeel to ";

/// The node that a connection string written here leads to.
#[must_use]
pub fn upstream_of(conninfo: &str) -> Option<NodeName> {
    let (_, rest) = conninfo.split_once(UPSTREAM_MARK)?;
    rest.split('\'').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_sync_set_makes_commits_wait() {
        let sync = SyncSet { k: 1, members: Default::default() };
        assert_eq!(sync_setting(&sync), "ANY 1 (\"pgkeel nobody 0\")");
        let members = ["n2", "n3"].iter().filter_map(|n| n.parse().ok()).collect();
        assert_eq!(sync_setting(&SyncSet { k: 1, members }), "ANY 1 (\"n2\", \"n3\")");
        assert_eq!(sync_setting(&SyncSet { k: 0, members: Default::default() }), "");
    }

    #[test]
    fn the_upstream_is_found_again_in_the_connection_string() {
        let node = |name: &str| name.parse::<NodeName>().unwrap();
        let address = PgAddress { host: "10.0.0.1".into(), port: 5432 };
        let upstream = Upstream { node: node("n1"), address, password: "it's".into() };
        assert_eq!(upstream_of(&conninfo(&upstream, &node("n2"))), Some(node("n1")));
        assert_eq!(upstream_of("host=a"), None);
    }
}
