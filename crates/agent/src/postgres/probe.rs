//! Asks the server what it is and where it stands, with one query (two on a primary).

use super::PgError;
use super::configuration::upstream_of;
use super::connection::within;
use super::history::{timeline_in_name, timeline_of};
use super::pending;
use super::session::{Asking, Session};
use super::sync::WalSender;
use cluster::configuration::Pending;
use cluster::handover::Hindrance;
use cluster::observe::{Replica, Server, Standby};
use cluster::{Lsn, NodeName, Timeline};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;

/// Every column is null where it does not apply. pg_last_xact_replay_timestamp says how old the last replayed
/// transaction is; that is a lag only while received WAL waits to be replayed.
const SELF: &str = "
select pg_is_in_recovery() as recovery,
       case when not pg_is_in_recovery() then pg_current_wal_flush_lsn()::text end as flush_lsn,
       case when not pg_is_in_recovery() then pg_walfile_name(pg_current_wal_lsn()) end as walfile,
       pg_last_wal_receive_lsn()::text as receive_lsn,
       pg_last_wal_replay_lsn()::text as replay_lsn,
       current_setting('primary_conninfo') as conninfo,
       current_setting('synchronous_standby_names') as sync_names,
       case when not pg_is_in_recovery() then pg_snapshot_xmax(pg_current_snapshot())::text::bigint end as next_xid,
       (extract(epoch from clock_timestamp() - pg_last_xact_replay_timestamp()) * 1000)::bigint as replay_age_ms,
       pg_is_in_recovery() and pg_is_wal_replay_paused() as replay_paused,
       (select count(*) from pg_replication_slots where slot_type = 'logical') as logical_slots,
       current_setting('archive_mode') <> 'off' and coalesce((select last_failed_time >
         coalesce(last_archived_time, '-infinity') from pg_stat_archiver), false) as archiver_fails,
       r.status as receiver, r.received_tli,
       (extract(epoch from clock_timestamp() - r.last_msg_receipt_time) * 1000)::bigint as message_age_ms
  from (select) one left join pg_stat_wal_receiver r on true";

const SENDERS: &str = "
select pid, application_name, state, flush_lsn::text, replay_lsn::text, reply_time::text
  from pg_stat_replication where application_name <> 'pg_basebackup'";

/// Where sessions are told not to wait for standbys: the server's own default, and what roles and databases set. With
/// remote_write a commit is confirmed before a standby has flushed it. A session that sets it by itself is not seen; the
/// agent's own session does, so the default is read from the files.
const OPTED_OUT: &str = "
select who, value from (
  select 'all sessions' as who, lower(setting) as value
    from pg_file_settings where name = 'synchronous_commit' and applied
  union all
  select concat_ws(', ', 'role ' || r.rolname, 'database ' || d.datname), lower(split_part(setting, '=', 2))
    from pg_db_role_setting s cross join unnest(s.setconfig) setting
    left join pg_roles r on r.oid = s.setrole left join pg_database d on d.oid = s.setdatabase
   where setting like 'synchronous_commit=%') found
 where value in ('off', 'local', 'remote_write', 'false', 'no', '0')
 limit 20";

/// Time between two looks at what waits for a restart, and how long after a change it is looked at each time.
const PENDING_EVERY: Duration = Duration::from_secs(5);
const SETTLED: Duration = Duration::from_secs(2);

/// Time between two looks for them.
const OPTED_OUT_EVERY: Duration = Duration::from_secs(10);

/// What was begun so long after the proxies were told to hold is not theirs any more: they have heard it by then. It belongs
/// to clients that are connected past them, and those would go on for ever.
const HEARD: Duration = Duration::from_millis(200);

