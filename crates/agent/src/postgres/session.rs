//! The one connection over which the agent's loop and hands ask their server.
//!
//! A new connection costs the server a process and that process its caches, ten milliseconds and more where the processor
//! is short: too much for each question of a failover.

use super::connection::connect;
use super::{PgError, Place};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio_postgres::Client;

/// Made when it is first needed, kept until it fails. Only for questions that are answered at once: they wait for each
/// other.
pub struct Session {
    place: Place,
    client: Mutex<Option<Arc<Client>>>,
}

impl Session {
    /// For the server at `place`.
    #[must_use]
    pub fn new(place: Place) -> Session {
        Session { place, client: Mutex::default() }
    }

    /// Where its server lives.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The connection, if it is open. The server has then passed its start: it takes signals.
    #[must_use]
    pub fn open(&self) -> Option<Arc<Client>> {
        self.held().clone().filter(|client| !client.is_closed())
    }

    /// The connection; a new one where there is none.
    ///
    /// # Errors
    /// When the server refuses, is starting, or does not answer within `limit`.
    pub async fn client(&self, limit: Duration) -> Result<Arc<Client>, PgError> {
        if let Some(client) = self.open() {
            return Ok(client);
        }
        let client = Arc::new(connect(&self.place, limit).await?);
        *self.held() = Some(Arc::clone(&client));
        Ok(client)
    }

    /// It failed, or its server is gone: the next question goes over a new one.
    pub fn forget(&self) {
        *self.held() = None;
    }

    fn held(&self) -> MutexGuard<'_, Option<Arc<Client>>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
