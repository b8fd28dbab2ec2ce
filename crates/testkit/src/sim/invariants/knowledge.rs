//! What each leader was told of the primary's position: the measure of `max_loss`, kept apart from the rules' own.

use super::super::node::NodeId;
use cluster::Lsn;
use cluster::observe::{Observation, Server};
use std::collections::BTreeMap;

/// For each leader and term: the furthest position of a primary that any heartbeat spoke of, by epoch.
#[derive(Debug, Default)]
pub struct Knowledge {
    told: BTreeMap<(u64, NodeId), (u64, Lsn)>,
}

impl Knowledge {
    /// A leader hears a heartbeat.
    pub fn hear(&mut self, leader: NodeId, term: u64, observation: &Observation) {
        if let Server::Primary { lsn, .. } = observation.server {
            let told = self.told.entry((term, leader)).or_default();
            if observation.epoch > told.0 {
                *told = (observation.epoch, lsn);
            } else if observation.epoch == told.0 {
                told.1 = told.1.max(lsn);
            }
        }
    }

    /// The furthest position that the leader of the last term was told of, of a primary older than `epoch`.
    pub fn furthest_before(&self, epoch: u64) -> Option<Lsn> {
        let (_, (of, lsn)) = self.told.last_key_value()?;
        (*of < epoch).then_some(*lsn)
    }
}
