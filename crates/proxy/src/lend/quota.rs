//! Places for server connections that all workers have in common: what one of them takes, the others do not have.
//!
//! There is a quota for each pool, and one for all pools together. What stands on the path of a statement is a load or
//! two; only who has no place, or has one too many, looks at what the others wish.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// See the module.
#[derive(Debug)]
pub struct Quota {
    taken: AtomicUsize,
    /// Of those, how many are not to be lent.
    apart: AtomicUsize,
    /// How many workers wish for a place.
    wishing: AtomicUsize,
    /// By worker: since when the client waits for which it wishes for a place.
    wishes: Mutex<Vec<Option<Instant>>>,
}

impl Quota {
    /// For so many workers, with nothing taken.
    #[must_use]
    pub fn new(workers: usize) -> Quota {
        Quota {
            taken: AtomicUsize::default(),
            apart: AtomicUsize::default(),
            wishing: AtomicUsize::default(),
            wishes: Mutex::new(vec![None; workers]),
        }
    }

    fn wishes(&self) -> MutexGuard<'_, Vec<Option<Instant>>> {
        // Each is replaced as a whole, so a panic elsewhere spoils nothing.
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one worker has to do with a quota.
#[derive(Debug)]
pub struct Claim {
    quota: Arc<Quota>,
    worker: usize,
    /// The worker wishes for a place.
    wishes: bool,
}

impl Claim {
    /// Of the worker of this number, from 0.
    #[must_use]
    pub fn new(quota: Arc<Quota>, worker: usize) -> Claim {
        Claim { quota, worker, wishes: false }
    }

    /// Of a worker that is the only one.
    #[cfg(test)]
    pub(super) fn alone() -> Claim {
        Claim::new(Arc::new(Quota::new(1)), 0)
    }

    /// How many places are taken, by all workers.
    pub(super) fn taken(&self) -> usize {
        self.quota.taken.load(SeqCst)
    }

    /// How many of those are not to be lent.
    pub(super) fn apart(&self) -> usize {
        self.quota.apart.load(SeqCst)
    }

    /// Whether not all of so many places are taken.
    pub(super) fn is_free(&self, limit: usize) -> bool {
        self.taken() < limit
    }

    /// Takes one of so many places for a client that has waited since then. Whether there was one, and no other worker
    /// wishes for it on behalf of a client that has waited longer. The wish is fulfilled by that.
    pub(super) fn take(&mut self, limit: usize, since: Instant) -> bool {
        if self.asked_since().is_some_and(|asked| asked < since) {
            return false;
        }
        let taken =
            self.quota.taken.fetch_update(SeqCst, SeqCst, |taken| (taken < limit).then_some(taken + 1));
        if taken.is_ok() {
            self.withdraw();
        }
        taken.is_ok()
    }

    /// Takes a place in exchange for one that is put back next.
    pub(super) fn take_in_exchange(&self) {
        self.quota.taken.fetch_add(1, SeqCst);
    }

    /// Gives up a place. The worker that is to be told so, as its client has waited longest.
    pub(super) fn put_back(&self) -> Option<usize> {
        self.quota.taken.fetch_sub(1, SeqCst);
        self.oldest_wish().map(|(_, worker)| worker)
    }

    /// Wishes for a place for a client that has waited since then. Whether the other workers are to be told so: they were
    /// not yet.
    pub(super) fn wish(&mut self, since: Instant) -> bool {
        let mut wishes = self.quota.wishes();
        if wishes.len() < 2 {
            return false;
        }
        wishes[self.worker] = Some(since);
        let is_new = !std::mem::replace(&mut self.wishes, true);
        if is_new {
            self.quota.wishing.fetch_add(1, SeqCst);
        }
        is_new
    }

    /// Wishes for nothing any more.
    pub(super) fn withdraw(&mut self) {
        if std::mem::take(&mut self.wishes) {
            self.quota.wishes()[self.worker] = None;
            self.quota.wishing.fetch_sub(1, SeqCst);
        }
    }

    /// Whether another worker wishes for a place.
    pub(super) fn is_asked(&self) -> bool {
        self.quota.wishing.load(SeqCst) > usize::from(self.wishes)
    }

    /// Since when the client of another worker has waited that has waited longest.
    pub(super) fn asked_since(&self) -> Option<Instant> {
        self.oldest_wish().map(|(since, _)| since)
    }

    fn oldest_wish(&self) -> Option<(Instant, usize)> {
        if !self.is_asked() {
            return None;
        }
        let wishes = self.quota.wishes();
        let of_others = wishes.iter().enumerate().filter(|(worker, _)| *worker != self.worker);
        of_others.filter_map(|(worker, since)| Some(((*since)?, worker))).min()
    }

    /// Whether one more that is taken may be one that is not to be lent, of which there may be so many.
    pub(super) fn set_apart(&self, max: usize) -> bool {
        self.quota.apart.fetch_update(SeqCst, SeqCst, |apart| (apart < max).then_some(apart + 1)).is_ok()
    }

    /// One that was set apart is not any more.
    pub(super) fn end_apart(&self) {
        self.quota.apart.fetch_sub(1, SeqCst);
    }
}
