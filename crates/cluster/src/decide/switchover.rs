//! A planned change of primary: the checks, the stages, the moment of change.
//!
//! Every check is made when it is asked for, when its time has come, and again at every stage until the primary is told to
//! stop. From then on there is no way back but the one of every stopped primary: a failover, which may choose it again.

pub use super::order::{Order, Ordered, order};

pub(super) use super::order::Recorded;
use super::{Draft, Now, Outcome, restart};
use crate::basics::{Millis, NodeName};
use crate::candidate;
use crate::command::Change;
use crate::handover::{Handover, Obstacle, Planned, Stage, Stopped};
use crate::lineage;
use crate::membership;
use crate::observe::{Observation, Observations, Server, Standby};
use crate::reason::{NotChosen, Position, Reason, Safe};
use crate::restart::Bar;
use crate::state::{Appointment, Phase, Replication, Settings, State};
use crate::word::Objection;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// A candidate may have so many bytes of WAL still to replay.
pub const BEHIND_MAX: u64 = 16 * 1024 * 1024;
/// A checkpoint may take so long; clients notice nothing of it.
pub(super) const PREPARE_MS: Millis = 300_000;
/// Open transactions get so long to end; then the server stops and they fail.
pub const DRAIN_MS: Millis = 5_000;
/// A planned switchover that could not begin for so long is dropped.
const MISSED_MS: Millis = 600_000;

pub(super) fn planned(
    state: &State,
    seen: &Observations,
    order: &Order,
    id: String,
    by: String,
    now: &Now,
) -> Result<(Recorded, Ordered), Vec<Obstacle>> {
    let (change, reason, ordered) = match order {
        Order::Switchover { to, at: Some(at) } => {
            if let Some(to) = to {
                known(state, to)?;
                if candidate::leaves(state, to) {
                    let bar = membership::Bar::Leaves { node: to.clone() };
                    return Err(vec![Obstacle::Membership { bar }]);
                }
            }
            let planned = Planned { id: id.clone(), to: to.clone(), at: *at, by: by.clone() };
            let reason = Reason::SwitchoverPlanned { id: id.clone(), to: to.clone(), at: *at, by };
            (Change::Plan { planned }, reason, Ordered::Recorded { id, to: to.clone() })
        }
        Order::Switchover { to, at: None } => {
            if let Some(restart) = &state.restart {
                return Err(vec![Obstacle::Restart { bar: Bar::Underway { id: restart.id.clone() } }]);
            }
            let (from, to) = candidate_for(state, seen, to.as_ref(), now)?;
            let ordered = Ordered::Recorded { id: id.clone(), to: Some(to.clone()) };
            let (change, reason) = begin(state, Handover { id, from, to, by, stage: Stage::Preparing });
            (change, reason, ordered)
        }
        Order::Cancel { id } => {
            let reason = Reason::SwitchoverCancelled { id: id.clone(), by };
            let underway = state.handover.as_ref().filter(|h| h.id == *id && h.stage != Stage::Stopping);
            let change = match underway {
                Some(_) => Change::HandOverEnd { epoch: state.epoch, id: id.clone() },
                None if state.planned.iter().any(|p| p.id == *id) => Change::Unplan { id: id.clone() },
                None => return Err(vec![Obstacle::NotPlanned { id: id.clone() }]),
            };
            (change, reason, Ordered::Recorded { id: id.clone(), to: None })
        }
        _ => return Err(vec![Obstacle::NotServing]),
    };
    Ok(((change, vec![reason]), ordered))
}

/// A node that is not heard: it may be that nobody could hear it yet.
pub(super) fn silent(settings: &Settings, seen: &Observations, node: &NodeName, now: &Now) -> Obstacle {
    let leading_ms = now.at.since(seen.leading_since);
    let node = node.clone();
    match seen.nodes.contains_key(&node) || leading_ms >= settings.detect_ms {
        true => Obstacle::Silent { node },
        false => Obstacle::NotHeardYet { node, leading_ms },
    }
}

pub(super) fn known(state: &State, node: &NodeName) -> Result<(), Vec<Obstacle>> {
    if state.members.contains_key(node) {
        Ok(())
    } else {
        Err(vec![Obstacle::Unknown { node: node.clone() }])
    }
}

