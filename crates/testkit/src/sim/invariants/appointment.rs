//! Invariant 4: a server is promoted only for an epoch that appointed its node, and only if its line descends from the
//! last primary that was published.

use super::super::node::NodeId;
use super::super::world::World;
use cluster::lineage::descends;

pub(super) fn check(world: &mut World, node: NodeId) {
    let host = &world.nodes[node];
    let agreed = &world.checks.agreed;
    let epoch = host.postgres.promoted_for;
    let appointment = agreed.promotions.iter().find(|p| p.epoch == epoch);
    let what = match appointment {
        Some(promotion) if promotion.node == host.name => {
            let before = agreed.promotions.iter().rev().filter(|p| p.epoch < epoch).find(|p| p.published.is_some());
            let parent = promotion.parent.as_deref().unwrap_or_default();
            match before {
                Some(last) if !descends(agreed, parent, &last.promotion_id) => {
                    format!("its line {parent} does not descend from {}, the last published", last.promotion_id)
                }
                _ => return,
            }
        }
        Some(promotion) => format!("{} was appointed", promotion.node),
        None => "nobody was appointed".to_owned(),
    };
    let what = format!("{} is promoted for epoch {epoch}, but {what}", host.name);
    world.checks.fail("appointment", what, world.now);
}
