//! Cancel requests of pooled clients: each has a key of the proxy's own, which leads to the server that it is lent at the
//! moment, if it is lent one.
//!
//! A cancel request can hit only the statement it meant, or none: a server is not given back while a request is on its
//! way to it, and a server has sent the signal before it closes the connection on which it was asked
//! (src/backend/postmaster/postmaster.c, `processCancelRequest`).

use crate::server::forward_cancel;
use crate::worker::Worker;
use aws_lc_rs::rand;
use cluster::view::Server;
use pgwire::CancelKey;
use std::collections::HashMap;
use std::collections::hash_map::Entry::Vacant;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Random bytes that are taken at once.
const RANDOM_AT_ONCE: usize = 4 * 1024;

/// A server and the key by which it knows the session on it.
#[derive(Debug)]
pub struct Running {
    /// Where to ask.
    pub server: Arc<Server>,
    /// What to show.
    pub key: CancelKey,
}

/// One client's.
#[derive(Debug, Default)]
pub struct Slot {
    state: Mutex<State>,
    /// No request is on its way any more.
    over: Notify,
    /// A request came while no server was lent.
    idle: Notify,
}

#[derive(Debug, Default)]
struct State {
    lent: Option<Arc<Running>>,
    on_the_way: usize,
}

/// All clients' of the proxy, of every worker.
#[derive(Debug, Default)]
pub struct Cancels {
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    by_key: HashMap<CancelKey, Arc<Slot>>,
    random: Random,
}

/// Random bytes, taken from the generator many at a time: for a few of them most of the cost is that of asking.
#[derive(Default)]
struct Random {
    bytes: Vec<u8>,
}

impl fmt::Debug for Random {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Random").field("left", &self.bytes.len()).finish_non_exhaustive()
    }
}

impl Random {
    /// So many bytes, which nobody gets again; `None` if the system gives none.
    fn take(&mut self, len: usize) -> Option<Vec<u8>> {
        if self.bytes.len() < len {
            self.bytes.resize(RANDOM_AT_ONCE.max(len), 0);
            rand::fill(&mut self.bytes).inspect_err(|_| self.bytes.clear()).ok()?;
        }
        Some(self.bytes.split_off(self.bytes.len() - len))
    }
}

/// A client's entry; dropping it takes it out.
#[derive(Debug)]
pub struct Entry<'a> {
    cancels: &'a Cancels,
    key: CancelKey,
    slot: Arc<Slot>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is one statement, so a panic elsewhere spoils nothing.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Slots {
    /// The slot of a new client with this key; `None` if another client has it.
    fn put(&mut self, key: &CancelKey) -> Option<Arc<Slot>> {
        let Vacant(entry) = self.by_key.entry(key.clone()) else { return None };
        Some(Arc::clone(entry.insert(Arc::default())))
    }
}

impl Cancels {
    /// A new client's entry, with a secret of so many bytes; `None` if the system gives no random bytes.
    pub fn enter(&self, secret_len: usize) -> Option<Entry<'_>> {
        let mut slots = lock(&self.slots);
        loop {
            let mut bytes = slots.random.take(4 + secret_len)?;
            // A process id is a positive number.
            bytes[0] &= 0x7f;
            let key = CancelKey::parse(&bytes)?;
            if key.pid() == 0 {
                continue;
            }
            if let Some(slot) = slots.put(&key) {
                return Some(Entry { cancels: self, key, slot });
            }
        }
    }

    /// The entry of a client that has been given its key elsewhere; `None` if another client has it.
    pub fn enter_with(&self, key: CancelKey) -> Option<Entry<'_>> {
        let slot = lock(&self.slots).put(&key)?;
        Some(Entry { cancels: self, key, slot })
    }

    /// Passes a request on, if its key is a client's of here and that one is lent a server. Whether the key is known.
    pub async fn forward(&self, key: &CancelKey, worker: &Worker) -> bool {
        let Some(slot) = lock(&self.slots).by_key.get(key).cloned() else { return false };
        let running = {
            let mut state = lock(&slot.state);
            let Some(running) = state.lent.clone() else {
                slot.idle.notify_waiters();
                return true;
            };
            state.on_the_way += 1;
            running
        };
        if let Err(error) = forward_cancel(&running.server, &running.key, worker).await {
            let node = &running.server.node;
            tracing::warn!("cannot pass a cancel request on to {node}: {error}; the statement goes on");
        }
        lock(&slot.state).on_the_way -= 1;
        slot.over.notify_waiters();
        true
    }
}

impl Entry<'_> {
    /// The client's key.
    pub fn key(&self) -> &CancelKey {
        &self.key
    }

    /// The client is lent this server.
    pub fn lent(&self, running: &Arc<Running>) {
        lock(&self.slot.state).lent = Some(Arc::clone(running));
    }

    /// Returns when a request comes while no server is lent: for who serves the client itself.
    pub fn cancelled(&self) -> impl Future<Output = ()> {
        // It counts from now on, not from when it is waited for.
        self.slot.idle.notified()
    }

    /// As [`Entry::is_given_back`], when none is on its way any more.
    pub async fn given_back(&self) {
        while !self.is_given_back() {
            let over = self.slot.over.notified();
            if self.is_given_back() {
                return;
            }
            over.await;
        }
    }

    /// The client gives its server back: no request reaches it from now on. Whether none is on its way.
    pub fn is_given_back(&self) -> bool {
        let mut state = lock(&self.slot.state);
        state.lent = None;
        state.on_the_way == 0
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        lock(&self.cancels.slots).by_key.remove(&self.key);
    }
}
