//! BEGIN is answered before it is sent, and goes to the server along with what the client says next: one round trip less.
//!
//! A transaction takes its snapshot, and its locks, with its first statement; of BEGIN it has only the time (`now()`). So
//! that this is not far off, [`Logical::send_begin_alone`] is called soon if the client says nothing.
//!
//! It is sent by the extended protocol, without a Sync: should it fail, which only a cancellation or a time limit can bring
//! about, the server ignores what was sent behind it (src/backend/tcop/postgres.c, `ignore_till_sync`). As a query, what
//! the client believes to be in its transaction would run outside of any.

use super::Logical;
use super::expected::{By, Expected};
use super::from_client::Desk;
use super::holding::{Holding, Unnamed};
use crate::sql::Reading;
use pgwire::TransactionStatus;
use pgwire::message::put;

/// Longest text that is kept, comments included. Bytes.
const TEXT_LEN_MAX: usize = 256;

impl Logical {
    /// Whether a query with this body is a BEGIN that cannot fail now. A client that keeps its server anyway is not worth
    /// the trouble: if that has to be given up after all, its session ends.
    pub(super) fn can_keep_begin(&self, body: &[u8], reading: &Reading) -> bool {
        let is_one_string = || body.iter().position(|&byte| byte == 0) == Some(body.len() - 1);
        reading.begins_only
            && self.is_quiet()
            && self.pins.is_empty()
            && reading.pins.is_empty()
            && self.untold.is_none()
            && !self.telling
            && body.len() <= TEXT_LEN_MAX
            && is_one_string()
    }

    /// Answers it.
    pub(super) fn keep_begin(&mut self, body: &[u8], reading: &Reading, desk: &mut Desk<'_>) {
        let tag: &[u8] = if reading.starts { b"START TRANSACTION\0" } else { b"BEGIN\0" };
        put(b'C', &[tag], desk.to_client);
        put(b'Z', &[b"T"], desk.to_client);
        self.begin = Some(body.into());
        self.answers += 1;
        self.tally.answered(TransactionStatus::InTransaction);
        self.has_begun();
    }

    /// The client is in a transaction.
    pub(super) fn has_begun(&mut self) {
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
        if let Some(text) = self.begin.take() {
            self.send_ahead(&text, holding, to_server);
        }
    }

    /// Sends this text, which ends with a zero byte, ahead of what the client says: if it fails, that is not run.
    pub(super) fn send_ahead(&mut self, text: &[u8], holding: &mut Holding, to_server: &mut Vec<u8>) {
        put(b'P', &[b"\0", text, b"\0\0"], to_server);
        put(b'B', &[b"\0\0\0\0\0\0\0\0"], to_server);
        put(b'E', &[b"\0\0\0\0\0"], to_server);
        holding.unnamed = Unnamed::Unknown;
        self.expected.push_back(Expected::Ahead);
    }

    /// Sends it, if there is one: the client takes its time.
    pub fn send_begin_alone(&mut self, holding: &mut Holding, to_server: &mut Vec<u8>) {
        if self.keeps_begin() {
            self.send_begin(holding, to_server);
            put(b'S', &[], to_server);
            self.expected.push_back(Expected::Sync { by: By::Proxy });
        }
    }
}
