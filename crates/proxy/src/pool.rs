//! The registry of open server connections that all workers share: one lock around [`state`].
//!
//! It is taken when a server connection opens, shows its cancel key, or closes; never on the path of a query.

mod state;

use cluster::view::Server;
use pgwire::CancelKey;
use state::{ConnectionId, PoolState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// See the module.
#[derive(Debug)]
pub struct Pool {
    state: Mutex<PoolState>,
}

impl Pool {
    /// A pool for at most `connections_max` server connections.
    pub fn new(connections_max: usize) -> Pool {
        Pool { state: Mutex::new(PoolState::new(connections_max)) }
    }

    /// Registers a connection until the guard is dropped; `None` if the pool is full.
    pub fn open(&self, server: Arc<Server>, epoch: u64) -> Option<OpenConnection<'_>> {
        let id = self.lock().opened(server, epoch)?;
        Some(OpenConnection { pool: self, id })
    }

    /// The server on which the client that was given `key` has its session, and the key that this server knows.
    pub fn cancels(&self, key: &CancelKey) -> Option<(Arc<Server>, CancelKey)> {
        self.lock().cancels(key)
    }

    /// Number of open connections of epochs before `epoch`.
    pub fn older_than(&self, epoch: u64) -> usize {
        self.lock().older_than(epoch)
    }

    fn lock(&self) -> MutexGuard<'_, PoolState> {
        // The state is consistent after every statement, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A registered connection; dropping it takes it out again.
#[derive(Debug)]
pub struct OpenConnection<'a> {
    pool: &'a Pool,
    id: ConnectionId,
}

impl OpenConnection<'_> {
    /// Records the key with which the connection's statements can be cancelled.
    pub fn set_key(&self, key: CancelKey) {
        self.set_keys(key.clone(), key);
    }

    /// Records the key that the client was given on an earlier server, and the one that this server knows.
    pub fn set_keys(&self, of_client: CancelKey, of_server: CancelKey) {
        self.pool.lock().set_keys(self.id, of_client, of_server);
    }

    /// The key that the client was given.
    pub fn key_of_client(&self) -> Option<CancelKey> {
        self.pool.lock().key_of_client(self.id)
    }
}

impl Drop for OpenConnection<'_> {
    fn drop(&mut self) {
        self.pool.lock().closed(self.id);
    }
}