/// The primary and the node that is to take over from it now.
pub(super) fn candidate_for(
    state: &State,
    seen: &Observations,
    to: Option<&NodeName>,
    now: &Now,
) -> Result<(NodeName, NodeName), Vec<Obstacle>> {
    if state.paused.is_some() {
        return Err(vec![Obstacle::Paused]);
    }
    let (Phase::Serving { appointment }, Some(settings)) = (&state.phase, &state.settings) else {
        return Err(vec![Obstacle::NotServing]);
    };
    if let Some(handover) = &state.handover {
        return Err(vec![Obstacle::Underway { to: handover.to.clone() }]);
    }
    let from = &appointment.node;
    let found = match to {
        Some(to) => obstacles(state, settings, seen, from, to, now).map(|()| to.clone())?,
        None => best(state, settings, seen, from, now)?,
    };
    Ok((from.clone(), found))
}

fn best(
    state: &State,
    settings: &Settings,
    seen: &Observations,
    from: &NodeName,
    now: &Now,
) -> Result<NodeName, Vec<Obstacle>> {
    let mut each = Vec::new();
    let mut able = Vec::new();
    for (node, _) in state.data_nodes().filter(|(n, _)| *n != from) {
        match obstacles(state, settings, seen, from, node, now) {
            Ok(()) => able.push(node),
            Err(why) => each.extend(why),
        }
    }
    let replayed = |node: &NodeName| standby(settings, seen, node, now).map(|s| s.replay_lsn);
    let best = able
        .into_iter()
        .max_by_key(|node| (candidate::tags(state, node).priority, replayed(node), Reverse((*node).clone())));
    best.cloned().ok_or_else(|| vec![Obstacle::NoCandidate { each }])
}

/// What speaks against a change from `from` to `to` now.
fn obstacles(
    state: &State,
    settings: &Settings,
    seen: &Observations,
    from: &NodeName,
    to: &NodeName,
    now: &Now,
) -> Result<(), Vec<Obstacle>> {
    let node = to.clone();
    let Some(member) = state.members.get(to) else { return Err(vec![Obstacle::Unknown { node }]) };
    if to == from {
        return Err(vec![Obstacle::IsPrimary { node }]);
    }
    if member.postgres.is_none() {
        return Err(vec![Obstacle::Witness { node }]);
    }
    let mut found = Vec::new();
    if member.tags.never_primary {
        found.push(Obstacle::NeverPrimary { node: node.clone() });
    }
    if state.maintenance.contains_key(to) {
        found.push(Obstacle::Objected { objection: Objection::Maintained { node: node.clone() } });
    }
    if candidate::leaves(state, to) {
        found.push(Obstacle::Membership { bar: membership::Bar::Leaves { node: node.clone() } });
    }
    let primary_lsn = match heard(settings, seen, from, now).map(|o| &o.server) {
        Some(Server::Primary { lsn, .. }) => Some(*lsn),
        Some(_) => return Err(vec![Obstacle::NotServing]),
        None => {
            found.push(silent(settings, seen, from, now));
            None
        }
    };
    match standby(settings, seen, to, now) {
        None if heard(settings, seen, to, now).is_none() => {
            found.push(silent(settings, seen, to, now));
        }
        None => found.push(Obstacle::NotStreaming { node }),
        // Streaming is not enough: it must itself know that it follows the primary of this epoch.
        Some(s)
            if !s.streaming
                || s.upstream.as_ref() != Some(from)
                || !follows(state, settings, seen, to, now) =>
        {
            found.push(Obstacle::NotStreaming { node });
        }
        Some(s) => {
            let bytes = primary_lsn.map_or(0, |lsn| lsn.bytes_after(s.replay_lsn));
            if bytes > BEHIND_MAX {
                found.push(Obstacle::Behind { node, bytes, bytes_max: BEHIND_MAX });
            }
        }
    }
    for who in [from, to] {
        let hindrances = heard(settings, seen, who, now).map(|o| o.hindrances.as_slice());
        found.extend(
            hindrances
                .unwrap_or_default()
                .iter()
                .map(|by| Obstacle::Hindered { node: who.clone(), by: by.clone() }),
        );
    }
    if found.is_empty() { Ok(()) } else { Err(found) }
}

pub(super) fn follows(
    state: &State,
    settings: &Settings,
    seen: &Observations,
    node: &NodeName,
    now: &Now,
) -> bool {
    heard(settings, seen, node, now).is_some_and(|o| o.epoch == state.epoch && o.wal_silent_ms.is_some())
}

