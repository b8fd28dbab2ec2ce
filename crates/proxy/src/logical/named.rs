//! EXECUTE and DEALLOCATE of SQL that name what was prepared by the protocol: the server knows it by another name.

use super::Logical;
use super::expected::{By, Expected};
use super::from_client::Desk;
use super::holding::Unnamed;
use super::prepared::Prepared;
use crate::sql::{Effect, Reading};
use pgwire::message::put;
use std::rc::Rc;

impl Logical {
    /// The statement that a text with this reading names, if it is one that the client has prepared by the protocol, with
    /// its name for the client.
    pub(super) fn named_by(&self, text: &[u8], reading: &Reading) -> Option<(Box<[u8]>, Rc<Prepared>)> {
        let name = reading.names_prepared.clone()?;
        let folded = match &reading.effect {
            Some(Effect::Deallocate { name }) => name.clone(),
            _ => fold(&text[name]),
        };
        let named = self.statements.get(&folded).cloned()?;
        Some((folded, named))
    }

    /// As [`Logical::named_by`] for a prepared text: the server has it, with the name that it knows, as its unnamed statement
    /// when it comes to what is sent next. What running it leaves, if it names one.
    pub(super) fn name_on_server(
        &mut self,
        prepared: &Rc<Prepared>,
        desk: &mut Desk<'_>,
    ) -> Option<Rc<Prepared>> {
        let (name, named) = self.named_by(&prepared.body, &prepared.reading)?;
        let named = self.have_on_server(&name, named, desk);
        put(b'P', &[b"\0", &renamed(&prepared.body, &prepared.reading, &named)], desk.to_server);
        self.expected.push_back(Expected::parse_of_nothing(By::Proxy));
        desk.holding.unnamed = Unnamed::Unknown;
        let is_deallocate = matches!(prepared.reading.effect, Some(Effect::Deallocate { .. }));
        Some(if is_deallocate { Rc::clone(prepared) } else { named })
    }
}

/// A text with the name by which the server knows the statement that it names.
pub(super) fn renamed(text: &[u8], reading: &Reading, named: &Prepared) -> Vec<u8> {
    let Some(name) = reading.names_prepared.clone() else { return text.to_owned() };
    let on_server = &named.server_name[..named.server_name.len() - 1];
    [&text[..name.start], b"\"", on_server, b"\"", &text[name.end..]].concat()
}

/// As the server folds an identifier.
fn fold(name: &[u8]) -> Box<[u8]> {
    match name {
        [b'"', inner @ .., b'"'] => inner.into(),
        plain => plain.to_ascii_lowercase().into(),
    }
}
