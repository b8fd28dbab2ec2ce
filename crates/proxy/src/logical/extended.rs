//! The extended protocol's messages: statements have another name on servers, and are prepared there when they are used.

use super::drain::Rehearsed;
use super::expected::{By, Expected};
use super::from_client::{Desk, Message};
use super::holding::Unnamed;
use super::prepared::Prepared;
use super::{Broken, Logical, STATEMENTS_BYTES_MAX};
use crate::sql::{Ends, Pin};
use pgwire::message::{put, put_header, split_string};
use std::rc::Rc;

/// Most portals of one transaction that are followed; with more the server is closed after the client.
const PORTALS_MAX: usize = 100;

impl Logical {
    /// Parse, Bind, Describe, Execute or Close; bytes of the body that were taken.
    pub(super) fn extended(
        &mut self,
        message: &Message<'_>,
        desk: &mut Desk<'_>,
    ) -> Result<Option<usize>, Broken> {
        let broken = Broken::ClientMessage(char::from(message.kind));
        if self.names_what_may_be_skipped(message.kind, message.body) {
            self.drain(desk.to_server);
            return Ok(None);
        }
        let taken = match message.kind {
            b'P' => match self.parse(message, desk)? {
                Some(taken) => taken,
                None => return Ok(None),
            },
            b'B' => match split_string(message.body)
                .and_then(|(portal, rest)| Some((portal, split_string(rest)?)))
            {
                Some((portal, (statement, _))) => self.bind(message, portal, statement, desk),
                None => return Err(broken),
            },
            b'D' | b'C' => {
                let (what, name) = message.body.split_first().ok_or(broken.clone())?;
                let (name, _) = split_string(name).ok_or(broken)?;
                match (message.kind, what) {
                    (b'D', b'S') => self.describe(message, name, desk),
                    (b'C', b'S') => self.close(message, name, desk),
                    (b'D', _) => {
                        self.expected.push_back(Expected::Describe);
                        self.forward(message, desk.to_server)
                    }
                    _ => {
                        self.portals.retain(|(portal, _)| **portal != *name);
                        let close = Expected::Close { by: By::Client, statement: None, drops: false };
                        self.expected.push_back(close);
                        self.forward(message, desk.to_server)
                    }
                }
            }
            _ => {
                let (portal, _) = split_string(message.body).ok_or(broken)?;
                let prepared =
                    self.portals.iter().find(|(known, _)| **known == *portal).map(|(_, p)| Rc::clone(p));
                self.expected.push_back(Expected::Execute { prepared: prepared.clone() });
                let taken = self.forward(message, desk.to_server);
                if prepared.is_some_and(|prepared| prepared.reading.drops_all) {
                    // What is sent behind it must not be taken for dropped when the server says that it has.
                    self.drain(desk.to_server);
                }
                taken
            }
        };
        self.unsynced = true;
        Ok(Some(taken))
    }

    /// `None` if it has to wait.
    fn parse(&mut self, message: &Message<'_>, desk: &mut Desk<'_>) -> Result<Option<usize>, Broken> {
        let Some((name, body)) = split_string(message.body) else {
            return Err(Broken::ClientMessage('P'));
        };
        if message.body.len() < message.body_len {
            // It keeps its name, is never prepared elsewhere, and its effect is unknown.
            self.pins.add(Pin::Unreadable);
            self.runs_unread(Pin::Unreadable, desk);
            self.forget(name);
            if name.is_empty() {
                desk.holding.unnamed = Unnamed::Of(self.owner);
            }
            self.expected.push_back(Expected::parse_of_nothing(By::Client));
            return Ok(Some(self.forward(message, desk.to_server)));
        }
        if self.statements.contains_key(name) {
            // Whether it exists, the server may not have said yet.
            if !self.expected.is_empty() && !self.pins.has(Pin::Astray) {
                self.drain(desk.to_server);
                return Ok(None);
            }
            // It is to say so now: it exists under this name for the moment.
            self.lose_sight();
            put(b'P', &[message.body], desk.to_server);
            self.expected.push_back(Expected::parse_of_nothing(By::Proxy));
            self.expected.push_back(Expected::parse_of_nothing(By::Client));
            return Ok(Some(self.forward(message, desk.to_server)));
        }
        let prepared =
            if self.is_shareable() { desk.texts.intern(body) } else { desk.texts.of_one_client(body) };
        let expected = |before: Option<Rc<Prepared>>| Expected::Parse {
            by: By::Client,
            name: Some(name.into()),
            prepared: Some(Rc::clone(&prepared)),
            before,
        };
        self.discard_others_values(&prepared.reading, desk);
        if name.is_empty() {
            desk.holding.unnamed = Unnamed::Is(Rc::clone(&prepared));
            self.expected.push_back(expected(self.unnamed.take()));
            self.unnamed = Some(prepared);
            return Ok(Some(self.forward(message, desk.to_server)));
        }
        self.statements_bytes += name.len() + prepared.body.len();
        if self.statements_bytes > STATEMENTS_BYTES_MAX {
            return Err(Broken::Statements);
        }
        if desk.holding.statements.insert(prepared.number) {
            put(b'P', &[&prepared.server_name, body], desk.to_server);
            self.expected.push_back(expected(None));
        } else {
            put(b'C', &[b"Spgkeel: nothing\0"], desk.to_server);
            self.expected.push_back(Expected::ParseKnown { name: name.into() });
        }
        self.statements.insert(name.into(), prepared);
        Ok(Some(message.body.len()))
    }

