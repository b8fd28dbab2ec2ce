//! A standby's WAL is a prefix of its primary's, record for record. PostgreSQL compares only timeline numbers and
//! positions, so a standby that follows a primary of another history is spoiled without a word; the rules of
//! `cluster::lineage` must prevent it. They cannot prevent it for a node whose agent stands still while its server goes
//! on connecting to the node that was primary once: its line shows that, and it must never be promoted.

use super::super::node::NodeId;
use super::super::world::World;

pub(super) fn broken(world: &mut World, node: NodeId, what: &str) {
    let what = format!("{}: {what}", world.nodes[node].name);
    world.checks.fail("prefix", what, world.now);
}

pub(super) fn spoiled(world: &mut World, from: NodeId, to: NodeId) {
    let (upstream, standby) = (&world.nodes[from], &world.nodes[to]);
    if upstream.notes.line == standby.notes.line {
        let what = format!("WAL of {} was streamed onto a history that it does not continue", upstream.name);
        broken(world, to, &what);
    }
    let (from, to) = (world.nodes[from].name.clone(), world.nodes[to].name.clone());
    world.say(|_| format!("{to} is spoiled by WAL of {from}"));
}

pub(super) fn check(world: &mut World, node: NodeId) {
    if world.nodes[node].postgres.data.as_ref().is_some_and(|d| d.spoiled) {
        broken(world, node, "it is promoted though WAL of two histories was mixed in it");
    }
}
