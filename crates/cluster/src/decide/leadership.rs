//! The leader should not live with the primary: losing the primary's host then needs no election first.

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
