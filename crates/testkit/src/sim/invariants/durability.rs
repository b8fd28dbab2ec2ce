//! Invariant 3: in quorum mode every commit that a client was told of is in the WAL of every primary appointed later.

use super::super::node::NodeId;
use super::super::postgres::Waiting;
use super::super::world::World;
use cluster::state::Replication;
use std::collections::BTreeSet;

#[derive(Debug, Default)]
pub(super) struct Acknowledged {
    ids: BTreeSet<u64>,
}

impl Acknowledged {
    /// Every commit that a client was told of and that may not be lost.
    pub(super) fn ids(&self) -> &BTreeSet<u64> {
        &self.ids
    }
}

pub(super) fn acknowledged(world: &mut World, commit: Waiting) {
    world.checks.acknowledged.ids.insert(commit.id);
}

/// A person has accepted that the node appointed for `epoch` lacks what it lacks: what that is, is known now, as neither
/// it nor the old primary can get more.
pub(super) fn accepted(world: &mut World, node: NodeId) {
    let held: BTreeSet<u64> = match &world.nodes[node].postgres.data {
        Some(data) => data.records.iter().map(|r| r.id).collect(),
        None => BTreeSet::new(),
    };
    let before = world.checks.acknowledged.ids.len();
    world.checks.acknowledged.ids.retain(|id| held.contains(id));
    world.report.accepted += (before - world.checks.acknowledged.ids.len()) as u64;
}

pub(super) fn check(world: &mut World, node: NodeId) {
    let Some(data) = &world.nodes[node].postgres.data else { return };
    let mut missing = world.checks.acknowledged.ids.clone();
    for record in &data.records {
        missing.remove(&record.id);
    }
    let Some(first) = missing.first().copied() else { return };
    match world.proposed.settings.replication {
        Replication::Quorum { .. } => {
            let name = &world.nodes[node].name;
            let what = format!(
                "{name} is promoted without {} acknowledged commits (the first is record {first})",
                missing.len()
            );
            world.checks.fail("durability", what, world.now);
        }
        Replication::Async { .. } => {
            world.report.lost += missing.len() as u64;
            for id in missing {
                world.checks.acknowledged.ids.remove(&id);
            }
        }
    }
}