    fn bind(&mut self, message: &Message<'_>, portal: &[u8], statement: &[u8], desk: &mut Desk<'_>) -> usize {
        self.portals.retain(|(known, _)| **known != *portal);
        if desk.holding.last_values.are_of_others(self.owner)
            && let Some(known) = if statement.is_empty() {
                self.unnamed.clone()
            } else {
                self.statements.get(statement).cloned()
            }
        {
            self.discard_others_values(&known.reading, desk);
            if let Some((_, named)) = self.named_by(&known.body, &known.reading) {
                self.discard_others_values(&named.reading, desk);
            }
        }
        let mut prepared = self.on_server(statement, desk);
        let named = prepared.as_ref().and_then(|prepared| self.name_on_server(prepared, desk));
        let on_server = match &prepared {
            _ if named.is_some() => b"\0",
            Some(prepared) if !statement.is_empty() => &*prepared.server_name,
            _ => &message.body[portal.len() + 1..portal.len() + statement.len() + 2],
        };
        let rest = &message.body[portal.len() + statement.len() + 2..];
        put_header(b'B', message.body_len - statement.len() - 1 + on_server.len(), desk.to_server);
        for part in [portal, b"\0", on_server, rest] {
            desk.to_server.extend_from_slice(part);
        }
        if let Some(prepared) = &prepared {
            self.heed(&prepared.reading, desk.holding);
            if prepared.reading.names_prepared.is_some() && named.is_none() {
                self.pins.add(Pin::Prepared);
            }
        }
        if named.is_some() {
            prepared = named;
        }
        if let Some(prepared) = prepared {
            self.heed(&prepared.reading, desk.holding);
            let reading = &prepared.reading;
            let is_followed = reading.effect.is_some() || !reading.channels.is_empty();
            if is_followed || reading.ends != Ends::Nothing || reading.drops_all {
                self.note_portal(portal, prepared);
            }
        } else {
            // Of a statement that was prepared by SQL, or too long to be read, or none.
            desk.holding.last_values.add(self.owner);
        }
        self.expected.push_back(Expected::Bind);
        self.passing = message.body_len - message.body.len();
        message.body.len()
    }

    /// It matters when it is executed, which may be after other Syncs of the same transaction.
    fn note_portal(&mut self, portal: &[u8], prepared: Rc<Prepared>) {
        if self.portals.len() < PORTALS_MAX {
            self.portals.push((portal.into(), prepared));
        } else {
            self.lose_sight();
        }
    }

    fn describe(&mut self, message: &Message<'_>, name: &[u8], desk: &mut Desk<'_>) -> usize {
        let prepared = self.on_server(name, desk);
        let is_named =
            prepared.as_ref().is_some_and(|prepared| self.name_on_server(prepared, desk).is_some());
        match prepared {
            _ if is_named => put(b'D', &[b"S\0"], desk.to_server),
            Some(prepared) if !name.is_empty() => put(b'D', &[b"S", &prepared.server_name], desk.to_server),
            _ => put(b'D', &[message.body], desk.to_server),
        }
        self.expected.push_back(Expected::Describe);
        message.body.len()
    }

