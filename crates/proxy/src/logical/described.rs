//! A session that is idle, as data: another process can go on with it.
//!
//! Only what holds between two transactions is described. A session in which more is under way, or which holds its server
//! for something, is not: see [`Logical::describe`].

use super::prepared::Prepared;
use super::reported::Pair;
use super::{Logical, Owner, Reported, STATEMENTS_BYTES_MAX, Settings, Texts};
use crate::sql::Pin;
use std::rc::Rc;

/// The name of a setting, and the statement that sets it.
pub type SetBy = (Box<str>, Box<[u8]>);

/// A session, in the order in which it was made. What a text does is not described: who goes on reads it anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Described {
    /// Those that the session was begun with.
    pub first_settings: Vec<SetBy>,
    /// Those of now.
    pub settings: Vec<SetBy>,
    /// Names and values of which the client was told.
    pub told: Vec<Pair>,
    /// The process id that the client takes for its own.
    pub told_pid: u32,
    /// Prepared by the protocol, with their names; the unnamed one has none.
    pub statements: Vec<Statement>,
    /// It would rather have the same server again.
    pub likes_server: bool,
    /// Requests that were answered to their end.
    pub answers: u64,
}

/// A statement that a client has prepared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// By which the client knows it; none, if it is the unnamed one.
    pub name: Box<[u8]>,
    /// The body of its Parse after the name: text, zero byte, parameter types.
    pub body: Box<[u8]>,
    /// It means the same for other clients.
    pub is_shared: bool,
}

impl Statement {
    fn new(name: &[u8], prepared: &Prepared) -> Statement {
        Statement { name: name.into(), body: prepared.body.clone(), is_shared: prepared.is_shared }
    }
}

impl Logical {
    /// The session, if nothing is under way in it and nothing but a server of its own would have to go along.
    #[must_use]
    pub fn described(&self) -> Option<Described> {
        let is_idle = self.is_quiet() && self.throwing_away == 0 && self.untold.is_none() && !self.telling;
        // Of a session that is kept whole and has no server yet, who goes on with it says that again.
        let mut pins = self.pins;
        pins.remove(Pin::Configured);
        if !is_idle || !pins.is_empty() || self.shares_channels() {
            return None;
        }
        let mut statements: Vec<_> =
            self.statements.iter().map(|(name, prepared)| Statement::new(name, prepared)).collect();
        statements.extend(self.unnamed.as_ref().map(|prepared| Statement::new(b"", prepared)));
        Some(Described {
            first_settings: self.first_settings.to_pairs(),
            settings: self.settings.to_pairs(),
            told: self.told.to_pairs(),
            told_pid: self.told_pid,
            statements,
            likes_server: self.likes_server,
            answers: self.answers,
        })
    }

    /// The session that was described; `None` if it is larger than any.
    #[must_use]
    pub fn restored(described: &Described, owner: Owner, texts: &mut Texts) -> Option<Logical> {
        let told = Reported::of_pairs(&described.told);
        let mut logical = Logical::new(owner, Settings::of_pairs(&described.first_settings)?, told);
        logical.settings = Settings::of_pairs(&described.settings)?;
        logical.told_pid = described.told_pid;
        logical.likes_server = described.likes_server;
        logical.answers = described.answers;
        for Statement { name, body, is_shared } in &described.statements {
            let prepared = if *is_shared { texts.intern(body) } else { texts.of_one_client(body) };
            logical.has_prepared(name, prepared)?;
        }
        Some(logical)
    }

    fn has_prepared(&mut self, name: &[u8], prepared: Rc<Prepared>) -> Option<()> {
        if name.is_empty() {
            self.unnamed = Some(prepared);
            return Some(());
        }
        self.statements_bytes += name.len() + prepared.body.len();
        let is_new = self.statements.insert(name.into(), prepared).is_none();
        (is_new && self.statements_bytes <= STATEMENTS_BYTES_MAX).then_some(())
    }
}
