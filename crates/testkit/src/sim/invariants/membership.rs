//! A node is struck out only when nothing needs it, and from then on it counts for nothing: it is not appointed, it does not
//! promote, and it is in no sync set. One that is leaving is appointed only by a person. Invariants 1 to 4 rest on it.

use super::super::node::NodeId;
use super::super::world::World;
use cluster::NodeName;
use cluster::command::{Change, Command};
use cluster::reason::Reason;
use std::collections::BTreeSet;

/// A leader is about to appoint.
pub(super) fn proposed(world: &mut World, leader: NodeId, command: &Command) {
    let (Change::Appoint { appointment, .. } | Change::HandedOver { appointment, .. }) = &command.change
    else {
        return;
    };
    let forced = command.reasons.iter().any(|r| matches!(r, Reason::Word { .. }));
    let state = &world.nodes[leader].replica.state;
    let what = match &appointment.node {
        node if !state.members.contains_key(node) => format!("{node} is chosen and does not belong"),
        node if state.leaving.contains_key(node) && !forced => format!("{node} is chosen while it leaves"),
        _ => return,
    };
    world.checks.fail("membership", what, world.now);
}

/// `change` was agreed and applied.
pub(super) fn agreed(world: &mut World, change: &Change) {
    let agreed = &world.checks.agreed;
    let stranger = |set: &BTreeSet<NodeName>| {
        let stranger = set.iter().find(|node| !agreed.members.contains_key(*node));
        stranger.map(|node| format!("{node} is to confirm commits and does not belong"))
    };
    let what = match change {
        Change::Remove { node } if agreed.sync.contains(node) => {
            Some(format!("{node} is struck out while a sync set in force names it"))
        }
        Change::Remove { node } if agreed.lease_holder() == Some(node) => {
            Some(format!("{node} is struck out as primary"))
        }
        Change::SyncSetNext { next, .. } => stranger(&next.members),
        Change::Appoint { sync, .. } | Change::HandedOver { sync, .. } => stranger(sync),
        _ => None,
    };
    if let Some(what) = what {
        world.checks.fail("membership", what, world.now);
    }
}

/// A server is about to leave recovery.
pub(super) fn promoted(world: &mut World, node: NodeId) {
    let name = &world.nodes[node].name;
    // An epoch that is over may have been its own: then its lease ends, and it acknowledges nothing.
    let present = world.checks.agreed.epoch == world.nodes[node].postgres.promoted_for;
    if present && !world.checks.agreed.members.contains_key(name) {
        let what = format!("{name} is promoted and does not belong");
        world.checks.fail("membership", what, world.now);
    }
}
