//! Keeps the WAL that a node wrote and the cluster lost, before anything undoes it, and says what was in it.
//!
//! It is copied beside the data directory, one directory for each loss, named after what it holds: a copy that a crash
//! cut short is made again under the same name, and one that is whole is never written again. `lost.json` is written last
//! and makes it whole; what pg_waldump finds is added to it later.

pub mod waldump;

use super::history::{read_forks, segment_name};
use super::{PgError, Place, files};
use cluster::observe::Lost;
use cluster::state::Fork;
use cluster::{Epoch, Lsn, Timeline, WallMs};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

/// How much of one loss is kept, oldest first.
pub const KEPT_BYTES_MAX: u64 = 1 << 30;
/// The description of a loss; a directory without it is not whole.
const DESCRIPTION: &str = "lost.json";

/// WAL beyond the point where it left the cluster's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beyond {
    /// The epoch in which the node found that it had diverged.
    pub epoch: Epoch,
    /// Where it left.
    pub fork: Lsn,
    /// The timeline of its last WAL.
    pub timeline: Timeline,
    /// Where that ends.
    pub end: Lsn,
    /// Bytes in a WAL segment.
    pub segment_bytes: u64,
}

/// A stretch of WAL on one timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// The timeline.
    pub timeline: Timeline,
    /// Its first byte.
    pub from: Lsn,
    /// The byte after its last one.
    pub to: Lsn,
}

/// A transaction that committed in lost WAL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    /// Its number.
    pub xid: u32,
    /// When it committed, by the clock of its host.
    pub committed_at: WallMs,
    /// Bytes of its WAL records after the fork, subtransactions included.
    pub bytes: u64,
}

/// A relation that lost WAL changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relation {
    /// Tablespace, database and file node, as pg_waldump writes them: `1663/5/16384`.
    pub file: String,
    /// How many WAL records concern it.
    pub records: u64,
}

/// What pg_waldump found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// How many transactions committed.
    pub transactions: u64,
    /// The first of them by commit time.
    pub first_commit: Option<WallMs>,
    /// The last of them by commit time.
    pub last_commit: Option<WallMs>,
    /// The first of them, in the order of their commits.
    pub listed: Vec<Transaction>,
    /// The relations that were changed, by committed transactions or others.
    pub relations: Vec<Relation>,
    /// Why this is not all.
    pub problem: Option<String>,
}

/// One loss, as `lost.json` describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The epoch in which the node found that it had diverged.
    pub epoch: Epoch,
    /// When the WAL was kept, by the host's clock.
    pub kept_at: WallMs,
    /// Where the node left the cluster's WAL.
    pub from: Lsn,
    /// Where its own ended.
    pub to: Lsn,
    /// What was kept of it.
    pub pieces: Vec<Piece>,
    /// Why that is not all.
    pub problem: Option<String>,
    /// What is in it; `None`: not looked at yet.
    pub findings: Option<Findings>,
}

impl Record {
    /// In short, for the history.
    #[must_use]
    pub fn summary(&self) -> Lost {
        let found = self.findings.as_ref();
        let problems = [self.problem.as_ref(), found.and_then(|f| f.problem.as_ref())];
        let problems: Vec<&str> = problems.into_iter().flatten().map(String::as_str).collect();
        let nothing_read = found.is_none_or(|f| f.transactions == 0 && f.problem.is_some());
        Lost {
            from_lsn: self.from,
            to_lsn: self.to,
            bytes: self.to.bytes_after(self.from),
            transactions: found.filter(|_| !nothing_read).map(|f| f.transactions),
            first_commit: found.and_then(|f| f.first_commit),
            last_commit: found.and_then(|f| f.last_commit),
            problem: (!problems.is_empty()).then(|| problems.join("; ")),
        }
    }
}

/// Copies what is beyond the fork aside, durably; at most `limit` bytes of it, whole segments, the oldest first. To be
/// called while nothing writes WAL: the server is sealed, or does not run.
///
/// # Errors
/// When it cannot be copied whole or up to the limit: nothing may undo that WAL then.
pub async fn keep(place: &Place, beyond: &Beyond, limit: u64) -> Result<(PathBuf, Record), PgError> {
    let dir = place.beside(&format!("lost-{}-{:X}", beyond.epoch, beyond.end.0));
    if let Some(record) = read(&dir)? {
        return Ok((dir, record));
    }
    match copy(place, beyond, &dir, limit).await {
        Ok(record) => Ok((dir, record)),
        Err(e) => {
            // Half of a copy helps nobody, and the disk may be full.
            let _ = files::remove_dir(&dir);
            Err(PgError::Unexpected(format!(
                "the WAL that only this node has cannot be kept, so nothing is undone: {e}; is there room beside {}?",
                place.data().display()
            )))
        }
    }
}

