//! Last values of sequences: what `currval` and `lastval` give is of whoever had the server before, unless it is told to forget
//! them.

use super::expected::Expected;
use super::from_client::Desk;
use super::{Logical, Owner};
use crate::sql::{Pin, Reading};
use pgwire::TransactionStatus;

const DISCARD: &[u8] = b"DISCARD SEQUENCES\0";

/// Whose last values of sequences a server has: what `currval` and `lastval` give there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastValues {
    OfNobody,
    Of(Owner),
    OfSeveral,
}

impl LastValues {
    /// This client may have made some.
    pub(super) fn add(&mut self, owner: Owner) {
        *self = match *self {
            LastValues::OfNobody => LastValues::Of(owner),
            LastValues::Of(known) if known == owner => LastValues::Of(owner),
            LastValues::Of(_) | LastValues::OfSeveral => LastValues::OfSeveral,
        };
    }

    /// Whether there may be some that this client has not made.
    pub(super) fn are_of_others(self, owner: Owner) -> bool {
        !matches!(self, LastValues::OfNobody) && self != LastValues::Of(owner)
    }
}

impl Logical {
    /// A statement with this reading is about to be sent that may ask for last values: there are to be none of others. When
    /// the server was lent they were kept if its database had no sequence, and it may have one by now.
    pub(super) fn discard_others_values(&mut self, reading: &Reading, desk: &mut Desk<'_>) {
        let may_ask =
            reading.asks_sequences || reading.pins.has(Pin::Function) || reading.pins.has(Pin::Unreadable);
        if !may_ask || !desk.holding.last_values.are_of_others(self.owner) {
            return;
        }
        let is_sent_surely = !self.unsynced
            && self.transaction != TransactionStatus::Failed
            && self.expected.iter().all(|expected| matches!(expected, Expected::Ahead));
        if is_sent_surely {
            self.send_ahead(DISCARD, desk.holding, desk.to_server);
            desk.holding.last_values = LastValues::OfNobody;
        }
    }
}
