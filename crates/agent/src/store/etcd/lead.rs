//! What only the leader does: it records commands, and hands the leadership on.

use super::super::COMMAND_MAX;
use super::super::error::StoreError;
use super::super::written;
use super::Etcd;
use super::client::EtcdError;
use super::wire::{Claim, Write};
use cluster::NodeName;
use cluster::command::{Command, apply};
use cluster::state::State;
use std::sync::Arc;
use std::time::Duration;

/// Largest state, in bytes of JSON: etcd takes requests of 1.5 MiB unless told otherwise.
const STATE_MAX: usize = 1024 * 1024;
/// Pause before a proposal without an answer is tried again.
const AGAIN: Duration = Duration::from_millis(50);
/// Between two looks whether a transfer has come to its end.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

impl Etcd {
    fn not_leader(&self) -> StoreError {
        let leader = self.standing.borrow().leader.clone();
        StoreError::NotLeader { leader: leader.filter(|node| *node != self.me.node) }
    }

    pub(in super::super) async fn propose(&self, command: Command) -> Result<Arc<State>, StoreError> {
        let bytes = serde_json::to_vec(&command).map_or(usize::MAX, |json| json.len());
        if bytes > COMMAND_MAX {
            return Err(StoreError::TooLarge { bytes, bytes_max: COMMAND_MAX });
        }
        let recorded = tokio::time::timeout(self.detect, self.record(&command)).await;
        recorded.unwrap_or(Err(StoreError::Timeout { after: self.detect }))
    }

    async fn record(&self, command: &Command) -> Result<Arc<State>, StoreError> {
        let mut caller = self.proposing.lock().await;
        // What an earlier try may have recorded without an answer. Nobody else writes while this agent leads.
        let mut tried: Option<State> = None;
        let mut unanswered = false;
        loop {
            let (leads, at, known) = {
                let sight = self.sight();
                (sight.leads().filter(|_| self.able(&sight)), sight.state_at(), self.state.borrow().clone())
            };
            if tried.as_ref() == Some(&*known) {
                return Ok(known);
            }
            let Some(term) = leads else {
                return Err(if tried.is_some() { StoreError::Unsure } else { self.not_leader() });
            };
            let mut next = State::clone(&known);
            apply(&mut next, command)?;
            let value = written::encode(&next).map_err(|e| StoreError::Etcd(e.to_string()))?;
            if value.len() > STATE_MAX {
                return Err(StoreError::TooLarge { bytes: value.len(), bytes_max: STATE_MAX });
            }
            tried = Some(next);
            let when = [(self.keys.leader.as_str(), term), (self.keys.state.as_str(), at)];
            let write = [Write::Put(&self.keys.state, &value, None)];
            match self.exchange(&mut caller, &when, &write).await {
                Ok(true) => return Ok(self.state.borrow().clone()),
                // Something else was found: what to do about it is said above.
                Ok(false) => {}
                Err(EtcdError::Unanswered(_)) => {
                    unanswered = true;
                    tokio::time::sleep(AGAIN).await;
                }
                // That says nothing of the tries before.
                Err(EtcdError::Refused(_)) if unanswered => return Err(StoreError::Unsure),
                Err(EtcdError::Refused(said)) => return Err(StoreError::Etcd(said)),
            }
        }
    }

    pub(in super::super) async fn transfer(&self, to: &NodeName) -> Result<(), StoreError> {
        let leads = self.sight().leads();
        let Some(term) = leads else { return Err(self.not_leader()) };
        if *to == self.me.node {
            return Ok(());
        }
        if !self.members().contains_key(to) {
            return Err(StoreError::NoSuchMember(to.clone()));
        }
        let failed = |why: String| StoreError::NotTransferred { to: to.clone(), why };
        let silence = self.peers.silence(to);
        if silence > self.detect / 2 {
            return Err(failed(format!("it has not answered for {} ms", silence.as_millis())));
        }
        let heir = tokio::time::timeout(self.patience(), self.heir(to)).await;
        let (run, lease) = heir.map_err(|_| failed("it has not told of a lease in etcd".to_owned()))?;
        let claim = Claim { node: to.clone(), run };
        let value = serde_json::to_vec(&claim).map_err(|e| failed(e.to_string()))?;
        let mut caller = self.proposing.lock().await;
        let when = [(self.keys.leader.as_str(), term)];
        let write = [Write::Put(&self.keys.leader, &value, Some(lease))];
        let given = self.exchange(&mut caller, &when, &write).await.map_err(|e| failed(e.to_string()))?;
        drop(caller);
        if !given {
            return Err(self.not_leader());
        }
        // What this agent sees now is only what it wrote: the heir's own word is waited for.
        let heard = async {
            loop {
                let term = self.sight().term();
                let leads = self.standing.borrow().leader.as_ref() == Some(to);
                if leads && term.is_some_and(|t| self.peers.leader_heard_at(t).is_some()) {
                    return;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        tokio::time::timeout(self.detect, heard)
            .await
            .map_err(|_| failed(format!("nothing was seen of it within {} ms", self.detect.as_millis())))
    }

    /// What the leader's key of another one must say: its run, and its lease. It tells both when it asks for a sign.
    async fn heir(&self, to: &NodeName) -> (String, i64) {
        loop {
            if let Some((run, lease)) = self.peers.peer(to).and_then(|peer| Some((peer.run, peer.lease?))) {
                return (run, lease);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}
