//! The server is lost in the middle of something: what its client is told, and how its session goes on.
//!
//! A session outlives its server when nothing of it was only there. What was running or open gets one error:
//!
//! - A transaction that was open is surely rolled back, for its COMMIT was not sent. The client is told so as the answer to
//!   what runs, or to the next thing that it says. Its session is then in a failed transaction, as after any error: the
//!   next server is brought into that state too, so that nothing runs outside of a transaction that was meant to be in it.
//! - Of a COMMIT, or of a statement outside a transaction, nobody knows whether it took effect.

use super::expected::{By, Expected};
use super::from_client::{Desk, Message};
use super::holding::Unnamed;
use super::outcome::Outcome;
use super::{Holding, Logical};
use crate::sql::{Ends, Pin, read};
use pgwire::TransactionStatus;
use pgwire::message::{put, put_query, split_string};

/// What was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// A transaction; it is rolled back.
    Transaction,
    /// The answer to a COMMIT, or to a statement outside a transaction.
    Outcome,
}

/// Makes the ErrorResponse that tells it: a whole message.
pub type Words<'a> = &'a dyn Fn(Lost) -> Vec<u8>;

/// What becomes of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterLoss {
    /// It goes on, on another server.
    GoesOn,
    /// It ends: something of it was only on that server, or what the client waits for cannot be told for sure.
    Ends,
}

/// Makes a transaction that has failed. Its text can be read in the server's log.
const FAILING: &[u8] =
    b"BEGIN; SELECT 1/0 /* the client's transaction was lost with the primary that it was on */";

/// In a failed transaction, this fails.
const REFUSED: &[u8] = b"SELECT 1\0";

/// What the client waits for.
enum Awaited {
    Nothing,
    /// One ReadyForQuery, behind statements that do this.
    One(Ends),
    /// Something else.
    Unclear,
}

impl Logical {
    /// The server is lost. What the client is to be told now is appended to `to_client`.
    pub fn lose_server(
        &mut self,
        holding: &mut Holding,
        words: Words<'_>,
        to_client: &mut Vec<u8>,
    ) -> AfterLoss {
        if std::mem::take(&mut self.suspects) {
            // What it ran has not ended: nothing that it left is relied upon.
            self.pins.remove(Pin::Function);
        }
        let in_midst = self.passing + self.throwing_away > 0 || self.copy_in.is_some();
        if !self.pins.is_empty() || in_midst || !holding.is_between_messages() || self.outcome.has_ended() {
            return AfterLoss::Ends;
        }
        if self.keeps_begin() {
            // The next server will be sent it.
            self.forget_server(holding, TransactionStatus::Idle);
            self.has_begun();
            return AfterLoss::GoesOn;
        }
        let open = self.in_transaction() || self.outcome.has_begun();
        let (lost, left) = match (self.awaited(), open) {
            (Awaited::Unclear, _) | (Awaited::One(Ends::Unclear), _) => return AfterLoss::Ends,
            (Awaited::Nothing, false) => (None, TransactionStatus::Idle),
            (Awaited::Nothing, true) => {
                if self.transaction != TransactionStatus::Failed {
                    self.untold = Some(words(Lost::Transaction));
                }
                (None, TransactionStatus::Failed)
            }
            (Awaited::One(Ends::Commits), _) | (Awaited::One(Ends::Nothing), false) => {
                (Some(Lost::Outcome), TransactionStatus::Idle)
            }
            (Awaited::One(Ends::RollsBack), _) => (Some(Lost::Transaction), TransactionStatus::Idle),
            (Awaited::One(Ends::Begins | Ends::Nothing), _) => {
                (Some(Lost::Transaction), TransactionStatus::Failed)
            }
        };
        if let Some(lost) = lost {
            if !self.outcome.has_told_error() {
                to_client.extend(words(lost));
            }
            put(b'Z', &[if left == TransactionStatus::Idle { b"I" } else { b"E" }], to_client);
        }
        self.forget_server(holding, left);
        AfterLoss::GoesOn
    }

    fn awaited(&self) -> Awaited {
        let mut ends = Ends::Nothing;
        let of_client: Vec<&Expected> = self.expected.iter().filter(|expected| !expected.is_own()).collect();
        for expected in &of_client {
            let next = match expected {
                Expected::Query { ends, .. } => *ends,
                Expected::Execute { prepared: Some(prepared) } => prepared.reading.ends,
                _ => continue,
            };
            ends = match (ends, next) {
                (Ends::Nothing, next) => next,
                (Ends::Begins, Ends::Nothing) => Ends::Begins,
                _ => Ends::Unclear,
            };
        }
        let readies = of_client.iter().filter(|expected| expected.ends_with_ready()).count();
        match (of_client.last(), readies) {
            _ if self.unsynced || self.skipping => Awaited::Unclear,
            (None, _) => Awaited::Nothing,
            (Some(last), 1) if last.ends_with_ready() => Awaited::One(ends),
            (Some(_), _) => Awaited::Unclear,
        }
    }

    /// Nothing of the session is on a server any more.
    fn forget_server(&mut self, holding: &mut Holding, left: TransactionStatus) {
        // Statements that it did not come to are as before.
        self.skip_to_sync(holding);
        self.expected.clear();
        self.portals.clear();
        (self.skipping, self.unsynced, self.examined) = (false, false, false);
        (self.drains, self.unshared, self.begin_ahead) = (false, false, false);
        self.outcome = Outcome::default();
        self.settle_channels(true);
        self.transaction = left;
    }

    /// Brings a server that was just lent into the state in which the client believes it.
    pub(super) fn fail_anew(&mut self, to_server: &mut Vec<u8>) {
        put_query(FAILING, to_server);
        self.expected.push_back(Expected::Failing);
    }

    /// The client says something for the first time since its transaction was lost, and is told that as the answer: also to
    /// a COMMIT, to which a server would say only ROLLBACK. To a ROLLBACK it need not be told. How many bytes of the
    /// message were taken, if it is not to be passed on.
    pub(super) fn tell_with(&mut self, message: &Message<'_>, desk: &mut Desk<'_>) -> Option<usize> {
        if self.telling {
            return None;
        }
        if self.rolls_back(message) {
            self.untold = None;
            return None;
        }
        self.telling = true;
        match message.kind {
            b'Q' | b'F' => {
                self.unnamed = None;
                desk.holding.unnamed = Unnamed::Nothing;
                put(b'Q', &[REFUSED], desk.to_server);
                self.expected.push_back(Expected::query_of_nothing(Ends::Nothing));
                self.throwing_away = message.body_len - message.body.len();
                Some(message.body.len())
            }
            _ => {
                // What follows is ignored up to the next Sync.
                desk.holding.unnamed = Unnamed::Unknown;
                put(b'P', &[b"\0", REFUSED, b"\0\0"], desk.to_server);
                self.expected.push_back(Expected::parse_of_nothing(By::Client));
                None
            }
        }
    }

    fn rolls_back(&self, message: &Message<'_>) -> bool {
        let ends = match message.kind {
            b'Q' if message.body.len() == message.body_len => Some(read(message.body).ends),
            b'P' => split_string(message.body)
                .and_then(|(_, rest)| split_string(rest))
                .map(|(text, _)| read(text).ends),
            b'B' => split_string(message.body)
                .and_then(|(_, rest)| split_string(rest))
                .and_then(|(name, _)| self.statements.get(name))
                .map(|prepared| prepared.reading.ends),
            _ => None,
        };
        ends == Some(Ends::RollsBack)
    }
}