pub(super) fn heard<'a>(
    settings: &Settings,
    seen: &'a Observations,
    node: &NodeName,
    now: &Now,
) -> Option<&'a Observation> {
    seen.fresh(node, now.at, settings.detect_ms)
}

pub(super) fn standby<'a>(
    settings: &Settings,
    seen: &'a Observations,
    node: &NodeName,
    now: &Now,
) -> Option<&'a Standby> {
    match &heard(settings, seen, node, now)?.server {
        Server::Standby(standby) => Some(standby),
        _ => None,
    }
}

/// Begins a planned switchover whose time has come, or brings the present one to its next stage.
pub(super) fn conduct(state: &State, settings: &Settings, seen: &Observations, now: &Now) -> Outcome {
    let Some(handover) = &state.handover else { return begin_due(state, seen, now) };
    if handover.is_in_place() {
        return restart::in_place(state, settings, seen, handover, now);
    }
    let since = match &seen.stage_since {
        Some((id, stage, at)) if *id == handover.id && *stage == handover.stage => now.at.since(*at),
        _ => 0,
    };
    let progress = heard(settings, seen, &handover.from, now)
        .filter(|o| o.epoch == state.epoch)
        .and_then(|o| o.handover.as_ref())
        .filter(|p| p.id == handover.id);
    let open_transactions = progress.map_or(0, |p| p.open_transactions);
    let refused = obstacles(state, settings, seen, &handover.from, &handover.to, now).err();
    match (handover.stage, refused) {
        (Stage::Stopping, _) => change_primary(state, settings, seen, handover, now),
        (_, Some(because)) => give_up(state, handover, because),
        (Stage::Preparing, None) if progress.is_some_and(|p| p.checkpointed) => {
            go_on(state, handover, Stage::Holding, open_transactions)
        }
        (Stage::Preparing, None) if since > PREPARE_MS => {
            let (node, stage) = (handover.from.clone(), handover.stage);
            give_up(state, handover, vec![Obstacle::TooSlow { node, stage, waited_ms: since }])
        }
        (Stage::Holding, None) if progress.is_some_and(|p| p.drained) || since > DRAIN_MS => {
            go_on(state, handover, Stage::Stopping, open_transactions)
        }
        (Stage::Preparing | Stage::Holding, None) => Outcome::Wait(Reason::SwitchoverWaits {
            from: handover.from.clone(),
            to: handover.to.clone(),
            stage: handover.stage,
            open_transactions,
        }),
    }
}

pub(super) fn begin(state: &State, handover: Handover) -> (Change, Reason) {
    let Handover { id, from, to, by, .. } = handover.clone();
    (Change::HandOver { epoch: state.epoch, handover }, Reason::SwitchoverBegun { id, from, to, by })
}

fn begin_due(state: &State, seen: &Observations, now: &Now) -> Outcome {
    // It would only be refused; after the restarts it is not too late yet.
    if state.restart.is_some() {
        return Outcome::Nothing;
    }
    let Some(planned) = state.planned.iter().filter(|p| p.at <= now.wall).min_by_key(|p| p.at) else {
        return Outcome::Nothing;
    };
    let late_ms = now.wall.saturating_sub(planned.at);
    let (id, by) = (planned.id.clone(), planned.by.clone());
    let found = match late_ms > MISSED_MS {
        true => Err(vec![Obstacle::Missed { late_ms }]),
        false => candidate_for(state, seen, planned.to.as_ref(), now),
    };
    match found {
        Ok((from, to)) => {
            let (change, reason) = begin(state, Handover { id, from, to, by, stage: Stage::Preparing });
            Outcome::Do(Draft { change, reasons: vec![reason] })
        }
        Err(because) => Outcome::Do(Draft {
            change: Change::Unplan { id: id.clone() },
            reasons: vec![Reason::SwitchoverRefused { id, because }],
        }),
    }
}

pub(super) fn go_on(state: &State, handover: &Handover, stage: Stage, open_transactions: usize) -> Outcome {
    Outcome::Do(Draft {
        change: Change::HandOverStage { epoch: state.epoch, id: handover.id.clone(), stage },
        reasons: vec![Reason::SwitchoverGoesOn { from: handover.from.clone(), stage, open_transactions }],
    })
}

fn give_up(state: &State, handover: &Handover, because: Vec<Obstacle>) -> Outcome {
    Outcome::Do(Draft {
        change: Change::HandOverEnd { epoch: state.epoch, id: handover.id.clone() },
        reasons: vec![Reason::SwitchoverRefused { id: handover.id.clone(), because }],
    })
}

