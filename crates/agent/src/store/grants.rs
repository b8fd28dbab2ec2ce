//! Leases are withheld from before the record is to be sealed until it is known what came of that: see [`super::moving`]. While it does
//! not become known, this agent does not go on leading without giving any: another one follows it, who knows.

use super::error::StoreError;
use super::{Inner, Store};
use cluster::NodeName;
use cluster::command::{Change, Command, Refusal};
use cluster::state::State;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// How long it is asked what came of a proposal without an answer, before this agent has another one lead.
const ASK_LIMIT: Duration = Duration::from_millis(500);
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
    /// Whether this agent is in order.
    may_lead: AtomicBool,
    /// Whether it has another one lead, as it does not know whether the record is sealed.
    has_given_up: AtomicBool,
}

impl Default for Grants {
    fn default() -> Grants {
        Grants {
            withheld_in: AtomicU64::new(NEVER),
            may_lead: AtomicBool::new(true),
            has_given_up: AtomicBool::new(false),
        }
    }
}

impl Grants {
    pub(super) fn are_withheld(&self, term: u64) -> bool {
        let withheld_in = self.withheld_in.load(Ordering::SeqCst);
        withheld_in == ALWAYS || withheld_in == term
    }

    pub(super) fn withhold_in(&self, term: u64) {
        self.withheld_in.store(term, Ordering::SeqCst);
    }
}

/// What came of the proposal of a seal.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// It is recorded, and nothing more ever will be.
    Sealed,
    /// It is not recorded, and never will be by this leader.
    Not,
    /// It may be recorded yet.
    Unknown,
}

/// What the answer to the proposal itself says.
fn of_seal(proposed: &Result<Arc<State>, StoreError>) -> Outcome {
    match proposed {
        Ok(_) | Err(StoreError::Refused(Refusal::Moved { .. })) => Outcome::Sealed,
        // Who leads again has read all that was recorded before. And etcd has said no, to the only try there was.
        Err(
            StoreError::NotLeader { .. }
            | StoreError::Refused(_)
            | StoreError::TooLarge { .. }
            | StoreError::Etcd(_),
        ) => Outcome::Not,
        Err(_) => Outcome::Unknown,
    }
}

/// What the answer to a command that was proposed after it says: in etcd that was written on condition that nothing else was.
fn of_note(noted: &Result<Arc<State>, StoreError>) -> Outcome {
    match noted {
        Err(StoreError::Refused(Refusal::Moved { .. })) => Outcome::Sealed,
        Ok(_) => Outcome::Not,
        Err(_) => Outcome::Unknown,
    }
}

impl Store {
    /// Proposes the last command of this store.
    pub(super) async fn seal(&self, command: Command) -> Result<Arc<State>, StoreError> {
        let by = command.by.clone();
        // What records nothing now (it is full, or this agent may not write) would not record the seal, or not tell.
        self.propose_plain(self.note(&by)).await?;
        self.grants.withhold_in(ALWAYS);
        let proposed = self.propose_plain(command).await;
        let mut outcome = of_seal(&proposed);
        if outcome == Outcome::Unknown {
            let asked = tokio::time::timeout(ASK_LIMIT, self.what_came_of_it(&by)).await;
            outcome = asked.unwrap_or(Outcome::Unknown);
        }
        match outcome {
            Outcome::Sealed => Ok(self.state()),
            Outcome::Not => {
                self.grants.withhold_in(NEVER);
                proposed
            }
            Outcome::Unknown => {
                let term = self.standing().borrow().term;
                self.grants.withhold_in(term);
                tracing::error!(
                    "it is not known whether the record was sealed: this agent gives no lease any more, and has another one lead"
                );
                tokio::spawn(self.clone().gives_up(term, by));
                proposed
            }
        }
    }

    fn note(&self, by: &NodeName) -> Command {
        let change = Change::Note { epoch: self.state().epoch };
        Command { by: by.clone(), at: 0, change, reasons: Vec::new() }
    }

    /// Asks until it is known. That this agent does not lead says nothing: it may lead on in the same term.
    async fn what_came_of_it(&self, by: &NodeName) -> Outcome {
        loop {
            tokio::time::sleep(AGAIN).await;
            match of_note(&self.propose_plain(self.note(by)).await) {
                Outcome::Unknown => {}
                known => return known,
            }
        }
    }

    /// Leads no more until it is known, or this term is over: in another one, whoever leads has read what was recorded.
    pub(super) async fn gives_up(self, term: u64, by: NodeName) {
        self.grants.has_given_up.store(true, Ordering::SeqCst);
        self.tell_may_lead();
        let mut standing = self.standing();
        let is_over = standing.wait_for(|now| {
            let led = now.leader.as_ref().is_some_and(|leader| *leader != self.me);
            now.term != term || led
        });
        tokio::select! {
            _ = is_over => {}
            outcome = self.what_came_of_it(&by) => {
                if outcome == Outcome::Not {
                    self.grants.withhold_in(NEVER);
                }
            }
        }
        self.grants.has_given_up.store(false, Ordering::SeqCst);
        self.tell_may_lead();
    }

    /// Whether this node goes on as the leader, if it is one: otherwise another one follows it.
    pub fn may_lead(&self, may: bool) {
        self.grants.may_lead.store(may, Ordering::SeqCst);
        self.tell_may_lead();
    }

    fn tell_may_lead(&self) {
        let may = self.grants.may_lead.load(Ordering::SeqCst);
        let may = may && !self.grants.has_given_up.load(Ordering::SeqCst);
        match &self.inner {
            Inner::Embedded(store) => store.may_lead(may),
            Inner::Etcd(store) => store.may_lead(may),
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

    #[test]
    fn only_an_answer_tells_what_came_of_it() {
        let moved = || Err(StoreError::Refused(Refusal::Moved { number: 1 }));
        let refused = || Err(StoreError::Refused(Refusal::OutOfPlace(String::new())));
        let said_no = || Err(StoreError::Etcd("no space".to_owned()));
        let unknown = [StoreError::Unsure, StoreError::Timeout { after: AGAIN }];
        assert_eq!((of_seal(&Ok(Arc::default())), of_seal(&moved())), (Outcome::Sealed, Outcome::Sealed));
        assert_eq!((of_seal(&refused()), of_seal(&said_no())), (Outcome::Not, Outcome::Not));
        assert_eq!((of_note(&Ok(Arc::default())), of_note(&moved())), (Outcome::Not, Outcome::Sealed));
        assert_eq!(of_note(&said_no()), Outcome::Unknown, "that was said of the note");
        for error in unknown {
            let error = Err(error);
            assert_eq!((of_seal(&error), of_note(&error)), (Outcome::Unknown, Outcome::Unknown));
        }
    }
}
