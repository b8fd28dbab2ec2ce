//! Files that the configuration names are replaced while clients are connected: when they are to be read again.
//!
//! Tools write several files one after the other, and not each at once, so files are read only once they have stayed the same
//! from one look to the next. What could not be used is read again when it changes, and each minute: what was wrong may not show in the
//! files, as a clock that was not set yet, or a directory above them that could not be entered.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

/// Pause between two looks.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);

/// After how many looks files that could not be used are read again: each minute.
const LOOKS_UNTIL_AGAIN: u32 = 30;

/// What tells one content of some files from another without reading them, and whether they can be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamp(Vec<Option<Facts>>);

/// Of one file. Its content can be set back to an older one with the same time of change (`cp -p`): `ctime` cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Facts {
    mtime: (i64, i64),
    ctime: (i64, i64),
    bytes: u64,
    inode: (u64, u64),
    mode: u32,
    owner: (u32, u32),
}

impl Stamp {
    /// Of these files, whether they are there or not.
    #[must_use]
    pub fn of(files: &[PathBuf]) -> Stamp {
        let facts = |file: &PathBuf| {
            let facts = fs::metadata(file).ok()?;
            Some(Facts {
                mtime: (facts.mtime(), facts.mtime_nsec()),
                ctime: (facts.ctime(), facts.ctime_nsec()),
                bytes: facts.len(),
                inode: (facts.dev(), facts.ino()),
                mode: facts.mode(),
                owner: (facts.uid(), facts.gid()),
            })
        };
        Stamp(files.iter().map(facts).collect())
    }
}

/// When files that change are to be read. Pure.
#[derive(Debug)]
pub struct FileChanges {
    read: Stamp,
    seen: Stamp,
    failure: Option<Failure>,
}

/// What came of the last time that they were read.
#[derive(Debug)]
struct Failure {
    why: String,
    looks_left: u32,
}

impl FileChanges {
    /// They were read when they looked so.
    pub fn since(read: &Stamp) -> FileChanges {
        FileChanges { read: read.clone(), seen: read.clone(), failure: None }
    }

    /// Whether the files, which look so now, are to be read; the answer `true` is taken as done, and as done well unless
    /// [`FileChanges::failed`] follows.
    pub fn are_due(&mut self, now: Stamp) -> bool {
        let is_settled = now == self.seen;
        let changed = now != self.read;
        let again = self.failure.as_mut().is_some_and(|failure| {
            failure.looks_left = failure.looks_left.saturating_sub(1);
            failure.looks_left == 0
        });
        let is_due = is_settled && (changed || again);
        if is_due {
            self.read = now.clone();
            if changed {
                self.failure = None;
            }
        }
        self.seen = now;
        is_due
    }

    /// They could not be used. Whether that is to be told: what is read again each minute need not be.
    pub fn failed(&mut self, why: &str) -> bool {
        let is_new = self.failure.as_ref().is_none_or(|failure| failure.why != why);
        self.failure = Some(Failure { why: why.to_owned(), looks_left: LOOKS_UNTIL_AGAIN });
        is_new
    }

    /// All is well with them. Whether they had failed before.
    pub fn succeeded(&mut self) -> bool {
        self.failure.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(number: u64) -> Stamp {
        let facts =
            Facts { mtime: (0, 0), ctime: (0, 0), bytes: number, inode: (0, 0), mode: 0, owner: (0, 0) };
        Stamp(vec![Some(facts), None])
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
    fn what_failed_is_read_again_and_told_once() {
        let mut changes = FileChanges::since(&stamp(1));
        let looks =
            |changes: &mut FileChanges, count: u32| (0..count).filter(|_| changes.are_due(stamp(2))).count();
        assert_eq!(looks(&mut changes, 100), 1);
        assert!(changes.failed("no right"));
        assert_eq!(looks(&mut changes, LOOKS_UNTIL_AGAIN - 1), 0);
        assert_eq!(looks(&mut changes, 1), 1);
        assert!(!changes.failed("no right"), "told already");
        assert_eq!(looks(&mut changes, LOOKS_UNTIL_AGAIN), 1);
        assert!(changes.failed("another reason"));
        assert_eq!(looks(&mut changes, LOOKS_UNTIL_AGAIN), 1);
        assert!(changes.succeeded());
        assert_eq!(looks(&mut changes, 100), 0);
        assert!(!changes.succeeded());
    }

    #[test]
    fn who_may_read_it_and_a_content_of_the_same_age_are_changes() {
        use std::os::unix::fs::PermissionsExt;
        let file = std::env::temp_dir().join(format!("pgkeel-stamp-of-{}", std::process::id()));
        let look = || Stamp::of(std::slice::from_ref(&file));
        fs::write(&file, "a").unwrap();
        let before = look();
        let mtime = fs::metadata(&file).unwrap().modified().unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let closed = look();
        fs::write(&file, "b").unwrap();
        fs::File::options().write(true).open(&file).unwrap().set_modified(mtime).unwrap();
        let other = look();
        fs::remove_file(&file).unwrap();
        assert!(before != closed && closed != other);
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
