//! A primary that works is left alone: no epoch is opened against a server that takes writes while its leader was just
//! told by a standby that WAL of it arrives, or by so many nodes that they hear its agent that no majority can confirm
//! its silence. Nor against one that was appointed and is a standby still, because it is a standby.

use super::super::node::NodeId;
use super::super::postgres::Process;
use super::super::world::World;
use cluster::NodeName;
use cluster::command::{Change, Command};
use cluster::observe::Server;
use cluster::reason::Reason;

/// What was heard this much before `detect` counts as surely heard in time, in milliseconds.
const SLACK: u64 = 200;

pub(super) fn proposed(world: &mut World, leader: NodeId, command: &Command) {
    let (Change::OpenEpoch { .. }, Some(primary)) =
        (&command.change, world.nodes[leader].replica.state.primary())
    else {
        return;
    };
    let handed_over = world.checks.agreed.handover.is_some();
    if handed_over || world.nodes[leader].replica.state.epoch != world.checks.agreed.epoch {
        return; // somebody asked for it, or it was decided on what is history already, and will be refused
    }
    let primary = primary.clone();
    let Some(id) = world.id(&primary) else { return };
    not_promoted_yet(world, leader, id, command);
    let works = world.nodes[id].server_runs() && world.nodes[id].postgres.process == Process::Primary;
    let Some(leading) = world.nodes[leader].agent.as_ref().and_then(|a| a.leads.as_ref()) else { return };
    let settings = &world.proposed.settings;
    let now = world.clock(leader);
    let detect = settings.detect_ms - SLACK;
    let Some(latest) = world.checks.knowledge.latest(leading.term) else { return };
    let members = &world.nodes[leader].replica.state.members;
    let belongs = |n: &NodeName| *n != primary && members.contains_key(n);
    let told = latest.iter().filter(|(n, heard)| belongs(n) && now.since(heard.at) < detect);
    let told: Vec<_> = told.map(|(_, heard)| (now.since(heard.at), &heard.observation)).collect();
    let streams = told.iter().any(|(age, o)| o.wal_silent_ms.is_some_and(|ms| ms + age < detect));
    let epoch = world.nodes[leader].replica.state.epoch;
    let hear = told
        .iter()
        .filter(|(_, o)| o.epoch == epoch && o.primary_agent_silent_ms.is_some_and(|ms| ms < detect))
        .count();
    let others = members.len().saturating_sub(1);
    let heard_at = latest.get(&primary).map(|h| h.at);
    let unleased = now.since(heard_at.unwrap_or_default().max(leading.seen.leading_since));
    let leased = unleased < settings.lease_ms();
    let heard = latest.get(&primary).map(|h| &h.observation.server);
    let hung = matches!(heard, Some(Server::Unresponsive { .. }));
    if works && !hung && (streams || leased && hear + others / 2 + 1 > others) {
        let why: Vec<String> = command.reasons.iter().map(ToString::to_string).collect();
        let what = format!(
            "{primary} takes writes and is replaced ({}); streams {streams}, {hear} nodes hear its agent",
            why.join(" | ")
        );
        world.checks.fail("needless", what, world.now);
    }
}

fn not_promoted_yet(world: &mut World, leader: NodeId, primary: NodeId, command: &Command) {
    let is_standby = |r: &Reason| matches!(r, Reason::NotPrimaryAnyMore { .. });
    let postgres = &world.nodes[primary].postgres;
    let (Some(data), Some(appointment)) =
        (&postgres.data, world.nodes[leader].replica.state.appointment().cloned())
    else {
        return;
    };
    let as_appointed = data.timeline == appointment.sealed_timeline && data.lsn() >= appointment.sealed_lsn;
    let promoted = postgres.promoted_for == world.checks.agreed.epoch;
    if as_appointed && !promoted && command.reasons.iter().any(is_standby) {
        let what = format!("{} was not promoted yet and is replaced as one that was", appointment.node);
        world.checks.fail("needless", what, world.now);
    }
}
