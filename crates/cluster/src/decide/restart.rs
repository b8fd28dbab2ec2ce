//! Restarts, one server after the other: whose turn it is, when it may begin, and when it is over.
//!
//! A turn begins only while the others can do without the node, and the next one only when all is whole again: the
//! server streams, and it confirms commits if it may. Whatever else happens meanwhile (a failover, a node that does not
//! come back) ends the rest: what was planned for one order of things is not done in another.
//!
//! Who comes first follows from [`crate::configuration::ORDERED`]. A standby must not have less than its primary: what is
//! raised, the standbys take on first; what is lowered, the primary, and that only in place. Where both wait, the standbys
//! restart twice; until the primary has restarted they keep what their WAL asks for (`agent::postgres::configuration`).

use super::switchover::{self, DRAIN_MS, PREPARE_MS, Recorded, heard, known, silent};
use super::{Draft, Now, Outcome, sync_set};
use crate::basics::{Millis, NodeName};
use crate::candidate;
use crate::command::Change;
use crate::configuration::Pending;
use crate::handover::{Handover, Hindrance, Obstacle, Stage};
use crate::membership;
use crate::observe::{Observation, Observations, Server};
use crate::reason::Reason;
use crate::restart::{Bar, Restart, Tale, Turn, Way};
use crate::state::{Phase, Replication, Settings, State};
use crate::word::Objection;
use std::collections::BTreeSet;

/// A turn waits so long for its beginning: what hinders it is then no matter of a moment.
const BEGIN_MS: Millis = 60_000;
/// A server may take so long to come back; a restart point comes first, and a shutdown checkpoint.
const RETURN_MS: Millis = 180_000;

/// What a person asks for.
pub(super) struct Wanted<'a> {
    /// Only this node; `None`: all.
    pub(super) node: Option<&'a NodeName>,
    /// Only where something waits for it.
    pub(super) pending: bool,
    /// The primary hands over first.
    pub(super) rolling: bool,
    /// Although commits may have to wait.
    pub(super) insist: bool,
}

fn bar(bar: Bar) -> Vec<Obstacle> {
    vec![Obstacle::Restart { bar }]
}

fn leaves(node: &NodeName) -> Obstacle {
    Obstacle::Membership { bar: membership::Bar::Leaves { node: node.clone() } }
}

fn told(tale: Tale) -> Vec<Reason> {
    vec![Reason::Restart { tale }]
}

pub(super) fn begin(
    state: &State,
    seen: &Observations,
    wanted: &Wanted<'_>,
    (id, by): (&str, String),
    now: &Now,
) -> Result<(Recorded, Vec<Turn>), Vec<Obstacle>> {
    if state.paused.is_some() {
        return Err(vec![Obstacle::Paused]);
    }
    let (Phase::Serving { appointment }, Some(settings)) = (&state.phase, &state.settings) else {
        return Err(vec![Obstacle::NotServing]);
    };
    if let Some(restart) = &state.restart {
        return Err(bar(Bar::Underway { id: restart.id.clone() }));
    }
    if let Some(handover) = &state.handover {
        return Err(vec![Obstacle::Underway { to: handover.to.clone() }]);
    }
    let nodes = chosen(state, settings, seen, wanted, now)?;
    let turns = plan(state, settings, seen, &appointment.node, &nodes, wanted, now)?;
    let found: Vec<Obstacle> = turns
        .iter()
        .filter(|turn| turn.way == Way::Standby && !wanted.insist)
        .filter_map(|turn| too_few(state, settings, seen, &turn.node, now))
        .collect();
    if !found.is_empty() {
        return Err(found);
    }
    let restart = Restart {
        id: id.to_owned(),
        by: by.clone(),
        turns: turns.clone(),
        at: 0,
        going: false,
        insist: wanted.insist,
    };
    let tale = Tale::Begun { id: id.to_owned(), by, turns: turns.clone() };
    Ok(((Change::Restart { epoch: state.epoch, restart }, told(tale)), turns))
}

