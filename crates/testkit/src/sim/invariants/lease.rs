//! Invariant 2: in asynchronous mode at most one server takes writes under a lease at any time, measured on its own
//! clock. (In quorum mode an old primary may run on until its lease ends: it can acknowledge nothing, see `writer`.)

use super::super::postgres::Process;
use super::super::world::World;
use cluster::state::Replication;

pub(super) fn check(world: &mut World) {
    if !matches!(world.proposed.settings.replication, Replication::Async { .. }) {
        return;
    }
    let holds = |id: usize| {
        let node = &world.nodes[id];
        let writes = node.has_power() && node.postgres.process == Process::Primary;
        writes && node.deadline.is_none_or(|deadline| world.clock(id) < deadline)
    };
    let holders: Vec<usize> = (0..world.nodes.len()).filter(|id| holds(*id)).collect();
    if holders.len() > 1 {
        let names: Vec<String> = holders.iter().map(|id| world.nodes[*id].name.to_string()).collect();
        world.checks.fail(
            "lease",
            format!("{} hold a lease and take writes", names.join(" and ")),
            world.now,
        );
    }
}