    /// Other clients may use the same statement, so the server keeps it; it does not know it by the client's name. One that
    /// nobody else uses is dropped.
    fn close(&mut self, message: &Message<'_>, name: &[u8], desk: &mut Desk<'_>) -> usize {
        if name.is_empty() {
            desk.holding.unnamed = Unnamed::Nothing;
            let statement = self.unnamed.take().map(|prepared| (Box::default(), prepared));
            self.expected.push_back(Expected::Close { by: By::Client, statement, drops: false });
            return self.forward(message, desk.to_server);
        }
        let gone = self.forget(name).filter(|_| message.body.len() == message.body_len);
        match gone {
            Some(prepared) if !prepared.is_shared && desk.holding.statements.remove(&prepared.number) => {
                put(b'C', &[b"S", &prepared.server_name], desk.to_server);
                let statement = Some((name.into(), prepared));
                self.expected.push_back(Expected::Close { by: By::Client, statement, drops: true });
                message.body.len()
            }
            gone => {
                let statement = gone.map(|prepared| (name.into(), prepared));
                self.expected.push_back(Expected::Close { by: By::Client, statement, drops: false });
                self.forward(message, desk.to_server)
            }
        }
    }

    /// Takes a statement off the client; its memory is counted out.
    pub(super) fn forget(&mut self, name: &[u8]) -> Option<Rc<Prepared>> {
        if name.is_empty() {
            self.unnamed = None;
            return None;
        }
        let prepared = self.statements.remove(name)?;
        self.statements_bytes = self.statements_bytes.saturating_sub(name.len() + prepared.body.len());
        Some(prepared)
    }

    /// The client's statement, which the server has prepared when it comes to what is sent next.
    fn on_server(&mut self, name: &[u8], desk: &mut Desk<'_>) -> Option<Rc<Prepared>> {
        let known = if name.is_empty() { self.unnamed.clone() } else { self.statements.get(name).cloned() };
        match (known, &desk.holding.unnamed) {
            (Some(prepared), Unnamed::Is(there)) if name.is_empty() && Rc::ptr_eq(&prepared, there) => {
                Some(prepared)
            }
            (Some(prepared), _) if name.is_empty() => {
                let prepared = self.owned(name, prepared, desk);
                desk.holding.unnamed = Unnamed::Is(Rc::clone(&prepared));
                self.prepare_again(b"\0", &prepared, desk);
                Some(prepared)
            }
            (Some(prepared), _) => Some(self.have_on_server(name, prepared, desk)),
            (None, Unnamed::Of(owner)) if *owner == self.owner => None,
            // What is there may be of another client.
            (None, Unnamed::Is(_) | Unnamed::Of(_) | Unnamed::Unknown) if name.is_empty() => {
                desk.holding.unnamed = Unnamed::Nothing;
                put(b'C', &[b"S\0"], desk.to_server);
                let close = Expected::Close { by: By::Proxy, statement: None, drops: false };
                self.expected.push_back(close);
                None
            }
            (None, _) => None,
        }
    }

    /// The client's statement of this name; the server has it when it comes to what is sent next.
    pub(super) fn have_on_server(
        &mut self,
        name: &[u8],
        prepared: Rc<Prepared>,
        desk: &mut Desk<'_>,
    ) -> Rc<Prepared> {
        if desk.holding.statements.contains(&prepared.number) {
            return prepared;
        }
        let prepared = self.owned(name, prepared, desk);
        desk.holding.statements.insert(prepared.number);
        self.prepare_again(&prepared.server_name, &prepared, desk);
        prepared
    }

    fn prepare_again(&mut self, name: &[u8], prepared: &Rc<Prepared>, desk: &mut Desk<'_>) {
        put(b'P', &[name, &prepared.body], desk.to_server);
        let name = (name == b"\0").then(|| Box::from(&b""[..]));
        let prepared = Some(Rc::clone(prepared));
        self.expected.push_back(Expected::Parse { by: By::Proxy, name, prepared, before: None });
        self.rehearsed = Rehearsed::InPipeline;
    }
}
