//! Invariant 8: once faults stop, there is within a bounded time a primary that acknowledges commits, and every other
//! node follows it.

use super::super::node::NodeId;
use super::super::postgres::Process;
use super::super::world::{STUCK_AT, World};
use cluster::state::Phase;

#[derive(Debug, Default)]
pub(super) struct Recovery {
    healed_at: Option<u64>,
    acknowledged_by: Option<NodeId>,
    whole: bool,
}

impl Recovery {
    pub(super) fn healed(&mut self, now: u64) {
        self.healed_at = Some(now);
        self.acknowledged_by = None;
    }

    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }
}

pub(super) fn acknowledged(world: &mut World, node: NodeId) {
    world.checks.recovery.acknowledged_by = Some(node);
}

pub(super) fn check(world: &mut World) {
    if world.checks.recovery.healed_at.is_none() {
        return;
    }
    let primary = match &world.checks.agreed.phase {
        Phase::Serving { appointment } => world.id(&appointment.node),
        _ => None,
    };
    let whole =
        primary.is_some_and(|p| world.checks.recovery.acknowledged_by == Some(p) && all_follow(world, p));
    world.checks.recovery.whole = whole;
    if !whole && world.now > STUCK_AT {
        let waits: Vec<String> = world
            .nodes
            .iter()
            .filter_map(|n| n.agent.as_ref()?.leads.as_ref())
            .flat_map(|l| l.waits.iter())
            .map(ToString::to_string)
            .collect();
        let nodes: Vec<String> = world
            .nodes
            .iter()
            .map(|n| format!("{} {:?} upstream {:?}", n.name, n.postgres.process, n.postgres.upstream))
            .collect();
        let what = format!(
            "{} s after the last fault the cluster is not whole; leader: {}; {}",
            (STUCK_AT - world.checks.recovery.healed_at.unwrap_or(0)) / 1_000_000,
            waits.join(" | "),
            nodes.join(", ")
        );
        world.checks.fail("liveness", what, world.now);
    }
}

fn all_follow(world: &World, primary: NodeId) -> bool {
    world
        .nodes
        .iter()
        .enumerate()
        .filter(|(id, n)| *id != primary && !n.witness && world.checks.agreed.has_seat(&n.name))
        .all(|(id, n)| {
            n.postgres.process == Process::Standby && world.nodes[primary].postgres.senders.contains_key(&id)
        })
}
