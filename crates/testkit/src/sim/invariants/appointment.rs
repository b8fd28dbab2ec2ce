//! Invariant 4: a server is promoted only for an epoch that appointed its node, and only if its WAL continues the last
//! published primary's or is a beginning of it, or continues that of a primary that was appointed after that one. (Which
//! beginning is long enough, `durability` and `max_loss` say.)

use super::super::node::NodeId;
use super::super::postgres::Record;
use super::super::world::World;
use cluster::Epoch;
use std::collections::BTreeMap;

/// What each promoted server held when it left recovery, record by record.
#[derive(Debug, Default)]
pub(super) struct Promotions {
    began_with: BTreeMap<Epoch, Vec<Record>>,
}

impl Promotions {
    /// Whether the primary of `epoch` held the record `id` from the beginning.
    pub(super) fn began_with(&self, epoch: Epoch, id: u64) -> bool {
        self.began_with.get(&epoch).is_some_and(|records| records.iter().any(|r| r.id == id))
    }
}

pub(super) fn check(world: &mut World, node: NodeId) {
    let host = &world.nodes[node];
    let epoch = host.postgres.promoted_for;
    let records = host.postgres.data.as_ref().map(|d| d.records.clone()).unwrap_or_default();
    if let Some(what) = wrong(world, node, epoch, &records) {
        let what = format!("{} is promoted for epoch {epoch}, but {what}", host.name);
        world.checks.fail("appointment", what, world.now);
    }
    world.checks.promotions.began_with.insert(epoch, records);
}

fn wrong(world: &World, node: NodeId, epoch: Epoch, records: &[Record]) -> Option<String> {
    let agreed = &world.checks.agreed;
    match agreed.promotions.iter().find(|p| p.epoch == epoch) {
        None => return Some("nobody was appointed".to_owned()),
        Some(p) if p.node != world.nodes[node].name => return Some(format!("{} was appointed", p.node)),
        Some(_) => {}
    }
    let published = agreed.promotions.iter().rev().find(|p| p.epoch < epoch && p.published.is_some())?;
    let began = &world.checks.promotions.began_with;
    let before = began.get(&published.epoch)?;
    let both = records.len().min(before.len());
    let continues = |before: &Vec<Record>| records.get(..before.len()) == Some(before);
    let fits = records.get(..both) == before.get(..both)
        || began.range(published.epoch + 1..epoch).any(|(_, before)| continues(before));
    (!fits).then(|| {
        format!("it holds WAL that {}, primary of epoch {}, never had", published.node, published.epoch)
    })
}

/// No epoch has two appointments.
pub(super) fn agreed(world: &mut World) {
    let promotions = &world.checks.agreed.promotions;
    let twice = promotions.windows(2).find(|pair| matches!(pair, [a, b] if a.epoch >= b.epoch));
    if let Some([a, b]) = twice {
        let what = format!("{} was appointed for epoch {} after {} for {}", b.node, b.epoch, a.node, a.epoch);
        world.checks.fail("appointment", what, world.now);
    }
}
