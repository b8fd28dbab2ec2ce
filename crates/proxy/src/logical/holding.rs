//! What one server connection holds.

use super::code::Code;
use super::last_values::LastValues;
use super::prepared::Prepared;
use super::{Owner, Reported, Settings};
use std::collections::HashSet;
use std::rc::Rc;

/// Most statements that are kept prepared on one server; then all are dropped.
pub(super) const SERVER_STATEMENTS_MAX: usize = 500;

/// The unnamed prepared statement of a server.
#[derive(Clone, Debug)]
pub(super) enum Unnamed {
    Nothing,
    Is(Rc<Prepared>),
    /// A client's, too long to be known here.
    Of(Owner),
    /// It may be anybody's.
    Unknown,
}

/// The server's last words: an ErrorResponse of severity FATAL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goodbye {
    /// None.
    None,
    /// Its body; the client has not heard it.
    Kept(Box<[u8]>),
    /// It was too long to be kept: the client has begun to hear it.
    Told,
}

/// See the module. It is made when the server has logged in.
#[derive(Debug)]
pub struct Holding {
    /// Of the server's process.
    pub(super) pid: u32,
    pub(super) in_place: Settings,
    pub(super) reported: Reported,
    /// The application name with which it has begun: of the role, the database or the server, mostly none.
    pub(super) first_name: Box<[u8]>,
    /// Numbers of the statements that are prepared there.
    pub(super) statements: HashSet<u64>,
    pub(super) unnamed: Unnamed,
    /// Since they were discarded.
    pub(super) last_values: LastValues,
    /// A message of the server that has not come whole; only of those that are looked into.
    pub(super) held: Vec<u8>,
    /// What is left of a message that is passed on, or thrown away, as it comes. Bytes.
    pub(super) passing: usize,
    pub(super) throwing_away: usize,
    /// Something came that no server sends to a session like ours.
    pub(super) is_strange: bool,
    pub(super) goodbye: Goodbye,
    pub(super) code: Code,
    /// The database has sequences, for all that is known.
    pub(super) has_sequences: bool,
    /// When that was asked.
    pub(super) code_round: Option<u64>,
}

impl Holding {
    /// Of a server that has just logged in and reported its settings.
    #[must_use]
    pub fn new(reported: Reported) -> Holding {
        let first_name = reported.get(b"application_name").unwrap_or_default().into();
        Holding {
            pid: 0,
            first_name,
            in_place: Settings::default(),
            reported,
            statements: HashSet::new(),
            unnamed: Unnamed::Nothing,
            last_values: LastValues::OfNobody,
            held: Vec::new(),
            passing: 0,
            throwing_away: 0,
            is_strange: false,
            goodbye: Goodbye::None,
            code: Code::Unknown,
            has_sequences: true,
            code_round: None,
        }
    }

    /// The process id that its own notifications carry.
    #[must_use]
    pub fn of_process(mut self, pid: u32) -> Holding {
        self.pid = pid;
        self
    }

    /// Whether the stream from the server is between two messages, and nothing strange was seen in it.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.is_at_boundary() && !self.is_strange
    }

    /// Whether the stream from the server is between two messages.
    #[must_use]
    pub fn is_at_boundary(&self) -> bool {
        self.held.is_empty() && self.passing == 0 && self.throwing_away == 0
    }

    /// Whether the client can be told something of the proxy's: no message of the server has begun to be passed on.
    #[must_use]
    pub fn is_between_messages(&self) -> bool {
        self.passing == 0
    }

    /// What the server has said of the connection's end.
    #[must_use]
    pub fn goodbye(&self) -> &Goodbye {
        &self.goodbye
    }

    /// Takes bytes that came while the server was lent to nobody; `false` if it is of no use any more.
    pub fn heard_idle(&mut self, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        while let Some((message, after)) = super::from_server::split_whole(rest) {
            match message {
                // A configuration that was loaded anew.
                (b'S', body) => self.reported.note_body(body),
                (b'N', _) => {}
                _ => return false,
            }
            rest = after;
        }
        rest.is_empty()
    }

    /// Takes note of the body of a ParameterStatus.
    pub fn note_setting(&mut self, body: &[u8]) {
        self.reported.note_body(body);
    }

    /// What the server reports.
    #[must_use]
    pub fn reported(&self) -> &Reported {
        &self.reported
    }
}