/// Sessions of clients that began more than so many milliseconds ago, and the transactions in them that did: not the
/// agent's own, not replication. The states are those of pg_stat_activity.
const CLIENTS: &str = "
select count(*) as sessions, coalesce(sum(pid), 0)::bigint as pids,
       count(*) filter (where state <> 'idle' and (xact_start < began) is not false) as busy
  from pg_stat_activity, (select clock_timestamp() - $1 * interval '1 ms' as began) one
 where backend_type = 'client backend' and pid <> pg_backend_pid() and application_name <> 'pgkeel agent'
   and (backend_start < began) is not false";

/// Sessions of clients, without those that proxies have surely not begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clients {
    /// All.
    pub sessions: i64,
    /// Those that are in a transaction or run a statement.
    pub busy: i64,
    /// A number made of their processes: it tells when some came or went.
    pub pids: i64,
}

/// What a probe found.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// The server.
    pub server: Server,
    /// Age of the last message of the WAL stream, while there is one.
    pub wal_silent_ms: Option<u64>,
    /// On a primary: its standbys by name.
    pub replicas: BTreeMap<NodeName, Replica>,
    /// On a primary: what is needed to tell whether it obeys a sync set.
    pub senders: Vec<WalSender>,
    /// What speaks against stopping or promoting it.
    pub hindrances: Vec<Hindrance>,
    /// Clients, and how many of them are in a transaction; only while a switchover asks for it.
    pub clients: Option<Clients>,
    /// The present value of `synchronous_standby_names`.
    pub sync_names: String,
    /// On a primary: the next transaction's number, so to speak how many there have been.
    pub next_xid: Option<u64>,
    /// On a primary: where sessions are told not to wait for standbys, in words.
    pub opted_out: Vec<String>,
    /// What it takes on only when it starts again.
    pub pending: Vec<Pending>,
    /// It cannot replay on before it starts again.
    pub stuck: bool,
}

impl Probe {
    fn only(server: Server) -> Probe {
        Probe {
            server,
            wal_silent_ms: None,
            replicas: BTreeMap::new(),
            senders: Vec::new(),
            hindrances: Vec::new(),
            clients: None,
            sync_names: String::new(),
            next_xid: None,
            opted_out: Vec::new(),
            pending: Vec::new(),
            stuck: false,
        }
    }
}

/// Asks over the agent's session, and keeps in mind what need not be asked each time.
pub struct Prober {
    session: Arc<Session>,
    segment_bytes: u64,
    opted_out: Option<(Instant, Vec<String>)>,
    pending: Option<(Instant, Vec<Pending>)>,
    stuck: Option<(Instant, bool)>,
    /// The version in its files, and since when.
    configured: Option<(u64, Instant)>,
    /// Whether to look at the clients' sessions too.
    pub watch_clients: bool,
    /// Since when that is done.
    watched_since: Option<Instant>,
}

impl Prober {
    /// A prober for a server whose WAL segments have `segment_bytes`.
    #[must_use]
    pub fn new(session: Arc<Session>, segment_bytes: u64) -> Prober {
        Prober {
            session,
            segment_bytes,
            opted_out: None,
            pending: None,
            stuck: None,
            configured: None,
            watch_clients: false,
            watched_since: None,
        }
    }

    /// Asks once.
    ///
    /// # Errors
    /// When the server does not answer within `limit`, or answers nonsense. A server that refuses connections because it
    /// starts is no error.
    pub async fn ask(&mut self, limit: Duration) -> Result<Probe, PgError> {
        let asked = within("a question to the server", limit, self.ask_unbounded(limit)).await;
        match asked {
            Err(PgError::Sql(e)) if is_starting(&e) => {
                self.session.forget();
                Ok(Probe::only(Server::Starting))
            }
            Err(e) => {
                self.session.forget();
                Err(e)
            }
            Ok(probe) => Ok(probe),
        }
    }

