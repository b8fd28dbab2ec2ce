//! Invariant 6, as far as the store goes: what a node shows to proxies never goes back, and all nodes show the same for
//! the same revision. (An agent that starts again may know less for a while: proxies do not go back to it.)

use super::super::world::World;
use cluster::status::view;
use cluster::view::View;
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(super) struct LastViews {
    /// By node: of which run of its agent, and what it showed last.
    seen: BTreeMap<usize, (u64, (u64, u64))>,
    by_revision: BTreeMap<u64, View>,
}

pub(super) fn check(world: &mut World) {
    for id in 0..world.nodes.len() {
        let state = &world.nodes[id].replica.state;
        let stamp = (state.epoch, state.revision);
        let Some(life) = world.nodes[id].agent.as_ref().map(|a| a.life) else { continue };
        let seen = world.checks.views.seen.get(&id).filter(|(of, _)| *of == life);
        let last = seen.map(|(_, stamp)| *stamp).unwrap_or_default();
        if stamp == last {
            continue;
        }
        let shown = view(state);
        let same =
            world.checks.views.by_revision.entry(state.revision).or_insert_with(|| shown.clone()) == &shown;
        world.checks.views.seen.insert(id, (life, stamp));
        if stamp < last || !same {
            let name = &world.nodes[id].name;
            let what = format!("{name} shows {stamp:?} after {last:?}, or differently from another node");
            world.checks.fail("views", what, world.now);
        }
    }
}
