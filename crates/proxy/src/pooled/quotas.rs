//! What the workers' pools have in common: how many servers all of them may have, and who wishes for one.

use crate::lend::Quota;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

/// Most pools: each has its own user, database or start-up parameters.
const POOLS_MAX: usize = 10_000;

/// See the module.
#[derive(Debug)]
pub struct Quotas {
    /// Of all pools together.
    pub all: Arc<Quota>,
    by_packet: Mutex<HashMap<Box<[u8]>, Arc<Quota>>>,
    /// By worker.
    calls: Vec<Notify>,
}

impl Quotas {
    /// For so many workers.
    pub fn new(workers: usize) -> Quotas {
        let calls = std::iter::repeat_with(Notify::new).take(workers).collect();
        Quotas { all: Arc::new(Quota::new(workers)), by_packet: Mutex::default(), calls }
    }

    /// That of the pool with this start-up packet; `None` if there are too many pools.
    pub fn of_pool(&self, packet: &[u8]) -> Option<Arc<Quota>> {
        let mut known = self.by_packet.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(quota) = known.get(packet) {
            return Some(Arc::clone(quota));
        }
        if known.len() >= POOLS_MAX {
            return None;
        }
        let quota = Arc::new(Quota::new(self.calls.len()));
        known.insert(packet.into(), Arc::clone(&quota));
        Some(quota)
    }

    /// Has this worker look at its pools.
    pub fn call(&self, worker: usize) {
        if let Some(call) = self.calls.get(worker) {
            call.notify_one();
        }
    }

    /// Has all workers do so but this one.
    pub fn call_others(&self, worker: usize) {
        (0..self.calls.len()).filter(|other| *other != worker).for_each(|other| self.call(other));
    }

    /// Returns when this worker is called.
    pub async fn called(&self, worker: usize) {
        match self.calls.get(worker) {
            Some(call) => call.notified().await,
            None => std::future::pending().await,
        }
    }
}
