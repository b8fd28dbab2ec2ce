//! The epoch change: suspect, open, (seal,) choose, appoint, publish.
//!
//! Sealing itself is done by the nodes (`step`). This file does not know how a primary is judged (`detect`) nor how
//! candidates are compared (`candidate`); it decides when enough is known to go on.

use super::{Draft, Now, Outcome};
use crate::basics::{Lsn, Millis, NodeName};
use crate::candidate;
use crate::command::Change;
use crate::detect::{self, Verdict};
use crate::lineage;
use crate::mutant::{self, Mutant};
use crate::observe::{DataDir, Observations, Seal, Server};
use crate::quorum;
use crate::reason::{NotChosen, Reason, Safe};
use crate::state::{Appointment, OldLease, Replication, Settings, State, SyncSet};
use crate::status::furthest_primary_lsn;
use crate::word::Word;
use std::collections::{BTreeMap, BTreeSet};

type Seals = BTreeMap<NodeName, Seal>;

/// Steps 1 and 2: a suspected primary loses its epoch.
pub(super) fn open_epoch(state: &State, settings: &Settings, seen: &Observations, now: &Now) -> Outcome {
    match detect::judge(state, settings, seen, now.at) {
        Verdict::Fine => Outcome::Nothing,
        Verdict::Doubt(reason) => Outcome::Wait(reason),
        Verdict::Suspect(reason, lease) => {
            let epoch = state.epoch + 1;
            let old_primary = state.primary().cloned();
            Outcome::Do(Draft {
                change: Change::OpenEpoch { epoch, lease },
                reasons: vec![reason, Reason::EpochOpened { epoch, old_primary, lease }],
            })
        }
    }
}

/// Steps 4 and 5: choose the most advanced node once it is certain enough that nothing (or little) is lost.
pub(super) fn choose(
    state: &State,
    settings: &Settings,
    seen: &Observations,
    lease: OldLease,
    now: &Now,
) -> Outcome {
    let seals = candidate::seals(state, seen, now.at, settings.detect_ms);
    let Some((node, seal)) = candidate::best(state, &seals) else {
        return Outcome::Wait(wait_seals(state, &seals, "an eligible node must seal"));
    };
    let safe = match settings.replication {
        Replication::Quorum { .. } => safe_in_quorum(state, &seals),
        Replication::Async { max_loss_bytes, .. } => {
            safe_in_async(state, settings, seen, &seals, (&node, seal), max_loss_bytes, lease, now)
        }
    };
    match safe {
        Ok(safe) => {
            let chosen = with_all_of(&safe, &seals, (node, seal));
            Outcome::Do(appoint(state, seen, settings, &seals, chosen, safe, now))
        }
        Err(wait) => Outcome::Wait(wait),
    }
}

/// What is safe because the last primary is there holds for it, and for who has all that it has. The most advanced need
/// not: data of a promotion before, which never ended and which the last choice had to do without, comes first by its line.
fn with_all_of<'a>(safe: &Safe, seals: &'a Seals, best: (NodeName, &'a Seal)) -> (NodeName, &'a Seal) {
    let Safe::LastPrimary { node } = safe else { return best };
    match seals.get(node) {
        Some(last) if last.line != best.1.line || last.lsn > best.1.lsn => (node.clone(), last),
        _ => best,
    }
}

fn wait_seals(state: &State, seals: &Seals, rule: &str) -> Reason {
    let sealed: BTreeSet<NodeName> = seals.keys().cloned().collect();
    let missing = state.data_nodes().map(|(n, _)| n.clone()).filter(|n| !sealed.contains(n)).collect();
    Reason::WaitSeals { sealed, missing, rule: rule.to_owned() }
}

/// The last appointed node, when it is sealed with everything it ever acknowledged.
fn last_primary_sealed(state: &State, seals: &Seals) -> Option<NodeName> {
    let last = state.last_appointed.as_ref()?;
    let fits = |seal: &&Seal| {
        !candidate::barred(state, &last.node) && lineage::eligible(state, seal.line.as_deref(), seal.lsn)
    };
    let seal = seals.get(&last.node).filter(fits)?;
    // Data that a person put in its place may lack what it had written: where it ended is not known. Where nobody else has
    // any, nobody else could have more.
    let known = !seal.copied || state.data_nodes().count() == 1;
    let promoted = seal.line.as_deref() == Some(last.promotion_id.as_str()) && known;
    let not_yet = seal.line == last.parent && seal.lsn >= last.sealed_lsn;
    (promoted || not_yet).then(|| last.node.clone())
}

/// The sealed nodes whose data may be chosen.
pub(super) fn fitting(state: &State, seals: &Seals) -> BTreeSet<NodeName> {
    // Only data that may be chosen counts: the one sealed node that has a commit must not be one that is passed over.
    let fits = |node: &NodeName, seal: &Seal| {
        let eligible = lineage::eligible(state, seal.line.as_deref(), seal.lsn);
        !candidate::barred(state, node) && eligible || mutant::is(Mutant::IneligibleCounts)
    };
    seals.iter().filter(|(n, s)| fits(n, s)).map(|(n, _)| n.clone()).collect()
}

