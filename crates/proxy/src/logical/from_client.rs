//! What the client sends: what it may leave behind is noted, names of statements are exchanged, the rest is passed on.

use super::expected::{By, CopyIn, Expected};
use super::holding::Unnamed;
use super::named::renamed;
use super::{Broken, EXPECTED_MAX, Holding, Logical, Progress, Texts};
use crate::sql::{Ends, Pin, Reading, read};
use pgwire::message::{put, put_header, split_string};
use pgwire::{FrameHeader, HEADER_LEN, TransactionStatus};

/// Longest statement that is read; a longer one is passed on as it comes, and pins the server. Bytes.
pub const TEXT_LEN_MAX: usize = 64 * 1024;

/// Longest of the messages that are short by nature; `PQ_SMALL_MESSAGE_LIMIT`, src/include/libpq/libpq.h. Bytes.
const SMALL_LEN_MAX: usize = 10_000;

/// More is not made ready for the server at once. Bytes.
const READY_LEN_MAX: usize = 128 * 1024;

/// src/include/catalog/pg_proc.dat
const SET_CONFIG: u32 = 2078;
const SETSEED: u32 = 1599;

/// Longest name of a portal or a statement that is read; far longer than PostgreSQL tells apart. Bytes.
const NAMES_LEN_MAX: usize = 2_048;

const _: () = assert!(NAMES_LEN_MAX < TEXT_LEN_MAX);

/// One message, of which the end may not have come.
pub(super) struct Message<'a> {
    pub(super) kind: u8,
    pub(super) body_len: usize,
    /// As much of the body as has come.
    pub(super) body: &'a [u8],
}

/// What a message may use.
pub(super) struct Desk<'a> {
    pub(super) holding: &'a mut Holding,
    pub(super) texts: &'a mut Texts,
    pub(super) to_server: &'a mut Vec<u8>,
    pub(super) to_client: &'a mut Vec<u8>,
}

/// Whether the names of a Bind have come: its portal's and its statement's.
fn has_two_strings(body: &[u8]) -> bool {
    split_string(body).and_then(|(_, rest)| split_string(rest)).is_some()
}

impl Logical {
    /// Whether the first of these bytes need a server; if not, more have to come first, or it is a farewell.
    #[must_use]
    pub fn needs_server(bytes: &[u8]) -> bool {
        let Some((header, body)) = bytes.split_first_chunk::<HEADER_LEN>() else { return false };
        match FrameHeader::parse(*header) {
            Ok(FrameHeader { kind: b'X', .. }) | Err(_) => false,
            Ok(FrameHeader { body_len, .. }) => body.len() >= body_len.min(TEXT_LEN_MAX),
        }
    }

    /// Takes bytes of the client as far as possible; how many were taken. What must come whole is left until it has, at
    /// most [`TEXT_LEN_MAX`] bytes and a header. What the client is told at once is appended to `to_client`.
    ///
    /// # Errors
    /// [`Broken`]: the client's session ends.
    pub fn client_sent(
        &mut self,
        bytes: &[u8],
        holding: &mut Holding,
        texts: &mut Texts,
        (to_server, to_client): (&mut Vec<u8>, &mut Vec<u8>),
    ) -> Result<(usize, Progress), Broken> {
        let mut at = 0;
        let mut desk = Desk { holding, texts, to_server, to_client };
        loop {
            if self.is_placing()
                || self.is_moving_channels()
                || (at < bytes.len() && self.is_draining())
                || self.expected.len() >= EXPECTED_MAX
                || desk.to_server.len() > READY_LEN_MAX
            {
                return Ok((at, Progress::Waits));
            }
            at += self.pass_on(&bytes[at..], desk.to_server);
            if self.passing + self.throwing_away > 0 {
                return Ok((at, Progress::All));
            }
            let Some((header, rest)) = bytes[at..].split_first_chunk::<HEADER_LEN>() else {
                return Ok((at, Progress::All));
            };
            let FrameHeader { kind, body_len } = FrameHeader::parse(*header).map_err(Broken::Client)?;
            let body = &rest[..rest.len().min(body_len)];
            if kind == b'X' {
                return Ok((at, Progress::Terminated));
            }
            match self.message(&Message { kind, body_len, body }, &mut desk)? {
                Some(taken) => at += HEADER_LEN + taken,
                None if self.is_draining() => return Ok((at, Progress::Waits)),
                None => return Ok((at, Progress::All)),
            }
        }
    }

