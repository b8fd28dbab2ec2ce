//! A person makes a node primary where nothing automatic may: more than `max_loss` would be lost, or too few have sealed.
//!
//! What a person can give up is data, told beforehand and accepted by name (invariants 3 and 5). Everything that keeps
//! two nodes from acknowledging at the same time holds as ever: the node must be sealed in the present epoch, its data
//! must be of the cluster's line, and the old primary's lease must surely be over. In quorum mode the seals do not cover
//! what is lost, so they do not stop the old primary either: there, too, only the end of its lease does.

use super::switchover::{Recorded, known};
use super::{Draft, Now, Outcome, failover};
use crate::basics::NodeName;
use crate::candidate;
use crate::command::Change;
use crate::detect::{self, Verdict};
use crate::handover::Obstacle;
use crate::leash;
use crate::lineage;
use crate::mutant::{self, Mutant};
use crate::observe::{Observation, Observations, Seal, Seen, Server};
use crate::quorum;
use crate::reason::{Reason, Safe};
use crate::state::{OldLease, Phase, Replication, Settings, State, SyncSet};
use crate::word::{Loss, LossRule, Objection, Word};
use std::collections::BTreeMap;

type Seals = BTreeMap<NodeName, Seal>;

/// What a person asks for.
pub(super) struct Asked<'a> {
    /// The next primary.
    pub to: &'a NodeName,
    /// The loss that is accepted.
    pub accept: Option<&'a str>,
    /// A node whose server does not run, the person says.
    pub stopped: Option<&'a NodeName>,
    /// Who asks.
    pub by: String,
}

fn objected(objection: Objection) -> Vec<Obstacle> {
    vec![Obstacle::Objected { objection }]
}

/// Checks the order and returns what carries it out: the next epoch, or the appointment in an open one.
pub(super) fn order(
    state: &State,
    seen: &Observations,
    asked: &Asked,
    now: &Now,
) -> Result<Recorded, Vec<Obstacle>> {
    fit(state, asked)?;
    if state.paused.is_some() {
        return Err(vec![Obstacle::Paused]);
    }
    let Some(settings) = &state.settings else { return Err(objected(Objection::NoDatabase)) };
    if let Some(node) = asked.stopped {
        believe(state, settings, seen, node, now)?;
    }
    match &state.phase {
        Phase::Empty | Phase::Initialising { .. } => Err(objected(Objection::NoDatabase)),
        Phase::Promoting { appointment } | Phase::Serving { appointment } => {
            give_up(state, settings, seen, asked, &appointment.node, now)
        }
        Phase::Sealing { lease } => appoint(state, settings, seen, asked, *lease, now),
    }
}

/// Whether the node may ever be chosen.
fn fit(state: &State, asked: &Asked) -> Result<(), Vec<Obstacle>> {
    known(state, asked.to)?;
    let node = asked.to.clone();
    if state.members.get(asked.to).is_some_and(|m| m.postgres.is_none()) {
        return Err(vec![Obstacle::Witness { node }]);
    }
    if candidate::tags(state, asked.to).never_primary {
        return Err(vec![Obstacle::NeverPrimary { node }]);
    }
    if state.maintenance.contains_key(asked.to) {
        return Err(objected(Objection::Maintained { node }));
    }
    Ok(())
}

/// A person's word that a server does not run is taken only of the one of which nothing else can tell, and not against
/// what the nodes say.
fn believe(
    state: &State,
    settings: &Settings,
    seen: &Observations,
    node: &NodeName,
    now: &Now,
) -> Result<(), Vec<Obstacle>> {
    known(state, node)?;
    let refuse = |seen: String| Err(objected(Objection::Vouched { node: node.clone(), seen }));
    if state.unleased.as_ref().is_none_or(|u| u.node != *node) {
        return refuse("it was not left without a lease, so the end of that is waited for".to_owned());
    }
    if let Some(o) = seen.fresh(node, now.at, settings.detect_ms)
        && !matches!(o.server, Server::Stopped | Server::Standby(_))
    {
        return refuse("its agent is heard and has not said that its server is stopped".to_owned());
    }
    let streams = |ms: Option<u64>| ms.is_some_and(|ms| ms < settings.detect_ms);
    let receives = seen.nodes.iter().find(|(_, h)| {
        now.at.since(h.at) < settings.detect_ms
            && h.observation.epoch == state.epoch
            && (streams(h.observation.wal_silent_ms) || streams(h.observation.primary_agent_silent_ms))
            && state.primary() == Some(node)
    });
    match receives {
        Some((by, _)) => refuse(format!("{by} hears it at this moment")),
        None => Ok(()),
    }
}

