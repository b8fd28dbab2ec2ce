//! Which nodes could decide after an event: a majority of all voters that hear each other, or, where the record is kept
//! elsewhere, whoever is left (that they reach it is supposed).

use super::Event;
use crate::basics::NodeName;
use crate::decide::{Now, Record};
use crate::observe::Observations;
use crate::state::State;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Who would lead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Leadership {
    /// The present leader.
    Kept {
        /// It.
        leader: NodeName,
    },
    /// One of those that are left is elected.
    Elected {
        /// One of them; which, is not known beforehand.
        leader: NodeName,
        /// The leader before.
        before: NodeName,
    },
    /// Nobody: no side has a majority.
    None,
}

/// The voters and who of them would decide.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deciders {
    /// The largest group of voters that hear each other.
    pub with: BTreeSet<NodeName>,
    /// The others that could be reached before.
    pub without: BTreeSet<NodeName>,
    /// Nodes that the leader does not hear already now: they count as gone.
    pub silent: BTreeSet<NodeName>,
    /// How many are needed.
    pub needed: usize,
    /// Of so many.
    pub of: usize,
    /// Under whose lead.
    pub leadership: Leadership,
}

pub(super) fn deciders(
    state: &State,
    seen: &Observations,
    record: Record,
    event: &Event,
    now: &Now,
) -> Deciders {
    let detect_ms = state.settings.as_ref().map_or(0, |s| s.detect_ms);
    let (heard, silent): (BTreeSet<NodeName>, BTreeSet<NodeName>) = state
        .members
        .keys()
        .cloned()
        .partition(|node| *node == seen.leader || seen.fresh(node, now.at, detect_ms).is_some());
    let (one, other): (BTreeSet<NodeName>, BTreeSet<NodeName>) = match event {
        Event::Down { node } => heard.into_iter().partition(|n| n != node),
        Event::Partition { nodes } => heard.into_iter().partition(|n| nodes.contains(n)),
        Event::Switchover { .. } => (heard, BTreeSet::new()),
    };
    // A host that is gone is no side, however many are left.
    let swapped = matches!(event, Event::Partition { .. })
        && (other.len(), other.contains(&seen.leader)) > (one.len(), one.contains(&seen.leader));
    let (with, without) = if swapped { (other, one) } else { (one, other) };
    let of = state.members.len();
    let needed = match record {
        Record::Nodes => of / 2 + 1,
        Record::Elsewhere => 1,
    };
    let leader = seen.leader.clone();
    let leadership = match with.first() {
        Some(_) if with.len() < needed => Leadership::None,
        Some(_) if with.contains(&leader) => Leadership::Kept { leader },
        Some(first) => Leadership::Elected { leader: first.clone(), before: leader },
        None => Leadership::None,
    };
    Deciders { with, without, silent, needed, of, leadership }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::basics::Moment;
    use crate::state::Member;

    /// Of two nodes one is left: no majority of its own, and enough beside an etcd.
    #[test]
    fn a_record_elsewhere_needs_no_majority_of_nodes() {
        let name = |text: &str| text.parse::<NodeName>().expect("a name");
        let member =
            |n: &str| Member { agent: n.into(), postgres: None, tags: Default::default(), data_dir: None };
        let state = State { members: ["n1", "n2"].map(|n| (name(n), member(n))).into(), ..State::default() };
        let (seen, now) =
            (Observations::new(name("n1"), Moment(0)), Now { at: Moment(0), wall: 0, nonce: String::new() });
        let event = Event::Down { node: name("n2") };
        let of = |record| deciders(&state, &seen, record, &event, &now);
        assert_eq!(of(Record::Nodes).leadership, Leadership::None);
        assert_eq!(of(Record::Elsewhere).leadership, Leadership::Kept { leader: name("n1") });
        assert_eq!((of(Record::Nodes).needed, of(Record::Elsewhere).needed), (2, 1));
    }
}
