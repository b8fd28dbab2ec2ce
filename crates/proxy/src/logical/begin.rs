//! BEGIN is answered before it is sent, and goes to the server along with what the client says next: one round trip less.
//!
//! A transaction takes its snapshot, and its locks, with its first statement; of BEGIN it has only the time (`now()`). So
//! that this is not far off, [`Logical::send_begin_alone`] is called soon if the client says nothing.
//!
//! It is sent by the extended protocol, without a Sync: should it fail, which only a cancellation or a time limit can bring
//! about, the server ignores what was sent behind it (src/backend/tcop/postgres.c, `ignore_till_sync`). As a query, what
//! the client believes to be in its transaction would run outside of any. So nothing is sent behind a Sync before it is known
//! that the transaction has begun.

use super::Logical;
use super::drain::Rehearsed;
use super::expected::{By, Expected};
use super::from_client::Desk;
use super::holding::{Holding, Unnamed};
use super::outcome::Outcome;
use crate::sql::{Pins, Reading};
use pgwire::TransactionStatus;
use pgwire::message::put;

/// Longest text that is kept, comments included. Bytes.
const TEXT_LEN_MAX: usize = 256;

impl Logical {
    /// Whether a query with this body is a BEGIN that cannot fail now. A client that keeps its server anyway is not worth
    /// the trouble: if that has to be given up after all, its session ends.
    pub(super) fn can_keep_begin(&self, body: &[u8], reading: &Reading, holding: &Holding) -> bool {
        let is_one_string = || body.iter().position(|&byte| byte == 0) == Some(body.len() - 1);
        reading.begins_as.is_some()
            && self.is_quiet()
            && holding.is_at_boundary()
            && self.pins.is_empty()
            && reading.pins.is_empty()
            && self.untold.is_none()
            && !self.telling
            && body.len() <= TEXT_LEN_MAX
            // In any encoding.
            && body.is_ascii()
            && is_one_string()
    }

    /// Answers it.
    pub(super) fn keep_begin(&mut self, body: &[u8], reading: &Reading, desk: &mut Desk<'_>) {
        put(b'C', &[reading.begins_as.unwrap_or_default().as_bytes(), b"\0"], desk.to_client);
        put(b'Z', &[b"T"], desk.to_client);
        self.begin = Some(body.into());
        self.rehearsed = Rehearsed::Nothing;
        // It has dropped the unnamed statement, and what the server has may be of another client.
        desk.holding.unnamed = Unnamed::Unknown;
        self.answers += 1;
        self.tally.answered(TransactionStatus::InTransaction);
        self.has_begun();
    }

    /// The client is in a transaction.
    pub(super) fn has_begun(&mut self) {
        self.begin_ahead = false;
        self.outcome.begin();
        self.transaction = TransactionStatus::InTransaction;
    }

    /// Whether a BEGIN was answered that no server was sent.
    #[must_use]
    pub fn keeps_begin(&self) -> bool {
        self.begin.is_some()
    }

    /// Sends it, if there is one, before something else.
    pub(super) fn send_begin(&mut self, holding: &mut Holding, to_server: &mut Vec<u8>) {
        let Some(text) = self.begin.take() else { return };
        put(b'P', &[b"\0", &text, b"\0\0"], to_server);
        put(b'B', &[b"\0\0\0\0\0\0\0\0"], to_server);
        put(b'E', &[b"\0\0\0\0\0"], to_server);
        holding.unnamed = Unnamed::Unknown;
        self.expected.push_back(Expected::Begun);
        self.begin_ahead = true;
    }

    /// Sends it, if there is one: the client takes its time.
    pub fn send_begin_alone(&mut self, holding: &mut Holding, to_server: &mut Vec<u8>) {
        if self.keeps_begin() && self.passing + self.throwing_away == 0 {
            self.send_begin(holding, to_server);
            self.sync_begin(to_server);
        }
    }

    /// A Sync behind the BEGIN that was just sent. The client's next message waits until that is answered.
    pub(super) fn sync_begin(&mut self, to_server: &mut Vec<u8>) {
        put(b'S', &[], to_server);
        self.expected.push_back(Expected::Sync { by: By::Proxy });
        self.drains = true;
    }

    /// The client has gone. Of a BEGIN that was not sent the server need not know.
    pub fn forget_begin(&mut self) {
        if self.begin.take().is_some() {
            (self.transaction, self.outcome) = (TransactionStatus::Idle, Outcome::default());
        }
    }

    /// It has failed. What it was to keep the server for was not run either.
    pub(super) fn refused_to_begin(&mut self) {
        (self.pins, self.suspects, self.begin_ahead) = (Pins::NONE, false, false);
    }
}
