//! What each leader was told, kept apart from what the rules remember of it: of the primary's position, the measure of
//! `max_loss`, and each node's latest word.

use cluster::observe::{Heard, Observation, Server};
use cluster::{Epoch, Lsn, Moment, NodeName};
use std::collections::BTreeMap;
use std::ops::Range;

/// The furthest position of the latest primary that any heartbeat spoke of, by the leader's term.
#[derive(Debug, Default)]
pub struct Knowledge {
    told: BTreeMap<u64, (Epoch, Lsn)>,
    /// By the identity of a promotion: what its leader had been told when it decided. A slow store agrees later.
    decided: BTreeMap<String, Option<(Epoch, Lsn)>>,
    at_appointment: Option<(Epoch, Lsn)>,
    accepted: Epoch,
    /// The latest leader's term, and what each node said last to it, whatever came in which order.
    latest: (u64, BTreeMap<NodeName, Heard>),
}

impl Knowledge {
    /// A leader hears a heartbeat of a node that was last promoted for `promoted_for`.
    pub fn hear(&mut self, term: u64, promoted_for: Epoch, observation: &Observation, now: Moment) {
        self.hear_latest(term, observation, now);
        if let Server::Primary { lsn, .. } = observation.server {
            let told = self.told.entry(term).or_default();
            *told = (*told).max((promoted_for, lsn));
        }
    }

    fn hear_latest(&mut self, term: u64, observation: &Observation, now: Moment) {
        if term > self.latest.0 {
            self.latest = (term, BTreeMap::new());
        }
        // Numbers are given out in the order of sending, whichever run of the agent it is.
        let number = |o: &Observation| o.serial.1;
        let later = |heard: &Heard| number(&heard.observation) < number(observation);
        if term == self.latest.0 && self.latest.1.get(&observation.node).is_none_or(later) {
            let heard = Heard { at: now, observation: observation.clone() };
            self.latest.1.insert(observation.node.clone(), heard);
        }
    }

    /// What each node said last to the leader of `term`.
    pub fn latest(&self, term: u64) -> Option<&BTreeMap<NodeName, Heard>> {
        Some(&self.latest.1).filter(|_| term == self.latest.0)
    }

    /// The leader of `term` decides to appoint a primary by this promotion.
    pub fn decide(&mut self, term: u64, promotion_id: &str) {
        self.decided.insert(promotion_id.to_owned(), self.told.get(&term).copied());
    }

    /// It was agreed.
    pub fn appoint(&mut self, promotion_id: &str) {
        self.at_appointment = self.decided.get(promotion_id).copied().flatten();
    }

    /// A person has accepted what the primary of `epoch` lacks of those before it.
    pub fn accept(&mut self, epoch: Epoch) {
        self.accepted = self.accepted.max(epoch);
    }

    /// Whether what the primary of `epoch` had still counts: no person has accepted a loss since.
    pub fn counts(&self, epoch: Epoch) -> bool {
        epoch >= self.accepted
    }

    /// The furthest position that the leader who appointed the last primary was told of, of a primary of these epochs.
    pub fn furthest_of(&self, epochs: Range<Epoch>) -> Option<Lsn> {
        self.at_appointment.filter(|(of, _)| epochs.contains(of) && *of >= self.accepted).map(|(_, lsn)| lsn)
    }
}
