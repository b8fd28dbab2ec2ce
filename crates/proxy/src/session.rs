//! What is in flight between one client and its server. Pure: bytes in, facts out.
//!
//! This is where a later form of the proxy decides whether a server may be released; the first form only needs to know
//! how to end a session honestly.

use cluster::view::Server;
use pgwire::{CancelKey, FrameError, FrameTracker, Notable, TransactionStatus};
use std::sync::Arc;

/// One client's session on one server, in the epoch in which it began.
#[derive(Debug)]
pub struct Session {
    server: Arc<Server>,
    epoch: u64,
    from_server: FrameTracker,
    /// `None` once the client has sent something that is not a message; the server will answer that.
    from_client: Option<FrameTracker>,
    /// Requests that ReadyForQuery will answer. The end of the login is the first.
    in_flight: u32,
    logged_in: bool,
    transaction: TransactionStatus,
    /// Someone said that the session ends: FATAL from the server, or Terminate from the client.
    goodbye: bool,
}

/// What a client may have lost when its session is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtStake {
    /// The login was not complete.
    Login,
    /// Nothing was running, no transaction was open.
    Nothing,
    /// A statement outside a transaction block was running.
    Statement,
    /// A transaction block was open, nothing was running in it.
    Transaction,
    /// A statement was running in an open transaction block.
    StatementInTransaction,
}

impl AtStake {
    /// One sentence for the DETAIL of an error.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            AtStake::Login => "The session was still logging in.",
            AtStake::Nothing => "No transaction was open and no statement was running.",
            AtStake::Statement => "A statement was running: whether it took effect is unknown.",
            AtStake::Transaction => "A transaction was open: it is rolled back.",
            AtStake::StatementInTransaction => {
                "A statement was running in an open transaction: if it was COMMIT, its outcome is unknown; otherwise the \
                 transaction is rolled back."
            }
        }
    }
}

impl Session {
    /// A session whose start-up packet was sent to `server` in `epoch`.
    #[must_use]
    pub fn new(server: Arc<Server>, epoch: u64) -> Session {
        Session {
            server,
            epoch,
            from_server: FrameTracker::of_server(),
            from_client: Some(FrameTracker::of_client()),
            in_flight: 1,
            logged_in: false,
            transaction: TransactionStatus::Idle,
            goodbye: false,
        }
    }

    /// The epoch the session belongs to.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The server's node.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.server.node
    }

    /// Takes note of bytes from the server; returns the key for cancel requests when it passes.
    ///
    /// # Errors
    /// [`FrameError`] if the server does not speak the protocol; the session cannot go on.
    pub fn server_sent(&mut self, mut chunk: &[u8]) -> Result<Option<CancelKey>, FrameError> {
        let mut key = None;
        while let Some(notable) = self.from_server.next(&mut chunk)? {
            match notable {
                Notable::BackendKey(new) => key = Some(new),
                Notable::Error(error) => self.goodbye |= error.fatal,
                Notable::Ready(status) => {
                    self.in_flight = self.in_flight.saturating_sub(1);
                    self.logged_in = true;
                    self.transaction = status;
                }
                Notable::Other(_) => {}
            }
        }
        Ok(key)
    }

    /// Takes note of bytes from the client that are about to be sent to the server.
    pub fn client_sent(&mut self, mut chunk: &[u8]) {
        while let Some(tracker) = &mut self.from_client {
            match tracker.next(&mut chunk) {
                // Query, Sync and FunctionCall are what ReadyForQuery answers.
                Ok(Some(Notable::Other(b'Q' | b'S' | b'F'))) => {
                    self.in_flight = self.in_flight.saturating_add(1)
                }
                Ok(Some(Notable::Other(b'X'))) => self.goodbye = true,
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(_) => self.from_client = None,
            }
        }
    }

    /// Whether a message of the proxy may be put into the stream to the client.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        self.from_server.at_boundary()
    }

    /// Whether the server's closing of the connection is no surprise to the client.
    #[must_use]
    pub fn end_was_announced(&self) -> bool {
        self.goodbye
    }

    /// What the client loses if the session ends now.
    #[must_use]
    pub fn at_stake(&self) -> AtStake {
        let open = match self.transaction {
            TransactionStatus::Idle => false,
            TransactionStatus::InTransaction | TransactionStatus::Failed => true,
        };
        match (self.logged_in, self.in_flight > 0, open) {
            (false, _, _) => AtStake::Login,
            (true, false, false) => AtStake::Nothing,
            (true, true, false) => AtStake::Statement,
            (true, false, true) => AtStake::Transaction,
            (true, true, true) => AtStake::StatementInTransaction,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged_in() -> Session {
        let server = Server { node: "n1".into(), host: "127.0.0.1".into(), port: 5432 };
        let mut session = Session::new(Arc::new(server), 3);
        assert_eq!(session.at_stake(), AtStake::Login);
        let key = session.server_sent(b"R\0\0\0\x08\0\0\0\0K\0\0\0\x0c\0\0\0\x07abcdZ\0\0\0\x05I").unwrap();
        assert_eq!(key.unwrap().pid(), 7);
        session
    }

    #[test]
    fn what_is_at_stake_follows_the_messages() {
        let mut session = logged_in();
        assert_eq!(session.at_stake(), AtStake::Nothing);
        session.client_sent(b"Q\0\0\0\x0abegin\0");
        assert_eq!(session.at_stake(), AtStake::Statement);
        session.server_sent(b"C\0\0\0\x0aBEGIN\0Z\0\0\0\x05T").unwrap();
        assert_eq!(session.at_stake(), AtStake::Transaction);
        session.client_sent(b"P\0\0\0\x04S\0\0\0\x04");
        session.client_sent(b"S\0\0\0\x04");
        session.server_sent(b"Z\0\0\0\x05T").unwrap();
        assert_eq!(session.at_stake(), AtStake::StatementInTransaction, "the second Sync is not answered");
        session.server_sent(b"Z\0\0\0\x05I").unwrap();
        assert_eq!(session.at_stake(), AtStake::Nothing);
    }

    #[test]
    fn an_end_is_announced_by_terminate_or_fatal_only() {
        let mut session = logged_in();
        session.server_sent(b"E\0\0\0\x0cVERROR\0\0").unwrap();
        assert!(!session.end_was_announced());
        session.client_sent(b"X\0\0\0\x04");
        assert!(session.end_was_announced());
        let mut session = logged_in();
        session.server_sent(b"E\0\0\0\x0cVFATAL\0\0").unwrap();
        assert!(session.end_was_announced());
    }

    #[test]
    fn a_client_that_breaks_the_protocol_is_left_to_the_server() {
        let mut session = logged_in();
        session.client_sent(b"\0\0\0\0\0\0\0Q\0\0\0\x04X\0\0\0\x04");
        assert_eq!(session.at_stake(), AtStake::Nothing);
        assert!(!session.end_was_announced());
    }

    #[test]
    fn a_server_that_breaks_the_protocol_is_an_error() {
        assert!(logged_in().server_sent(&[0; 5]).is_err());
        let mut session = logged_in();
        session.server_sent(b"D\0\0\0\x08ab").unwrap();
        assert!(!session.at_boundary());
    }
}