/// The primary does not serve, and nothing automatic may say so.
fn give_up(
    state: &State,
    settings: &Settings,
    seen: &Observations,
    asked: &Asked,
    primary: &NodeName,
    now: &Now,
) -> Result<Recorded, Vec<Obstacle>> {
    let vouched = asked.stopped == Some(primary);
    let serves = Objection::Serves { primary: primary.clone(), to: asked.to.clone() };
    let within_ms = settings.lease_surely_over_ms() + settings.detect_ms;
    let may_serve =
        |known: String| objected(Objection::MayServe { primary: primary.clone(), known, within_ms });
    let promoting = matches!(state.phase, Phase::Promoting { .. });
    let since = seen.serving_since.map_or(seen.leading_since, |(_, at)| at);
    // Its word may be from before it was primary, and come late; for longer than this none does.
    let overtaken = |o: &Observation| {
        let before = o.epoch != state.epoch || o.seen < Seen::of(state);
        before && now.at.since(since) < within_ms
    };
    match seen.fresh(primary, now.at, settings.detect_ms) {
        Some(o) if matches!(o.server, Server::Primary { .. }) => return Err(objected(serves)),
        Some(o) if o.server == Server::Unknown => {
            return Err(may_serve("its agent does not know yet what its server is".to_owned()));
        }
        Some(o) if overtaken(o) => {
            return Err(may_serve("what its agent said last is older than its appointment".to_owned()));
        }
        Some(o) if promoting && o.problem.is_none() && !matches!(o.server, Server::Unresponsive { .. }) => {
            return Err(may_serve("it is being promoted".to_owned()));
        }
        Some(_) => {}
        None if vouched => {}
        None if state.unleased.is_some() && matches!(settings.replication, Replication::Async { .. }) => {
            let objection = Objection::Unleased { node: primary.clone(), to: asked.to.clone() };
            return Err(objected(objection));
        }
        None => {
            return Err(match detect::judge(state, settings, seen, now.at) {
                Verdict::Suspect(..) => objected(Objection::NotNeeded { to: asked.to.clone() }),
                Verdict::Doubt(reason) => may_serve(reason.to_string()),
                Verdict::Fine => may_serve(match leash::silence(seen, primary, now.at) {
                    Some(ms) => format!("last heard {ms} ms ago"),
                    None => "this leader is new".to_owned(),
                }),
            });
        }
    }
    let (epoch, lease) = (state.epoch + 1, if vouched { OldLease::Returned } else { OldLease::MayRun });
    let word = Word::GivenUp { node: primary.clone(), by: asked.by.clone(), stopped: vouched };
    let opened = Reason::EpochOpened { epoch, old_primary: Some(primary.clone()), lease };
    Ok((Change::OpenEpoch { epoch, lease }, vec![Reason::Word { word }, opened]))
}