/// The nodes that are meant, each of which was heard lately.
fn chosen(
    state: &State,
    settings: &Settings,
    seen: &Observations,
    wanted: &Wanted<'_>,
    now: &Now,
) -> Result<BTreeSet<NodeName>, Vec<Obstacle>> {
    let nodes: BTreeSet<NodeName> = match wanted.node {
        Some(node) => {
            known(state, node)?;
            if state.members.get(node).is_some_and(|m| m.postgres.is_none()) {
                return Err(vec![Obstacle::Witness { node: node.clone() }]);
            }
            if state.maintenance.contains_key(node) {
                let objection = Objection::Maintained { node: node.clone() };
                return Err(vec![Obstacle::Objected { objection }]);
            }
            if candidate::leaves(state, node) {
                return Err(vec![leaves(node)]);
            }
            BTreeSet::from([node.clone()])
        }
        None => {
            let looked_after =
                |n: &&NodeName| !state.maintenance.contains_key(*n) && !state.leaving.contains_key(*n);
            state.data_nodes().map(|(n, _)| n).filter(looked_after).cloned().collect()
        }
    };
    let missing: Vec<Obstacle> = nodes
        .iter()
        .filter(|node| heard(settings, seen, node, now).is_none())
        .map(|node| silent(settings, seen, node, now))
        .collect();
    if !missing.is_empty() {
        return Err(missing);
    }
    let waits = |node: &NodeName| !pending(settings, seen, node, now).is_empty();
    let nodes: BTreeSet<NodeName> = nodes.into_iter().filter(|node| !wanted.pending || waits(node)).collect();
    if nodes.is_empty() { Err(bar(Bar::NothingPending)) } else { Ok(nodes) }
}

fn pending<'a>(settings: &Settings, seen: &'a Observations, node: &NodeName, now: &Now) -> &'a [Pending] {
    heard(settings, seen, node, now).map(|o| o.pending.as_slice()).unwrap_or_default()
}

/// In which order, and how.
fn plan(
    state: &State,
    settings: &Settings,
    seen: &Observations,
    primary: &NodeName,
    nodes: &BTreeSet<NodeName>,
    wanted: &Wanted<'_>,
    now: &Now,
) -> Result<Vec<Turn>, Vec<Obstacle>> {
    let standby = |node: &NodeName| Turn { node: node.clone(), way: Way::Standby };
    let standbys: Vec<Turn> = nodes.iter().filter(|n| *n != primary).map(standby).collect();
    if !nodes.contains(primary) {
        return Ok(standbys);
    }
    let waits = pending(settings, seen, primary, now);
    let (lowered, raised) = (waits.iter().any(Pending::is_lowered), waits.iter().any(Pending::is_raised));
    if raised {
        let others = state.data_nodes().map(|(n, _)| n).filter(|n| !nodes.contains(*n));
        let behind = others.filter(|n| pending(settings, seen, n, now).iter().any(Pending::is_raised));
        let behind: BTreeSet<NodeName> = behind.cloned().collect();
        if !behind.is_empty() {
            return Err(bar(Bar::StandbysFirst { node: primary.clone(), standbys: behind }));
        }
    }
    let way = if wanted.rolling && !lowered { Way::HandOver } else { Way::InPlace };
    let may_follow = |n: &NodeName| n != primary && !candidate::barred(state, n);
    if way == Way::HandOver && !state.data_nodes().any(|(n, _)| may_follow(n)) {
        return Err(bar(Bar::NobodyElse { node: primary.clone() }));
    }
    let own = Turn { node: primary.clone(), way };
    Ok(match (lowered, raised) {
        (true, false) => std::iter::once(own).chain(standbys).collect(),
        (true, true) => standbys.iter().cloned().chain([own]).chain(standbys.clone()).collect(),
        (false, _) => standbys.into_iter().chain([own]).collect(),
    })
}

