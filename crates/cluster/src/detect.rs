//! The failure detector: is the primary gone, and who says so?
//!
//! Two kinds of evidence count. The primary's own agent may say that the server is gone: it is its parent, so that is
//! certain and at once. Or its agent is silent for `detect` to the leader AND to a majority of the other nodes, and no
//! standby still receives its WAL. Should the others hear it and only the leader not, the leadership moves to one of them
//! (`decide::leadership`); if that fails, the lease runs out, and that too is a reason. This module does not know what follows from a suspicion.

use crate::basics::{Millis, Moment, NodeName};
use crate::lineage;
use crate::mutant::{self, Mutant};
use crate::observe::{Observation, Observations, Seen, Server};
use crate::reason::Reason;
use crate::state::{OldLease, Replication, Settings, State};
use crate::word::Word;
use std::collections::BTreeMap;

/// What the detector says of the primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing speaks against it.
    Fine,
    /// It must be replaced.
    Suspect(Reason, OldLease),
    /// Something speaks against it, not enough to act on.
    Doubt(Reason),
}

/// Judges the node that is, or is about to be, primary.
#[must_use]
pub fn judge(state: &State, settings: &Settings, seen: &Observations, now: Moment) -> Verdict {
    let Some(primary) = state.primary() else { return Verdict::Fine };
    if let Some(o) = seen.fresh(primary, now, settings.detect_ms) {
        // It has not heard of its appointment yet; what it says is from before, however late it was heard.
        if o.epoch != state.epoch || o.seen == Seen::Open && !mutant::is(Mutant::OldWordBelieved) {
            return Verdict::Fine;
        }
        return judge_server(state, settings, primary, o);
    }
    judge_silence(state, settings, seen, primary, now)
}

fn judge_server(state: &State, settings: &Settings, primary: &NodeName, said: &Observation) -> Verdict {
    let serving = said.seen == Seen::Published || mutant::is(Mutant::OldWordBelieved);
    // It is no word of its agent that it ended the server: the lease is not returned by it.
    let gone = |seen: &str| {
        let reason = Reason::NotPrimaryAnyMore { node: primary.clone(), seen: seen.to_owned() };
        Verdict::Suspect(reason, OldLease::MayRun)
    };
    let unfit = state.appointment().is_some_and(|appointment| {
        let seal = said.seal.as_ref().filter(|seal| seal.epoch == state.epoch);
        seal.is_some_and(|seal| !lineage::as_appointed(state, seal, appointment))
    });
    match &said.server {
        Server::Stopped => Verdict::Suspect(Reason::ServerGone { node: primary.clone() }, OldLease::Returned),
        Server::Unresponsive { silent_ms } if *silent_ms >= 2 * settings.lease_ms() => {
            let reason = Reason::ServerHung { node: primary.clone(), silent_ms: *silent_ms };
            let returned = mutant::is(Mutant::HungReturnsLease);
            Verdict::Suspect(reason, if returned { OldLease::Returned } else { OldLease::MayRun })
        }
        // It was seen as primary before, so somebody started it again as a standby.
        Server::Standby(_) if serving => gone("a standby"),
        Server::Standby(_) if unfit => gone("a standby that has gone on since it was appointed"),
        Server::Standby(_)
        | Server::Starting
        | Server::Unknown
        | Server::Unresponsive { .. }
        | Server::Primary { .. } => Verdict::Fine,
    }
}

fn judge_silence(
    state: &State,
    settings: &Settings,
    seen: &Observations,
    primary: &NodeName,
    now: Moment,
) -> Verdict {
    let detect = settings.detect_ms;
    let silences = silences(state, seen, primary, now);
    let heard = seen.nodes.get(primary).map(|h| now.since(h.at));
    let own = silences.get(&seen.leader).copied();
    let unleased_ms = heard.unwrap_or_else(|| now.since(seen.leading_since));
    let leader_ms = [heard, own].into_iter().flatten().min().unwrap_or(unleased_ms);
    // One that a pause left without a lease was ended by nobody.
    let lease_over = unleased_ms >= settings.lease_surely_over_ms() + detect && state.unleased.is_none();
    if leader_ms < detect && !lease_over {
        return Verdict::Fine;
    }
    if let Some((on, silent_ms)) = advancing_stream(seen, primary, detect, now) {
        return Verdict::Doubt(Reason::StreamAdvances { node: primary.clone(), on, silent_ms });
    }
    let others = state.members.len().saturating_sub(1);
    let needed = if mutant::is(Mutant::OneConfirms) { 1 } else { others / 2 + 1 };
    let confirmed: BTreeMap<NodeName, Millis> =
        silences.iter().filter(|(_, ms)| **ms >= detect).map(|(n, ms)| (n.clone(), *ms)).collect();
    if let (true, Some(unleased), Replication::Async { .. }) =
        (confirmed.len() >= needed, &state.unleased, settings.replication)
    {
        return Verdict::Doubt(Reason::Word { word: Word::WaitLeased { node: unleased.node.clone() } });
    }
    if confirmed.len() >= needed {
        let reason = Reason::Silent { node: primary.clone(), leader_ms, confirmed, needed };
        let returned = mutant::is(Mutant::SilenceReturnsLease);
        return Verdict::Suspect(reason, if returned { OldLease::Returned } else { OldLease::MayRun });
    }
    // Without heartbeats this leader gave it no lease: its guard has ended it, whoever still hears its agent.
    if lease_over {
        let reason = Reason::LeaseOver { node: primary.clone(), unleased_ms };
        return Verdict::Suspect(reason, OldLease::MayRun);
    }
    let heard_by = state
        .members
        .keys()
        .filter(|n| *n != primary)
        .map(|n| {
            let text = match silences.get(n) {
                Some(ms) if *ms >= detect => format!("confirms ({ms} ms)"),
                Some(ms) => format!("heard it {ms} ms ago"),
                None => "has not reported".to_owned(),
            };
            (n.clone(), text)
        })
        .collect();
    Verdict::Doubt(Reason::NotConfirmed { node: primary.clone(), leader_ms, heard_by, needed })
}

/// For each node that reported lately: how long it has not heard the primary's agent.
fn silences(
    state: &State,
    seen: &Observations,
    primary: &NodeName,
    now: Moment,
) -> BTreeMap<NodeName, Millis> {
    let detect = state.settings.as_ref().map_or(0, |s| s.detect_ms);
    seen.nodes
        .iter()
        .filter(|(node, heard)| *node != primary && now.since(heard.at) < detect)
        .filter(|(node, heard)| heard.observation.epoch == state.epoch && state.members.contains_key(*node))
        .filter_map(|(node, heard)| {
            let then = heard.observation.primary_agent_silent_ms?;
            // What happened since the node reported is not known: only its own word counts.
            Some((node.clone(), then))
        })
        .collect()
}

/// A standby that still receives WAL from the primary: it vetoes.
fn advancing_stream(
    seen: &Observations,
    primary: &NodeName,
    detect: Millis,
    now: Moment,
) -> Option<(NodeName, Millis)> {
    seen.nodes
        .iter()
        .filter(|(node, heard)| *node != primary && now.since(heard.at) < detect)
        .filter_map(|(node, heard)| {
            heard.observation.wal_silent_ms.map(|ms| (node.clone(), ms + now.since(heard.at)))
        })
        .filter(|(_, silent)| *silent < detect && !mutant::is(Mutant::StreamVetoDropped))
        .min_by_key(|(_, silent)| *silent)
}