    async fn ask_unbounded(&mut self, limit: Duration) -> Result<Probe, PgError> {
        let asking = self.session.asking(limit).await?;
        let row = asking.one(SELF, &[]).await?;
        let hindrances = hindrances(&row)?;
        let mut probe = if row.try_get("recovery")? {
            self.standby(&row)?
        } else {
            let senders = asking.all(SENDERS, &[]).await?;
            primary(&row, &senders)?
        };
        if let Server::Primary { .. } = probe.server {
            probe.opted_out = self.opted_out(&asking).await?;
        }
        probe.pending = self.pending(&asking).await?;
        probe.stuck = self.stuck(&asking, &hindrances).await?;
        probe.hindrances = hindrances;
        if !self.watch_clients {
            self.watched_since = None;
        } else if matches!(probe.server, Server::Primary { .. }) {
            probe.clients = Some(self.clients(&asking).await?);
        }
        Ok(probe)
    }

    /// The version of the cluster-wide configuration in its files.
    pub fn note_configured(&mut self, version: u64) {
        if self.configured.is_none_or(|(known, _)| known != version) {
            self.configured = Some((version, Instant::now()));
        }
    }

    async fn pending(&mut self, asking: &Asking) -> Result<Vec<Pending>, PgError> {
        // The server takes a moment to read its files.
        let settled = self.configured.is_none_or(|(_, since)| since.elapsed() > SETTLED);
        let fresh = |at: &Instant| settled && at.elapsed() < PENDING_EVERY;
        if let Some((_, known)) = self.pending.as_ref().filter(|(at, _)| fresh(at)) {
            return Ok(known.clone());
        }
        let found = pending::ask(asking).await?;
        self.pending = Some((Instant::now(), found.clone()));
        Ok(found)
    }

    async fn stuck(&mut self, asking: &Asking, hindrances: &[Hindrance]) -> Result<bool, PgError> {
        if !hindrances.contains(&Hindrance::ReplayPaused) {
            self.stuck = None;
            return Ok(false);
        }
        if let Some((_, known)) = self.stuck.filter(|(at, _)| at.elapsed() < PENDING_EVERY) {
            return Ok(known);
        }
        let found = pending::is_stuck(self.session.place(), asking).await?;
        self.stuck = Some((Instant::now(), found));
        Ok(found)
    }

    async fn clients(&mut self, asking: &Asking) -> Result<Clients, PgError> {
        let watched = self.watched_since.get_or_insert_with(Instant::now).elapsed();
        let ms = watched.saturating_sub(HEARD).as_secs_f64() * 1000.0;
        let row = asking.one(CLIENTS, &[&ms]).await?;
        Ok(Clients {
            sessions: row.try_get("sessions")?,
            busy: row.try_get("busy")?,
            pids: row.try_get("pids")?,
        })
    }

    async fn opted_out(&mut self, asking: &Asking) -> Result<Vec<String>, PgError> {
        if let Some((_, known)) = self.opted_out.as_ref().filter(|(at, _)| at.elapsed() < OPTED_OUT_EVERY) {
            return Ok(known.clone());
        }
        let mut found = Vec::new();
        for row in asking.all(OPTED_OUT, &[]).await? {
            let (who, value): (String, String) = (row.try_get("who")?, row.try_get("value")?);
            found.push(format!("{who}: synchronous_commit = {value}"));
        }
        self.opted_out = Some((Instant::now(), found.clone()));
        Ok(found)
    }

