//! Invariant 3, before anything is lost: in quorum mode each acknowledged commit is on k members of one of the recorded
//! sync sets, each with its own k, so whichever nodes seal, they cannot cover that set without one that has it. Under a
//! set of nobody (k = 0) a commit is on the node that was appointed last, which alone can be primary without seals of
//! standbys.
//!
//! Members that lost what they had, and have not caught up since, do not count when they seal. While there are c of them,
//! the n - k + 1 seals that cover a set are of the n - c others, so what k - c of these have is on one of those that seal.

use super::super::node::NodeId;
use super::super::postgres::Process;
use super::super::world::World;
use cluster::NodeName;
use cluster::command::Change;
use cluster::state::{Replication, SyncSet};
use std::collections::{BTreeMap, BTreeSet};

/// A commit was acknowledged just now.
pub(super) fn acknowledged(world: &mut World, node: NodeId, id: u64) {
    let Replication::Quorum { .. } = world.proposed.settings.replication else { return };
    let has = |name: &NodeName| {
        let data = world.id(name).and_then(|n| world.nodes[n].own_data());
        data.is_some_and(|d| d.records.iter().rev().any(|r| r.id == id))
    };
    let last = last_appointed(world);
    let covered = |set: &SyncSet| {
        if set.is_open() {
            last.as_ref().is_some_and(has)
        } else {
            let (whole, enough) = whole(world, set);
            whole.into_iter().filter(|n| has(n)).count() >= enough
        }
    };
    let sets = &world.checks.agreed.sync.in_force;
    if !sets.iter().any(covered) {
        let what = format!(
            "{} acknowledged record {id}, which is not on k members of any set in force: {sets:?}",
            world.nodes[node].name
        );
        world.checks.fail("coverage", what, world.now);
    }
}

/// The members that have all they ever had, and on how many of them a commit must be.
fn whole<'a>(world: &World, set: &'a SyncSet) -> (Vec<&'a NodeName>, usize) {
    let host = |n: &NodeName| world.id(n).map(|id| &world.nodes[id]);
    let is_whole = |n: &&NodeName| host(n).is_some_and(|h| h.own_data().is_some() && !h.notes.copied);
    let (whole, lost): (Vec<_>, Vec<_>) = set.members.iter().partition(is_whole);
    (whole, set.k.saturating_sub(lost.len()))
}

/// The node whose return makes the seals of others needless.
fn last_appointed(world: &World) -> Option<NodeName> {
    let agreed = &world.checks.agreed;
    agreed.appointment().or(agreed.last_appointed.as_ref()).map(|a| a.node.clone())
}

/// The recorded sets have just changed: every commit acknowledged before must be on k members of one of them.
pub(super) fn changed(world: &mut World, change: &Change) {
    let Replication::Quorum { .. } = world.proposed.settings.replication else { return };
    if !matches!(
        change,
        Change::SyncSetDone { .. }
            | Change::SyncSetNext { .. }
            | Change::Appoint { .. }
            | Change::HandedOver { .. }
    ) {
        return;
    }
    if matches!(change, Change::SyncSetDone { .. }) {
        obeyed(world);
    }
    let last = last_appointed(world);
    let sets = &world.checks.agreed.sync.in_force;
    let mut covered = BTreeSet::new();
    for set in sets {
        let (members, k) = if set.is_open() { (last.iter().collect(), 1) } else { whole(world, set) };
        if k == 0 {
            return; // no seals cover this set, and so nobody is appointed by them
        }
        let mut on: BTreeMap<u64, usize> = BTreeMap::new();
        for data in members.iter().filter_map(|n| world.nodes[world.id(n)?].own_data()) {
            for record in &data.records {
                *on.entry(record.id).or_default() += 1;
            }
        }
        covered.extend(on.into_iter().filter(|(_, count)| *count >= k).map(|(id, _)| id));
    }
    let uncovered = world.checks.acknowledged.ids().find(|id| !covered.contains(id));
    if let Some(id) = uncovered {
        let what = format!("acknowledged record {id} is not on k members of any set in force: {sets:?}");
        world.checks.fail("coverage", what, world.now);
    }
}

/// The old sets were dropped just now: the primary's PostgreSQL must obey the one that is left, every WAL sender of it.
fn obeyed(world: &mut World) {
    let agreed = &world.checks.agreed;
    let primary = agreed.primary().and_then(|p| world.id(p));
    let (Some(primary), Some(target)) = (primary, agreed.sync.in_force.last()) else { return };
    let host = &world.nodes[primary];
    let is_primary = host.postgres.process == Process::Primary && host.postgres.promoted_for == agreed.epoch;
    let other = host.postgres.senders.values().map(|s| &s.obeys).chain([&host.postgres.sync]);
    if let Some(other) = other.into_iter().find(|sync| *sync != target).filter(|_| is_primary) {
        let what = format!("only {target:?} is left in force while {} obeys {other:?}", host.name);
        world.checks.fail("coverage", what, world.now);
    }
}
