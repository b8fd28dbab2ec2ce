//! Invariant 2: in asynchronous mode at most one server takes writes under a lease at any time, measured on its own
//! clock; and in any mode a server leaves recovery, or starts again as the primary it is, only while a lease is in force
//! that its guard will end. (In quorum mode an old primary may run on until its lease ends: it can acknowledge nothing, see `writer`.)

use super::super::node::NodeId;
use super::super::postgres::Process;
use super::super::world::World;
use cluster::command::Change;
use cluster::state::{OldLease, Replication};

pub(super) fn check(world: &mut World) {
    if !matches!(world.proposed.settings.replication, Replication::Async { .. }) {
        return;
    }
    let holds = |id: usize| {
        let node = &world.nodes[id];
        let writes = node.has_power() && node.postgres.process == Process::Primary;
        writes && node.deadline.is_none_or(|deadline| world.clock(id) < deadline)
    };
    if (0..world.nodes.len()).filter(|id| holds(*id)).nth(1).is_some() {
        let holders: Vec<usize> = (0..world.nodes.len()).filter(|id| holds(*id)).collect();
        let names: Vec<String> = holders.iter().map(|id| world.nodes[*id].name.to_string()).collect();
        world.checks.fail(
            "lease",
            format!("{} hold a lease and take writes", names.join(" and ")),
            world.now,
        );
    }
}

/// A server is about to leave recovery.
pub(super) fn promoted(world: &mut World, node: NodeId) {
    let host = &world.nodes[node];
    // The guard's own timer may be a moment late.
    if host.deadline.is_none_or(|deadline| deadline.plus(5) <= world.clock(node)) {
        let what = format!("{} leaves recovery without a lease", host.name);
        world.checks.fail("lease", what, world.now);
    }
}

/// A primary is about to start in place, under the lease that it had.
pub(super) fn serves_again(world: &mut World, node: NodeId) {
    let host = &world.nodes[node];
    if host.deadline.is_none_or(|deadline| deadline <= world.clock(node)) {
        let what = format!("{} starts again as primary after its lease", host.name);
        world.checks.fail("lease", what, world.now);
    }
}

/// A lease counts as returned only when the server that held it can take no writes any more.
pub(super) fn agreed(world: &mut World, change: &Change) {
    let returned = match change {
        Change::OpenEpoch { epoch, lease: OldLease::Returned } | Change::HandedOver { epoch, .. } => *epoch,
        _ => return,
    };
    let runs = |n: &&super::super::node::Node| {
        let writes = matches!(n.postgres.process, Process::Primary | Process::Promoting);
        writes && n.postgres.promoted_for + 1 == returned
    };
    if let Some(node) = world.nodes.iter().find(runs) {
        let what = format!("the lease of {} counts as returned, and its server runs", node.name);
        world.checks.fail("lease", what, world.now);
    }
}

/// Asynchronous: when the next primary is appointed, the lease of every other one is over on its own clock.
pub(super) fn proposed(world: &mut World, leader: NodeId, change: &Change) {
    let replication = world.proposed.settings.replication;
    let (Change::Appoint { epoch, .. }, Replication::Async { .. }) = (change, replication) else { return };
    if *epoch != world.checks.agreed.epoch || !world.leads_last_term(leader) {
        return; // it cannot be agreed any more
    }
    let holds = |id: &usize| {
        let node = &world.nodes[*id];
        let writes = node.has_power() && node.postgres.process == Process::Primary;
        writes && node.deadline.is_none_or(|deadline| world.clock(*id).plus(2) < deadline)
    };
    if let Some(old) = (0..world.nodes.len()).find(holds) {
        let what =
            format!("{} still holds a lease when the next primary is appointed", world.nodes[old].name);
        world.checks.fail("lease", what, world.now);
    }
}
