//! The log as the consensus library sees it: held in memory whole (a few thousand small entries at most, see
//! [`super::Limits`]), written through to the [`Disk`].

use super::disk::{Change, Disk, Key, encode};
use super::types::{Entry, LogId, Types, Vote};
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::{LogState, OptionalSend};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is held in memory.
#[derive(Debug)]
struct Held {
    entries: BTreeMap<u64, Entry>,
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
}

/// The log of this node.
#[derive(Clone)]
pub(super) struct Log {
    held: Arc<Mutex<Held>>,
    disk: Disk,
}

impl Log {
    pub(super) fn new(
        disk: Disk,
        entries: BTreeMap<u64, Entry>,
        vote: Option<Vote>,
        committed: Option<LogId>,
        purged: Option<LogId>,
    ) -> Self {
        Log { held: Arc::new(Mutex::new(Held { entries, vote, committed, purged })), disk }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // Every change below is a single statement, so a poisoned lock still guards something whole.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let after = |bound: Bound<&u64>| match bound {
            Bound::Included(i) => i.saturating_add(1),
            Bound::Excluded(i) => *i,
            Bound::Unbounded => u64::MAX,
        };
        let first = match range.start_bound() {
            Bound::Included(i) => *i,
            Bound::Excluded(i) => i.saturating_add(1),
            Bound::Unbounded => 0,
        };
        // BTreeMap::range panics when the end is before the start.
        let end = after(range.end_bound()).max(first);
        Ok(self.held().entries.range(first..end).map(|(_, entry)| entry.clone()).collect())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.held().vote)
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Log;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let held = self.held();
        let last = held.entries.last_key_value().map(|(_, entry)| entry.log_id);
        Ok(LogState { last_purged_log_id: held.purged, last_log_id: last.or(held.purged) })
    }

    async fn get_log_reader(&mut self) -> Log {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.disk.write(vec![Change::Set(Key::Vote, encode(vote)?)]).await?;
        self.held().vote = Some(*vote);
        Ok(())
    }

    /// Kept so that the state after a restart is as fresh as it can be; losing the last one costs nothing but that.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        match committed {
            Some(committed) => self.disk.note(vec![Change::Set(Key::Committed, encode(&committed)?)]),
            None => Ok(()),
        }
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.held().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut changes = Vec::new();
        let mut added = Vec::new();
        for entry in entries {
            changes.push(Change::Entry(entry.log_id.index, encode(&entry)?));
            added.push((entry.log_id.index, entry));
        }
        // Readable from here on, acknowledged only when the disk has it.
        self.held().entries.extend(added);
        self.disk.append(changes, callback)
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let from = last.map_or(0, |id| id.index + 1);
        drop(self.held().entries.split_off(&from));
        self.disk.write(vec![Change::TruncateFrom(from)]).await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        {
            let mut held = self.held();
            held.purged = Some(upto);
            held.entries = held.entries.split_off(&(upto.index + 1));
        }
        let purged = Change::Set(Key::Purged, encode(&upto)?);
        self.disk.write(vec![purged, Change::PurgeUpto(upto.index)]).await
    }
}
