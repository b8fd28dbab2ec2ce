//! Ends what keeps a standby from replaying while it is needed as primary.
//!
//! A statement on a standby may need rows or tables that the WAL removes. Replay then waits for it, up to
//! `max_standby_streaming_delay` (manual, 27.4.2), for ever where that is -1. Meanwhile the startup process neither takes
//! in its settings nor ends recovery: without this the node could be neither sealed nor promoted because somebody reads.

use super::PgError;
use super::connection::within;
use super::session::Asking;
use std::time::{Duration, Instant};

/// How long statements are left alone: most end by themselves.
const PATIENCE: Duration = Duration::from_millis(200);
/// After so long every session that does something is in the way.
const PATIENCE_WITH_OTHERS: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(5);

/// The startup process sleeps with one of these events for what stands in its way (ResolveRecoveryConflictWithSnapshot,
/// -Tablespace, -Lock and -BufferPin, src/backend/storage/ipc/standby.c): who has a snapshot, or holds the lock (the function
/// pg_blocking_pids does not know the startup process). `$1`: whoever is not idle outside a transaction.
const END: &str = "
select count(*) filter (where pg_terminate_backend(client.pid))
  from pg_stat_activity startup join pg_stat_activity client on client.backend_type = 'client backend'
 where startup.backend_type = 'startup'
   and (startup.wait_event_type in ('Lock', 'BufferPin') or startup.wait_event like 'RecoveryConflict%')
   and client.pid <> pg_backend_pid() and client.application_name <> 'pgkeel agent'
   and client.state is distinct from 'starting'
   and (client.backend_xmin is not null
        or client.pid in (select holds.pid from pg_locks waits join pg_locks holds on holds.granted
             and (holds.locktype, holds.database, holds.relation) is not distinct from (waits.locktype, waits.database, waits.relation)
           where waits.pid = startup.pid and not waits.granted)
        or $1 and client.state is distinct from 'idle')";

/// For one wait for the startup process.
pub(super) struct Conflicts {
    began: Instant,
    looked: Instant,
}

impl Conflicts {
    pub(super) fn new() -> Conflicts {
        Conflicts { began: Instant::now(), looked: Instant::now() }
    }

    /// Call it again and again while the startup process does not get where it should: ends the statements that it waits for,
    /// first after [`PATIENCE`], then as often. Their clients get SQLSTATE 57P01.
    ///
    /// # Errors
    /// When the server does not answer.
    pub(super) async fn end(&mut self, asking: &Asking) -> Result<(), PgError> {
        if self.looked.elapsed() < PATIENCE {
            return Ok(());
        }
        self.looked = Instant::now();
        let others = self.began.elapsed() >= PATIENCE_WITH_OTHERS;
        let row = within("ending statements that hold up replay", LIMIT, asking.one(END, &[&others])).await?;
        let ended: i64 = row.try_get(0)?;
        if ended > 0 {
            tracing::warn!(
                "replay waits for statements of clients: ended {ended} of their sessions, as this server is needed"
            );
        }
        Ok(())
    }
}