/// Quorum mode: that too few could confirm commits without `node`.
fn too_few(
    state: &State,
    settings: &Settings,
    seen: &Observations,
    node: &NodeName,
    now: &Now,
) -> Option<Obstacle> {
    let (Replication::Quorum { k, .. }, Some(primary)) = (settings.replication, state.primary()) else {
        return None;
    };
    let left = streaming(state, settings, seen, now).filter(|n| *n != node && *n != primary).count();
    let objection = Objection::TooFewConfirm { node: node.clone(), left, k };
    (left < k).then_some(Obstacle::Objected { objection })
}

/// The standbys that may confirm commits and stream, as the primary sees it.
fn streaming<'a>(
    state: &'a State,
    settings: &Settings,
    seen: &'a Observations,
    now: &Now,
) -> impl Iterator<Item = &'a NodeName> {
    let report = state.primary().and_then(|primary| heard(settings, seen, primary, now));
    let streams = move |n: &NodeName| report.and_then(|o| o.replicas.get(n)).is_some_and(|r| r.streaming);
    state.data_nodes().map(|(n, _)| n).filter(move |n| sync_set::may_confirm(state, n) && streams(n))
}

pub(super) fn cancel(id: &str, by: String) -> Recorded {
    (Change::RestartEnd { id: id.to_owned() }, told(Tale::Cancelled { id: id.to_owned(), by }))
}

fn give_up(restart: &Restart, because: Vec<Obstacle>) -> Outcome {
    let id = restart.id.clone();
    Outcome::Do(Draft {
        change: Change::RestartEnd { id: id.clone() },
        reasons: told(Tale::GivenUp { id, because }),
    })
}

/// The turn is over: the next one is up, or that was the last.
fn next(restart: &Restart, turn: &Turn) -> Outcome {
    let (id, at) = (restart.id.clone(), restart.at + 1);
    let mut reasons = told(Tale::Back { turn: turn.clone() });
    let change = if at < restart.turns.len() {
        Change::RestartStage { id, at, going: false }
    } else {
        reasons.extend(told(Tale::Ended { id: id.clone() }));
        Change::RestartEnd { id }
    };
    Outcome::Do(Draft { change, reasons })
}

/// Begins or ends the present turn.
pub(super) fn conduct(state: &State, settings: &Settings, seen: &Observations, now: &Now) -> Outcome {
    let Some(restart) = &state.restart else { return Outcome::Nothing };
    let Some(turn) = restart.turn() else { return give_up(restart, Vec::new()) };
    // What changes the primary is told by itself.
    if state.handover.is_some() {
        return Outcome::Nothing;
    }
    let is_primary = state.primary() == Some(&turn.node);
    let since = match &seen.turn_since {
        Some((token, going, at)) if *token == restart.token() && *going == restart.going => now.at.since(*at),
        _ => 0,
    };
    if !restart.going {
        return match is_primary == (turn.way != Way::Standby) {
            true => begin_turn(state, settings, seen, restart, turn, since, now),
            false => give_up(restart, bar(Bar::Moved { node: turn.node.clone() })),
        };
    }
    match turn.way {
        Way::Standby if is_primary => give_up(restart, bar(Bar::Moved { node: turn.node.clone() })),
        // The switchover was given up, or a failover came between.
        Way::HandOver if is_primary => give_up(restart, bar(Bar::NotDone { node: turn.node.clone() })),
        Way::InPlace => give_up(restart, bar(Bar::NotDone { node: turn.node.clone() })),
        Way::Standby | Way::HandOver if is_back(state, settings, seen, restart, turn, now) => {
            next(restart, turn)
        }
        Way::Standby | Way::HandOver if since > RETURN_MS => {
            give_up(restart, bar(Bar::TooSlow { node: turn.node.clone(), waited_ms: since }))
        }
        Way::Standby | Way::HandOver => waits(turn, Vec::new()),
    }
}

