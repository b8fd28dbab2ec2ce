//! An agent that knows of a later epoch ends a server that was primary before: at once, not only when its lease is over.
//! (Invariants 1 and 2 must hold without it; it is what keeps clients from waiting on a server that can acknowledge
//! nothing, and the second line where a lease was counted wrongly.)

use super::super::node::NodeId;
use super::super::postgres::Process;
use super::super::world::World;

/// The agent of `node` has looked at everything and has begun what follows.
pub(super) fn looked(world: &mut World, node: NodeId) {
    let host = &world.nodes[node];
    // An agent that has just started does not know yet what its server is.
    let idle = host.agent.as_ref().is_some_and(|a| a.busy.is_none() && a.looks_at <= world.now);
    let (of, present) = (host.postgres.promoted_for, host.replica.state.epoch);
    let takes_writes = host.postgres.process == Process::Primary && host.postgres.hung_since.is_none();
    if idle && takes_writes && of < present {
        let what = format!(
            "{} knows of epoch {present} and leaves its server, primary of epoch {of}, running",
            host.name
        );
        world.checks.fail("fence", what, world.now);
    }
}
