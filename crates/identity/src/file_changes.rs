//! Files that the configuration names are replaced while clients are connected: when they are to be read again.
//!
//! Tools write several files one after the other, and not each at once, so files are read only once they have stayed the same
//! from one look to the next. What is broken is not read again before it changes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

/// Pause between two looks.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What tells one content of some files from another without reading them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamp(Vec<Option<(i64, i64, u64, u64)>>);

impl Stamp {
    /// Of these files, whether they are there or not.
    #[must_use]
    pub fn of(files: &[PathBuf]) -> Stamp {
        let facts = |file: &PathBuf| {
            let facts = fs::metadata(file).ok()?;
            Some((facts.mtime(), facts.mtime_nsec(), facts.len(), facts.ino()))
        };
        Stamp(files.iter().map(facts).collect())
    }
}

/// When files that change are to be read. Pure.
#[derive(Debug)]
pub struct FileChanges {
    read: Stamp,
    seen: Stamp,
}

impl FileChanges {
    /// They were read when they looked so.
    pub fn since(read: &Stamp) -> FileChanges {
        FileChanges { read: read.clone(), seen: read.clone() }
    }

    /// Whether the files, which look so now, are to be read; the answer `true` is taken as done.
    pub fn are_due(&mut self, now: Stamp) -> bool {
        let is_settled = now == self.seen;
        let is_due = is_settled && now != self.read;
        if is_due {
            self.read = now.clone();
        }
        self.seen = now;
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(number: u64) -> Stamp {
        Stamp(vec![Some((0, 0, number, 0)), None])
    }

    #[test]
    fn files_are_read_once_when_they_have_come_to_rest() {
        let mut changes = FileChanges::since(&stamp(1));
        assert!(!changes.are_due(stamp(1)));
        assert!(!changes.are_due(stamp(2)), "just being written");
        assert!(!changes.are_due(stamp(3)), "still");
        assert!(changes.are_due(stamp(3)));
        assert!(!changes.are_due(stamp(3)), "read already, whatever came of it");
        assert!(!changes.are_due(stamp(1)));
        assert!(changes.are_due(stamp(1)), "the old file is back");
    }

    #[test]
    fn a_file_that_comes_or_goes_is_a_change() {
        let file = std::env::temp_dir().join(format!("pgkeel-stamp-{}", std::process::id()));
        let look = || Stamp::of(std::slice::from_ref(&file));
        let absent = look();
        fs::write(&file, "a").unwrap();
        let there = look();
        fs::write(&file, "ab").unwrap();
        let longer = look();
        fs::remove_file(&file).unwrap();
        assert!(absent != there && there != longer && look() == absent);
    }
}
