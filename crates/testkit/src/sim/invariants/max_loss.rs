//! Invariant 5: in asynchronous mode a server is promoted only if it lacks no more than `max_loss` bytes of what the
//! present leader was told the last primary had, and of what the node that was appointed before was sealed with.

use super::super::node::NodeId;
use super::super::world::World;
use cluster::state::Replication;

pub(super) fn check(world: &mut World, node: NodeId) {
    let Replication::Async { max_loss_bytes, .. } = world.proposed.settings.replication else { return };
    let host = &world.nodes[node];
    let epoch = host.postgres.promoted_for;
    let told = world.checks.knowledge.furthest_before(epoch);
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
