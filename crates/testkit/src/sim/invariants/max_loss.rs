//! Invariant 5: in asynchronous mode a server is promoted only if it lacks no more than `max_loss` bytes of what the
//! present leader was told the last primary had, and of what the node that was appointed before was sealed with.
//!
//! What a primary before the last one had beyond the last one's beginning was given up when that one was appointed.

use super::super::node::NodeId;
use super::super::world::World;
use cluster::state::Replication;
use cluster::{Epoch, Lsn};

pub(super) fn check(world: &mut World, node: NodeId) {
    let Replication::Async { max_loss_bytes, .. } = world.proposed.settings.replication else { return };
    let host = &world.nodes[node];
    let epoch = host.postgres.promoted_for;
    let told = told_of_last(world, epoch);
    let before = world.checks.agreed.promotions.iter().rev().find(|p| p.epoch < epoch);
    let sealed = before.filter(|p| world.checks.knowledge.counts(p.epoch)).map(|p| p.sealed_lsn);
    let Some(known) = told.max(sealed) else { return };
    let missing = known.bytes_after(host.postgres.lsn());
    if missing > max_loss_bytes {
        let what =
            format!("{} is promoted and lacks {missing} bytes; {max_loss_bytes} are allowed", host.name);
        world.checks.fail("max_loss", what, world.now);
    }
}

/// How far the last primary before `epoch` was, by what the leader who appointed the one of `epoch` had been told; one that
/// was appointed and never published does not take the place of those before it.
pub(super) fn told_of_last(world: &World, epoch: Epoch) -> Option<Lsn> {
    let earlier = world.checks.agreed.promotions.iter().filter(|p| p.epoch < epoch && p.published.is_some());
    let last = earlier.map(|p| p.epoch).max().unwrap_or(0);
    world.checks.knowledge.furthest_of(last..epoch)
}