    /// The rest of a message that is not looked into.
    fn pass_on(&mut self, bytes: &[u8], to_server: &mut Vec<u8>) -> usize {
        let passed = self.passing.min(bytes.len());
        to_server.extend_from_slice(&bytes[..passed]);
        self.passing -= passed;
        let thrown = self.throwing_away.min(bytes.len() - passed);
        self.throwing_away -= thrown;
        passed + thrown
    }

    /// Bytes of the body that were taken; `None` if more has to come first.
    fn message(&mut self, message: &Message<'_>, desk: &mut Desk<'_>) -> Result<Option<usize>, Broken> {
        let Message { kind, body_len, body } = *message;
        self.examined = false;
        self.withdraw_channels();
        let is_whole = body.len() == body_len;
        match kind {
            b'Q' | b'P' if body_len <= TEXT_LEN_MAX && !is_whole => return Ok(None),
            b'D' | b'C' | b'E' | b'H' | b'S' | b'c' if body_len > SMALL_LEN_MAX => {
                return Err(Broken::ClientMessage(char::from(kind)));
            }
            b'D' | b'C' | b'E' | b'H' | b'S' | b'c' if !is_whole => return Ok(None),
            b'B' if body_len.min(NAMES_LEN_MAX) > body.len() && !has_two_strings(body) => return Ok(None),
            b'Q' | b'P' | b'B' | b'D' | b'C' | b'E' | b'H' | b'S' | b'c' | b'F' | b'd' | b'f' => {}
            _ => return Err(Broken::ClientMessage(char::from(kind))),
        }
        if matches!(kind, b'd' | b'c' | b'f') {
            return Ok(Some(self.copy_message(message, desk)));
        }
        self.send_begin(desk.holding, desk.to_server);
        if kind == b'S' {
            return Ok(Some(self.sync(message, desk)));
        }
        if self.copy_in.is_some() && kind != b'H' {
            // The server takes it for a mistake and ends the COPY; what it does then is not followed.
            self.lose_sight();
            return Ok(Some(self.forward(message, desk.to_server)));
        }
        // A server that skips everything does not look at them either.
        if self.skipping {
            return Ok(Some(self.forward(message, desk.to_server)));
        }
        if self.untold.is_some()
            && let Some(taken) = self.tell_with(message, desk)
        {
            return Ok(Some(taken));
        }
        match kind {
            b'Q' => {
                let Some(taken) = self.query(message, desk) else { return Ok(None) };
                // The server is ready behind it, without a Sync; unless it skips it, which `skipping` tells.
                self.unsynced = false;
                Ok(Some(taken))
            }
            b'F' => {
                self.call(message, desk);
                self.unsynced = false;
                Ok(Some(self.forward(message, desk.to_server)))
            }
            // It begins nothing: drivers send one behind a Sync, too, and none after that.
            b'H' => Ok(Some(self.forward(message, desk.to_server))),
            _ => self.extended(message, desk),
        }
    }

    /// Passes a message on as it is; the rest of it will follow.
    pub(super) fn forward(&mut self, message: &Message<'_>, to_server: &mut Vec<u8>) -> usize {
        put_header(message.kind, message.body_len, to_server);
        to_server.extend_from_slice(message.body);
        self.passing = message.body_len - message.body.len();
        message.body.len()
    }

    fn copy_message(&mut self, message: &Message<'_>, desk: &mut Desk<'_>) -> usize {
        // What is left of a COPY that the server has ended: it would ignore that.
        if self.copy_in.is_none() && self.expected.is_empty() {
            self.throwing_away = message.body_len - message.body.len();
            return message.body.len();
        }
        if message.kind != b'd' {
            self.copy_in = None;
        }
        self.forward(message, desk.to_server)
    }

    fn sync(&mut self, message: &Message<'_>, desk: &mut Desk<'_>) -> usize {
        match &mut self.copy_in {
            Some(CopyIn::Extended { synced }) => *synced = true,
            Some(CopyIn::Simple) => self.lose_sight(),
            None => {
                // If BEGIN fails, what is sent behind the Sync is run all the same.
                self.drains |= self.begin_ahead;
                self.expected.push_back(Expected::Sync { by: By::Client });
                self.end_rehearsal();
                self.unsynced = false;
                self.skipping = false;
            }
        }
        self.forward(message, desk.to_server)
    }

