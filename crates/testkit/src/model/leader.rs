//! The leader: hears heartbeats, gives leases, decides; and the store.

use super::picture::{Hashed, NODES, NodeId, Picture, Used, name};
use super::{Bounds, Cluster};
use cluster::command::{Command, apply};
use cluster::decide::{Now, decide};
use cluster::lease;
use cluster::observe::{Observation, Observations, Server};
use cluster::state::{Phase, State};
use cluster::{Lsn, Moment};

/// When the leader looks: whatever it has not heard of at this moment has been silent for very long.
pub const LATE: Moment = Moment(1_000_000_000);

/// A state without what only people read.
pub fn essence(mut state: State) -> State {
    state.history.clear();
    state.revision = 0;
    state
}

impl Picture {
    /// A heartbeat arrives at the leader; the answer may carry a lease.
    pub fn report(&mut self, node: NodeId, model: &Cluster) -> bool {
        let agreed = self.agreed();
        let mut observation = self.observe(node, model.planted);
        let granted = lease::grant(&agreed, &observation, Some(0)).is_some();
        let leased = granted && self.nodes[node].agent.lease != Some(agreed.epoch);
        if leased {
            self.nodes[node].agent.lease = Some(agreed.epoch);
        }
        if !matters(&agreed, node, &observation, self.used, &model.bounds) {
            return leased;
        }
        if let Server::Primary { lsn, .. } = &mut observation.server {
            *lsn = Lsn(0); // looked at in asynchronous mode only
        }
        let heard = Some(Hashed::new(observation));
        let news = self.heard[node] != heard;
        self.heard[node] = heard;
        news || leased
    }

    /// The leader decides, having heard nothing from `silent` for very long, and the store agrees.
    pub fn decide(&mut self, silent: Option<NodeId>, bounds: &Bounds) -> bool {
        let agreed = self.agreed();
        let Some(settings) = agreed.settings.clone() else { return false };
        let mut seen = Observations::new(name(NODES - 1), Moment(0));
        for (_, heard) in self.heard.iter().enumerate().filter(|(node, _)| Some(*node) != silent) {
            if let Some(heard) = heard {
                seen.hear(&agreed, (*heard.value).clone(), LATE);
            }
        }
        seen.see_state(&agreed, LATE);
        let names = (0..NODES).map(name).collect();
        let proposed = cluster::decide::Proposed { cluster: agreed.cluster.clone(), settings, names };
        // One appointment for each epoch: its number is identity enough.
        let now = Now { at: LATE, wall: 0, nonce: format!("e{}", agreed.epoch) };
        match decide(&agreed, &seen, &proposed, &now).command {
            Some(command) => self.append(&command, bounds),
            None => false,
        }
    }

    fn append(&mut self, command: &Command, bounds: &Bounds) -> bool {
        let before = self.agreed();
        let mut after = (*before).clone();
        if apply(&mut after, command).is_err() {
            return false;
        }
        let after = essence(after);
        if after == *before || after.epoch > bounds.epochs {
            return false;
        }
        if after.phase == before.phase && after.sync.in_force.last() != before.sync.in_force.last() {
            if self.used.sync_changes == bounds.sync_changes {
                return false;
            }
            self.used.sync_changes += 1;
        }
        self.log.push(Hashed::new(after));
        true
    }

    /// A node learns the next thing that was agreed.
    pub fn learn(&mut self, node: NodeId) -> bool {
        let behind = self.nodes[node].knows + 1 < self.log.len();
        if behind {
            self.nodes[node].knows += 1;
        }
        behind
    }

    /// Another node leads: it has heard nothing.
    pub fn change_leader(&mut self, bounds: &Bounds) -> bool {
        if self.used.leaders == bounds.leaders || self.heard.iter().all(Option::is_none) {
            return false;
        }
        self.used.leaders += 1;
        self.heard.fill(None);
        true
    }
}

/// Whether a rule of the leader looks at this observation: a seal for the open epoch; the promotion of the appointed node;
/// the primary's own word on its sync set, while that may change. (Its word that its server is gone leads to the same as
/// its silence, but for what is known of its lease, which quorum mode does not ask for.)
pub fn matters(agreed: &State, node: NodeId, observation: &Observation, used: Used, bounds: &Bounds) -> bool {
    let primary = agreed.primary() == Some(&name(node)) && observation.epoch == agreed.epoch;
    let sealed = observation.seal.as_ref().is_some_and(|s| s.epoch == agreed.epoch);
    let changing = agreed.sync.in_force.len() > 1 || used.sync_changes < bounds.sync_changes;
    match &agreed.phase {
        Phase::Sealing { .. } => sealed,
        Phase::Promoting { .. } => primary && observation.promoted.is_some(),
        Phase::Serving { .. } => primary && changing && observation.sync_applied.is_some(),
        Phase::Empty | Phase::Initialising { .. } => true,
    }
}
