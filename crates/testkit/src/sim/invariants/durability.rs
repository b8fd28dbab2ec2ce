//! Invariant 3: in quorum mode every commit that a client was told of is in the WAL of every primary appointed later.

use super::super::node::NodeId;
use super::super::postgres::Waiting;
use super::super::world::World;
use cluster::Epoch;
use cluster::state::Replication;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Default)]
pub(super) struct Acknowledged {
    ids: BTreeMap<u64, Epoch>,
}

impl Acknowledged {
    /// Every commit that a client was told of and that may not be lost.
    pub(super) fn ids(&self) -> impl Iterator<Item = u64> {
        self.ids.keys().copied()
    }

    /// Those that the primary of `epoch` told of.
    pub(super) fn of(&self, epoch: Epoch) -> impl Iterator<Item = u64> {
        self.ids.iter().filter(move |(_, of)| **of == epoch).map(|(id, _)| *id)
    }
}

pub(super) fn acknowledged(world: &mut World, node: NodeId, commit: Waiting) {
    let epoch = world.nodes[node].postgres.promoted_for;
    world.checks.acknowledged.ids.insert(commit.id, epoch);
}

/// A person has accepted that the node appointed for `epoch` lacks what it lacks: what that is, is known now, as neither
/// it nor the old primary can get more.
pub(super) fn accepted(world: &mut World, node: NodeId) {
    let held: BTreeSet<u64> = match &world.nodes[node].postgres.data {
        Some(data) => data.records.iter().map(|r| r.id).collect(),
        None => BTreeSet::new(),
    };
    let before = world.checks.acknowledged.ids.len();
    world.checks.acknowledged.ids.retain(|id, _| held.contains(id));
    world.report.accepted += (before - world.checks.acknowledged.ids.len()) as u64;
}

/// A server may leave recovery late, when its epoch is over already: what was acknowledged since it need not have.
pub(super) fn check(world: &mut World, node: NodeId) {
    let postgres = &world.nodes[node].postgres;
    let (Some(data), epoch) = (&postgres.data, postgres.promoted_for) else { return };
    let held: BTreeSet<u64> = data.records.iter().map(|r| r.id).collect();
    let all = &world.checks.acknowledged.ids;
    let missing: Vec<u64> =
        all.iter().filter(|(id, of)| **of < epoch && !held.contains(id)).map(|(id, _)| *id).collect();
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
