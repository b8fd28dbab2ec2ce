//! What would be lost if the primary vanished now.
//!
//! The primary's agent notes with each probe how far its server has written, when, and how many transactions there had
//! been. What the nearest standby lacks is then at most what came after the last of these notes that the standby has.

use crate::basics::{Lsn, Millis, Moment, NodeName};
use serde::{Deserialize, Serialize};

/// Notes kept; when there are more, the older half is thinned out.
const NOTES_MAX: usize = 512;

#[derive(Clone, Copy, Debug)]
struct Note {
    at: Moment,
    lsn: Lsn,
    transactions: u64,
}

/// How far a primary had written, and when.
#[derive(Clone, Debug, Default)]
pub struct Written {
    notes: Vec<Note>,
}

impl Written {
    /// At `at` the server had flushed up to `lsn`, and `transactions` had ended since its beginning.
    pub fn note(&mut self, at: Moment, lsn: Lsn, transactions: u64) {
        let note = Note { at, lsn, transactions };
        match self.notes.last_mut().filter(|last| last.lsn == lsn) {
            Some(last) => *last = note,
            None => self.notes.push(note),
        }
        if self.notes.len() > NOTES_MAX {
            let mut index = 0;
            self.notes.retain(|_| {
                index += 1;
                index > NOTES_MAX / 2 || index % 2 == 1
            });
        }
    }

    /// What came after `lsn`: since when at most, and how many transactions at most; `None`: it was before the first note.
    #[must_use]
    pub fn after(&self, lsn: Lsn, now: Moment) -> Option<(Millis, u64)> {
        let last = self.notes.last()?;
        let before = self.notes.iter().rev().find(|note| note.lsn <= lsn)?;
        if last.lsn <= lsn {
            return Some((0, 0));
        }
        Some((now.since(before.at), last.transactions.saturating_sub(before.transactions)))
    }
}

/// What only the primary has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exposure {
    /// Bytes of WAL; `None`: no standby has been heard.
    pub bytes: Option<u64>,
    /// For how long at most the nearest standby has lacked something; `None`: unknown.
    pub ms: Option<Millis>,
    /// Transactions at most, those that were rolled back included; `None`: unknown.
    pub transactions: Option<u64>,
    /// The standby that has most.
    pub nearest: Option<NodeName>,
}

impl Exposure {
    /// Nothing.
    #[must_use]
    pub fn none() -> Exposure {
        Exposure { bytes: Some(0), ms: Some(0), transactions: Some(0), nearest: None }
    }

    /// From the standby that has most and what it lacks (see [`crate::brake::nearest`]).
    #[must_use]
    pub fn of(nearest: Option<(NodeName, u64)>, written: &Written, lsn: Lsn, now: Moment) -> Exposure {
        let Some((node, bytes)) = nearest else {
            return Exposure { bytes: None, ms: None, transactions: None, nearest: None };
        };
        let after = written.after(Lsn(lsn.0.saturating_sub(bytes)), now);
        let after = if bytes == 0 { Some((0, 0)) } else { after };
        Exposure {
            bytes: Some(bytes),
            ms: after.map(|(ms, _)| ms),
            transactions: after.map(|(_, count)| count),
            nearest: Some(node),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_after_a_position() {
        let mut written = Written::default();
        assert_eq!(written.after(Lsn(5), Moment(0)), None);
        written.note(Moment(1000), Lsn(100), 10);
        written.note(Moment(1500), Lsn(100), 10);
        written.note(Moment(2000), Lsn(200), 13);
        written.note(Moment(3000), Lsn(300), 20);
        let now = Moment(3100);
        assert_eq!(written.after(Lsn(300), now), Some((0, 0)));
        assert_eq!(written.after(Lsn(250), now), Some((1100, 7)));
        assert_eq!(written.after(Lsn(100), now), Some((1600, 10)), "until 1500 nothing was missing");
        assert_eq!(written.after(Lsn(99), now), None);
    }

    #[test]
    fn notes_do_not_grow_without_end() {
        let mut written = Written::default();
        for i in 0..10_000 {
            written.note(Moment(i), Lsn(i), i);
        }
        assert!(written.notes.len() <= NOTES_MAX);
        let (ms, count) = written.after(Lsn(5_000), Moment(10_000)).unwrap_or_default();
        assert!(ms >= 5_000 && count >= 4_999, "never less than it is: {ms} ms, {count}");
        assert_eq!(written.after(Lsn(0), Moment(10_000)).map(|(ms, _)| ms), Some(10_000));
    }
}
