//! Makes a standby the primary.

use super::conflict::Conflicts;
use super::connection::{connect, within};
use super::session::{Asking, Session};
use super::{PgError, Place, probe};
use cluster::observe::Server;
use std::time::{Duration, Instant};

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// By then who waited for the promotion is served.
const CHECKPOINT_AFTER: Duration = Duration::from_millis(500);
const CHECKPOINT_LIMIT: Duration = Duration::from_secs(900);
const PROMOTE_LIMIT: Duration = Duration::from_secs(60);
/// `pg_promote(true)` looks only ten times a second.
const LOOK_AGAIN: Duration = Duration::from_millis(4);

/// Makes the first checkpoint of the new timeline soon, on the side. PostgreSQL makes one too, but takes minutes over it,
/// and until it is made pg_rewind and a crash of this server have to do with the old one. Not at once: a standby has
/// replayed much that it has not written yet, and to write it then would be in the way of those who waited for a primary.
pub fn checkpoint_soon(place: Place) {
    tokio::spawn(async move {
        tokio::time::sleep(CHECKPOINT_AFTER).await;
        let made = async {
            let client = connect(&place, CONNECT_LIMIT).await?;
            within("the first checkpoint", CHECKPOINT_LIMIT, client.batch_execute("checkpoint")).await
        };
        if let Err(e) = made.await {
            tracing::warn!("the first checkpoint after the promotion was not made: {e}");
        }
    });
}

/// Nulls while it is in recovery.
const WHAT_NOW: &str = "
select case when not pg_is_in_recovery() then pg_walfile_name(pg_current_wal_lsn()) end as walfile,
       case when not pg_is_in_recovery() then pg_current_wal_flush_lsn()::text end as flush_lsn";

/// Promotes the server; what it is once it is out of recovery. Repeatable.
///
/// # Errors
/// When the server refuses, or is still in recovery after a minute.
pub async fn promote(session: &Session) -> Result<Server, PgError> {
    let asking = session.asking(CONNECT_LIMIT).await?;
    if let Some(primary) = look(&asking).await? {
        return Ok(primary);
    }
    within("pg_promote", CONNECT_LIMIT, asking.one("select pg_promote(false)", &[])).await?;
    let began = Instant::now();
    let mut conflicts = Conflicts::new();
    loop {
        if let Some(primary) = look(&asking).await? {
            return Ok(primary);
        }
        conflicts.end(&asking).await?;
        if began.elapsed() > PROMOTE_LIMIT {
            return Err(PgError::Slow { doing: "promotion".into(), limit_s: PROMOTE_LIMIT.as_secs() });
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// The `synchronous_standby_names` that the server shows.
///
/// # Errors
/// When it does not answer.
pub async fn sync_names(session: &Session) -> Result<String, PgError> {
    let asking = session.asking(CONNECT_LIMIT).await?;
    let question = asking.one("select current_setting('synchronous_standby_names')", &[]);
    Ok(within("asking for the synchronous standbys", CONNECT_LIMIT, question).await?.try_get(0)?)
}

/// A primary, if it is one. Clients wait for this: nothing else is asked with it.
async fn look(asking: &Asking) -> Result<Option<Server>, PgError> {
    let row = within("asking whether it is promoted", CONNECT_LIMIT, asking.one(WHAT_NOW, &[])).await?;
    match row.try_get::<_, Option<String>>("walfile")? {
        Some(_) => Ok(Some(probe::primary_server(&row)?)),
        None => Ok(None),
    }
}
