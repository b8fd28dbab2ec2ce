//! What the server sends: answers are told apart by what is expected, those of the proxy's own messages are taken out.

use super::code::Answer;
use super::expected::{By, CopyIn, Expected, Found};
use super::holding::{Goodbye, Unnamed};
use super::{Broken, Holding, Logical};
use crate::sql::ChannelChange;
use pgwire::message::{put, put_header};
use pgwire::{ErrorSummary, FrameHeader, HEADER_LEN, TransactionStatus};

/// Longest message that is held until it has come whole; longer ones are passed on as they come. Bytes.
const HELD_LEN_MAX: usize = 64 * 1024;

/// src/backend/utils/cache/plancache.c, `RevalidateCachedQuery`.
const CHANGED_RESULT: &[u8] = b"cached plan must not change result type";

/// How the names of clients' statements on servers begin.
const SERVER_NAMES: &[u8] = b"pgkeel:";

/// Type byte and body of a message.
pub(super) type Whole<'a> = (u8, &'a [u8]);

/// The first message of `bytes`, if it is whole, and what follows it.
pub(super) fn split_whole(bytes: &[u8]) -> Option<(Whole<'_>, &[u8])> {
    let (header, rest) = bytes.split_first_chunk::<HEADER_LEN>()?;
    let header = FrameHeader::parse(*header).ok()?;
    let (body, rest) = rest.split_at_checked(header.body_len)?;
    Some(((header.kind, body), rest))
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Forward,
    Swallow,
    /// The client is told ParseComplete.
    ParseComplete,
    /// A notification of its own: it is to know itself in it.
    OwnNotification,
    /// The client is told another error instead.
    Instead,
}

impl Logical {
    /// Takes bytes of the server; what the client is to have is appended to `to_client`.
    ///
    /// # Errors
    /// [`Broken`]: neither the server nor the session is of any use any more.
    pub fn server_sent(
        &mut self,
        bytes: &[u8],
        holding: &mut Holding,
        to_client: &mut Vec<u8>,
    ) -> Result<(), Broken> {
        if holding.held.is_empty() {
            return self.server_messages(bytes, holding, to_client);
        }
        let mut whole = std::mem::take(&mut holding.held);
        whole.extend_from_slice(bytes);
        self.server_messages(&whole, holding, to_client)
    }

    fn server_messages(
        &mut self,
        mut bytes: &[u8],
        holding: &mut Holding,
        to_client: &mut Vec<u8>,
    ) -> Result<(), Broken> {
        loop {
            let passed = holding.passing.min(bytes.len());
            to_client.extend_from_slice(&bytes[..passed]);
            holding.passing -= passed;
            let thrown = holding.throwing_away.min(bytes.len() - passed);
            holding.throwing_away -= thrown;
            bytes = &bytes[passed + thrown..];
            let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LEN>() else { break };
            let FrameHeader { kind, body_len } = FrameHeader::parse(*header).map_err(Broken::Server)?;
            let body = &rest[..rest.len().min(body_len)];
            let is_whole = body.len() == body_len;
            if !is_whole && self.is_looked_into(kind) && body_len <= HELD_LEN_MAX {
                break;
            }
            let fate = self.answer(kind, body, is_whole, holding, to_client)?;
            match fate {
                Fate::Forward => {
                    put_header(kind, body_len, to_client);
                    to_client.extend_from_slice(body);
                    holding.passing = body_len - body.len();
                }
                Fate::Swallow | Fate::ParseComplete | Fate::OwnNotification | Fate::Instead => {
                    holding.throwing_away = body_len - body.len();
                }
            }
            match fate {
                Fate::ParseComplete => put(b'1', &[], to_client),
                Fate::OwnNotification => put(b'A', &[&self.told_pid.to_be_bytes(), &body[4..]], to_client),
                Fate::Instead => {
                    to_client.extend(self.untold.take().unwrap_or_default());
                    self.telling = false;
                }
                Fate::Forward | Fate::Swallow => {}
            }
            bytes = &rest[body.len()..];
        }
        holding.held.extend_from_slice(bytes);
        Ok(())
    }

