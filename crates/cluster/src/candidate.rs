//! Who should be the next primary, and why not the others?
//!
//! The most advanced of the sealed nodes: the line that was appointed last, then the position. This module decides only
//! who is best; whether the best is good enough is decided in `decide::failover`.

use crate::basics::{Lsn, Millis, Moment, NodeName};
use crate::lineage;
use crate::mutant::{self, Mutant};
use crate::observe::{DataDir, Observation, Observations, Seal, Server};
use crate::reason::{NotChosen, Position};
use crate::state::{State, Tags};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// The seals that nodes have given for the present epoch, of nodes heard within `age_max`; each with the line that its
/// data really has (see [`lineage::written_by`]), or none where that cannot be told.
#[must_use]
pub fn seals(state: &State, seen: &Observations, now: Moment, age_max: Millis) -> BTreeMap<NodeName, Seal> {
    seen.nodes
        .iter()
        .filter(|(node, heard)| counts(state, node) && now.since(heard.at) < age_max)
        .filter_map(|(node, heard)| given(state, &heard.observation).map(|seal| (node.clone(), seal)))
        .filter(|(_, seal)| seal.epoch == state.epoch || mutant::is(Mutant::OldSealCounts))
        .map(|(node, seal)| (node, settle(state, &seal)))
        .collect()
}

/// Whether the seal of a node counts: it is recorded.
fn counts(state: &State, node: &NodeName) -> bool {
    let removed = mutant::is(Mutant::RemovedSeals) && state.removed.contains(node);
    state.members.contains_key(node) || removed
}

/// The seal that a node reported.
fn given(state: &State, observation: &Observation) -> Option<Seal> {
    if let (true, Server::Standby(standby)) = (mutant::is(Mutant::UnsealedCounts), &observation.server) {
        let line = state.last_published().map(|(p, _)| p.promotion_id.clone());
        let (timeline, lsn) = (standby.timeline, standby.lsn);
        return Some(Seal { epoch: state.epoch, timeline, lsn, line, copied: false });
    }
    observation.seal.clone()
}

fn settle(state: &State, seal: &Seal) -> Seal {
    let line = seal.line.as_deref().and_then(|l| lineage::written_by(state, l, seal.timeline, seal.lsn));
    let line = line.filter(|line| !lineage::may_be_of_later(state, line, seal.timeline));
    Seal { line: line.map(str::to_owned), ..seal.clone() }
}

/// Where a seal stands.
#[must_use]
pub fn position(seal: &Seal) -> Position {
    Position { timeline: seal.timeline, lsn: seal.lsn }
}

/// Order by advance: the line appointed last first, then the position.
fn advance(state: &State, seal: &Seal) -> (Option<usize>, Lsn) {
    let line = seal.line.as_deref().filter(|_| !mutant::is(Mutant::CandidateIgnoresLine));
    let lsn = if mutant::is(Mutant::CandidateByName) { Lsn(0) } else { seal.lsn };
    (line.and_then(|line| lineage::rank(state, line)), lsn)
}

/// What a node may become.
#[must_use]
pub fn tags(state: &State, node: &NodeName) -> Tags {
    state.members.get(node).map(|m| m.tags).unwrap_or_default()
}

/// Whether a node is never chosen: by its configuration, or because it is under maintenance or leaving.
#[must_use]
pub fn barred(state: &State, node: &NodeName) -> bool {
    tags(state, node).never_primary || state.maintenance.contains_key(node) || leaves(state, node)
}

/// Whether a node is on its way out.
pub(crate) fn leaves(state: &State, node: &NodeName) -> bool {
    state.leaving.contains_key(node) && !mutant::is(Mutant::LeavingChosen)
}

/// Whether `a` is further than `b`.
#[must_use]
pub fn is_ahead(state: &State, a: &Seal, b: &Seal) -> bool {
    advance(state, a) > advance(state, b)
}

/// The most advanced eligible node; of equals the one with the greatest priority, then the last primary, then the first by name.
#[must_use]
pub fn best<'a>(state: &State, seals: &'a BTreeMap<NodeName, Seal>) -> Option<(NodeName, &'a Seal)> {
    let last = state.last_appointed.as_ref().map(|a| &a.node);
    seals
        .iter()
        .filter(|(node, _)| !barred(state, node))
        .filter(|(_, seal)| lineage::eligible(state, seal.line.as_deref(), seal.lsn))
        .max_by_key(|(node, seal)| {
            let preferred = (tags(state, node).priority, Some(*node) == last, Reverse((*node).clone()));
            (advance(state, seal), preferred)
        })
        .map(|(node, seal)| (node.clone(), seal))
}

/// Why each other node was not chosen.
#[must_use]
pub fn why_not(
    state: &State,
    seen: &Observations,
    seals: &BTreeMap<NodeName, Seal>,
    chosen: (&NodeName, &Seal),
) -> BTreeMap<NodeName, NotChosen> {
    let explain = |node: &NodeName| -> NotChosen {
        let Some(seal) = seals.get(node) else { return not_sealed(state, seen, node) };
        if tags(state, node).never_primary {
            return NotChosen::NeverPrimary;
        }
        if state.maintenance.contains_key(node) {
            return NotChosen::Maintained;
        }
        if leaves(state, node) {
            return NotChosen::Leaves;
        }
        let at = position(seal);
        if !lineage::eligible(state, seal.line.as_deref(), seal.lsn) {
            NotChosen::OtherLine { at }
        } else if advance(state, seal) < advance(state, chosen.1) {
            NotChosen::Behind { at, bytes: chosen.1.lsn.bytes_after(seal.lsn) }
        } else if is_ahead(state, seal, chosen.1) {
            NotChosen::Ahead { at }
        } else {
            NotChosen::Equal { at }
        }
    };
    state.members.keys().filter(|n| *n != chosen.0).map(|n| (n.clone(), explain(n))).collect()
}

fn not_sealed(state: &State, seen: &Observations, node: &NodeName) -> NotChosen {
    if state.members.get(node).is_some_and(|m| m.postgres.is_none()) {
        return NotChosen::Witness;
    }
    let seen = match seen.nodes.get(node).map(|h| &h.observation) {
        None => "not heard by this leader".to_owned(),
        Some(o) if o.data == DataDir::Absent => "no data".to_owned(),
        Some(o) => match &o.server {
            Server::Unknown => "not looked at yet".to_owned(),
            Server::Stopped => "its server is stopped".to_owned(),
            Server::Starting => "its server is starting".to_owned(),
            Server::Unresponsive { .. } => "its server hangs".to_owned(),
            Server::Standby(_) => "still sealing".to_owned(),
            Server::Primary { .. } => "last heard as primary".to_owned(),
        },
    };
    NotChosen::NotSealed { seen }
}

/// What is known of a node that has not sealed.
#[must_use]
pub fn instead_of_seal(state: &State, seen: &Observations, node: &NodeName) -> String {
    match not_sealed(state, seen, node) {
        NotChosen::NotSealed { seen } => seen,
        other => other.to_string(),
    }
}
