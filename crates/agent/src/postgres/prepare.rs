//! Makes a primary ready to hand over, so that clients wait shortly when it does.

use super::connection::{connect, within};
use super::{PgError, Place};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(5);
const CHECKPOINT_LIMIT: Duration = Duration::from_secs(300);
/// Standbys that take longer to get the rest of a segment are not waited for.
const CAUGHT_UP_LIMIT: Duration = Duration::from_secs(2);
/// Most bytes with which a segment is filled up: standbys may seem to lag by them for a moment, which is not to be taken for
/// a candidate too far behind (`BEHIND_MAX` of `cluster::decide::switchover`).
const REST_MAX: u64 = 8 * 1024 * 1024;
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Makes a checkpoint.
///
/// # Errors
/// When the server does not make it in time.
pub async fn checkpoint(place: &Place) -> Result<(), PgError> {
    let client = connect(place, LIMIT).await?;
    within("a checkpoint", CHECKPOINT_LIMIT, client.batch_execute("checkpoint")).await
}

/// Begins a new WAL segment if the present one, of `segment_bytes`, is more than half full, and waits a moment until the
/// standbys have replayed the end of it. A standby that turns to another primary asks for its segment from the beginning
/// (RequestXLogStreaming, src/backend/replication/walreceiverfuncs.c): the less of it there is by then, the sooner it
/// confirms commits.
///
/// # Errors
/// When the server does not answer.
pub async fn begin_segment(place: &Place, segment_bytes: u64) -> Result<(), PgError> {
    let client = connect(place, LIMIT).await?;
    let at = "select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint";
    let row = within("asking for the WAL position", LIMIT, client.query_one(at, &[])).await?;
    let at = u64::try_from(row.try_get::<_, i64>(0)?).unwrap_or(0);
    let rest = segment_bytes - at % segment_bytes;
    if rest > segment_bytes / 2 || rest > REST_MAX {
        return Ok(());
    }
    let row = within("pg_switch_wal", LIMIT, client.query_one("select pg_switch_wal()::text", &[])).await?;
    let end: String = row.try_get(0)?;
    let behind = "select exists (select from pg_stat_replication
        where state = 'streaming' and replay_lsn < $1::text::pg_lsn)";
    let began = Instant::now();
    while began.elapsed() < CAUGHT_UP_LIMIT {
        let row = within("asking for the standbys", LIMIT, client.query_one(behind, &[&end])).await?;
        if !row.try_get::<_, bool>(0)? {
            return Ok(());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}
