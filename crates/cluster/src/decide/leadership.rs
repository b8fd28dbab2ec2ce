//! Who should lead. Not the primary's node: losing its host then needs no election first. And one that hears the primary.

use crate::basics::{Moment, NodeName};
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
    if *primary != seen.leader {
        return None;
    }
    state
        .members
        .keys()
        .filter(|node| *node != primary)
        .find(|node| {
            seen.fresh(node, now, settings.heartbeat_ms() * 3).is_some_and(|o| o.epoch == state.epoch)
        })
        .cloned()
}

/// Only the leader does not hear the primary: a node that does should lead, before the lease runs out.
pub(super) fn to_one_that_hears(
    state: &State,
    settings: &Settings,
    seen: &Observations,
    now: Moment,
) -> Option<NodeName> {
    let primary = state.primary()?;
    let others = state.members.keys().filter(|node| *node != primary && **node != seen.leader);
    let hears = |node: &&NodeName| {
        let fresh = seen.fresh(node, now, settings.heartbeat_ms() * 3).filter(|o| o.epoch == state.epoch);
        fresh.and_then(|o| o.primary_agent_silent_ms).is_some_and(|ms| ms < settings.detect_ms)
    };
    others.into_iter().find(hears).cloned()
}
