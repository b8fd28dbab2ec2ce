//! Whether a copy fits beside the data directory, and what to do when it does not.

use super::{PgError, Place};
use cluster::NodeName;
use cluster::copy::Bytes;
use rustix::fs::statvfs;
use std::path::{Path, PathBuf};

/// WAL that comes with a copy, at least.
const WAL_SEGMENTS: u64 = 2;

/// What a copy of this node's data takes: all but the WAL that is kept for others.
#[must_use]
pub fn data_bytes(place: &Place, segment_bytes: u64) -> u64 {
    let wal = place.data().join("pg_wal");
    bytes_under(place.data(), &|path| path != wal) + WAL_SEGMENTS * segment_bytes
}

/// What the files under `dir` hold; what cannot be read counts nothing, and links are not followed.
#[must_use]
pub fn bytes_under(dir: &Path, counts: &dyn Fn(&Path) -> bool) -> u64 {
    let mut dirs: Vec<PathBuf> = vec![dir.to_owned()];
    let mut bytes = 0;
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() && counts(&entry.path()) => dirs.push(entry.path()),
                Ok(meta) if meta.is_file() => bytes += meta.len(),
                _ => {}
            }
        }
    }
    bytes
}

/// What is free where a copy is made.
fn free_bytes(place: &Place) -> Option<(PathBuf, u64)> {
    let parent = place.data().parent()?.to_owned();
    let stat = statvfs(&parent).ok()?;
    Some((parent, stat.f_bavail.saturating_mul(stat.f_frsize)))
}

/// Sees that a copy of `needed` bytes fits before it is begun.
///
/// # Errors
/// When it does not: how much is needed, how much there is, and what to do.
pub fn check(place: &Place, source: &NodeName, needed: u64) -> Result<(), PgError> {
    match free_bytes(place) {
        Some((_, free)) if free < needed => Err(PgError::NoRoom(format!(
            "there is no room for a copy of {source}: {}",
            advice(place, needed)
        ))),
        _ => Ok(()),
    }
}

/// The error of a program that may have filled the disk, with what to do about it; `copied`: what a whole copy takes.
#[must_use]
pub fn explain(place: &Place, error: PgError, copied: Option<u64>) -> PgError {
    let said = error.to_string();
    // ENOSPC and EDQUOT in the C locale, in which all programs run.
    if !said.contains("No space left on device") && !said.contains("Disk quota exceeded") {
        return error;
    }
    PgError::NoRoom(match copied {
        // pg_basebackup removes what it had written: what is free now was not free a moment ago.
        Some(needed) => format!(
            "the disk was full before the copy was whole, and what there was of it is removed: {}; {said}",
            advice(place, needed)
        ),
        None => format!("the disk is full: {}. {CURE}; {said}", free_words(place)),
    })
}

const CURE: &str = "Make room there, perhaps by `pgkeel aside prune`; it is tried again by itself";

fn free_words(place: &Place) -> String {
    let (path, free) = free_bytes(place).unwrap_or_default();
    format!("{} has {} ({free} bytes) free", path.display(), Bytes(free))
}

fn advice(place: &Place, needed: u64) -> String {
    let old = bytes_under(place.data(), &|_| true);
    let kept = match old {
        0 => String::new(),
        _ => format!("; the old directory ({}) is kept until the copy streams", Bytes(old)),
    };
    format!("it takes {} ({needed} bytes), and {}{kept}. {CURE}", Bytes(needed), free_words(place))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn wal_kept_for_others_is_not_copied_and_a_lack_of_room_is_explained() {
        let root = std::env::temp_dir().join(format!("pgkeel-room-{}", std::process::id()));
        let place = Place::under(&root);
        std::fs::create_dir_all(place.data().join("pg_wal")).unwrap();
        std::fs::create_dir_all(place.data().join("base/5")).unwrap();
        std::fs::write(place.data().join("pg_wal/1"), [0; 5000]).unwrap();
        std::fs::write(place.data().join("base/5/1"), [0; 700]).unwrap();
        assert_eq!(data_bytes(&place, 10), 720);
        let source: NodeName = "n2".parse().unwrap();
        check(&place, &source, 1).unwrap();
        let refused = check(&place, &source, u64::MAX).unwrap_err().to_string();
        assert!(
            refused.contains("copy of n2") && refused.contains("5.7 kB") && refused.contains("free"),
            "{refused}"
        );
        for copied in [Some(9), None] {
            let full =
                PgError::Program { program: "x".into(), said: "write: No space left on device".into() };
            let explained = explain(&place, full, copied);
            assert!(matches!(explained, PgError::NoRoom(_)) && explained.to_string().contains("free"));
        }
        std::fs::remove_dir_all(root).unwrap();
    }
}
