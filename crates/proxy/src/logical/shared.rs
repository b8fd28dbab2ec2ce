//! Which prepared statements clients may share: those whose text means the same for all of them. What a text means is
//! settled when it is prepared (a time without its zone, a name without its schema), so under settings of one client's own
//! it is prepared for that client alone.

use super::Logical;
use super::from_client::Desk;
use super::prepared::Prepared;
use crate::sql::Pin;
use std::rc::Rc;

impl Logical {
    /// Whether a text that is prepared now means what it means to others.
    pub(super) fn is_shareable(&self) -> bool {
        let may_set =
            [Pin::Setting, Pin::UnseenSetting, Pin::Function, Pin::Temporary, Pin::Unreadable, Pin::Astray];
        // That there may be code that sets something is supposed of each server once in a while.
        let has_set = |pin: &Pin| self.pins.has(*pin) && !(*pin == Pin::Function && self.suspects);
        self.settings.are_plain() && self.is_settled() && !self.unshared && !may_set.iter().any(has_set)
    }

    /// A statement of the client that is about to be prepared on a server that does not have it; it is the client's own
    /// from now on if it would mean something else to others.
    pub(super) fn owned(&mut self, name: &[u8], prepared: Rc<Prepared>, desk: &mut Desk<'_>) -> Rc<Prepared> {
        if !prepared.is_shared || self.is_shareable() {
            return prepared;
        }
        let own = desk.texts.copy_for_one_client(&prepared);
        if name.is_empty() {
            self.unnamed = Some(Rc::clone(&own));
        } else {
            self.statements.insert(name.into(), Rc::clone(&own));
        }
        own
    }
}