async fn copy(place: &Place, beyond: &Beyond, dir: &Path, limit: u64) -> Result<Record, PgError> {
    files::make_dir(place, dir, 0o700)?;
    let forks = read_forks(place, beyond.timeline).unwrap_or_else(|e| {
        tracing::warn!("{e}; its WAL is taken to be of timeline {} alone", beyond.timeline);
        Vec::new()
    });
    let (mut kept, mut missing, mut taken) = (Vec::new(), 0_u64, 0_u64);
    let mut whole = true;
    'pieces: for mut piece in pieces(beyond, &forks) {
        let size = beyond.segment_bytes;
        for number in piece.from.0 / size..=piece.to.0.saturating_sub(1) / size {
            if taken > 0 && taken + size > limit {
                whole = false;
                piece.to = Lsn(number * size);
                if piece.to > piece.from {
                    kept.push(piece);
                }
                break 'pieces;
            }
            match copy_segment(place, &segment_name(piece.timeline, number, size), dir).await? {
                Found::Copied => taken += size,
                Found::Missing => missing += 1,
            }
        }
        kept.push(piece);
    }
    copy_histories(place, dir)?;
    let mut problems = Vec::new();
    if !whole {
        problems.push(format!("only its first {taken} bytes are kept: {limit} are the limit"));
    }
    if missing > 0 {
        problems.push(format!("{missing} of its segments were gone already"));
    }
    let record = Record {
        epoch: beyond.epoch,
        kept_at: crate::clock::wall_ms(),
        from: beyond.fork,
        to: beyond.end,
        pieces: kept,
        problem: (!problems.is_empty()).then(|| problems.join("; ")),
        findings: None,
    };
    File::open(dir).and_then(|d| d.sync_all()).map_err(PgError::file("flush", dir))?;
    files::sync_parent(dir)?;
    write(place, dir, &record)?;
    Ok(record)
}

/// The stretches of the node's own WAL after the fork, oldest first; `forks` are those of its own timeline.
fn pieces(beyond: &Beyond, forks: &[Fork]) -> Vec<Piece> {
    let ends = forks.iter().map(|f| (f.timeline, f.at)).chain([(beyond.timeline, beyond.end)]);
    let mut from = beyond.fork;
    let mut pieces = Vec::new();
    for (timeline, to) in ends {
        if to > from {
            pieces.push(Piece { timeline, from, to });
            from = to;
        }
    }
    pieces
}

enum Found {
    Copied,
    Missing,
}

/// A task that is given up may leave the copy of one segment running; it writes the same bytes as the next attempt.
async fn copy_segment(place: &Place, name: &str, dir: &Path) -> Result<Found, PgError> {
    let wal = place.data().join("pg_wal");
    let (to, owner) = (dir.join(name), place.owner());
    // A server that archives renames the last segment of a timeline that it leaves (src/backend/access/transam/xlog.c).
    let sources = [wal.join(name), wal.join(format!("{name}.partial"))];
    let work = tokio::task::spawn_blocking(move || {
        for from in sources {
            match copy_file(&from, &to, owner) {
                Ok(()) => return Ok(Found::Copied),
                Err(PgError::File { source, .. }) if source.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(Found::Missing)
    });
    work.await.map_err(|e| PgError::Unexpected(e.to_string()))?
}

fn copy_file(from: &Path, to: &Path, owner: Option<(u32, u32)>) -> Result<(), PgError> {
    fs::copy(from, to).map_err(PgError::file("copy", from))?;
    if let Some((uid, gid)) = owner {
        chown(to, Some(uid), Some(gid)).map_err(PgError::file("give away", to))?;
    }
    File::open(to).and_then(|f| f.sync_all()).map_err(PgError::file("flush", to))
}

fn copy_histories(place: &Place, dir: &Path) -> Result<(), PgError> {
    let wal = place.data().join("pg_wal");
    let entries = fs::read_dir(&wal).map_err(PgError::file("read", &wal))?;
    let histories =
        entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|x| x == "history"));
    for from in histories {
        if let Some(name) = from.file_name() {
            copy_file(&from, &dir.join(name), place.owner())?;
        }
    }
    Ok(())
}

fn write(place: &Place, dir: &Path, record: &Record) -> Result<(), PgError> {
    let text = serde_json::to_string_pretty(record).map_err(|e| PgError::Unexpected(e.to_string()))?;
    files::replace(&dir.join(DESCRIPTION), &text, place.owner())
}

/// The description in a directory of kept WAL; `None`: the copy is not whole.
///
/// # Errors
/// When it cannot be read.
pub fn read(dir: &Path) -> Result<Option<Record>, PgError> {
    let path = dir.join(DESCRIPTION);
    match fs::read(&path) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(PgError::file("read", &path)(e)),
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| PgError::Unexpected(format!("{} makes no sense: {e}", path.display()))),
    }
}

/// Every loss that is kept whole, oldest first.
#[must_use]
pub fn list(place: &Place) -> Vec<(PathBuf, Record)> {
    let mut found: Vec<(PathBuf, Record)> = place
        .those_beside("lost-")
        .into_iter()
        .filter_map(|dir| match read(&dir) {
            Ok(record) => record.map(|record| (dir, record)),
            Err(e) => {
                tracing::warn!("{e}");
                None
            }
        })
        .collect();
    found.sort_by_key(|(_, record)| (record.kept_at, record.epoch));
    found
}

/// Looks at the kept WAL that was not looked at yet. What goes wrong is part of the findings: it hinders nothing.
pub async fn examine_pending(place: &Place) -> Vec<Record> {
    let mut examined = Vec::new();
    for (dir, mut record) in list(place) {
        if record.findings.is_some() {
            continue;
        }
        record.findings = Some(waldump::examine(place, &dir, &record.pieces).await);
        if let Err(e) = write(place, &dir, &record) {
            tracing::warn!("what was found in {} cannot be written down: {e}", dir.display());
        }
        examined.push(record);
    }
    examined
}

#[cfg(test)]
#[path = "lost/tests.rs"]
mod tests;