    /// A function is called by its number.
    fn call(&mut self, message: &Message<'_>, desk: &mut Desk<'_>) {
        self.runs_unread(Pin::Function, desk);
        // What is known of the database's code says nothing of it.
        self.suspects = false;
        self.pins.add(Pin::Function);
        match message.body.first_chunk().map(|number| u32::from_be_bytes(*number)) {
            None | Some(SET_CONFIG) => self.pins.add(Pin::UnseenSetting),
            Some(SETSEED) => self.pins.add(Pin::Seed),
            Some(_) => {}
        }
        self.unshared = true;
        self.expected.push_back(Expected::FunctionCall);
    }

    /// `None` if it has to wait.
    fn query(&mut self, message: &Message<'_>, desk: &mut Desk<'_>) -> Option<usize> {
        self.unnamed = None;
        desk.holding.unnamed = Unnamed::Nothing;
        if message.body.len() < message.body_len {
            self.pins.add(Pin::Unreadable);
            self.runs_unread(Pin::Unreadable, desk);
            self.expected.push_back(Expected::query_of_nothing(Ends::Unclear));
            return Some(self.forward(message, desk.to_server));
        }
        let mut reading = read(message.body);
        if self.can_keep_begin(message.body, &reading, desk.holding) {
            self.keep_begin(message.body, &reading, desk);
            return Some(message.body.len());
        }
        if reading.names_prepared.is_some() && self.begin_ahead && !self.unsynced {
            // A Sync may be put before it, behind which it would be run although BEGIN has failed.
            self.sync_begin(desk.to_server);
            return None;
        }
        // With statements of its own by SQL there it has done so, and would drop those as well.
        let has_list = self.pins.has(Pin::Prepared);
        self.discard_others_values(&reading, desk);
        self.heed(&reading, desk.holding);
        if reading.pins.has(Pin::Prepared) && !has_list {
            self.drop_others_statements(desk);
        }
        if let Some((name, mut named)) = self.named_by(message.body, &reading) {
            self.discard_others_values(&named.reading, desk);
            if !self.unsynced && !desk.holding.statements.contains(&named.number) {
                named = self.have_on_server(&name, named, desk);
                put(b'S', &[], desk.to_server);
                self.expected.push_back(Expected::Sync { by: By::Proxy });
                self.end_rehearsal();
            }
            self.heed(&named.reading, desk.holding);
            put(b'Q', &[&renamed(message.body, &reading, &named)], desk.to_server);
            // What EXECUTE leaves is what the statement leaves.
            let effect = reading.effect.take().or_else(|| named.reading.effect.clone());
            let (effect, channels) = (effect.map(Box::new), named.reading.channels.clone());
            self.expected.push_back(Expected::Query { effect, ends: Ends::Unclear, channels });
            self.drains |= named.reading.drops_all;
            return Some(message.body.len());
        }
        let effect = reading.effect.take().map(Box::new);
        let channels = std::mem::take(&mut reading.channels);
        self.expected.push_back(Expected::Query { effect, ends: reading.ends, channels });
        // What is sent behind it must not be taken for dropped when the server says that it has.
        self.drains |= reading.drops_all;
        Some(self.forward(message, desk.to_server))
    }

    /// A statement with this reading is about to be run.
    pub(super) fn heed(&mut self, reading: &Reading, holding: &mut Holding) {
        self.heed_code(reading, holding);
        self.pins.add_all(reading.pins);
        self.unshared |= reading.sets;
        if reading.creates && self.unshared {
            // With pg_temp first in the search_path it is a temporary one.
            self.pins.add(Pin::Temporary);
        }
        if reading.moves_sequences || reading.asks_sequences {
            holding.last_values.add(self.owner);
        }
        self.likes_server |= reading.names_sequences;
        if reading.asks_sequences {
            self.pins.add(Pin::Sequence);
        }
        if !self.told.makes_texts_plain() {
            self.pins.add(Pin::Unreadable);
        }
    }

    /// Whether a query of the proxy would be run for sure before what the client sends next, if that is.
    pub(super) fn can_put_in_between(&self) -> bool {
        !self.unsynced
            && self.transaction != TransactionStatus::Failed
            && self.expected.iter().all(Expected::is_own)
    }

    /// The client may look at the list of prepared statements: there are to be none but its own.
    fn drop_others_statements(&mut self, desk: &mut Desk<'_>) {
        if self.can_put_in_between() && !desk.holding.statements.is_empty() {
            desk.holding.statements.clear();
            put(b'Q', &[b"DEALLOCATE ALL\0"], desk.to_server);
            self.expected.push_back(Expected::Aside);
        }
    }
}