fn waits(turn: &Turn, because: Vec<Obstacle>) -> Outcome {
    Outcome::Wait(Reason::Restart { tale: Tale::Waits { turn: turn.clone(), because } })
}

fn begin_turn(
    state: &State,
    settings: &Settings,
    seen: &Observations,
    restart: &Restart,
    turn: &Turn,
    since: Millis,
    now: &Now,
) -> Outcome {
    let ready = match turn.way {
        Way::Standby => ready_standby(state, settings, seen, restart, turn, now).map(|()| turn.node.clone()),
        Way::HandOver => switchover::candidate_for(state, seen, None, now).map(|(_, to)| to),
        Way::InPlace => ready_primary(settings, seen, &turn.node, now).map(|()| turn.node.clone()),
    };
    let to = match ready {
        Ok(to) => to,
        Err(because) if since > BEGIN_MS => return give_up(restart, because),
        Err(because) => return waits(turn, because),
    };
    let mut reasons = told(Tale::Goes { turn: turn.clone() });
    let change = match turn.way {
        Way::Standby => Change::RestartStage { id: restart.id.clone(), at: restart.at, going: true },
        Way::HandOver | Way::InPlace => {
            let (from, by) = (turn.node.clone(), restart.by.clone());
            let handover = Handover { id: restart.token(), from, to, by, stage: Stage::Preparing };
            let (change, reason) = switchover::begin(state, handover);
            reasons.extend(Some(reason).filter(|_| turn.way == Way::HandOver));
            change
        }
    };
    Outcome::Do(Draft { change, reasons })
}

fn ready_standby(
    state: &State,
    settings: &Settings,
    seen: &Observations,
    restart: &Restart,
    turn: &Turn,
    now: &Now,
) -> Result<(), Vec<Obstacle>> {
    let node = &turn.node;
    if state.maintenance.contains_key(node) {
        return Err(vec![Obstacle::Objected { objection: Objection::Maintained { node: node.clone() } }]);
    }
    if candidate::leaves(state, node) {
        return Err(vec![leaves(node)]);
    }
    if heard(settings, seen, node, now).is_none() {
        return Err(vec![silent(settings, seen, node, now)]);
    }
    if !streams(state, settings, seen, node, now) {
        return Err(vec![Obstacle::NotStreaming { node: node.clone() }]);
    }
    if !has_replayed(settings, seen, restart, node, now) {
        return Err(bar(Bar::NotReplayed { node: node.clone() }));
    }
    match too_few(state, settings, seen, node, now).filter(|_| !restart.insist) {
        Some(obstacle) => Err(vec![obstacle]),
        None => Ok(()),
    }
}

/// Whether the standby has replayed what the primary wrote when it restarted in place, if it has. A report of before says
/// that it streams; but how much it must have at least of what was lowered stands in its pg_control, and that changes when
/// it replays the primary's record of it (`XLOG_PARAMETER_CHANGE`, src/backend/access/transam/xlog.c).
fn has_replayed(
    settings: &Settings,
    seen: &Observations,
    restart: &Restart,
    node: &NodeName,
    now: &Now,
) -> bool {
    if !restart.turns.iter().take(restart.at).any(|turn| turn.way == Way::InPlace) {
        return true;
    }
    let standby = switchover::standby(settings, seen, node, now);
    standby.zip(seen.turn_reached).is_some_and(|(standby, reached)| standby.replay_lsn >= reached)
}

/// Whether it follows the present primary, and knows it.
fn streams(state: &State, settings: &Settings, seen: &Observations, node: &NodeName, now: &Now) -> bool {
    let standby = switchover::standby(settings, seen, node, now);
    standby.is_some_and(|s| s.streaming && s.upstream.as_ref() == state.primary())
        && switchover::follows(state, settings, seen, node, now)
}