/// Of these, the nodes that surely have all they confirmed: data that was copied has it when it has caught up.
pub(super) fn counting(state: &State, seals: &Seals) -> BTreeSet<NodeName> {
    let copied = |n: &NodeName| seals.get(n).is_some_and(|s| s.copied) && !mutant::is(Mutant::CopiedCounts);
    fitting(state, seals).into_iter().filter(|n| !copied(n)).collect()
}

fn safe_in_quorum(state: &State, seals: &Seals) -> Result<Safe, Reason> {
    let sealed = counting(state, seals);
    let in_force = !state.sync.in_force.is_empty();
    if in_force && quorum::covers_all(&sealed, &state.sync) {
        let SyncSet { k, members: of } = state.sync_target();
        return Ok(Safe::Quorum { sealed: sealed.intersection(&of).cloned().collect(), of, k });
    }
    if let Some(node) = last_primary_sealed(state, seals) {
        return Ok(Safe::LastPrimary { node });
    }
    let copied: Vec<&str> = seals.iter().filter(|(_, s)| s.copied).map(|(n, _)| n.as_str()).collect();
    let without = match copied.as_slice() {
        [] => String::new(),
        list => format!(" ({} not counted: copied or exchanged, and not caught up since)", list.join(", ")),
    };
    let leaves = |n: &&NodeName| candidate::leaves(state, n) && state.sync.contains(n);
    let leaving = match seals.keys().filter(leaves).map(NodeName::as_str).collect::<Vec<_>>().as_slice() {
        [] => String::new(),
        list => format!(" ({} not counted: leaving the cluster, until that is taken back)", list.join(", ")),
    };
    Err(wait_seals(state, seals, &(needed_seals(state) + &without + &leaving)))
}

/// The seals that would be enough, in words.
fn needed_seals(state: &State) -> String {
    let last = state.last_appointed.as_ref().map_or("the last primary", |a| a.node.as_str());
    if state.sync.any_open() {
        return format!(
            "only {last} itself surely has every acknowledged commit: commits were not waiting for standbys \
             (degrade = available)"
        );
    }
    let sets: Vec<String> = state
        .sync
        .in_force
        .iter()
        .map(|set| {
            let list: Vec<&str> = set.members.iter().map(NodeName::as_str).collect();
            format!("{} of {{{}}}", quorum::needed(set), list.join(", "))
        })
        .collect();
    format!(
        "needed so that no acknowledged commit is missing: {}, or {last} itself",
        if sets.is_empty() { "no set is recorded".to_owned() } else { sets.join(" and ") }
    )
}

#[allow(clippy::too_many_arguments, reason = "the evidence of one rule")]
fn safe_in_async(
    state: &State,
    settings: &Settings,
    seen: &Observations,
    seals: &Seals,
    best: (&NodeName, &Seal),
    max_loss_bytes: u64,
    lease: OldLease,
    now: &Now,
) -> Result<Safe, Reason> {
    if let Some(unleased) = &state.unleased {
        // It is over when that node itself has sealed; `leash` records that first.
        return Err(Reason::Word { word: Word::WaitLeased { node: unleased.node.clone() } });
    }
    if let Some(left_ms) = old_lease_left(settings, seen, lease, now) {
        let node = state.last_appointed.as_ref().map_or(best.0, |a| &a.node).clone();
        return Err(Reason::WaitLease { node, left_ms });
    }
    if let Some(node) = last_primary_sealed(state, seals) {
        return Ok(Safe::LastPrimary { node });
    }
    let slow: BTreeSet<NodeName> = may_still_seal(state, settings, seen, seals, now);
    let patient = seen.open_since.is_none_or(|(_, since)| now.at.since(since) < settings.detect_ms);
    if patient && !slow.is_empty() {
        return Err(wait_seals(
            state,
            seals,
            "every standby that runs should seal, so that the best is known",
        ));
    }
    let known = known_of_last(state, seen);
    let missing_bytes = known.map(|p| p.bytes_after(best.1.lsn));
    match missing_bytes {
        Some(missing_bytes) if missing_bytes <= max_loss_bytes || mutant::is(Mutant::MaxLossIgnored) => {
            Ok(Safe::WithinLoss { missing_bytes, max_loss_bytes })
        }
        _ => {
            let waiting_for =
                state.data_nodes().map(|(n, _)| n.clone()).filter(|n| !seals.contains_key(n)).collect();
            Err(Reason::WaitLoss { best: best.0.clone(), missing_bytes, max_loss_bytes, waiting_for })
        }
    }
}

