//! Last values of sequences: what `currval` and `lastval` give is of whoever had the server before, unless it is told to forget
//! them.

use super::expected::Expected;
use super::from_client::Desk;
use super::holding::Unnamed;
use super::{Logical, Owner};
use crate::sql::{Pin, Reading};
use pgwire::message::put_query;

const DISCARD: &[u8] = b"DISCARD SEQUENCES";

/// Whose last values of sequences a server has: what `currval` and `lastval` give there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastValues {
    OfNobody,
    Of(Owner),
    /// Of others, and then of this client.
    OfOthersAnd(Owner),
}

impl LastValues {
    /// This client may have made some.
    pub(super) fn add(&mut self, owner: Owner) {
        *self = match *self {
            LastValues::OfNobody => LastValues::Of(owner),
            LastValues::Of(known) if known == owner => LastValues::Of(owner),
            LastValues::Of(_) | LastValues::OfOthersAnd(_) => LastValues::OfOthersAnd(owner),
        };
    }

    /// Whether there may be some that this client has not made.
    pub(super) fn are_of_others(self, owner: Owner) -> bool {
        !matches!(self, LastValues::OfNobody) && self != LastValues::Of(owner)
    }
}

impl Logical {
    /// As [`Logical::discard_others_values`], of what cannot be read; it may make some as well.
    pub(super) fn runs_unread(&mut self, why: Pin, desk: &mut Desk<'_>) {
        let mut reading = Reading::default();
        reading.pins.add(why);
        self.discard_others_values(&reading, desk);
        desk.holding.last_values.add(self.owner);
    }

    /// A statement with this reading is about to be sent that may ask for last values: there are to be none of others. When
    /// the server was lent they were kept if its database had no sequence, and it may have one by now. Behind something that
    /// is not answered yet, this is not done: whether it would be run is not known. Nor if the client has made some itself
    /// since: it may ask for these.
    pub(super) fn discard_others_values(&mut self, reading: &Reading, desk: &mut Desk<'_>) {
        let may_ask =
            reading.asks_sequences || reading.pins.has(Pin::Function) || reading.pins.has(Pin::Unreadable);
        let has_own = desk.holding.last_values == LastValues::OfOthersAnd(self.owner);
        if !may_ask || has_own || !desk.holding.last_values.are_of_others(self.owner) {
            return;
        }
        if self.can_put_in_between() {
            put_query(DISCARD, desk.to_server);
            self.expected.push_back(Expected::Aside);
            (desk.holding.last_values, desk.holding.unnamed) = (LastValues::OfNobody, Unnamed::Nothing);
        }
    }
}
