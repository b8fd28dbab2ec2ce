//! Clients whose BEGIN was answered and not sent yet ([`crate::logical`], `begin`): after a while it is sent in any case.
//!
//! No timer for each: all that came since the last round wait for the end of the next one.

use crate::roster::Seat;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;

/// A BEGIN is kept for one to two of these.
const ROUND: Duration = Duration::from_millis(5);

/// Those of one worker.
#[derive(Debug, Default)]
pub struct Begins {
    kept: RefCell<Vec<Rc<Seat>>>,
    round: Cell<u64>,
    has_some: Notify,
}

impl Begins {
    /// This client's BEGIN is kept.
    pub fn keep(&self, seat: &Rc<Seat>) {
        if seat.keeps_begin(self.round.get()) {
            self.kept.borrow_mut().push(Rc::clone(seat));
            self.has_some.notify_one();
        }
    }

    /// Whether this client's BEGIN is to be sent now.
    pub fn is_due(&self, seat: &Seat) -> bool {
        seat.begin_kept().is_some_and(|round| round + 1 < self.round.get())
    }

    /// Wakes them when it is time.
    pub async fn mind(&self) {
        loop {
            self.has_some.notified().await;
            while !self.kept.borrow().is_empty() {
                tokio::time::sleep(ROUND).await;
                self.end_round();
            }
        }
    }

    fn end_round(&self) {
        self.round.set(self.round.get() + 1);
        self.kept.borrow_mut().retain(|seat| {
            let is_due = self.is_due(seat);
            if is_due {
                seat.wake();
            }
            !is_due && seat.begin_kept().is_some()
        });
    }
}
