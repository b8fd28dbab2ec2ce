//! What should happen next, decided on the leader.
//!
//! `decide` looks at the recorded state and at what the nodes reported, and returns at most one command (the next
//! decision sees its effect) and the reasons of what it did or waits for. It does nothing itself.

mod bootstrap;
mod configure;
mod failover;
mod force;
mod leadership;
mod maintenance;
mod membership;
mod moving;
mod order;
mod pause;
mod rejoin;
mod restart;
pub mod switchover;
mod sync_set;
mod users;

use crate::basics::{Moment, NodeName, WallMs};
use crate::command::{Change, Command};
use crate::configuration::Content;
use crate::observe::Observations;
use crate::reason::Reason;
use crate::state::{Phase, Settings, State};
use std::collections::BTreeSet;

/// What the pure code cannot know by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Now {
    /// The leader's clock.
    pub at: Moment,
    /// The leader's wall clock, for the history.
    pub wall: WallMs,
    /// A text that never repeats (a random UUID), for identities and passwords.
    pub nonce: String,
}

/// What the leader's configuration file says of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// Name of the cluster.
    pub cluster: String,
    /// Settings, recorded by the first leader.
    pub settings: Settings,
    /// Names of all nodes.
    pub names: BTreeSet<NodeName>,
    /// Who keeps the cluster's record.
    pub record: Record,
    /// The cluster is formed around the database that this node has: with this configuration for all nodes.
    pub adopt: Option<Content>,
}

/// Who keeps the cluster's record, and so how many nodes must be left for one of them to lead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Record {
    /// The nodes themselves: a majority of them.
    #[default]
    Nodes,
    /// A store beside them, which has a majority of its own: any node that reaches it may lead.
    Elsewhere,
}

/// The outcome of one look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// The command to record, if any.
    pub command: Option<Command>,
    /// Why it is waited, or what is refused; empty when all is well.
    pub waits: Vec<Reason>,
    /// The node that should lead instead.
    pub transfer: Option<NodeName>,
}

/// A change and the reasons that go with it into the history.
struct Draft {
    change: Change,
    reasons: Vec<Reason>,
}

/// What a part of the decision came to.
enum Outcome {
    /// Record this.
    Do(Draft),
    /// Nothing can be done until something else happens.
    Wait(Reason),
    /// Nothing to do here.
    Nothing,
}

/// Decides what happens next.
#[must_use]
pub fn decide(state: &State, seen: &Observations, proposed: &Proposed, now: &Now) -> Decision {
    let mut decision = Decision::default();
    if let Some(reason) = moving::is_over(state) {
        decision.waits.push(reason);
        return decision;
    }
    for part in [bootstrap::record_settings, bootstrap::register_members] {
        if let Outcome::Do(draft) = part(state, seen, proposed) {
            return sign(draft, seen, now);
        }
    }
    let Some(settings) = &state.settings else { return decision };
    if let Some(paused) = &state.paused {
        decision.waits.push(Reason::Paused { by: paused.by.clone(), fencing: paused.fencing });
        return decision;
    }
    if let Outcome::Do(draft) = pause::end(state, settings, seen, now) {
        return sign(draft, seen, now);
    }
    if let Some(reason) = switchover::awaits_next(state, settings, seen, now) {
        decision.waits.push(reason);
        return decision;
    }
    let outcomes = match &state.phase {
        Phase::Empty => vec![bootstrap::initialise(state, seen, proposed, now)],
        Phase::Initialising { node } => vec![bootstrap::publish_first(state, seen, settings, node, now)],
        Phase::Sealing { lease } => vec![failover::choose(state, settings, seen, *lease, now)],
        Phase::Promoting { appointment } => vec![
            failover::open_epoch(state, settings, seen, now),
            failover::publish(state, settings, seen, appointment, now),
        ],
        Phase::Serving { .. } => vec![
            switchover::conduct(state, settings, seen, now),
            failover::open_epoch(state, settings, seen, now),
            sync_set::change(state, settings, seen, now),
            restart::conduct(state, settings, seen, now),
            membership::conduct(state, settings, seen, proposed, now),
            rejoin::note(state, seen),
        ],
    };
    for outcome in outcomes {
        match outcome {
            Outcome::Do(draft) => return sign(draft, seen, now),
            Outcome::Wait(reason) => {
                if let Reason::NotConfirmed { leader_ms, .. } = &reason {
                    decision.transfer =
                        leadership::to_one_that_hears(state, settings, seen, *leader_ms, now.at);
                }
                decision.waits.push(reason);
            }
            Outcome::Nothing => {}
        }
    }
    // A reduced set may last, and hinders nothing; so may a node that leaves.
    let lasts = |reason: &Reason| matches!(reason, Reason::SyncReduced { .. } | Reason::Membership { .. });
    if decision.waits.iter().all(lasts) {
        decision.transfer = leadership::transfer(state, settings, seen, now.at);
    }
    decision.transfer = decision.transfer.or_else(|| membership::takes_over(state, settings, seen, now));
    if decision.waits.is_empty() {
        decision.waits.push(Reason::Steady);
    }
    decision
}

fn sign(draft: Draft, seen: &Observations, now: &Now) -> Decision {
    let Draft { change, reasons } = draft;
    let waits = reasons.clone();
    let command = Command { by: seen.leader.clone(), at: now.wall, change, reasons };
    Decision { command: Some(command), waits, transfer: None }
}
