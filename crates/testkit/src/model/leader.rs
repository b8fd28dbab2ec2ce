//! The leader: hears heartbeats, gives leases, decides; and the store.

use super::picture::{Hashed, NODES, NodeId, Picture, Process, Used, name};
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
    state.sync_since = 0;
    state
}

impl Picture {
    /// A heartbeat of the primary arrives at the leader, which keeps it; the answer may carry a lease.
    pub fn report(&mut self, node: NodeId, model: &Cluster) -> bool {
        let leased = self.give_lease(node, model);
        let agreed = self.agreed();
        let mut observation = self.observe(node, model.planted);
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

    fn give_lease(&mut self, node: NodeId, model: &Cluster) -> bool {
        let agreed = self.agreed();
        if agreed.lease_holder() != Some(&name(node)) || self.nodes[node].agent.lease == Some(agreed.epoch) {
            return false;
        }
        let observation = self.observe(node, model.planted);
        let waits = self.nodes[node].process == Process::Standby;
        let granted = waits && lease::grant(&agreed, &observation, Some(0)).is_some();
        if granted {
            self.nodes[node].agent.lease = Some(agreed.epoch);
        }
        granted
    }

    /// The leader decides, having heard nothing for very long from the nodes whose bit is set in `silent`, and the store
    /// agrees.
    ///
    /// A seal and a promotion are heard when they are there: that they are heard late, or not, is the same as that the
    /// node is silent now, and a decision from an old one is the same as that decision made earlier, because both hold
    /// for one epoch and are not taken back in it. What the primary says of its sync set changes: the leader has the
    /// last that it heard, however old.
    pub fn decide(&mut self, silent: u8, model: &Cluster) -> bool {
        let agreed = self.agreed();
        let Some(settings) = agreed.settings.clone() else { return false };
        let serves = matches!(agreed.phase, Phase::Serving { .. });
        if serves && agreed.epoch == model.bounds.epochs {
            return false; // nothing that follows is in the model
        }
        let mut seen = Observations::new(name(NODES - 1), Moment(0));
        for node in (0..NODES).filter(|node| silent >> node & 1 == 0) {
            let observation = match &self.heard[node] {
                Some(heard) => (*heard.value).clone(),
                None if serves => continue,
                None => self.observe(node, model.planted),
            };
            seen.hear(&agreed, observation, LATE);
        }
        seen.see_state(&agreed, LATE);
        let names = (0..NODES).map(name).collect();
        let proposed = cluster::decide::Proposed {
            cluster: agreed.cluster.clone(),
            settings,
            names,
            record: Default::default(),
            adopt: None,
        };
        // One appointment for each epoch: its number is identity enough.
        let now = Now { at: LATE, wall: 0, nonce: format!("e{}", agreed.epoch) };
        match decide(&agreed, &seen, &proposed, &now).command {
            Some(command) => self.append(&command, &model.bounds),
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

    /// A node learns what was agreed next, `by` entries at once, and does what follows. That it first learns and acts
    /// later is the same as that it learns later: nobody sees the difference. So it learns nothing in the middle of a step.
    pub fn learn(&mut self, node: NodeId, by: usize, model: &Cluster) -> bool {
        let host = &mut self.nodes[node];
        let busy = host.agent.busy.is_some() || host.process == Process::Promoting;
        if busy || host.knows + by >= self.log.len() {
            return false;
        }
        host.knows += by;
        // With a lease it may promote, at once or much later.
        if !self.give_lease(node, model) {
            self.act_and_go_on(node, model);
        }
        true
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

/// Whether the leader keeps this observation: the primary's own word on its sync set, while that may change. (Its word
/// that its server is gone leads to the same as its silence, but for what is known of its lease, which quorum mode does
/// not ask for.)
pub fn matters(agreed: &State, node: NodeId, observation: &Observation, used: Used, bounds: &Bounds) -> bool {
    agreed.primary() == Some(&name(node))
        && matches!(agreed.phase, Phase::Serving { .. })
        && observation.epoch == agreed.epoch
        && observation.sync_applied.is_some()
        && sets_may_change(agreed, used, bounds)
}

/// Whether the leader may still change the sync sets of this epoch to any effect.
pub fn sets_may_change(agreed: &State, used: Used, bounds: &Bounds) -> bool {
    let more = agreed.sync.in_force.len() > 1 || used.sync_changes < bounds.sync_changes;
    more && agreed.epoch < bounds.epochs
}
