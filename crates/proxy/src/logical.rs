//! A client's session, which is more than the server that it is lent at the moment. Pure: bytes in, bytes out, facts.
//!
//! [`Logical`] is the client's part: its settings, its prepared statements, what is under way. [`Holding`] is what a
//! server connection holds, and goes with it from client to client. Between the two stand the rules:
//!
//! - Before a client's first byte reaches a server, the server's settings are the client's ([`Logical::place`]).
//! - A statement that the client has prepared is prepared anew, without its noticing, on a server that does not have it.
//! - A server may be taken away only when nothing is under way and no [`Pin`](crate::sql::Pin) holds it
//!   ([`Logical::may_leave`]).
//! - What cannot be followed for sure pins the server until the client goes, and the server is closed then.
//!
//! Bodies of messages are not held, except those of statements up to a limit, and small ones.

mod begin;

mod place;

mod examine;

mod channels;

mod code;

mod described;

mod drain;

mod expected;

mod from_client;

mod extended;

mod from_server;

mod holding;

mod last_values;

mod lost;

mod named;

mod outcome;

mod prepared;

mod reported;

mod settings;

mod shared;

mod tally;

#[cfg(test)]
mod tests;

pub use channels::Channel;
pub use code::Changes;
pub use described::{Described, SetBy, Statement};
pub use holding::{Goodbye, Holding};
pub use lost::{AfterLoss, Lost};
pub use place::Heard;
pub use prepared::Texts;
pub use reported::Reported;
pub use settings::Settings;
pub use tally::{Counts, Tally};

use crate::sql::{Pin, Pins};
use channels::Channels;
use drain::Rehearsed;
use expected::{CopyIn, Expected};
use outcome::Outcome;
use pgwire::{FrameError, TransactionStatus};
use prepared::Prepared;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use thiserror::Error;

/// Names a client for as long as its worker runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner(pub u64);

/// Most answers that a client can have outstanding before it is not read from any more.
const EXPECTED_MAX: usize = 16 * 1024;

/// Most bytes of the statements that a client can have prepared.
const STATEMENTS_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Why a session cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Broken {
    /// The client does not speak the protocol.
    #[error("the client sent what is not PostgreSQL's protocol: {0}")]
    Client(FrameError),
    /// The client sent a message that no client sends, or one with an impossible body.
    #[error("the client sent a message of type {0:?} that cannot be read")]
    ClientMessage(char),
    /// The client has prepared too many statements.
    #[error("the client has prepared statements of more than {STATEMENTS_BYTES_MAX} bytes")]
    Statements,
    /// The server does not speak the protocol.
    #[error("the server sent what is not PostgreSQL's protocol: {0}")]
    Server(FrameError),
    /// The client's settings could not be put in place; the server's message.
    #[error("the session's settings cannot be repeated on this server: {0}")]
    Settings(String),
    /// A transaction that the client was told has begun did not; the body of the server's ErrorResponse.
    #[error("its transaction could not be begun")]
    Begin(Box<[u8]>),
}

/// What the client's bytes led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All whole messages were taken.
    All,
    /// The rest has to wait until the server has answered.
    Waits,
    /// The client said goodbye.
    Terminated,
}

/// See the module.
#[derive(Debug)]
pub struct Logical {
    owner: Owner,
    /// Those that the session was begun with.
    first_settings: Settings,
    settings: Settings,
    told: Reported,
    pins: Pins,
    statements: HashMap<Box<[u8]>, Rc<Prepared>>,
    /// Of all of them.
    statements_bytes: usize,
    unnamed: Option<Rc<Prepared>>,
    /// Portals whose statements leave an effect, drop something, or begin or end a transaction; nearly always empty.
    portals: Vec<(Box<[u8]>, Rc<Prepared>)>,
    expected: VecDeque<Expected>,
    /// The server ignores everything up to the next Sync.
    skipping: bool,
    /// Messages of the extended protocol were sent that no Sync has followed yet.
    unsynced: bool,
    copy_in: Option<CopyIn>,
    /// What the client says next has to wait until all is answered.
    drains: bool,
    rehearsed: Rehearsed,
    /// The transaction has set something, so that a text may mean something else in it.
    unshared: bool,
    /// The process id that the client takes for its own.
    told_pid: u32,
    /// It has moved a sequence by name: on the same server it can ask for the value.
    likes_server: bool,
    /// The server was asked whether the reasons are gone, and nothing was sent since.
    examined: bool,
    transaction: TransactionStatus,
    outcome: Outcome,
    /// A BEGIN that was answered, and that is sent with what the client says next.
    begin: Option<Box<[u8]>>,
    /// One was sent, and the server has not said yet that the transaction has begun.
    begin_ahead: bool,
    /// An ErrorResponse that the client has still to be told: its transaction was lost while it said nothing.
    untold: Option<Vec<u8>>,
    /// What makes the server say an error that is replaced by it was sent.
    telling: bool,
    /// It keeps its server only because what is in the database is not known yet.
    suspects: bool,
    /// What it may have changed for all, until that is passed on.
    changes: Changes,
    /// Of one whose channels were moved, or might be; nearly always none.
    channels: Option<Box<Channels>>,
    /// Requests that were answered to their end.
    answers: u64,
    tally: Rc<Tally>,
    /// Bytes of the client's present message that are passed on as they come, or thrown away.
    passing: usize,
    throwing_away: usize,
}

