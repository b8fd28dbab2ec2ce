//! Invariant 5: in asynchronous mode a server is promoted only if it lacks no more than `max_loss` bytes of what the
//! present leader was told the last primary had.

use super::super::node::NodeId;
use super::super::world::World;
use cluster::state::Replication;

pub(super) fn check(world: &mut World, node: NodeId) {
    let Replication::Async { max_loss_bytes, .. } = world.proposed.settings.replication else { return };
    let host = &world.nodes[node];
    let Some(known) = world.checks.knowledge.furthest_before(host.postgres.promoted_for) else { return };
    let missing = known.bytes_after(host.postgres.lsn());
    if missing > max_loss_bytes {
        let what =
            format!("{} is promoted and lacks {missing} bytes; {max_loss_bytes} are allowed", host.name);
        world.checks.fail("max_loss", what, world.now);
    }
}
