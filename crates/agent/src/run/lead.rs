//! The leader's part of the loop: hear the nodes, give the lease, decide, propose.

use super::{Event, Run, now};
use crate::clock::wall_ms;
use crate::heartbeat::Leader;
use crate::messages::{HeartbeatAnswer, OrderAsked};
use crate::store::{Standing, StoreError};
use cluster::decide::switchover::{self, Ordered};
use cluster::decide::{self, Now};
use cluster::lease;
use cluster::observe::{Observation, Observations};
use cluster::reason::Reason;
use cluster::state::State;
use cluster::{Millis, Moment};
use tokio::sync::oneshot;

/// Pause after a failed proposal, so that a store without a majority is not asked in a hurry.
const RETRY_MS: Millis = 100;
/// Pause between two tries to hand the leadership on.
const TRANSFER_MS: Millis = 2000;

/// What an agent knows while it leads.
#[derive(Default)]
pub(super) struct Lead {
    seen: Option<Observations>,
    term: u64,
    proposing: bool,
    again_at: Moment,
    /// Why nothing is decided, or that all is well.
    pub(super) waits: Vec<Reason>,
    pub(super) transferring: bool,
    transferred_at: Option<Moment>,
}

impl Lead {
    pub(super) fn see_state(&mut self, state: &State, now: Moment) {
        if let Some(seen) = &mut self.seen {
            seen.see_state(state, now);
        }
    }

    /// What this leader knows of the nodes; `None`: it does not lead.
    pub(super) fn seen(&self) -> Option<&Observations> {
        self.seen.as_ref()
    }
}

/// Whether a leader has heard of every node that can be heard.
fn informed(state: &State, seen: &Observations, now: Moment) -> bool {
    let detect_ms = state.settings.as_ref().map_or(0, |s| s.detect_ms);
    now.since(seen.leading_since) >= detect_ms || state.members.keys().all(|n| seen.nodes.contains_key(n))
}

impl Run {
    pub(super) fn on_standing(&mut self, standing: Standing) {
        let leads = standing.leading;
        // A leader that was replaced and elected again knows nothing of what happened between.
        if !leads || standing.term != self.lead.term {
            self.lead.seen = None;
            self.lead.waits.clear();
        }
        self.lead.term = standing.term;
        if leads && self.lead.seen.is_none() {
            tracing::info!("leads the cluster (term {})", standing.term);
            let mut seen = Observations::new(self.me().clone(), now());
            seen.see_state(&self.parts.store.state(), now());
            self.lead.seen = Some(seen);
        }
        let leader = match &standing.leader {
            None => Leader::None,
            Some(node) if node == self.me() => Leader::Me,
            Some(node) => match &standing.leader_at {
                Some(agent) => Leader::Other { node: node.clone(), agent: agent.clone() },
                None => Leader::None,
            },
        };
        self.standing = standing;
        self.tasks.leader.send_if_modified(|l| std::mem::replace(l, leader.clone()) != leader);
    }

    pub(super) fn on_heartbeat(&mut self, observation: Observation, reply: oneshot::Sender<HeartbeatAnswer>) {
        let state = self.parts.store.state();
        let Some(seen) = &mut self.lead.seen else { return };
        let quorum_age = self.parts.store.quorum_age().map(|age| age.as_millis() as Millis + 1);
        let lease_ms = lease::grant(&state, &observation, quorum_age);
        if let Some(left) = lease_ms {
            lease::remember(seen, &state, left, now());
        }
        seen.hear(&state, observation, now());
        let _ = reply.send(HeartbeatAnswer { epoch: state.epoch, lease_ms });
    }

    /// It may have been deposed and elected again since it heard what it knows. It hears of that before it decides.
    fn leads_as_known(&self) -> bool {
        let present = self.parts.store.standing();
        let present = present.borrow();
        present.leading && present.term == self.lead.term
    }

    pub(super) fn decide(&mut self) {
        let at = now();
        if self.lead.proposing || at < self.lead.again_at {
            return;
        }
        if !self.leads_as_known() {
            return;
        }
        let Some(seen) = &mut self.lead.seen else { return };
        seen.voters = Some(self.standing.voters.clone());
        let nonce = uuid::Uuid::new_v4().to_string();
        let decision =
            decide::decide(&self.state, seen, &self.parts.proposed, &Now { at, wall: wall_ms(), nonce });
        self.lead.waits = decision.waits;
        if let Some(command) = decision.command {
            self.lead.proposing = true;
            let (store, events) = (self.parts.store.clone(), self.events.clone());
            tokio::spawn(async move {
                let outcome = store.propose(command).await.map(|_| ()).map_err(|e| e.to_string());
                let _ = events.send(Event::Proposed(outcome)).await;
            });
        } else if let Some(to) = decision.transfer {
            let due = self.lead.transferred_at.is_none_or(|t| at.since(t) >= TRANSFER_MS);
            if due && !self.lead.transferring {
                tracing::info!("hands the leadership to {to}: the leader should not live with the primary");
                self.lead.transferring = true;
                self.lead.transferred_at = Some(at);
                let (store, events) = (self.parts.store.clone(), self.events.clone());
                tokio::spawn(async move {
                    if let Err(e) = store.transfer(&to).await {
                        tracing::warn!("the leadership was not handed to {to}: {e}");
                    }
                    let _ = events.send(Event::Transferred).await;
                });
            }
        }
    }

    /// Checks a person's order against all that is known at this moment, and records it.
    pub(super) fn on_order(&mut self, asked: &OrderAsked, reply: oneshot::Sender<Option<Ordered>>) {
        let Some(seen) = self.lead.seen.as_ref().filter(|_| self.leads_as_known()) else {
            return drop(reply.send(None));
        };
        let now = Now { at: now(), wall: wall_ms(), nonce: uuid::Uuid::new_v4().to_string() };
        let checked =
            switchover::order(&self.state, seen, &self.parts.proposed, &asked.order, &asked.by, &now);
        let (command, ordered) = match checked {
            Ok(checked) => checked,
            // A new leader may refuse only because it has not heard of somebody yet.
            Err(_) if !informed(&self.state, seen, now.at) => return drop(reply.send(None)),
            Err(because) => return drop(reply.send(Some(Ordered::Refused { because }))),
        };
        if asked.only_try {
            let possible = match ordered {
                Ordered::Recorded { to, .. } => Ordered::Possible { to },
                told => told,
            };
            return drop(reply.send(Some(possible)));
        }
        let (store, events) = (self.parts.store.clone(), self.events.clone());
        self.lead.proposing = true;
        tokio::spawn(async move {
            let outcome = store.propose(command).await.map(|_| ());
            match &outcome {
                Ok(()) => drop(reply.send(Some(ordered))),
                // It was overtaken: what is right now is for the next try to see.
                Err(StoreError::NotLeader { .. } | StoreError::Refused(_)) => drop(reply.send(None)),
                Err(_) => {}
            }
            let _ = events.send(Event::Proposed(outcome.map_err(|e| e.to_string()))).await;
        });
    }

    pub(super) fn on_proposed(&mut self, outcome: Result<(), String>) {
        self.lead.proposing = false;
        // The state that decides next must have this proposal in it.
        let state = self.parts.store.state();
        if state.revision != self.state.revision {
            self.on_state(state);
        }
        if let Err(said) = outcome {
            tracing::warn!("a decision was not recorded: {said}");
            self.lead.again_at = now().plus(RETRY_MS);
        }
    }
}
