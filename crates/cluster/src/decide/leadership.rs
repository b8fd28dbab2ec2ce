//! Who should lead. Not the primary's node: losing its host then needs no election first. One that hears the primary, and
//! one that stays.

use crate::basics::{Millis, Moment, NodeName};
use crate::observe::Observations;
use crate::state::{Settings, State};

/// The node that should lead instead of the present leader: the first other one that was heard lately.
pub(super) fn transfer(
    state: &State,
    settings: &Settings,
    seen: &Observations,
    now: Moment,
) -> Option<NodeName> {
    let primary = state.primary()?;
    let leaves = |node: &NodeName| state.leaving.contains_key(node) || !state.members.contains_key(node);
    if *primary != seen.leader && !leaves(&seen.leader) {
        return None;
    }
    let hears = |node: &&NodeName| {
        let fresh =
            seen.fresh(node, now, settings.heartbeat_ms() * 3).is_some_and(|o| o.epoch == state.epoch);
        fresh && **node != seen.leader && !leaves(node) && votes(seen, node)
    };
    let others = state.members.keys().filter(|node| *node != primary);
    // One that leaves hands the leadership to anybody.
    others.chain([primary]).find(hears).cloned()
}

fn votes(seen: &Observations, node: &NodeName) -> bool {
    seen.voters.as_ref().is_none_or(|voters| voters.contains(node))
}

/// Only the leader does not hear the primary: a node that does should lead, before the lease runs out. The others get a
/// quarter of `detect` to confirm first: of a primary that is really lost they tell a moment later than the leader knows.
pub(super) fn to_one_that_hears(
    state: &State,
    settings: &Settings,
    seen: &Observations,
    leader_ms: Millis,
    now: Moment,
) -> Option<NodeName> {
    let primary = state.primary()?;
    if leader_ms < settings.detect_ms + settings.detect_ms / 4 {
        return None;
    }
    let hears = |node: &&NodeName| {
        let fresh = seen.fresh(node, now, settings.heartbeat_ms() * 3).filter(|o| o.epoch == state.epoch);
        fresh.and_then(|o| o.primary_agent_silent_ms).is_some_and(|ms| ms < settings.detect_ms)
    };
    let others = state.members.keys().filter(|node| *node != primary && **node != seen.leader);
    others.filter(|node| !state.leaving.contains_key(*node) && votes(seen, node)).find(hears).cloned()
}
