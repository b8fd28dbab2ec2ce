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

    /// The server that gave out `key`.
    pub fn server_of(&self, key: &CancelKey) -> Option<Arc<Server>> {
        self.lock().server_of(key)
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
        self.pool.lock().set_key(self.id, key);
    }
}

impl Drop for OpenConnection<'_> {
    fn drop(&mut self) {
        self.pool.lock().closed(self.id);
    }
}
