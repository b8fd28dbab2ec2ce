//! Answers to those who ask the loop.

use super::{Run, now};
use crate::messages::Pong;
use cluster::copy::CloneCause;
use cluster::observe::{Observations, Server};
use cluster::status::{self, Status};

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
