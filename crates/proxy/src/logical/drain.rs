//! Waiting until the server has answered all that it was sent: what the client's next message becomes depends on how that
//! went.

use super::Logical;
use super::expected::Expected;
use crate::sql::Pin;
use pgwire::message::put;

/// Whether statements were prepared again, without the client's knowing, whose answer is still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rehearsed {
    Nothing,
    /// In the pipeline that no Sync has ended yet: if that fails, so does all that is sent now.
    InPipeline,
    /// Before a Sync: they may have been skipped, and what is sent now is not.
    BeforeSync,
}

impl Logical {
    /// Nothing more of the client is taken until all is answered. The server is told not to keep its answers until a Sync
    /// comes.
    pub(super) fn drain(&mut self, to_server: &mut Vec<u8>) {
        put(b'H', &[], to_server);
        self.drains = true;
    }

    /// Whether the client's next message has to wait for that.
    pub(super) fn is_draining(&mut self) -> bool {
        // A server that reads a COPY answers when the client has ended it. One that was lost sight of may owe nothing.
        self.drains &= !self.expected.is_empty() && self.copy_in.is_none() && !self.pins.has(Pin::Astray);
        self.drains
    }

    /// Whether this message, if it names a statement of the client, could name one that is not there: it was prepared again
    /// before a Sync, and skipped perhaps.
    pub(super) fn names_what_may_be_skipped(&mut self, kind: u8, body: &[u8]) -> bool {
        // One that was lost sight of is not waited for, and is nobody else's any more.
        if self.expected.is_empty() || self.pins.has(Pin::Astray) {
            self.rehearsed = Rehearsed::Nothing;
        }
        self.rehearsed == Rehearsed::BeforeSync
            && (kind == b'B' || kind == b'D' && body.first() == Some(&b'S'))
    }

    /// A Sync is sent.
    pub(super) fn end_rehearsal(&mut self) {
        if self.rehearsed == Rehearsed::InPipeline {
            self.rehearsed = Rehearsed::BeforeSync;
        }
    }

    /// Whether statements were sent behind the one that is just being answered.
    pub(super) fn has_statements_behind(&self) -> bool {
        self.expected.iter().skip(1).any(|expected| {
            matches!(expected, Expected::Parse { .. } | Expected::ParseKnown { .. } | Expected::Bind)
        })
    }
}