    fn answer(
        &mut self,
        kind: u8,
        body: &[u8],
        is_whole: bool,
        holding: &mut Holding,
        to_client: &mut Vec<u8>,
    ) -> Result<Fate, Broken> {
        let is_own = self.expected.front().is_some_and(Expected::is_own);
        let own = if is_own { Fate::Swallow } else { Fate::Forward };
        let fate = match kind {
            b'D' | b'T' if is_own => {
                match self.expected.front_mut() {
                    Some(Expected::Code { answer }) if kind == b'D' => answer.note(body),
                    Some(Expected::Examination { found }) if kind == b'D' && is_whole => found.note(body),
                    Some(Expected::Examination { found }) => found.obstacle |= kind == b'D',
                    _ => {}
                }
                Fate::Swallow
            }
            // Rows and what describes them.
            b'D' | b'd' | b'c' | b't' | b'H' | b'V' => Fate::Forward,
            b'T' | b'n' => {
                self.pop_if(|expected| matches!(expected, Expected::Describe));
                Fate::Forward
            }
            b'1' | b'2' if matches!(self.expected.front(), Some(Expected::Begun)) => Fate::Swallow,
            b'1' => self.complete(own, |expected| matches!(expected, Expected::Parse { .. })),
            b'2' => self.complete(own, |expected| matches!(expected, Expected::Bind)),
            b'3' if self.pop_if(|expected| matches!(expected, Expected::ParseKnown { .. })).is_some() => {
                Fate::ParseComplete
            }
            b'3' => self.complete(own, |expected| matches!(expected, Expected::Close { .. })),
            b'C' => {
                self.tag(body.strip_suffix(b"\0").unwrap_or(body), holding);
                own
            }
            b'I' | b's' => {
                self.pop_if(|expected| matches!(expected, Expected::Execute { .. }));
                Fate::Forward
            }
            b'G' => {
                self.copy_in_begins();
                Fate::Forward
            }
            b'S' => self.parameter(body, own, holding),
            b'N' => own,
            b'E' => self.error(body, is_whole, is_own, holding)?,
            b'Z' => self.server_ready(body, holding, to_client),
            b'A' if self.pins.is_empty() => {
                // The server listens for somebody else.
                holding.is_strange = true;
                Fate::Swallow
            }
            b'A' if self.hears_elsewhere(body) => Fate::Swallow,
            b'A' if is_whole && body.starts_with(&holding.pid.to_be_bytes()) => Fate::OwnNotification,
            b'A' => Fate::Forward,
            _ => {
                self.lose_sight();
                Fate::Forward
            }
        };
        if !is_whole && self.is_looked_into(kind) && kind != b'E' {
            self.lose_sight();
        }
        Ok(fate)
    }

    /// Messages that are looked into, or must not be passed on in part.
    fn is_looked_into(&self, kind: u8) -> bool {
        match kind {
            b'S' | b'C' | b'E' | b'Z' | b'1' | b'2' | b'3' | b'N' | b'A' => true,
            b'D' => {
                matches!(self.expected.front(), Some(Expected::Examination { .. } | Expected::Code { .. }))
            }
            _ => false,
        }
    }

    fn pop_if(&mut self, fits: impl Fn(&Expected) -> bool) -> Option<Expected> {
        if self.expected.front().is_some_and(fits) { self.expected.pop_front() } else { None }
    }

    /// An answer that must be the next expected one.
    fn complete(&mut self, fate: Fate, fits: impl Fn(&Expected) -> bool) -> Fate {
        if self.pop_if(fits).is_none() {
            self.lose_sight();
        }
        fate
    }

    fn tag(&mut self, tag: &[u8], holding: &mut Holding) {
        match self.expected.front() {
            Some(Expected::Execute { prepared }) => {
                let prepared = prepared.clone();
                let effect = prepared.as_ref().and_then(|prepared| prepared.reading.effect.as_ref());
                let change =
                    prepared.as_ref().and_then(|prepared| prepared.reading.channels.first().cloned());
                self.command_completed(tag, (effect, change), holding);
                self.expected.pop_front();
            }
            Some(Expected::Query { .. }) => {
                let Some(Expected::Query { effect, channels, .. }) = self.expected.front_mut() else {
                    return;
                };
                // It is had once: a text with an effect is one statement.
                let effect = effect.take();
                let is_next = match channels.first() {
                    Some(ChannelChange::Ends | ChannelChange::EndsPart) => {
                        matches!(tag, b"COMMIT" | b"ROLLBACK")
                    }
                    Some(_) => matches!(tag, b"LISTEN" | b"UNLISTEN"),
                    None => false,
                };
                let change = is_next.then(|| channels.remove(0));
                self.command_completed(tag, (effect.as_deref(), change), holding);
            }
            Some(Expected::Begun) => {
                self.expected.pop_front();
                self.has_begun();
            }
            Some(
                Expected::Placing
                | Expected::Aside
                | Expected::Failing
                | Expected::Code { .. }
                | Expected::Marker { .. }
                | Expected::Unlisten { .. }
                | Expected::Examination { .. },
            ) => {}
            _ => self.lose_sight(),
        }
    }

