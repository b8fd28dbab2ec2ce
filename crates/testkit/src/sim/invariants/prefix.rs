//! A standby's WAL is a prefix of its primary's, record for record. PostgreSQL compares only timeline numbers and
//! positions, so a standby that follows a primary of another history is corrupted without a word; the rules of
//! `cluster::lineage` must prevent it.

use super::super::node::NodeId;
use super::super::world::World;

pub(super) fn broken(world: &mut World, node: NodeId, what: &str) {
    let what = format!("{}: {what}", world.nodes[node].name);
    world.checks.fail("prefix", what, world.now);
}
