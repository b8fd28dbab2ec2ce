//! WAL on disk: what of it a standby still needs, and what an upstream still holds.

use super::connection::{connect, within};
use super::{PgError, Place, control};
use cluster::Lsn;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(5);
const LOOKS: usize = 40;
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Whether the segment that holds the byte at `lsn` is on disk, of whatever timeline. Segments go in the order of their
/// numbers (RemoveOldXlogFiles, src/backend/access/transam/xlog.c), and a WAL sender opens no other file for `lsn`.
///
/// # Errors
/// When pg_wal cannot be read.
pub fn holds(place: &Place, lsn: Lsn, segment_bytes: u64) -> Result<bool, PgError> {
    let per_file = 0x1_0000_0000 / segment_bytes;
    let number = lsn.0 / segment_bytes;
    let suffix = format!("{:08X}{:08X}", number / per_file, number % per_file);
    let wal = place.data().join("pg_wal");
    let entries = std::fs::read_dir(&wal).map_err(PgError::file("read", &wal))?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    // With archiving, the last segment of a timeline that was left has this name.
    let names = names.map(|name| name.strip_suffix(".partial").map(str::to_owned).unwrap_or(name));
    Ok(names.filter(|name| name.len() == 24).any(|name| name.get(8..) == Some(suffix.as_str())))
}

/// The position from which a standby that does not stream needs WAL from its upstream, once it is certain: it has
/// replayed all that it holds and waits for more. `None`: it streams after all, or is busy with WAL of its own.
///
/// # Errors
/// When the server does not answer.
pub async fn needed_next(place: &Place) -> Result<Option<Lsn>, PgError> {
    let client = connect(place, LIMIT).await?;
    let query = "select pg_last_wal_replay_lsn()::text,
                        exists (select from pg_stat_wal_receiver where status = 'streaming'),
                        exists (select from pg_stat_activity where backend_type = 'startup' and wait_event in
                          ('RecoveryRetrieveRetryInterval', 'RecoveryWalStream'))";
    let mut first: Option<Lsn> = None;
    let mut waits = false;
    for _ in 0..LOOKS {
        let row = within("asking what WAL it waits for", LIMIT, client.query_one(query, &[])).await?;
        let at: Option<String> = row.try_get(0)?;
        let at = at.and_then(|text| text.parse().ok());
        let moved = first.is_some() && first != at;
        if moved || at.is_none() || row.try_get(1)? {
            return Ok(None);
        }
        first = at;
        waits |= row.try_get::<_, bool>(2)?;
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(first.filter(|_| waits))
}

/// The same for a server that cannot be asked because its data is not consistent yet: where its replay began, if that is
/// not on its own disk.
///
/// # Errors
/// When the data directory cannot be read.
pub async fn needed_at_start(place: &Place) -> Result<Option<Lsn>, PgError> {
    let Some(control) = control::look(place).await?.1 else { return Ok(None) };
    let Some(redo) = control.redo else { return Ok(None) };
    Ok((!holds(place, redo, control.wal_segment_bytes)?).then_some(redo))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_segment_of_any_timeline_counts() {
        let root = std::env::temp_dir().join(format!("pgkeel-wal-{}", std::process::id()));
        let place = Place::under(&root);
        let wal = place.data().join("pg_wal");
        std::fs::create_dir_all(&wal).unwrap();
        for name in ["000000020000000000000005", "000000010000000000000004.partial", "00000002.history"] {
            std::fs::write(wal.join(name), "").unwrap();
        }
        let size = 16 << 20;
        let held = [0x300_0000, 0x400_0000, 0x4ff_ffff, 0x500_0000, 0x600_0000]
            .map(|at| holds(&place, Lsn(at), size).unwrap());
        assert_eq!(held, [false, true, true, true, false]);
        std::fs::remove_dir_all(root).unwrap();
    }
}
