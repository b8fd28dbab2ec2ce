//! Answers to those who ask the loop.

use super::{Run, now};
use crate::clock::wall_ms;
use crate::messages::Pong;
use crate::successor::Process;
use cluster::copy::CloneCause;
use cluster::decide::{Now, Proposed};
use cluster::observe::{Observations, Server};
use cluster::reason::Reason;
use cluster::state::State;
use cluster::status::{self, Status};
use std::sync::Arc;

/// All that a leader knows at a moment: for questions that take longer than the loop should stand still.
#[derive(Clone, Debug)]
pub struct Known {
    /// The recorded state.
    pub state: Arc<State>,
    /// What it heard of the nodes.
    pub seen: Observations,
    /// What its configuration file says of the cluster.
    pub proposed: Proposed,
    /// What its last decision waits for.
    pub waits: Vec<Reason>,
    /// When.
    pub now: Now,
}

impl Run {
    pub(super) fn pong(&self) -> Pong {
        let lsn = match &self.local.server {
            Server::Primary { lsn, .. } if self.state.primary() == Some(self.me()) => Some(*lsn),
            _ => None,
        };
        let replicas = self.server.replicas.iter().filter(|_| lsn.is_some());
        Pong {
            node: self.me().clone(),
            lsn,
            flushed: replicas.map(|(n, r)| (n.clone(), r.flush_lsn)).collect(),
        }
    }

    pub(super) fn process(&self) -> Process {
        let guard = self.parts.hands.as_ref().and_then(|hands| hands.guard());
        Process {
            node: self.me().clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            run: self.parts.run.clone(),
            postmaster: guard.map(|guard| guard.pid()),
            stayed: self.leave.stayed(),
        }
    }

    pub(super) fn known(&self) -> Option<Known> {
        let seen = self.lead.seen()?.clone();
        Some(Known {
            state: self.state.clone(),
            seen,
            proposed: self.parts.proposed.clone(),
            waits: self.lead.waits.clone(),
            now: Now { at: now(), wall: wall_ms(), nonce: uuid::Uuid::new_v4().to_string() },
        })
    }

    /// The order is on disk before it is answered.
    pub(super) fn on_clone_ordered(&mut self, cause: CloneCause) -> Result<(), String> {
        let Some(hands) = &self.parts.hands else { return Err("a witness has no data".to_owned()) };
        tracing::warn!("is to be copied anew, {cause}");
        hands.remember(|f| f.clone_ordered = Some(cause)).map_err(|e| e.to_string())?;
        self.recall_facts();
        Ok(())
    }

    /// On the leader all that it knows; elsewhere what this node knows of itself, and what hinders the store.
    pub(super) fn status(&mut self) -> Status {
        let at = now();
        let own = self.observation();
        let leader = self.standing.leader.clone();
        let mut seen = match self.lead.seen() {
            Some(seen) => seen.clone(),
            None => Observations::new(self.me().clone(), at),
        };
        seen.hear(&self.state, own, at);
        let mut answer = status::status(&self.state, &seen, self.me(), leader.as_ref(), &self.lead.waits, at);
        if answer.cluster.is_empty() {
            answer.cluster.clone_from(&self.parts.proposed.cluster);
        }
        if let Some(problem) = &self.standing.problem {
            answer.why.insert(0, problem.clone());
        } else if leader.is_none() {
            answer.why.insert(0, "the store has no leader at this moment".to_owned());
        }
        answer
    }
}
