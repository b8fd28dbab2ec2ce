//! Certificates are replaced while clients are connected: looks whether the files have changed, and has them read again.
//!
//! Tools write certificate and key one after the other, so files are read only once they have stayed the same from one look
//! to the next. What is broken is told once and not read again before it changes.

use super::{Problem, Tls};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(2);

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
struct Changes {
    read: Stamp,
    seen: Stamp,
}

impl Changes {
    fn since(read: &Stamp) -> Changes {
        Changes { read: read.clone(), seen: read.clone() }
    }

    /// Whether the files, which look so now, are to be read; the answer `true` is taken as done.
    fn are_due(&mut self, now: Stamp) -> bool {
        let is_settled = now == self.seen;
        let is_due = is_settled && now != self.read;
        if is_due {
            self.read = now.clone();
        }
        self.seen = now;
        is_due
    }
}

/// Keeps both sides as their files say. Never returns.
pub async fn keep_current(tls: Arc<Tls>) {
    let mut clients = tls.clients.as_ref().map(|side| (side, Changes::since(side.stamp())));
    let mut servers = tls.servers.as_ref().map(|side| (side, Changes::since(side.stamp())));
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if let Some((side, changes)) = &mut clients
            && changes.are_due(side.stamp_now())
        {
            tell("the certificate for clients", side.renew());
        }
        if let Some((side, changes)) = &mut servers
            && changes.are_due(side.stamp_now())
        {
            tell("the authorities that sign servers' certificates", side.renew());
        }
    }
}

fn tell(what: &str, outcome: Result<(), Problem>) {
    match outcome {
        Ok(()) => {
            tracing::info!("{what}: the new file is in use from now on; open sessions keep the old one")
        }
        Err(problem) => {
            tracing::error!("{what}: the old file stays in use, because of the new one: {problem}")
        }
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
        let mut changes = Changes::since(&stamp(1));
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
