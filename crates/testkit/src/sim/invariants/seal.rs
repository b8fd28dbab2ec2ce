//! A seal is a promise: a node that gave one for an epoch takes no more WAL from a primary of an older epoch; and only a
//! node that gave one is counted when a primary is appointed. Invariants 1 and 3 rest on it.

use super::super::node::NodeId;
use super::super::postgres::Process;
use super::super::world::World;
use cluster::command::Change;
use cluster::reason::Reason;
use cluster::step::Step;

/// The server of `to` takes WAL of that of `from`.
pub(super) fn received(world: &mut World, from: NodeId, to: NodeId) {
    let (upstream, standby) = (&world.nodes[from], &world.nodes[to]);
    let (of, promised) = (upstream.postgres.promoted_for, standby.notes.promised);
    if upstream.postgres.process == Process::Primary && of < promised {
        let what = format!(
            "{} sealed for epoch {promised} and takes WAL of {}, primary of epoch {of}",
            standby.name, upstream.name
        );
        world.checks.fail("seal", what, world.now);
    }
}

/// What a node does next may not be for an epoch before its promise.
pub(super) fn begins(world: &mut World, node: NodeId, step: &Step) {
    let host = &world.nodes[node];
    let (Step::Follow { epoch, .. } | Step::Promote { epoch, .. } | Step::Rewind { epoch, .. }) = step else {
        return;
    };
    if *epoch < host.notes.promised {
        let what = format!(
            "{} sealed for epoch {} and goes back to {epoch}: {step:?}",
            host.name, host.notes.promised
        );
        world.checks.fail("seal", what, world.now);
    }
}

/// A leader is about to appoint: whom it counts must have sealed.
pub(super) fn counted(world: &mut World, leader: NodeId, change: &Change, reasons: &[Reason]) {
    let Change::Appoint { epoch, .. } = change else { return };
    let counted = reasons.iter().find_map(|reason| match reason {
        Reason::Sealed { seals } => Some(seals),
        _ => None,
    });
    let unsealed = counted
        .into_iter()
        .flat_map(|seals| seals.keys())
        .find(|name| world.id(name).is_some_and(|node| world.nodes[node].notes.promised < *epoch));
    if let Some(name) = unsealed {
        let what =
            format!("{} counts {name} for epoch {epoch}, which has not sealed", world.nodes[leader].name);
        world.checks.fail("seal", what, world.now);
    }
}
