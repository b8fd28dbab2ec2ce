//! Invariant 7: a node's data is given up only for a copy of a published primary of the same database; and no database is
//! made while any node has data.

use super::super::node::NodeId;
use super::super::world::World;

/// `node` gives up what it has for data of `line`, of the database `system_identifier`.
pub(super) fn replaced(world: &mut World, node: NodeId, line: &str, system_identifier: u64) {
    let Some(old) = &world.nodes[node].postgres.data else { return };
    let name = &world.nodes[node].name;
    let published =
        world.checks.agreed.promotions.iter().any(|p| p.promotion_id == line && p.published.is_some());
    let what = if old.system_identifier != system_identifier {
        format!("{name} gives up data of another database ({})", old.system_identifier)
    } else if !published {
        format!("{name} gives up its data for that of {line}, which is not published")
    } else {
        return;
    };
    world.checks.fail("only_copy", what, world.now);
}

/// `node` makes the database.
pub(super) fn initialised(world: &mut World, node: NodeId) {
    let Some(other) = world.nodes.iter().find(|n| n.postgres.data.is_some()) else { return };
    let what = format!("{} makes a database though {} has data", world.nodes[node].name, other.name);
    world.checks.fail("only_copy", what, world.now);
}
