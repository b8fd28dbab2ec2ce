//! What is in flight between one client and its server. Pure: bytes in, facts out.
//!
//! It knows how to end a session honestly, and when one is quiet, so that it may move to another server.

use crate::portable::Obstacle;
use crate::relogin::Told;
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
    /// Messages of the extended protocol were sent that no Sync has followed yet.
    unsynced: bool,
    parsed: Parsed,
    login: Login,
    purpose: Purpose,
    /// Something may have been set that no catalog shows.
    may_have_set: bool,
    told: Told,
    transaction: TransactionStatus,
    /// Someone said that the session ends: FATAL from the server, or Terminate from the client.
    goodbye: bool,
}

/// How the client was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Login {
    /// The server has not said anything about it yet.
    Begun,
    /// At once, so the same start-up packet will do again. Still to come is the first ReadyForQuery.
    Trusted,
    /// The server asked for something.
    Secret,
    /// As [`Login::Trusted`], and complete.
    DoneTrusted,
    /// As [`Login::Secret`], and complete.
    DoneSecret,
}

/// What the client wants of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Statements.
    Sql,
    /// The start-up packet has the parameter `replication`.
    Replication,
}

/// What became of the newest Parse of the client. Unnamed statements outlive their Sync, and no catalog shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parsed {
    /// None, or a simple query has destroyed it since.
    Nothing,
    /// Nothing was bound yet: the client is about to do it.
    Fresh,
    /// It was bound, the Sync is still to come.
    Bound,
    /// It was bound and that was synced; most likely it has done its duty.
    Spent,
    /// It was bound again later: the client keeps it.
    Kept,
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
    pub fn new(server: Arc<Server>, epoch: u64, purpose: Purpose) -> Session {
        Session {
            server,
            epoch,
            from_server: FrameTracker::of_server(),
            from_client: Some(FrameTracker::of_client()),
            in_flight: 1,
            unsynced: false,
            parsed: Parsed::Nothing,
            login: Login::Begun,
            purpose,
            may_have_set: false,
            told: Told::default(),
            transaction: TransactionStatus::Idle,
            goodbye: false,
        }
    }

    /// A session that goes on on `server`, where its login was repeated.
    #[must_use]
    pub fn resumed(server: Arc<Server>, epoch: u64, told: Told) -> Session {
        Session { in_flight: 0, login: Login::DoneTrusted, told, ..Session::new(server, epoch, Purpose::Sql) }
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

    /// The settings that the client was told, for the session that follows this one.
    #[must_use]
    pub fn take_told(&mut self) -> Told {
        std::mem::take(&mut self.told)
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
                    self.transaction = status;
                    self.login = match self.login {
                        Login::Begun | Login::Secret | Login::DoneSecret => Login::DoneSecret,
                        Login::Trusted | Login::DoneTrusted => Login::DoneTrusted,
                    };
                }
                Notable::Authentication(0) if self.login == Login::Begun => self.login = Login::Trusted,
                Notable::Authentication(0) => {}
                Notable::Authentication(_) => self.login = Login::Secret,
                Notable::Parameter { name, value } => self.told.note(&name, value.as_deref()),
                Notable::MaySet => self.may_have_set = true,
                Notable::Other(_) => {}
            }
        }
        Ok(key)
    }

    /// Takes note of bytes from the client that are about to be sent to the server.
    pub fn client_sent(&mut self, mut chunk: &[u8]) {
        while let Some(tracker) = &mut self.from_client {
            match tracker.next(&mut chunk) {
                Ok(Some(Notable::Other(kind))) => self.client_message(kind),
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(_) => self.from_client = None,
            }
        }
    }

    fn client_message(&mut self, kind: u8) {
        match kind {
            // Query, Sync and FunctionCall are what ReadyForQuery answers.
            b'Q' | b'S' | b'F' => {
                self.in_flight = self.in_flight.saturating_add(1);
                self.unsynced = false;
                self.parsed = match (kind, self.parsed) {
                    (b'Q', _) => Parsed::Nothing,
                    (_, Parsed::Bound) => Parsed::Spent,
                    (_, parsed) => parsed,
                };
                // The call could be one of `set_config`.
                self.may_have_set |= kind == b'F';
            }
            // Not Flush, which begins nothing that a Sync would have to end.
            b'P' | b'B' | b'D' | b'E' | b'C' => {
                self.unsynced = true;
                self.parsed = match (kind, self.parsed) {
                    (b'P', _) => Parsed::Fresh,
                    (b'B', Parsed::Spent | Parsed::Kept) => Parsed::Kept,
                    (b'B', _) => Parsed::Bound,
                    (_, parsed) => parsed,
                };
            }
            b'X' => self.goodbye = true,
            _ => {}
        }
    }

    /// Whether nothing is under way in either direction, no transaction is open, and nobody has said goodbye.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.at_stake() == AtStake::Nothing
            && !self.unsynced
            && !self.goodbye
            && self.parsed != Parsed::Fresh
            && self.from_server.at_boundary()
            && self.from_client.as_ref().is_some_and(FrameTracker::at_boundary)
    }

    /// What keeps the session on its server, as far as that is known without asking the server.
    #[must_use]
    pub fn obstacle(&self) -> Option<Obstacle> {
        let mentioned = self.from_client.as_ref().is_none_or(FrameTracker::has_mentioned_set_config);
        if self.purpose == Purpose::Replication {
            return Some(Obstacle::Replication);
        }
        match (self.login, self.parsed) {
            (Login::Begun | Login::Secret | Login::DoneSecret, _) => Some(Obstacle::Secret),
            (Login::Trusted | Login::DoneTrusted, Parsed::Kept) => Some(Obstacle::Prepared),
            (Login::Trusted | Login::DoneTrusted, _) if self.may_have_set || mentioned => {
                Some(Obstacle::UnseenSetting)
            }
            (Login::Trusted | Login::DoneTrusted, _) => None,
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
        let logged_in = matches!(self.login, Login::DoneTrusted | Login::DoneSecret);
        match (logged_in, self.in_flight > 0, open) {
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
        let mut session = Session::new(Arc::new(server), 3, Purpose::Sql);
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
    fn it_is_quiet_only_between_transactions_and_whole_messages() {
        let mut session = logged_in();
        assert!(session.is_quiet());
        session.client_sent(b"Q\0\0");
        assert!(!session.is_quiet(), "half a message");
        session.client_sent(b"\0\x0abegin\0");
        assert!(!session.is_quiet(), "not answered");
        session.server_sent(b"C\0\0\0\x0aBEGIN\0Z\0\0\0\x05T").unwrap();
        assert!(!session.is_quiet(), "in a transaction");
        session.client_sent(b"Q\0\0\0\x08end\0");
        session.server_sent(b"Z\0\0\0\x05IN\0").unwrap();
        assert!(!session.is_quiet(), "half a notice");
        session.server_sent(b"\0\0\x04").unwrap();
        assert!(session.is_quiet());
        session.client_sent(b"H\0\0\0\x04");
        assert!(session.is_quiet(), "a Flush begins nothing");
        session.client_sent(b"P\0\0\0\x04H\0\0\0\x04");
        assert!(!session.is_quiet(), "not synced");
    }

    fn cycle(session: &mut Session, kinds: &str) {
        for kind in kinds.bytes() {
            session.client_sent(&[kind, 0, 0, 0, 4]);
        }
        session.server_sent(b"Z\0\0\0\x05I").unwrap();
    }

    #[test]
    fn a_statement_that_was_parsed_is_waited_for_and_one_that_is_kept_stays() {
        let mut session = logged_in();
        for _ in 0..2 {
            cycle(&mut session, "PDS");
            assert!(!session.is_quiet(), "about to be bound");
            cycle(&mut session, "BES");
            assert!(session.is_quiet() && session.obstacle().is_none());
        }
        cycle(&mut session, "PBEBES");
        assert!(session.is_quiet() && session.obstacle().is_none());
        cycle(&mut session, "BES");
        assert_eq!(session.obstacle(), Some(Obstacle::Prepared));
        cycle(&mut session, "Q");
        assert!(session.is_quiet() && session.obstacle().is_none());
    }

    #[test]
    fn what_is_known_to_keep_it_on_its_server() {
        let mut secret = Session::new(Arc::clone(&logged_in().server), 3, Purpose::Sql);
        secret.server_sent(b"R\0\0\0\x08\0\0\0\x03R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I").unwrap();
        assert!(secret.is_quiet());
        assert_eq!(secret.obstacle(), Some(Obstacle::Secret));
        let mut set = logged_in();
        set.server_sent(b"C\0\0\0\x08SET\0").unwrap();
        assert_eq!(set.obstacle(), Some(Obstacle::UnseenSetting));
        let mut set_config = logged_in();
        set_config.client_sent(b"Q\0\0\0\x0fset_config\0");
        assert_eq!(set_config.obstacle(), Some(Obstacle::UnseenSetting));
        let resumed = Session::resumed(Arc::clone(&set.server), 4, set.take_told());
        assert!(resumed.is_quiet() && resumed.obstacle().is_none());
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
