//! What all workers believe of the databases until somebody may have changed it: numbers of rounds.

use crate::logical::Changes;
use std::sync::atomic::{AtomicU64, Ordering};

/// See the module. Shared by the workers; it is read for each transaction, and written rarely.
#[derive(Debug, Default)]
pub struct Rounds {
    code: AtomicU64,
    relations: AtomicU64,
    databases: AtomicU64,
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

    /// Servers are open within one round: at its end, those that nobody has are closed.
    pub fn of_databases(&self) -> u64 {
        self.databases.load(Ordering::Relaxed)
    }

    /// Begins new rounds.
    pub fn note(&self, changes: Changes) {
        let rounds = [
            (changes.code, &self.code),
            (changes.relations, &self.relations),
            (changes.databases, &self.databases),
        ];
        for (changed, round) in rounds {
            if changed {
                round.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}
