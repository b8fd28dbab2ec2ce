//! Makes a standby the primary.

use super::connection::{connect, within};
use super::session::Session;
use super::{PgError, Place};
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

/// Promotes the server and returns once it is out of recovery. Repeatable.
///
/// # Errors
/// When the server refuses, or is still in recovery after a minute.
pub async fn promote(session: &Session) -> Result<(), PgError> {
    let asking = session.asking(CONNECT_LIMIT).await?;
    let in_recovery = async || -> Result<bool, PgError> {
        let row = within(
            "asking whether it is promoted",
            CONNECT_LIMIT,
            asking.one("select pg_is_in_recovery()", &[]),
        );
        Ok(row.await?.try_get(0)?)
    };
    if !in_recovery().await? {
        return Ok(());
    }
    within("pg_promote", CONNECT_LIMIT, asking.one("select pg_promote(false)", &[])).await?;
    let began = Instant::now();
    while in_recovery().await? {
        if began.elapsed() > PROMOTE_LIMIT {
            return Err(PgError::Slow { doing: "promotion".into(), limit_s: PROMOTE_LIMIT.as_secs() });
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}
