//! Copies a primary's data (pg_basebackup), and exchanges data directories without ever deleting the only copy.

use super::configuration::Upstream;
use super::{PgError, Place, REPLICATION_ROLE, aside, files, programs};
use cluster::Timeline;
use std::time::Duration;

/// A copy may take long; it ends with its task when the primary changes.
const COPY_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// Copies `from` into the directory for a new copy; an unfinished one is begun anew.
///
/// # Errors
/// When pg_basebackup fails, with its last words.
pub async fn copy(place: &Place, from: &Upstream) -> Result<(), PgError> {
    let fresh = place.data_new();
    files::remove_dir(&fresh)?;
    files::make_dir(place, &fresh, 0o700)?;
    let mut command = place.command("pg_basebackup");
    command.env("PGPASSWORD", &from.password).args([
        "--no-password",
        "--wal-method=stream",
        "--checkpoint=fast",
    ]);
    command.args(["--host", &from.address.host, "--port", &from.address.port.to_string()]);
    command.args(["--username", REPLICATION_ROLE]).arg("--pgdata").arg(&fresh);
    programs::run("pg_basebackup", command, COPY_LIMIT).await?;
    Ok(())
}

/// Makes sure that all WAL of the copy is of `timeline`: a primary that was replaced meanwhile passes on another's.
///
/// # Errors
/// When the copy's manifest cannot be read, or names another timeline.
pub fn check_timeline(place: &Place, timeline: Timeline) -> Result<(), PgError> {
    let path = place.data_new().join("backup_manifest");
    let text = std::fs::read(&path).map_err(PgError::file("read", &path))?;
    let manifest: Manifest = serde_json::from_slice(&text)
        .map_err(|e| PgError::Unexpected(format!("{} makes no sense: {e}", path.display())))?;
    match manifest.ranges.iter().find(|range| range.timeline != timeline) {
        None if !manifest.ranges.is_empty() => Ok(()),
        other => Err(PgError::Unexpected(format!(
            "the copy is not used: its WAL is of timeline {}, the primary's is {timeline}",
            other.map_or(0, |range| range.timeline)
        ))),
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
}

/// Moves the old data directory aside and the new copy into its place.
///
/// # Errors
/// When a rename fails.
pub fn exchange(place: &Place) -> Result<(), PgError> {
    let occupied = std::fs::read_dir(place.data()).is_ok_and(|mut entries| entries.next().is_some());
    if occupied {
        files::rename(place.data(), &aside::name_for(place, crate::clock::wall_ms()))?;
    } else {
        let _ = std::fs::remove_dir(place.data());
    }
    files::rename(&place.data_new(), place.data())
}