impl Logical {
    /// A session that has just logged in, with settings that it was begun with and what its client was told.
    #[must_use]
    pub fn new(owner: Owner, settings: Settings, told: Reported) -> Logical {
        Logical {
            owner,
            first_settings: settings.clone(),
            settings,
            told,
            pins: Pins::NONE,
            statements: HashMap::new(),
            statements_bytes: 0,
            unnamed: None,
            portals: Vec::new(),
            expected: VecDeque::new(),
            skipping: false,
            unsynced: false,
            copy_in: None,
            drains: false,
            rehearsed: Rehearsed::Nothing,
            unshared: false,
            told_pid: 0,
            likes_server: false,
            examined: false,
            transaction: TransactionStatus::Idle,
            outcome: Outcome::default(),
            begin: None,
            begin_ahead: false,
            untold: None,
            telling: false,
            suspects: false,
            changes: Changes::default(),
            channels: None,
            answers: 0,
            tally: Rc::default(),
            passing: 0,
            throwing_away: 0,
        }
    }

    /// Its client was told this process id at the beginning.
    #[must_use]
    pub fn told_as(mut self, pid: u32) -> Logical {
        self.told_pid = pid;
        self
    }

    /// It keeps the server that it is lent first until it ends.
    #[must_use]
    pub fn kept_whole(mut self) -> Logical {
        self.pins.add(Pin::Configured);
        self
    }

    /// The session is counted there, too, with others.
    #[must_use]
    pub fn counted_in(mut self, tally: Rc<Tally>) -> Logical {
        self.tally = tally;
        self
    }

    /// Where the session is counted.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Whether the server is at work for the client, and not only asked whether it still has to be kept.
    #[must_use]
    pub fn is_at_work(&self) -> bool {
        !matches!(
            self.expected.back(),
            None | Some(Expected::Examination { .. } | Expected::Marker { .. } | Expected::Unlisten { .. })
        )
    }

    /// How many requests of the client were answered to their end.
    #[must_use]
    pub fn answers(&self) -> u64 {
        self.answers
    }

    /// How many statements the client has prepared and named.
    #[must_use]
    pub fn prepared_count(&self) -> usize {
        self.statements.len()
    }

    /// Why the client keeps its server beyond its transaction.
    #[must_use]
    pub fn pins(&self) -> Pins {
        self.pins
    }

    /// Whether nothing is under way, in either direction, and no transaction is open.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.expected.is_empty()
            && !self.unsynced
            && !self.skipping
            && self.passing == 0
            && self.copy_in.is_none()
            && self.begin.is_none()
            && self.transaction == TransactionStatus::Idle
    }

    /// Whether the client needs its server no longer. Whether somebody else can use it, [`Holding::is_clean`] says.
    #[must_use]
    pub fn may_leave(&self, holding: &Holding) -> bool {
        self.is_quiet() && self.pins.is_empty() && holding.is_at_boundary()
    }

    /// Whether the client would rather have the same server again than another.
    #[must_use]
    pub fn likes_server(&self) -> bool {
        self.likes_server
    }

    /// Whether a transaction is open on the server.
    #[must_use]
    pub fn in_transaction(&self) -> bool {
        self.transaction != TransactionStatus::Idle
    }

    /// Whether the server still owes an answer.
    #[must_use]
    pub fn awaits_answer(&self) -> bool {
        !self.expected.is_empty()
    }

    /// Whether the server waits for more of the client: data of a COPY, the end of a pipeline or of a message.
    #[must_use]
    pub fn is_waited_for(&self) -> bool {
        self.copy_in.is_some() || self.unsynced || self.passing > 0
    }

    /// Something happened that cannot be followed: the server stays with this client and is closed after it.
    fn lose_sight(&mut self) {
        self.pins.add(Pin::Astray);
    }
}
