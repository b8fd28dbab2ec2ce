//! What sessions count: one tally for all clients of a pool, on one thread, so that counting is an addition.

use pgwire::TransactionStatus;
use std::cell::Cell;
use std::time::Duration;

/// See the module.
#[derive(Debug, Default)]
pub struct Tally {
    queries: Cell<u64>,
    transactions: Cell<u64>,
    received: Cell<u64>,
    sent: Cell<u64>,
    kept: Cell<Duration>,
}

/// A tally at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Simple queries, and pipelines of the extended protocol, that were answered to their end.
    pub queries: u64,
    /// Of these, those after which no transaction was open.
    pub transactions: u64,
    /// Bytes taken from clients that had a server.
    pub received: u64,
    /// Bytes that servers had for them.
    pub sent: u64,
    /// For how long servers were kept outside a transaction, because of what clients had left on them.
    pub kept: Duration,
}

impl Tally {
    /// A client's request was answered to its end.
    pub(super) fn answered(&self, status: TransactionStatus) {
        self.queries.set(self.queries.get() + 1);
        if status == TransactionStatus::Idle {
            self.transactions.set(self.transactions.get() + 1);
        }
    }

    /// Bytes of a client were taken.
    pub fn received(&self, bytes: usize) {
        self.received.set(self.received.get() + bytes as u64);
    }

    /// Bytes of a server came.
    pub fn sent(&self, bytes: usize) {
        self.sent.set(self.sent.get() + bytes as u64);
    }

    /// A server was kept without a transaction.
    pub fn kept(&self, time: Duration) {
        self.kept.set(self.kept.get() + time);
    }

    /// What was counted so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            queries: self.queries.get(),
            transactions: self.transactions.get(),
            received: self.received.get(),
            sent: self.sent.get(),
            kept: self.kept.get(),
        }
    }
}
