//! Invariant 6, as far as the store goes: what a node shows to proxies never goes back, and all nodes show the same for
//! the same revision.

use super::super::world::World;
use cluster::status::view;
use cluster::view::View;
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(super) struct LastViews {
    seen: BTreeMap<usize, (u64, u64)>,
    by_revision: BTreeMap<u64, View>,
}

pub(super) fn check(world: &mut World) {
    for id in 0..world.nodes.len() {
        let state = &world.nodes[id].replica.state;
        let stamp = (state.epoch, state.revision);
        let last = world.checks.views.seen.get(&id).copied().unwrap_or_default();
        if stamp == last {
            continue;
        }
        let shown = view(state);
        let same =
            world.checks.views.by_revision.entry(state.revision).or_insert_with(|| shown.clone()) == &shown;
        world.checks.views.seen.insert(id, stamp);
        if stamp < last || !same {
            let name = &world.nodes[id].name;
            let what = format!("{name} shows {stamp:?} after {last:?}, or differently from another node");
            world.checks.fail("views", what, world.now);
        }
    }
}
