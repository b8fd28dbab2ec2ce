//! In any mode: whoever is chosen without a person's word has every acknowledged commit of the last primary that some
//! other node has which the leader knows to be sealed.

use super::super::node::NodeId;
use super::super::world::World;
use cluster::command::{Change, Command};
use cluster::observe::Seal;
use cluster::reason::Reason;
use cluster::{Epoch, NodeName, candidate};
use std::collections::BTreeSet;

/// A leader is about to appoint.
pub(super) fn proposed(world: &mut World, leader: NodeId, command: &Command) {
    let Change::Appoint { appointment, .. } = &command.change else { return };
    if command.reasons.iter().any(|r| matches!(r, Reason::Word { .. })) {
        return; // a person was shown what is lost
    }
    let state = &world.nodes[leader].replica.state;
    if state.revision != world.checks.agreed.revision {
        return; // it will be refused
    }
    let last = state.last_appointed.as_ref();
    let last = last.and_then(|a| state.promotions.iter().find(|p| p.promotion_id == a.promotion_id));
    let Some(last) = last.map(|p| p.epoch) else { return };
    let Some(leading) = world.nodes[leader].agent.as_ref().and_then(|a| a.leads.as_ref()) else { return };
    let seals =
        candidate::seals(state, &leading.seen, world.clock(leader), world.proposed.settings.detect_ms);
    // A line that cannot be told says nothing about what the data holds; a disk that was exchanged since holds other data.
    let sealed = seals.iter().filter(|(name, seal)| seal.line.is_some() && !candidate::barred(state, name));
    let as_sealed = |(name, seal): (&NodeName, &Seal)| {
        let id = world.id(name)?;
        let data = world.nodes[id].postgres.data.as_ref()?;
        let same = Some(data.system_identifier) == state.system_identifier && data.lsn() == seal.lsn;
        same.then_some(id)
    };
    let others: Vec<NodeId> = sealed.filter_map(as_sealed).collect();
    let Some(chosen) = world.id(&appointment.node).filter(|id| others.contains(id)) else { return };
    let had = held(world, chosen, last);
    let left_out = others.iter().find_map(|other| {
        let more = held(world, *other, last).difference(&had).count();
        (more > 0).then(|| (world.nodes[*other].name.clone(), more))
    });
    if let Some((other, more)) = left_out {
        let what = format!(
            "{} is appointed without {more} acknowledged commits of epoch {last} that {other} has, which is sealed too",
            appointment.node
        );
        world.checks.fail("avoidable", what, world.now);
    }
}

/// The acknowledged commits of `epoch` that a node has.
fn held(world: &World, node: NodeId, epoch: Epoch) -> BTreeSet<u64> {
    let Some(data) = &world.nodes[node].postgres.data else { return BTreeSet::new() };
    let of_epoch: BTreeSet<u64> = world.checks.acknowledged.of(epoch).collect();
    data.records.iter().map(|r| r.id).filter(|id| of_epoch.contains(id)).collect()
}
