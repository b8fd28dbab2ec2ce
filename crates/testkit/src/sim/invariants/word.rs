//! Invariants 3 and 5 with a person's word: what is given up by a forced failover is what was shown to a person before, no
//! more than the leader knew was left out, and it was accepted by that very name.

use super::super::world::World;
use super::{durability, max_loss};
use cluster::command::Change;
use cluster::reason::Reason;
use cluster::state::Replication;
use cluster::word::Word;

/// A node was appointed; perhaps by a person.
pub(super) fn agreed(world: &mut World, change: &Change) {
    let Change::Appoint { epoch, appointment, .. } = change else { return };
    let history = world.checks.agreed.history.iter().rev().take_while(|e| e.epoch == *epoch);
    let forced = history.filter_map(|e| match &e.reason {
        Reason::Word { word: Word::Forced { token, loss, .. } } => Some((token.clone(), loss.clone())),
        _ => None,
    });
    let Some((token, loss)) = forced.last() else { return };
    let Some(node) = world.id(&appointment.node) else { return };
    if !world.operator.all_shown.contains(&token) || token != loss.token() || loss.to != appointment.node {
        let what = format!("{} was forced with {token}, which nobody was shown: {loss}", appointment.node);
        world.checks.fail("word", what, world.now);
    }
    let told = max_loss::told_of_last(world, *epoch);
    let told = told.filter(|_| matches!(world.proposed.settings.replication, Replication::Async { .. }));
    // What it was sealed with: its disk may have been exchanged since.
    let hidden = told.map_or(0, |lsn| lsn.bytes_after(appointment.sealed_lsn));
    if hidden > loss.missing_bytes().unwrap_or(u64::MAX) {
        let what = format!("{} lacks {hidden} bytes that the leader knew of: {loss}", appointment.node);
        world.checks.fail("word", what, world.now);
    }
    durability::accepted(world, node);
    world.checks.knowledge.accept(*epoch);
}
