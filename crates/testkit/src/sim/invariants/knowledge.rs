//! What each leader was told of the primary's position: the measure of `max_loss`, kept apart from the rules' own.

use cluster::observe::{Observation, Server};
use cluster::{Epoch, Lsn};
use std::collections::BTreeMap;

/// The furthest position of the latest primary that any heartbeat spoke of, by the leader's term.
#[derive(Debug, Default)]
pub struct Knowledge {
    told: BTreeMap<u64, (Epoch, Lsn)>,
    at_appointment: Option<(Epoch, Lsn)>,
    accepted: Epoch,
}

impl Knowledge {
    /// A leader hears a heartbeat of a node that was last promoted for `promoted_for`.
    pub fn hear(&mut self, term: u64, promoted_for: Epoch, observation: &Observation) {
        if let Server::Primary { lsn, .. } = observation.server {
            let told = self.told.entry(term).or_default();
            *told = (*told).max((promoted_for, lsn));
        }
    }

    /// The leader of `term` appoints a primary.
    pub fn appoint(&mut self, term: u64) {
        self.at_appointment = self.told.get(&term).copied();
    }

    /// A person has accepted what the primary of `epoch` lacks of those before it.
    pub fn accept(&mut self, epoch: Epoch) {
        self.accepted = self.accepted.max(epoch);
    }

    /// Whether what the primary of `epoch` had still counts: no person has accepted a loss since.
    pub fn counts(&self, epoch: Epoch) -> bool {
        epoch >= self.accepted
    }

    /// The furthest position that the leader who appointed the last primary was told of, of one older than `epoch`.
    pub fn furthest_before(&self, epoch: Epoch) -> Option<Lsn> {
        self.at_appointment.filter(|(of, _)| *of < epoch && *of >= self.accepted).map(|(_, lsn)| lsn)
    }
}