/// The epoch is open and nothing automatic may choose.
fn appoint(
    state: &State,
    settings: &Settings,
    seen: &Observations,
    asked: &Asked,
    lease: OldLease,
    now: &Now,
) -> Result<Recorded, Vec<Obstacle>> {
    let to = asked.to;
    let seals = candidate::seals(state, seen, now.at, settings.detect_ms);
    let Some(seal) = seals.get(to) else {
        let known = candidate::instead_of_seal(state, seen, to);
        return Err(objected(Objection::NotSealed { node: to.clone(), seen: known }));
    };
    if !lineage::eligible(state, seal.line.as_deref(), seal.lsn) {
        return Err(objected(Objection::OtherLine { node: to.clone(), at: candidate::position(seal) }));
    }
    old_primary_is_gone(state, settings, seen, asked, lease, now)?;
    if matches!(failover::choose(state, settings, seen, lease, now), Outcome::Do(_)) {
        return Err(objected(Objection::NotNeeded { to: to.clone() }));
    }
    let missing = failover::may_still_seal(state, settings, seen, &seals, now);
    let waited_ms = seen.open_since.map_or(0, |(_, since)| now.at.since(since));
    if waited_ms < settings.detect_ms && !missing.is_empty() {
        let left_ms = settings.detect_ms - waited_ms;
        return Err(objected(Objection::SealsCome { missing, left_ms }));
    }
    let loss = loss(state, settings, seen, &seals, (to, seal));
    let token = loss.token();
    if asked.accept != Some(token.as_str()) && !mutant::is(Mutant::StaleWordTaken) {
        let stale = asked.accept.map(|given| Objection::Stale { given: given.to_owned() });
        let would = Objection::WouldLose { loss: Box::new(loss), token };
        let all = stale.into_iter().chain([would]);
        return Err(all.map(|objection| Obstacle::Objected { objection }).collect());
    }
    let safe = Safe::Accepted { by: asked.by.clone() };
    let chosen = (to.clone(), seal);
    let Draft { change, mut reasons } = failover::appoint(state, seen, settings, &seals, chosen, safe, now);
    let word = Word::Forced { by: asked.by.clone(), token, loss: Box::new(loss) };
    reasons.insert(0, Reason::Word { word });
    Ok((change, reasons))
}

/// The old primary can acknowledge nothing any more: its lease is over, or whoever took it off vouches for it.
fn old_primary_is_gone(
    state: &State,
    settings: &Settings,
    seen: &Observations,
    asked: &Asked,
    lease: OldLease,
    now: &Now,
) -> Result<(), Vec<Obstacle>> {
    if let Some(unleased) = &state.unleased {
        if asked.stopped == Some(&unleased.node) {
            return Ok(());
        }
        let objection = Objection::Unleased { node: unleased.node.clone(), to: asked.to.clone() };
        return Err(objected(objection));
    }
    match failover::old_lease_left(settings, seen, lease, now) {
        Some(left_ms) if !mutant::is(Mutant::ForcedLeaseNotWaited) => {
            let node = state.last_appointed.as_ref().map_or(asked.to, |a| &a.node).clone();
            Err(objected(Objection::LeaseRuns { node, left_ms }))
        }
        _ => Ok(()),
    }
}

/// What would be lost, as far as it is known.
fn loss(
    state: &State,
    settings: &Settings,
    seen: &Observations,
    seals: &Seals,
    (to, seal): (&NodeName, &Seal),
) -> Loss {
    let fits = failover::fitting(state, seals);
    let further = |other: &Seal| candidate::is_ahead(state, other, seal);
    let rule = match settings.replication {
        Replication::Async { max_loss_bytes, .. } => LossRule::Async { max_loss_bytes },
        Replication::Quorum { .. } => {
            let counting = failover::counting(state, seals);
            let open = |set: &&SyncSet| !quorum::covers(&counting, set);
            LossRule::Quorum { uncovered: state.sync.in_force.iter().filter(open).cloned().collect() }
        }
    };
    Loss {
        epoch: state.epoch,
        to: to.clone(),
        at: candidate::position(seal),
        last: state.last_appointed.as_ref().map(|a| a.node.clone()),
        known: failover::known_of_last(state, seen),
        ahead: seals
            .iter()
            .filter(|(n, s)| fits.contains(*n) && further(s))
            .map(|(n, s)| (n.clone(), candidate::position(s)))
            .collect(),
        unsealed: state.data_nodes().map(|(n, _)| n.clone()).filter(|n| !seals.contains_key(n)).collect(),
        rule,
    }
}
