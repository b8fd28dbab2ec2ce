//! One change of primary as the history tells it, and what its time was spent on.

use cluster::state::Entry;
use cluster::{Epoch, NodeName, WallMs, reason::Reason};

/// The steps of one change of primary, on the wall clock of the leader that decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failover {
    /// The epoch it opened.
    pub epoch: Epoch,
    /// When the old primary was suspected and the epoch opened.
    pub opened: WallMs,
    /// When enough standbys had sealed.
    pub sealed: Option<WallMs>,
    /// When the new primary was appointed.
    pub appointed: Option<WallMs>,
    /// When it took writes and the proxies were told.
    pub published: Option<WallMs>,
    /// The new primary.
    pub primary: Option<NodeName>,
}

/// What the time from a kill to the first write under the next primary was spent on, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// Kill to suspicion; the epoch opens with it.
    pub detect_ms: u64,
    /// Until enough standbys had sealed.
    pub seal_ms: u64,
    /// Until a node was appointed.
    pub choose_ms: u64,
    /// Until it took writes and the record said so.
    pub promote_ms: u64,
    /// Until the proxies knew, the client was back and its first write was acknowledged.
    pub publish_ms: u64,
}

/// The change that opened `epoch`; `None` when the history does not have it (any more).
#[must_use]
pub fn find(history: &[Entry], epoch: Epoch) -> Option<Failover> {
    let within = || history.iter().filter(|entry| entry.epoch == epoch);
    let first =
        |wanted: fn(&Reason) -> bool| within().find(|entry| wanted(&entry.reason)).map(|entry| entry.at);
    let opened = first(|reason| matches!(reason, Reason::EpochOpened { .. }))?;
    let published = within().find_map(|entry| match &entry.reason {
        Reason::Published { node, .. } => Some((entry.at, node.clone())),
        _ => None,
    });
    Some(Failover {
        epoch,
        opened,
        sealed: first(|reason| matches!(reason, Reason::Sealed { .. })),
        appointed: first(|reason| matches!(reason, Reason::Appointed { .. })),
        published: published.as_ref().map(|(at, _)| *at),
        primary: published.map(|(_, node)| node),
    })
}

impl Failover {
    /// What the time was spent on; `None` while the change is not finished. Wall clocks may be set back: no step is
    /// ever negative.
    #[must_use]
    pub fn split(&self, killed: WallMs, first_write: WallMs) -> Option<Split> {
        let (appointed, published) = (self.appointed?, self.published?);
        let sealed = self.sealed.unwrap_or(appointed);
        Some(Split {
            detect_ms: self.opened.saturating_sub(killed),
            seal_ms: sealed.saturating_sub(self.opened),
            choose_ms: appointed.saturating_sub(sealed),
            promote_ms: published.saturating_sub(appointed),
            publish_ms: first_write.saturating_sub(published),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::state::OldLease;
    use std::collections::{BTreeMap, BTreeSet};

    #[test]
    fn the_steps_are_read_from_the_history() {
        let name = |text: &str| text.parse::<NodeName>().unwrap();
        let entry = |at, epoch, reason| Entry { at, epoch, by: name("n3"), reason };
        let history = [
            entry(100, 1, Reason::Published { node: name("n1"), timeline: 1 }),
            entry(1_020, 2, Reason::ServerGone { node: name("n1") }),
            entry(
                1_020,
                2,
                Reason::EpochOpened { epoch: 2, old_primary: Some(name("n1")), lease: OldLease::Returned },
            ),
            entry(1_060, 2, Reason::Sealed { seals: BTreeMap::new() }),
            entry(1_061, 2, Reason::Appointed { node: name("n2"), sync: BTreeSet::new() }),
            entry(1_180, 2, Reason::Published { node: name("n2"), timeline: 2 }),
        ];
        let found = find(&history, 2).unwrap();
        assert_eq!(found.primary, Some(name("n2")));
        let split = Split { detect_ms: 20, seal_ms: 40, choose_ms: 1, promote_ms: 119, publish_ms: 30 };
        assert_eq!(found.split(1_000, 1_210), Some(split));
        assert_eq!(find(&history, 3), None);
        assert_eq!(find(&history[..3], 2).unwrap().split(1_000, 1_210), None);
    }
}
