//! A server is lent: the client's settings are put in place first.

use super::expected::Expected;
use super::holding::SERVER_STATEMENTS_MAX;
use super::last_values::LastValues;
use super::{Holding, Logical};
use pgwire::message::{put, put_query};

/// When a server has given its last sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A moment ago.
    JustNow,
    /// It may be gone by now, without a word. A statement that was sent to it would be one of which nobody knows whether it took
    /// effect; one that waits for a sign of life goes to the next primary.
    LongAgo,
}

impl Logical {
    /// Begins on a server that it was lent. Nothing of the client is sent until [`Logical::is_placing`] is over: it must
    /// not run with the settings of somebody else. In each new `round` the server is asked what code its database has.
    pub fn place(
        &mut self,
        (holding, heard): (&mut Holding, Heard),
        round: u64,
        to_server: &mut Vec<u8>,
        to_client: &mut Vec<u8>,
    ) {
        self.drains = false;
        let mut sql = Vec::new();
        let waits = self.settings.place_over(&mut holding.in_place, &mut sql);
        if heard == Heard::LongAgo && !waits {
            // The server answers this at once, and it does nothing else.
            put(b'S', &[], to_server);
            self.expected.push_back(Expected::Placing);
        }
        if holding.last_values.are_of_others(self.owner) && holding.may_have_sequences(round) {
            sql.extend_from_slice(b"DISCARD SEQUENCES;");
            holding.last_values = LastValues::OfNobody;
        }
        if holding.statements.len() > SERVER_STATEMENTS_MAX {
            sql.extend_from_slice(b"DEALLOCATE ALL;");
            holding.statements.clear();
        }
        if !sql.is_empty() {
            put_query(&sql, to_server);
            holding.unnamed = super::holding::Unnamed::Nothing;
            self.expected.push_back(if waits { Expected::Placing } else { Expected::Aside });
        }
        if !waits {
            holding.reported.tell_news(&mut self.told, to_client);
        }
        self.ask_for_code(holding, round, to_server);
        if self.in_transaction() && !self.keeps_begin() {
            self.fail_anew(to_server);
        }
    }

    /// Whether the server has still to confirm that the settings are in place.
    #[must_use]
    pub fn is_placing(&self) -> bool {
        matches!(self.expected.front(), Some(Expected::Placing))
    }

    /// They are.
    pub(super) fn placed(&mut self, holding: &mut Holding, to_client: &mut Vec<u8>) {
        holding.in_place = self.settings.clone();
        holding.reported.tell_news(&mut self.told, to_client);
    }
}