fn ready_primary(
    settings: &Settings,
    seen: &Observations,
    node: &NodeName,
    now: &Now,
) -> Result<(), Vec<Obstacle>> {
    let Some(report) = heard(settings, seen, node, now) else {
        return Err(vec![silent(settings, seen, node, now)]);
    };
    if !matches!(report.server, Server::Primary { .. }) {
        return Err(vec![Obstacle::NotServing]);
    }
    let fails = report.hindrances.iter().find(|h| **h == Hindrance::ArchiverFails);
    match fails {
        Some(by) => Err(vec![Obstacle::Hindered { node: node.clone(), by: by.clone() }]),
        None => Ok(()),
    }
}

/// Whether the standby was restarted for this turn, streams, and confirms commits if it may.
fn is_back(
    state: &State,
    settings: &Settings,
    seen: &Observations,
    restart: &Restart,
    turn: &Turn,
    now: &Now,
) -> bool {
    let node = &turn.node;
    let restarted = |o: &Observation| o.restarted.as_ref() == Some(&restart.token());
    let whole = match settings.replication {
        Replication::Quorum { .. } => {
            let target = state.sync_target();
            let counts = !sync_set::may_confirm(state, node) || target.members.contains(node);
            counts && state.sync.in_force.len() == 1
        }
        Replication::Async { .. } => true,
    };
    let sees = state.primary().and_then(|primary| heard(settings, seen, primary, now));
    whole
        && heard(settings, seen, node, now).is_some_and(restarted)
        && streams(state, settings, seen, node, now)
        && sees.is_some_and(|o| o.replicas.get(node).is_some_and(|r| r.streaming))
}

/// The stages of a restart in place: as of a switchover, but the same node goes on.
pub(super) fn in_place(
    state: &State,
    settings: &Settings,
    seen: &Observations,
    handover: &Handover,
    now: &Now,
) -> Outcome {
    let restart = state.restart.as_ref().filter(|r| r.token() == handover.id);
    let Some((restart, turn)) = restart.and_then(|r| Some((r, r.turn()?))) else {
        let (epoch, id) = (state.epoch, handover.id.clone());
        let because = bar(Bar::NotDone { node: handover.from.clone() });
        let reasons = told(Tale::GivenUp { id: id.clone(), because });
        return Outcome::Do(Draft { change: Change::HandOverEnd { epoch, id }, reasons });
    };
    let since = match &seen.stage_since {
        Some((id, stage, at)) if *id == handover.id && *stage == handover.stage => now.at.since(*at),
        _ => 0,
    };
    // Whether it is to be replaced is for others to say.
    let Some(report) = heard(settings, seen, &turn.node, now).filter(|o| o.epoch == state.epoch) else {
        return waits(turn, Vec::new());
    };
    let progress = report.handover.as_ref().filter(|p| p.id == handover.id);
    let open = progress.map_or(0, |p| p.open_transactions);
    match handover.stage {
        Stage::Preparing if since > PREPARE_MS => {
            give_up(restart, bar(Bar::TooSlow { node: turn.node.clone(), waited_ms: since }))
        }
        Stage::Preparing if progress.is_some_and(|p| p.checkpointed) => {
            match ready_primary(settings, seen, &turn.node, now) {
                Ok(()) => switchover::go_on(state, handover, Stage::Holding, open),
                Err(because) => give_up(restart, because),
            }
        }
        Stage::Holding if progress.is_some_and(|p| p.drained) || since > DRAIN_MS => {
            switchover::go_on(state, handover, Stage::Stopping, open)
        }
        Stage::Stopping
            if report.restarted.as_ref() == Some(&handover.id)
                && matches!(report.server, Server::Primary { .. }) =>
        {
            next(restart, turn)
        }
        // It does not begin: without a lease, for example.
        Stage::Stopping if since > RETURN_MS => {
            give_up(restart, bar(Bar::TooSlow { node: turn.node.clone(), waited_ms: since }))
        }
        Stage::Preparing | Stage::Holding | Stage::Stopping => waits(turn, Vec::new()),
    }
}
