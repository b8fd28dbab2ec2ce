//! What all workers believe of the databases until somebody may have changed it: numbers of rounds.

use crate::logical::Changes;
use std::sync::atomic::{AtomicU64, Ordering};

/// See the module. Shared by the workers; it is read for each transaction, and written rarely.
#[derive(Debug, Default)]
pub struct Rounds {
    code: AtomicU64,
    relations: AtomicU64,
}

impl Rounds {
    /// What servers said of their databases' code holds within one round.
    pub fn of_code(&self) -> u64 {
        self.code.load(Ordering::Relaxed)
    }

    /// What clients prepare is shared within one round.
    pub fn of_relations(&self) -> u64 {
        self.relations.load(Ordering::Relaxed)
    }

    /// Begins new rounds.
    pub fn note(&self, changes: Changes) {
        for (changed, round) in [(changes.code, &self.code), (changes.relations, &self.relations)] {
            if changed {
                round.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}
