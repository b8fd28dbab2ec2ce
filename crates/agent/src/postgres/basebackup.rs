//! Copies another node's data (pg_basebackup), and exchanges data directories without ever deleting the only copy.

use super::configuration::Upstream;
use super::{PgError, Place, aside, files, process, programs};
use cluster::{Lsn, Timeline};
use std::path::Path;
use std::time::Duration;

/// A copy may take long; it ends with its task when the primary changes.
const COPY_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// Ends and removes what an unfinished copy left.
///
/// # Errors
/// When something cannot be removed.
pub async fn clear(place: &Place) -> Result<(), PgError> {
    process::end_copying(place).await?;
    files::remove_dir(&place.data_new())
}

/// Copies `from`, a primary or a standby, into the directory for a new copy; an unfinished one is begun anew. Tells how
/// far it is: done and total, in bytes.
///
/// # Errors
/// When pg_basebackup fails, with its last words.
pub async fn copy(place: &Place, from: &Upstream, progress: impl FnMut(u64, u64)) -> Result<(), PgError> {
    clear(place).await?;
    let fresh = place.data_new();
    files::make_dir(place, &fresh, 0o700)?;
    let mut command = place.command_that_writes("pg_basebackup");
    command.env("PGPASSWORD", &from.password).args([
        "--no-password",
        "--wal-method=stream",
        "--checkpoint=fast",
        "--progress",
    ]);
    command.args(["--dbname", &from.conninfo()]).arg("--pgdata").arg(&fresh);
    programs::run_telling("pg_basebackup", command, COPY_LIMIT, progress).await
}

/// Makes sure that all WAL of the copy is of `timeline`, because a primary that was replaced meanwhile passes on another's,
/// and that it goes at least up to `held`.
///
/// # Errors
/// When the copy's manifest cannot be read, or the copy will not do.
pub fn check(place: &Place, timeline: Timeline, held: Option<Lsn>) -> Result<(), PgError> {
    let path = place.data_new().join("backup_manifest");
    let text = std::fs::read(&path).map_err(PgError::file("read", &path))?;
    let manifest: Manifest = serde_json::from_slice(&text)
        .map_err(|e| PgError::Unexpected(format!("{} makes no sense: {e}", path.display())))?;
    if let Some(other) = manifest.ranges.iter().map(|r| r.timeline).find(|other| *other != timeline) {
        let said =
            format!("the copy is not used: its WAL is of timeline {other}, the primary's is {timeline}");
        return Err(PgError::Unexpected(said));
    }
    let end = manifest.ranges.iter().filter_map(|r| r.end.parse::<Lsn>().ok()).max();
    let Some(end) = end else {
        return Err(PgError::Unexpected(format!("{} names no WAL: the copy is not used", path.display())));
    };
    match held.filter(|held| end < *held) {
        Some(held) => Err(PgError::Unexpected(format!(
            "the copy is not used: it ends at {end}, and this node has confirmed WAL up to {held}"
        ))),
        None => Ok(()),
    }
}

/// The part of a backup manifest that matters here (PostgreSQL manual, "Backup Manifest Format").
#[derive(serde::Deserialize)]
struct Manifest {
    #[serde(rename = "WAL-Ranges")]
    ranges: Vec<WalRange>,
}

#[derive(serde::Deserialize)]
struct WalRange {
    #[serde(rename = "Timeline")]
    timeline: Timeline,
    #[serde(rename = "End-LSN")]
    end: String,
}

/// Whether there is something in the directory.
#[must_use]
pub fn is_occupied(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
}

/// Moves the old data directory aside and the new copy into its place.
///
/// # Errors
/// When a rename fails.
pub fn exchange(place: &Place) -> Result<(), PgError> {
    // A person may have put a directory back that had been set aside, or copied one.
    aside::forget_replaced(place.data());
    aside::forget_replaced(&place.data_new());
    if is_occupied(place.data()) {
        files::rename(place.data(), &aside::name_for(place, crate::clock::wall_ms()))?;
    } else {
        let _ = std::fs::remove_dir(place.data());
    }
    files::rename(&place.data_new(), place.data())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_copy_of_other_wal_or_too_little_of_it_is_not_used() {
        let root = std::env::temp_dir().join(format!("pgkeel-copy-{}", std::process::id()));
        let place = Place::under(&root);
        std::fs::create_dir_all(place.data_new()).unwrap();
        let manifest = |ranges: &str| {
            let text = format!(r#"{{"PostgreSQL-Backup-Manifest-Version": 1, "WAL-Ranges": [{ranges}]}}"#);
            std::fs::write(place.data_new().join("backup_manifest"), text).unwrap();
        };
        manifest(r#"{ "Timeline": 2, "Start-LSN": "0/2000028", "End-LSN": "0/2000100" }"#);
        check(&place, 2, Some(Lsn(0x200_0100))).unwrap();
        let less = check(&place, 2, Some(Lsn(0x200_0101))).unwrap_err().to_string();
        assert!(less.contains("0/2000100") && less.contains("0/2000101"), "{less}");
        assert!(check(&place, 3, None).unwrap_err().to_string().contains("timeline 2"));
        manifest("");
        assert!(check(&place, 2, None).is_err());
        std::fs::remove_dir_all(root).unwrap();
    }
}