    fn copy_in_begins(&mut self) {
        match self.expected.front() {
            Some(Expected::Query { .. }) => self.copy_in = Some(CopyIn::Simple),
            Some(Expected::Execute { .. }) => {
                // It has ignored, or will, each Sync that was sent already (src/backend/commands/copyfromparse.c,
                // CopyGetData).
                while matches!(self.expected.get(1), Some(Expected::Sync { .. })) {
                    self.expected.remove(1);
                }
                if self.expected.len() > 1 {
                    self.lose_sight();
                }
                self.unsynced = true;
                self.copy_in = Some(CopyIn::Extended { synced: false });
            }
            _ => self.lose_sight(),
        }
    }

    fn parameter(&mut self, body: &[u8], own: Fate, holding: &mut Holding) -> Fate {
        let was_told = self.told.is_same_as(&holding.reported);
        holding.reported.note_body(body);
        // What the client is told of its own settings comes when all are in place.
        if own == Fate::Swallow && self.is_placing() {
            return Fate::Swallow;
        }
        if own == Fate::Forward && body.starts_with(b"application_name\0") {
            self.told_name();
        }
        if was_told {
            self.told = holding.reported.clone();
        } else {
            self.told.note_body(body);
        }
        Fate::Forward
    }

    fn error(
        &mut self,
        body: &[u8],
        is_whole: bool,
        is_own: bool,
        holding: &mut Holding,
    ) -> Result<Fate, Broken> {
        let summary = ErrorSummary::parse(body);
        if summary.fatal {
            holding.is_strange = true;
            holding.goodbye = if is_whole { Goodbye::Kept(body.into()) } else { Goodbye::Told };
            return Ok(if is_whole { Fate::Swallow } else { Fate::Forward });
        }
        if let Some(CopyIn::Extended { synced: true }) = self.copy_in.take() {
            // Whether the server read that Sync before or after the COPY ended is not known.
            self.lose_sight();
        }
        if body.windows(CHANGED_RESULT.len()).any(|part| part == CHANGED_RESULT) {
            // A table was changed since somebody prepared the statement there. Who prepares it anew gets a new one.
            holding.is_strange = true;
        }
        holding.is_strange |= self.has_other_statements(&summary, body);
        if self.expected.front().is_none_or(Expected::is_of_transaction) {
            self.statement_failed();
        }
        let told = if self.untold.is_some() { Fate::Instead } else { Fate::Forward };
        match self.expected.front() {
            Some(Expected::Failing) => Ok(Fate::Swallow),
            // What cannot be told is suspect.
            Some(Expected::Code { .. }) => {
                self.expected[0] = Expected::Code { answer: Answer::WORST };
                Ok(Fate::Swallow)
            }
            Some(Expected::Placing) => Err(Broken::Settings(message_of(body))),
            Some(Expected::Begun) => {
                self.refused_to_begin();
                Err(Broken::Begin(body.into()))
            }
            Some(Expected::Aside) => {
                holding.is_strange = true;
                Ok(Fate::Swallow)
            }
            // Cancelled, or out of time: the reasons stay.
            Some(Expected::Examination { .. }) => {
                let found = Found { obstacle: true, channels: Vec::new() };
                self.expected[0] = Expected::Examination { found };
                Ok(Fate::Swallow)
            }
            Some(Expected::Marker { .. }) => {
                self.expected[0] = Expected::Marker { failed: true };
                Ok(Fate::Swallow)
            }
            Some(Expected::Unlisten { .. }) => {
                self.expected[0] = Expected::Unlisten { failed: true };
                Ok(Fate::Swallow)
            }
            Some(expected) if expected.ends_with_ready() => Ok(told),
            Some(_) => {
                let for_proxy = self.skip_to_sync(holding);
                Ok(if is_own && for_proxy { Fate::Swallow } else { told })
            }
            None => Ok(Fate::Forward),
        }
    }

