//! The answers that a server owes, in order.

use super::code::Answer;
use super::prepared::Prepared;
use crate::sql::{ChannelChange, Effect, Ends};
use std::rc::Rc;

/// Whose message is answered: the proxy's own answers are not for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Client,
    Proxy,
}

/// One answer.
#[derive(Clone, Debug)]
pub(super) enum Expected {
    /// ParseComplete; with the client's unnamed statement that was there before, if this is one.
    Parse { by: By, name: Option<Box<[u8]>>, prepared: Option<Rc<Prepared>>, before: Option<Rc<Prepared>> },
    /// CloseComplete, of which the client is told as of ParseComplete: the server has its statement already.
    ParseKnown { name: Box<[u8]> },
    /// BindComplete.
    Bind,
    /// ParameterDescription, then RowDescription or NoData; of a portal without the former.
    Describe,
    /// Rows, then CommandComplete, EmptyQueryResponse or PortalSuspended.
    Execute { prepared: Option<Rc<Prepared>> },
    /// CloseComplete; of a client's statement, so that it can be had back if the server does not come to it, and whether
    /// the server drops it.
    Close { by: By, statement: Option<(Box<[u8]>, Rc<Prepared>)>, drops: bool },
    /// ReadyForQuery.
    Sync { by: By },
    /// Anything, then ReadyForQuery; with its LISTEN and UNLISTEN that were not completed yet.
    Query { effect: Option<Box<Effect>>, ends: Ends, channels: Vec<ChannelChange> },
    /// All that answers a BEGIN which the client was answered already; no ReadyForQuery.
    Begun,
    /// The settings, put in place by a query of the proxy.
    Placing,
    /// A query of the proxy that nobody waits for.
    Aside,
    /// A transaction that the proxy begins and has fail, for the client's was lost with another server.
    Failing,
    /// Rows that name what keeps the client on its server; the proxy has asked for it.
    Examination { found: Found },
    /// The proxy has put its marker into the server's queue of notifications.
    Marker { failed: bool },
    /// The server is to listen no more: somebody else does.
    Unlisten { failed: bool },
    /// Rows that say what the database has; the proxy has asked.
    Code { answer: Answer },
    /// FunctionCallResponse, then ReadyForQuery.
    FunctionCall,
}

impl Expected {
    /// ParseComplete for a statement of which nothing is to be undone.
    pub(super) fn parse_of_nothing(by: By) -> Expected {
        Expected::Parse { by, name: None, prepared: None, before: None }
    }

    /// A query that leaves nothing that is followed.
    pub(super) fn query_of_nothing(ends: Ends) -> Expected {
        Expected::Query { effect: None, ends, channels: Vec::new() }
    }

    /// Whether ReadyForQuery is the end of it.
    pub(super) fn ends_with_ready(&self) -> bool {
        match self {
            Expected::Sync { .. }
            | Expected::Query { .. }
            | Expected::Placing
            | Expected::Aside
            | Expected::Failing
            | Expected::Code { .. }
            | Expected::Examination { .. }
            | Expected::Marker { .. }
            | Expected::Unlisten { .. }
            | Expected::FunctionCall => true,
            Expected::Parse { .. }
            | Expected::ParseKnown { .. }
            | Expected::Bind
            | Expected::Describe
            | Expected::Execute { .. }
            | Expected::Begun
            | Expected::Close { .. } => false,
        }
    }

    /// Whether an error here is one of the client's transaction, and not only of what the proxy has asked.
    pub(super) fn is_of_transaction(&self) -> bool {
        !matches!(
            self,
            Expected::Failing
                | Expected::Aside
                | Expected::Begun
                | Expected::Code { .. }
                | Expected::Examination { .. }
                | Expected::Marker { .. }
                | Expected::Unlisten { .. }
        )
    }

    /// Whether the answer is not for the client.
    pub(super) fn is_own(&self) -> bool {
        match self {
            Expected::Parse { by, .. } | Expected::Close { by, .. } | Expected::Sync { by } => {
                *by == By::Proxy
            }
            Expected::Begun
            | Expected::Placing
            | Expected::Aside
            | Expected::Failing
            | Expected::Code { .. }
            | Expected::Examination { .. }
            | Expected::Marker { .. }
            | Expected::Unlisten { .. } => true,
            Expected::ParseKnown { .. }
            | Expected::Bind
            | Expected::Describe
            | Expected::Execute { .. }
            | Expected::Query { .. }
            | Expected::FunctionCall => false,
        }
    }
}

/// What an examination has found so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Something that cannot be moved.
    pub(super) obstacle: bool,
    /// Channels that it listens on.
    pub(super) channels: Vec<Box<[u8]>>,
}

/// The server reads a COPY from the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CopyIn {
    /// By a simple query.
    Simple,
    /// By Execute; it ignores every Sync meanwhile.
    Extended {
        /// The client has sent one.
        synced: bool,
    },
}