    fn standby(&self, row: &Row) -> Result<Probe, PgError> {
        let receive_lsn = lsn(row, "receive_lsn")?;
        let replay_lsn = lsn(row, "replay_lsn")?.unwrap_or_default();
        let at = receive_lsn.unwrap_or_default().max(replay_lsn);
        let receiver: Option<String> = row.try_get("receiver")?;
        let received: Option<i32> = row.try_get("received_tli")?;
        let timeline = match received.and_then(|t| Timeline::try_from(t).ok()).filter(|t| *t > 0) {
            Some(timeline) => timeline,
            None => timeline_of(self.session.place(), at, self.segment_bytes)?.unwrap_or(0),
        };
        let conninfo: String = row.try_get("conninfo")?;
        let age: Option<i64> = row.try_get("replay_age_ms")?;
        let streaming = receiver.as_deref() == Some("streaming");
        let message_age: Option<i64> = row.try_get("message_age_ms")?;
        let upstream = match (conninfo.is_empty(), upstream_of(&conninfo)) {
            (true, _) => None,
            (false, Some(node)) => Some(node),
            (false, None) => Some(unknown_upstream()?),
        };
        let replay_lag_ms = if replay_lsn < at { age.and_then(|a| u64::try_from(a).ok()) } else { None };
        Ok(Probe {
            wal_silent_ms: message_age.filter(|_| streaming).map(|a| u64::try_from(a).unwrap_or(0)),
            ..Probe::only(Server::Standby(Standby {
                timeline,
                lsn: at,
                replay_lsn,
                upstream,
                streaming,
                replay_lag_ms,
            }))
        })
    }
}

fn unknown_upstream() -> Result<NodeName, PgError> {
    "unknown".parse().map_err(|e: cluster::basics::BadNodeName| PgError::Unexpected(e.to_string()))
}

/// The primary of which the columns `walfile` and `flush_lsn` speak.
///
/// # Errors
/// When they cannot be read.
pub fn primary_server(row: &Row) -> Result<Server, PgError> {
    let walfile: String = row.try_get("walfile")?;
    let timeline = timeline_in_name(&walfile)
        .ok_or_else(|| PgError::Unexpected(format!("the server named its WAL file {walfile:?}")))?;
    Ok(Server::Primary { timeline, lsn: lsn(row, "flush_lsn")?.unwrap_or_default() })
}

fn primary(row: &Row, senders: &[Row]) -> Result<Probe, PgError> {
    let mut probe = Probe::only(primary_server(row)?);
    probe.sync_names = row.try_get("sync_names")?;
    let next_xid: Option<i64> = row.try_get("next_xid")?;
    probe.next_xid = next_xid.and_then(|x| u64::try_from(x).ok());
    for sender in senders {
        let name: String = sender.try_get("application_name")?;
        let Ok(node) = name.parse::<NodeName>() else { continue };
        let state: Option<String> = sender.try_get("state")?;
        let replica = Replica {
            streaming: state.as_deref() == Some("streaming"),
            flush_lsn: lsn(sender, "flush_lsn")?.unwrap_or_default(),
            replay_lsn: lsn(sender, "replay_lsn")?.unwrap_or_default(),
        };
        let (pid, reply_time) = (sender.try_get("pid")?, sender.try_get("reply_time")?);
        probe.senders.push(WalSender { node: node.clone(), pid, reply_time });
        probe.replicas.insert(node, replica);
    }
    Ok(probe)
}

fn hindrances(row: &Row) -> Result<Vec<Hindrance>, PgError> {
    let mut found = Vec::new();
    if row.try_get("replay_paused")? {
        found.push(Hindrance::ReplayPaused);
    }
    if row.try_get("archiver_fails")? {
        found.push(Hindrance::ArchiverFails);
    }
    let slots: i64 = row.try_get("logical_slots")?;
    if slots > 0 {
        found.push(Hindrance::LogicalSlots { count: usize::try_from(slots).unwrap_or(usize::MAX) });
    }
    Ok(found)
}

fn lsn(row: &Row, column: &str) -> Result<Option<Lsn>, PgError> {
    let text: Option<String> = row.try_get(column)?;
    text.map(|t| t.parse::<Lsn>()).transpose().map_err(|e| PgError::Unexpected(e.to_string()))
}

/// Refused because it starts (57P03), or nobody listens on the socket yet.
fn is_starting(e: &tokio_postgres::Error) -> bool {
    if let Some(code) = e.code() {
        return *code == SqlState::CANNOT_CONNECT_NOW;
    }
    let source = std::error::Error::source(e).and_then(|s| s.downcast_ref::<std::io::Error>());
    source.is_some_and(|io| {
        matches!(io.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused)
    })
}
