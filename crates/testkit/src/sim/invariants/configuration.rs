//! Nobody's change of the cluster-wide configuration is undone unread: each version was made from the one before it.

use super::super::world::World;
use cluster::command::Change;

pub(super) fn agreed(world: &mut World, change: &Change) {
    let Change::Reconfigure { from, .. } = change else { return };
    let number = world.checks.agreed.configuration.number();
    if *from + 1 != number {
        let what = format!("version {number} of the configuration was made from version {from}");
        world.checks.fail("configuration", what, world.now);
    }
}