/// How the primary has stopped, while its word is fresh; `Some(None)`: it has stopped and was not looked at yet.
fn stopped(
    state: &State,
    settings: &Settings,
    seen: &Observations,
    handover: &Handover,
    now: &Now,
) -> Option<Option<Stopped>> {
    let report = heard(settings, seen, &handover.from, now).filter(|o| o.epoch == state.epoch)?;
    let progress = report.handover.as_ref().filter(|p| p.id == handover.id)?;
    (report.server == Server::Stopped).then_some(progress.stopped)
}

/// The primary has stopped in order and the next one replays what it wrote last: nothing else is decided for a moment.
pub(super) fn awaits_next(
    state: &State,
    settings: &Settings,
    seen: &Observations,
    now: &Now,
) -> Option<Reason> {
    let handover = state.handover.as_ref().filter(|h| h.stage == Stage::Stopping && !h.is_in_place())?;
    let stopped = stopped(state, settings, seen, handover, now)?;
    let (_, _, since) = seen.stage_since.as_ref()?;
    let wait = match stopped {
        Some(Stopped::InOrder { at }) => {
            standby(settings, seen, &handover.to, now).is_none_or(|s| s.replay_lsn <= at)
        }
        Some(Stopped::Badly) => false,
        None => true,
    };
    let patient = now.at.since(*since) < 2 * settings.detect_ms;
    (wait && patient).then(|| Reason::SwitchoverWaits {
        from: handover.from.clone(),
        to: handover.to.clone(),
        stage: handover.stage,
        open_transactions: 0,
    })
}

/// The old primary is provably stopped, its last record provably replayed: the next one needs no seals.
///
/// No commit was acknowledged after the shutdown checkpoint, so who has replayed that has every commit. Its agent starts
/// the old server only as a sealed standby.
fn change_primary(
    state: &State,
    settings: &Settings,
    seen: &Observations,
    handover: &Handover,
    now: &Now,
) -> Outcome {
    let Some(how) = stopped(state, settings, seen, handover, now) else {
        return Outcome::Wait(Reason::SwitchoverWaits {
            from: handover.from.clone(),
            to: handover.to.clone(),
            stage: handover.stage,
            open_transactions: 0,
        });
    };
    let Some(Stopped::InOrder { at }) = how else { return Outcome::Nothing };
    let informed = heard(settings, seen, &handover.to, now).is_some_and(|o| o.epoch == state.epoch);
    let next = standby(settings, seen, &handover.to, now).filter(|s| informed && s.replay_lsn > at);
    let Some(next) = next else {
        return Outcome::Nothing; // too late for it: the stopped primary is replaced like any other
    };
    let Some(current) = state.appointment() else { return Outcome::Nothing };
    let follows = |node: &NodeName| {
        let s = standby(settings, seen, node, now);
        s.is_some_and(|s| s.upstream.as_ref() == Some(&handover.from) && s.lsn <= next.lsn)
    };
    let sync: BTreeSet<NodeName> = match settings.replication {
        Replication::Quorum { .. } => state
            .data_nodes()
            .map(|(n, _)| n.clone())
            .filter(|n| *n != handover.to && *n != handover.from)
            .filter(|n| super::sync_set::may_confirm(state, n) && follows(n))
            .collect(),
        Replication::Async { .. } => BTreeSet::new(),
    };
    let parent = lineage::written_by(state, &current.promotion_id, next.timeline, next.lsn);
    let parent = parent.unwrap_or(&current.promotion_id).to_owned();
    let appointment = Appointment {
        node: handover.to.clone(),
        promotion_id: now.nonce.clone(),
        sealed_timeline: next.timeline,
        sealed_lsn: next.lsn,
        parent: Some(parent),
    };
    let position = Position { timeline: next.timeline, lsn: next.lsn };
    let safe = Safe::StoppedInOrder { node: handover.from.clone(), at };
    let others: BTreeMap<NodeName, NotChosen> = BTreeMap::new();
    let epoch = state.epoch + 1;
    Outcome::Do(Draft {
        change: Change::HandedOver { epoch, appointment, sync: sync.clone() },
        reasons: vec![
            Reason::Chosen { node: handover.to.clone(), at: position, safe, others },
            Reason::Appointed { node: handover.to.clone(), sync },
        ],
    })
}
