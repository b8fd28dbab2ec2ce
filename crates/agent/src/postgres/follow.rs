//! Seals a standby: makes sure that it receives from nobody, and reads where it stands.

use super::connection::{connect, within};
use super::{PgError, Place};
use std::time::{Duration, Instant};

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
const GONE_LIMIT: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Waits until the server obeys the empty `primary_conninfo` that was just configured: the setting is seen, and no WAL
/// receiver is left.
///
/// # Errors
/// When the receiver is still there after ten seconds, or the setting is overridden elsewhere (ALTER SYSTEM).
pub async fn wait_until_sealed(place: &Place) -> Result<(), PgError> {
    let client = connect(place, CONNECT_LIMIT).await?;
    let began = Instant::now();
    loop {
        // pg_stat_wal_receiver has no row before the receiver is ready: pg_stat_activity shows it from its start.
        let query = "select current_setting('primary_conninfo') = '',
                            not exists (select from pg_stat_activity where backend_type = 'walreceiver')";
        let row = within("asking for the WAL receiver", CONNECT_LIMIT, client.query_one(query, &[])).await?;
        let (empty, gone): (bool, bool) = (row.try_get(0)?, row.try_get(1)?);
        if empty && gone {
            return Ok(());
        }
        if began.elapsed() > GONE_LIMIT {
            let what = if empty {
                "the WAL receiver does not end"
            } else {
                "primary_conninfo is not obeyed; was it set by ALTER SYSTEM? (ALTER SYSTEM RESET primary_conninfo)"
            };
            return Err(PgError::Unexpected(format!("cannot seal: {what}")));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
