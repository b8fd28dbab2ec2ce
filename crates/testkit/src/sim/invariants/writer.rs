//! Invariant 1: in quorum mode, once a primary of some epoch has acknowledged a commit, no primary of an older epoch ever
//! acknowledges one that the later one does not have. (A commit that was confirmed before the seals may be reported late,
//! by a server that stood still: it is in the later primary's WAL. In asynchronous mode the lease does this, see `lease`.)

use super::super::node::NodeId;
use super::super::postgres::Waiting;
use super::super::world::World;
use cluster::Epoch;
use cluster::state::Replication;

#[derive(Debug, Default)]
pub(super) struct LastWriter {
    epoch: Epoch,
}

pub(super) fn acknowledged(world: &mut World, node: NodeId, commit: Waiting) {
    let epoch = world.nodes[node].postgres.promoted_for;
    let last = world.checks.writer.epoch;
    let quorum = matches!(world.proposed.settings.replication, Replication::Quorum { .. });
    if epoch < last && quorum && !world.checks.promotions.began_with(last, commit.id) {
        let name = &world.nodes[node].name;
        let what =
            format!("{name}, primary of epoch {epoch}, acknowledged a commit after one of epoch {last} had");
        world.checks.fail("writer", what, world.now);
    }
    world.checks.writer.epoch = last.max(epoch);
}
