//! Which nodes could decide after an event: a majority of all voters that hear each other.

use super::Event;
use crate::basics::NodeName;
use crate::decide::Now;
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
    /// How many are a majority.
    pub needed: usize,
    /// Of so many.
    pub of: usize,
    /// Under whose lead.
    pub leadership: Leadership,
}

pub(super) fn deciders(state: &State, seen: &Observations, event: &Event, now: &Now) -> Deciders {
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
    let needed = of / 2 + 1;
    let leader = seen.leader.clone();
    let leadership = match with.first() {
        Some(_) if with.len() < needed => Leadership::None,
        Some(_) if with.contains(&leader) => Leadership::Kept { leader },
        Some(first) => Leadership::Elected { leader: first.clone(), before: leader },
        None => Leadership::None,
    };
    Deciders { with, without, silent, needed, of, leadership }
}
