//! Who leads next, and when: facts go in, the next move comes out. Every move is a transaction on the leader's key as it was
//! seen, so of two that move at once one fails. Being wrong here costs a change of leadership, nothing else: what makes
//! leases safe is written down in [`super`].
//!
//! A leader that is silent is replaced before etcd ends its lease, when more than half of all members confirm that they do not
//! hear it either, and none of them lacks etcd's answers itself. With two members that is never the case: there the key has
//! to end with its lease.

use cluster::NodeName;

/// What is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    /// This node.
    pub(super) me: &'a NodeName,
    /// Whether the leader's key names this run of this agent.
    pub(super) mine: bool,
    /// Who holds the leader's key: its term, and the node, if an agent wrote it.
    pub(super) holder: Option<(u64, Option<&'a NodeName>)>,
    /// Whether this agent may lead: it belongs to the store, its loop goes round, and it has the recorded state.
    pub(super) able: bool,
    /// Whether it has a lease of etcd.
    pub(super) has_lease: bool,
    /// Whether etcd has just answered.
    pub(super) fresh: bool,
    /// How long the leader was silent, while etcd answered this agent without a gap.
    pub(super) silent_ms: u64,
    /// After how long a silent leader is replaced.
    pub(super) patience_ms: u64,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Move {
    /// Nothing.
    Stay,
    /// Take the key, which is as this revision left it; 0: there is none.
    Take(u64),
    /// Ask the others about the leader of this term, and take the key if enough confirm.
    AskAround(u64),
    /// Give up the key of this term.
    Resign(u64),
}

pub(super) fn next(facts: &Facts<'_>) -> Move {
    match facts.holder {
        Some((term, _)) if facts.mine => {
            if facts.able {
                Move::Stay
            } else {
                Move::Resign(term)
            }
        }
        _ if !(facts.able && facts.has_lease && facts.fresh) => Move::Stay,
        None => Move::Take(0),
        // An earlier run of this agent: there are never two, as a directory has one user and a name one directory.
        Some((term, Some(node))) if node == facts.me => Move::Take(term),
        Some((term, _)) if facts.silent_ms >= facts.patience_ms => Move::AskAround(term),
        Some(_) => Move::Stay,
    }
}

/// Whether so many members, this one included, are enough to replace a silent leader.
pub(super) fn enough(confirming: usize, members: usize) -> bool {
    confirming > members / 2
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn moves() {
        let (me, other): (NodeName, NodeName) = ("n1".parse().unwrap(), "n2".parse().unwrap());
        let well = Facts {
            me: &me,
            mine: false,
            holder: Some((7, Some(&other))),
            able: true,
            has_lease: true,
            fresh: true,
            silent_ms: 0,
            patience_ms: 500,
        };
        assert_eq!(next(&well), Move::Stay);
        assert_eq!(next(&Facts { silent_ms: 500, ..well }), Move::AskAround(7));
        assert_eq!(next(&Facts { holder: None, ..well }), Move::Take(0));
        assert_eq!(next(&Facts { holder: Some((7, Some(&me))), ..well }), Move::Take(7));
        let mine = Facts { holder: Some((7, Some(&me))), mine: true, ..well };
        assert_eq!(next(&mine), Move::Stay);
        assert_eq!(next(&Facts { fresh: false, has_lease: false, ..mine }), Move::Stay);
        assert_eq!(next(&Facts { able: false, ..mine }), Move::Resign(7));
        for hindered in [
            Facts { able: false, ..well },
            Facts { has_lease: false, ..well },
            Facts { fresh: false, ..well },
        ] {
            assert_eq!(next(&Facts { holder: None, silent_ms: 9000, ..hindered }), Move::Stay);
        }
    }

    #[test]
    fn more_than_half_of_all_must_confirm() {
        assert!(enough(2, 3) && !enough(1, 3));
        assert!(enough(3, 5) && !enough(2, 5));
        assert!(!enough(1, 2), "of two members none can confirm what the other one does not hear");
        assert!(!enough(2, 4));
    }
}
