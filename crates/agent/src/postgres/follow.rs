//! Seals a standby: makes sure that it receives from nobody, and reads where it stands.

use super::PgError;
use super::conflict::Conflicts;
use super::connection::{connect, within};
use super::session::Session;
use std::time::{Duration, Instant};

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
const GONE_LIMIT: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Waits until the server obeys the empty `primary_conninfo` that was just configured (the setting is seen, and no WAL
/// receiver is left or can come), and until it shows all that it holds.
///
/// The receiver is asked for by the startup process, which hears of the setting a moment later than others. Where it waits
/// for more WAL, and where it has some to replay or stands paused, it takes in its settings before it asks again
/// (WaitForWALToBecomeAvailable, src/backend/access/transam/xlogrecovery.c). No look is taken before the postmaster has
/// signalled it: a session may see the setting a moment earlier, but the postmaster, which was signalled before this is called,
/// accepts a new connection only after it has passed that on to all its children (src/backend/postmaster/postmaster.c).
///
/// A server that has received nothing since it started shows only what it has replayed, and takes questions long before
/// it has replayed all of its own WAL. It has once its startup process waits for more. Sealed any earlier, it would seem
/// to lack commits that it has.
///
/// # Errors
/// When this takes more than ten seconds, or the setting is overridden elsewhere (ALTER SYSTEM). It may be tried again.
pub async fn wait_until_sealed(session: &Session) -> Result<(), PgError> {
    let asking = session.asking(CONNECT_LIMIT).await?;
    signals_are_out(session).await?;
    let began = Instant::now();
    let mut conflicts = Conflicts::new();
    loop {
        // pg_stat_wal_receiver has no row before the receiver is ready: pg_stat_activity shows it from its start.
        let query = "select current_setting('primary_conninfo') = '',
                            not exists (select from pg_stat_activity where backend_type = 'walreceiver'),
                            startup.wait_event in ('RecoveryRetrieveRetryInterval', 'RecoveryWalStream') is true
                              or (pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn()) is true
                              or pg_last_wal_receive_lsn() is not null and (startup.wait_event = 'RecoveryPause') is true
                       from (select) one
                       left join pg_stat_activity startup on startup.backend_type = 'startup'";
        let row = within("asking for the WAL receiver", CONNECT_LIMIT, asking.one(query, &[])).await?;
        let (empty, gone, replayed): (bool, bool, bool) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        if empty && gone && replayed {
            return Ok(());
        }
        conflicts.end(&asking).await?;
        if began.elapsed() > GONE_LIMIT {
            let what = if empty && gone {
                "the server still replays the WAL that it holds"
            } else if empty {
                "the WAL receiver does not end"
            } else {
                "primary_conninfo is not obeyed; was it set by ALTER SYSTEM? (ALTER SYSTEM RESET primary_conninfo)"
            };
            return Err(PgError::Unexpected(format!("cannot seal: {what}")));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Any answer to a new connection tells it, also that there are too many.
async fn signals_are_out(session: &Session) -> Result<(), PgError> {
    match connect(session.place(), CONNECT_LIMIT).await {
        Err(PgError::Sql(e)) if e.code().is_some() => Ok(()),
        other => other.map(drop),
    }
}
