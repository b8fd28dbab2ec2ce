//! The one connection over which the agent's loop and hands ask their server.
//!
//! A new connection costs the server a process and that process its caches, ten milliseconds and more where the processor
//! is short: too much for each question of a failover.

use super::connection::connect;
use super::{PgError, Place};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Row, Statement};

/// Made when it is first needed, kept until it fails. Only for questions that are answered at once: they wait for each
/// other.
pub struct Session {
    place: Place,
    open: Mutex<Option<Arc<Asking>>>,
}

/// A connection and the questions that it knows already: each is parsed once.
pub struct Asking {
    client: Client,
    known: Mutex<BTreeMap<&'static str, Statement>>,
}

impl Asking {
    /// Every row of the answer.
    ///
    /// # Errors
    /// What the server says, or that the connection is lost.
    pub async fn all(&self, question: &'static str, with: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
        self.client.query(&self.statement(question).await?, with).await
    }

    /// The one row of the answer.
    ///
    /// # Errors
    /// What the server says, or that the connection is lost.
    pub async fn one(&self, question: &'static str, with: &[&(dyn ToSql + Sync)]) -> Result<Row, Error> {
        self.client.query_one(&self.statement(question).await?, with).await
    }

    async fn statement(&self, question: &'static str) -> Result<Statement, Error> {
        if let Some(known) = locked(&self.known).get(question) {
            return Ok(known.clone());
        }
        let new = self.client.prepare(question).await?;
        locked(&self.known).insert(question, new.clone());
        Ok(new)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Session {
    /// For the server at `place`.
    #[must_use]
    pub fn new(place: Place) -> Session {
        Session { place, open: Mutex::default() }
    }

    /// Where its server lives.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The connection, if it is open. The server has then passed its start: it takes signals.
    #[must_use]
    pub fn open(&self) -> Option<Arc<Asking>> {
        locked(&self.open).clone().filter(|asking| !asking.client.is_closed())
    }

    /// The connection; a new one where there is none.
    ///
    /// # Errors
    /// When the server refuses, is starting, or does not answer within `limit`.
    pub async fn asking(&self, limit: Duration) -> Result<Arc<Asking>, PgError> {
        if let Some(asking) = self.open() {
            return Ok(asking);
        }
        let client = connect(&self.place, limit).await?;
        let asking = Arc::new(Asking { client, known: Mutex::default() });
        *locked(&self.open) = Some(Arc::clone(&asking));
        Ok(asking)
    }

    /// It failed, or its server is gone: the next question goes over a new one.
    pub fn forget(&self) {
        *locked(&self.open) = None;
    }
}