/// The furthest position of the last primary that anybody has heard of. It may have died before it could report anything:
/// it had at least what it was sealed with.
pub(super) fn known_of_last(state: &State, seen: &Observations) -> Option<Lsn> {
    let appointed = state.last_appointed.as_ref().map(|a| a.sealed_lsn);
    furthest_primary_lsn(seen)
        .max(seen.last_primary_lsn(state).filter(|_| !mutant::is(Mutant::LastWordForgotten)))
        .max(appointed.filter(|at| at.0 > 0 && !mutant::is(Mutant::AppointedForgotten)))
}

/// How long the lease of the old primary may still be in force; `None`: it has surely ended.
pub(super) fn old_lease_left(
    settings: &Settings,
    seen: &Observations,
    lease: OldLease,
    now: &Now,
) -> Option<Millis> {
    if lease == OldLease::Returned || mutant::is(Mutant::LeaseNotWaited) {
        return None;
    }
    // A lease that an earlier leader gave ends at most one lease after this leader's election (design: Leases).
    let by_others = seen.leading_since.plus(settings.lease_surely_over_ms());
    let by_others = if mutant::is(Mutant::EarlierLeasesIgnored) { now.at } else { by_others };
    let until = seen.lease_given_until.map_or(by_others, |own| own.max(by_others));
    Some(until.since(now.at)).filter(|left| *left > 0)
}

/// Nodes that run a server that has not sealed yet and has not failed, or that a new leader has not heard yet.
pub(super) fn may_still_seal(
    state: &State,
    settings: &Settings,
    seen: &Observations,
    seals: &Seals,
    now: &Now,
) -> BTreeSet<NodeName> {
    let new_here = now.at.since(seen.leading_since) < settings.detect_ms;
    let still = |node: &NodeName| match seen.fresh(node, now.at, settings.detect_ms) {
        None => new_here && !seen.nodes.contains_key(node),
        Some(o) => match o.server {
            Server::Standby(_) | Server::Starting => matches!(o.data, DataDir::Present { .. }),
            Server::Unknown | Server::Stopped | Server::Unresponsive { .. } | Server::Primary { .. } => false,
        },
    };
    // The failed primary is not waited for: it would have to start and recover first, and `max_loss` bounds what it has
    // more than the others.
    let last = state.last_appointed.as_ref().map(|a| &a.node);
    let others = state.data_nodes().map(|(n, _)| n.clone()).filter(|n| Some(n) != last);
    others.filter(|n| !seals.contains_key(n) && still(n)).collect()
}

pub(super) fn appoint(
    state: &State,
    seen: &Observations,
    settings: &Settings,
    seals: &Seals,
    (node, seal): (NodeName, &Seal),
    safe: Safe,
    now: &Now,
) -> Draft {
    let sync = match settings.replication {
        Replication::Quorum { .. } => followers(state, seals, &node, seal),
        Replication::Async { .. } => BTreeSet::new(),
    };
    let mut others = candidate::why_not(state, seen, seals, (&node, seal));
    if let Safe::LastPrimary { .. } = safe {
        for why in others.values_mut() {
            if let NotChosen::Ahead { at } = *why {
                *why = NotChosen::LeftOut { at };
            }
        }
    }
    let reasons = vec![
        Reason::Sealed { seals: seals.iter().map(|(n, s)| (n.clone(), candidate::position(s))).collect() },
        Reason::Chosen { node: node.clone(), at: candidate::position(seal), safe, others },
        Reason::Appointed { node: node.clone(), sync: sync.clone() },
    ];
    let appointment = Appointment {
        node,
        promotion_id: now.nonce.clone(),
        sealed_timeline: seal.timeline,
        sealed_lsn: seal.lsn,
        parent: seal.line.clone(),
    };
    Draft { change: Change::Appoint { epoch: state.epoch, appointment, sync }, reasons }
}

/// Sealed nodes that can follow the chosen one as they are: they begin as its sync set.
fn followers(state: &State, seals: &Seals, chosen: &NodeName, of: &Seal) -> BTreeSet<NodeName> {
    seals
        .iter()
        .filter(|(node, _)| *node != chosen && super::sync_set::may_confirm(state, node))
        .filter(|(_, seal)| seal.line == of.line && seal.lsn <= of.lsn)
        .filter(|(_, seal)| lineage::eligible(state, seal.line.as_deref(), seal.lsn))
        .map(|(node, _)| node.clone())
        .collect()
}

/// Step 6: the appointed node takes writes.
pub(super) fn publish(
    state: &State,
    settings: &Settings,
    seen: &Observations,
    appointment: &Appointment,
    now: &Now,
) -> Outcome {
    let report = seen.fresh(&appointment.node, now.at, settings.detect_ms).and_then(|o| o.promoted.as_ref());
    match report {
        Some(promoted) if promoted.epoch == state.epoch => Outcome::Do(Draft {
            change: Change::Publish {
                epoch: state.epoch,
                promoted: promoted.clone(),
                promotion_id: appointment.promotion_id.clone(),
            },
            reasons: vec![Reason::Published { node: appointment.node.clone(), timeline: promoted.timeline }],
        }),
        _ => Outcome::Wait(Reason::WaitPromotion { node: appointment.node.clone() }),
    }
}