    /// Whether the server says that it has a statement which it is not known to have, or the other way round.
    fn has_other_statements(&self, summary: &ErrorSummary, body: &[u8]) -> bool {
        match summary.sqlstate.as_ref() {
            Some(b"42P05") => {
                matches!(self.expected.front(), Some(Expected::Parse { prepared: Some(_), .. }))
            }
            Some(b"26000") => body.windows(SERVER_NAMES.len()).any(|part| part == SERVER_NAMES),
            _ => false,
        }
    }

    /// The server ignores everything up to the next Sync; whether that one is the proxy's own.
    pub(super) fn skip_to_sync(&mut self, holding: &mut Holding) -> bool {
        let is_sync = |expected: &Expected| matches!(expected, Expected::Sync { .. });
        let count = self.expected.iter().position(is_sync).unwrap_or(self.expected.len());
        // The last one first: a statement may have been closed, and its name given to another.
        for at in (0..count).rev() {
            if let Some(skipped) = self.expected.remove(at) {
                self.undo(skipped, at == 0, holding);
            }
        }
        match self.expected.front() {
            Some(Expected::Sync { by }) => *by == By::Proxy,
            _ => {
                self.skipping = true;
                false
            }
        }
    }

    /// The server does not come to it, or it is the one that has failed.
    fn undo(&mut self, skipped: Expected, has_failed: bool, holding: &mut Holding) {
        match skipped {
            Expected::Parse { prepared: None, .. } => {}
            Expected::Parse { by, name, prepared: Some(prepared), before } => match name.as_deref() {
                Some(b"") => {
                    holding.unnamed = Unnamed::Unknown;
                    if by == By::Client {
                        // One that fails has dropped the statement before it.
                        self.unnamed = before.filter(|_| !has_failed);
                    }
                }
                Some(name) => {
                    holding.statements.remove(&prepared.number);
                    self.forget(name);
                }
                None => drop(holding.statements.remove(&prepared.number)),
            },
            Expected::Close { statement: Some((name, prepared)), .. } if name.is_empty() => {
                holding.unnamed = Unnamed::Unknown;
                self.unnamed = Some(prepared);
            }
            Expected::Close { statement: Some((name, prepared)), drops, .. } => {
                if drops {
                    holding.statements.insert(prepared.number);
                }
                self.statements_bytes += name.len() + prepared.body.len();
                self.statements.insert(name, prepared);
            }
            // The server keeps it; the client must not take it for its own.
            Expected::ParseKnown { name } => drop(self.forget(&name)),
            Expected::Query { .. } | Expected::FunctionCall | Expected::Placing | Expected::Aside => {}
            Expected::Failing
            | Expected::Begun
            | Expected::Code { .. }
            | Expected::Examination { .. }
            | Expected::Marker { .. }
            | Expected::Unlisten { .. } => {}
            Expected::Close { .. }
            | Expected::Bind
            | Expected::Describe
            | Expected::Execute { .. }
            | Expected::Sync { .. } => {}
        }
    }

    fn server_ready(&mut self, body: &[u8], holding: &mut Holding, to_client: &mut Vec<u8>) -> Fate {
        let status = match body {
            b"I" => TransactionStatus::Idle,
            b"T" => TransactionStatus::InTransaction,
            _ => TransactionStatus::Failed,
        };
        let Some(ended) = self.pop_if(Expected::ends_with_ready) else {
            self.lose_sight();
            return Fate::Forward;
        };
        self.copy_in = None;
        if !ended.is_own() {
            self.answers += 1;
            self.tally.answered(status);
        }
        if matches!(ended, Expected::Placing) {
            self.placed(holding, to_client);
        }
        let fate = if ended.is_own() { Fate::Swallow } else { Fate::Forward };
        match ended {
            Expected::Code { answer } => self.code_known(answer, holding),
            Expected::Examination { found } => self.examination_ended(found, holding),
            Expected::Marker { failed } => self.marker_answered(failed),
            Expected::Unlisten { failed } => self.unlistened(failed),
            _ => {}
        }
        self.ready(status, holding);
        fate
    }
}

/// The text of an ErrorResponse.
fn message_of(body: &[u8]) -> String {
    let field = body.split(|&b| b == 0).find_map(|field| field.strip_prefix(b"M"));
    String::from_utf8_lossy(field.unwrap_or_default()).into_owned()
}
