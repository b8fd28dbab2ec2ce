//! Leases are withheld from before the record is to be sealed until it is known what came of that: see [`super::moving`].

use super::Store;
use super::error::StoreError;
use cluster::command::{Change, Command, Refusal};
use cluster::state::State;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How often it is asked what came of a proposal without an answer.
const TRIES: u32 = 20;
const AGAIN: Duration = Duration::from_millis(100);
/// In every term.
const ALWAYS: u64 = u64::MAX;
/// In none: no term has this number.
const NEVER: u64 = u64::MAX - 1;

/// Whether leases are given.
#[derive(Debug)]
pub(super) struct Grants {
    /// The term in which none is.
    withheld_in: AtomicU64,
}

impl Default for Grants {
    fn default() -> Grants {
        Grants { withheld_in: AtomicU64::new(NEVER) }
    }
}

impl Grants {
    pub(super) fn are_withheld(&self, term: u64) -> bool {
        let withheld_in = self.withheld_in.load(Ordering::SeqCst);
        withheld_in == ALWAYS || withheld_in == term
    }

    fn withhold_in(&self, term: u64) {
        self.withheld_in.store(term, Ordering::SeqCst);
    }
}

/// What came of the proposal of a seal.
enum Outcome {
    /// It is recorded, and nothing more ever will be.
    Sealed,
    /// It is not recorded, and never will be by this leader.
    Not,
    /// It may be recorded yet.
    Unknown,
}

impl Store {
    /// Proposes the last command of this store.
    pub(super) async fn seal(&self, command: Command) -> Result<Arc<State>, StoreError> {
        self.grants.withhold_in(ALWAYS);
        let by = command.by.clone();
        let proposed = self.propose_plain(command).await;
        let mut outcome = match &proposed {
            Ok(_) => Outcome::Sealed,
            // Who leads again has read all that was recorded before.
            Err(StoreError::NotLeader { .. } | StoreError::Refused(_) | StoreError::TooLarge { .. }) => {
                Outcome::Not
            }
            Err(_) => Outcome::Unknown,
        };
        for _ in 0..TRIES {
            if !matches!(outcome, Outcome::Unknown) {
                break;
            }
            tokio::time::sleep(AGAIN).await;
            let change = Change::Note { epoch: self.state().epoch };
            let note = Command { by: by.clone(), at: 0, change, reasons: Vec::new() };
            // What is recorded after it says what came of it: in etcd it was written on condition that nothing else was.
            outcome = match self.propose_plain(note).await {
                Err(StoreError::Refused(Refusal::Moved { .. })) => Outcome::Sealed,
                Ok(_) | Err(StoreError::NotLeader { .. }) => Outcome::Not,
                Err(_) => Outcome::Unknown,
            };
        }
        match outcome {
            Outcome::Sealed => Ok(self.state()),
            Outcome::Not => {
                self.grants.withhold_in(NEVER);
                proposed
            }
            Outcome::Unknown => {
                self.grants.withhold_in(self.standing().borrow().term);
                tracing::error!(
                    "it is not known whether the record was sealed: this agent gives no lease while it leads"
                );
                proposed
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_withheld_is_withheld_in_one_term_or_in_all() {
        let grants = Grants::default();
        assert!(!grants.are_withheld(0) && !grants.are_withheld(7));
        grants.withhold_in(ALWAYS);
        assert!(grants.are_withheld(0) && grants.are_withheld(7));
        grants.withhold_in(7);
        assert!(grants.are_withheld(7) && !grants.are_withheld(8));
        grants.withhold_in(NEVER);
        assert!(!grants.are_withheld(7));
    }
}
