//! Counters of one proxy, shared by its workers and never touched on the path of a query.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Epochs of which the ended sessions are remembered.
const EPOCHS_MAX: usize = 16;

/// A period of holding is logged at most once in this time.
const HOLD_LOG_PAUSE: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Default)]
pub struct Stats {
    connections: AtomicUsize,
    sessions: AtomicUsize,
    held: Mutex<HeldTally>,
    ended: Mutex<BTreeMap<u64, u64>>,
}

/// The counters at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Client connections of any kind, those in start-up too.
    pub connections: usize,
    /// Clients with a session or waiting for one.
    pub clients: usize,
    /// Of these, the ones that are held.
    pub held: usize,
    /// Sessions that were ended because a newer epoch began, by their own epoch.
    pub ended_by_epoch: BTreeMap<u64, u64>,
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Snapshot { connections, clients, held, ended_by_epoch } = self;
        write!(f, "connections {connections}, clients {clients}, held {held}")?;
        ended_by_epoch.iter().try_for_each(|(epoch, ended)| write!(f, ", ended with epoch {epoch}: {ended}"))
    }
}

impl Stats {
    /// Counts a connection until the guard is dropped; `None` if there are `max` already.
    pub fn connection(&self, max: usize) -> Option<Counted<'_>> {
        Counted::below(&self.connections, max)
    }

    /// Counts a client with a session until the guard is dropped; `None` if there are `max` already.
    pub fn client(&self, max: usize) -> Option<Counted<'_>> {
        Counted::below(&self.sessions, max)
    }

    /// Counts a held client until the guard is dropped. `reason` is logged when it is the first one.
    pub fn hold(&self, reason: &str) -> Held<'_> {
        if lock(&self.held).begin(Instant::now()) {
            tracing::info!("holding clients: {reason}");
        }
        Held { stats: self, since: Instant::now(), end: HeldEnd::Left }
    }

    /// Counts a session of `epoch` that was ended because a newer one began.
    pub fn session_ended(&self, epoch: u64) {
        let mut ended = lock(&self.ended);
        *ended.entry(epoch).or_insert(0) += 1;
        while ended.len() > EPOCHS_MAX {
            ended.pop_first();
        }
    }

    /// Sessions of `epoch` that were ended because a newer one began.
    pub fn ended_of(&self, epoch: u64) -> u64 {
        lock(&self.ended).get(&epoch).copied().unwrap_or(0)
    }

    /// All counters.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            connections: self.connections.load(Ordering::Relaxed),
            clients: self.sessions.load(Ordering::Relaxed),
            held: lock(&self.held).held,
            ended_by_epoch: lock(&self.ended).clone(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Counters stay usable whatever panicked beside them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One that is counted; dropping it counts it out.
#[derive(Debug)]
pub struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn below(counter: &'a AtomicUsize, max: usize) -> Option<Counted<'a>> {
        let one_more = |n| if n < max { Some(n + 1) } else { None };
        counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok().map(|_| Counted(counter))
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How the waiting of one client ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldEnd {
    /// It has a server.
    Served,
    /// The hold was over.
    GaveUp,
    /// The client went away, or the proxy stops.
    Left,
}

/// A client that is held; dropping it ends that.
#[derive(Debug)]
pub struct Held<'a> {
    stats: &'a Stats,
    since: Instant,
    end: HeldEnd,
}

impl Held<'_> {
    /// Ends the holding.
    pub fn end(mut self, end: HeldEnd) {
        self.end = end;
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let summary = lock(&self.stats.held).end(self.end, self.since.elapsed());
        if let Some(summary) = summary {
            tracing::info!("{summary}");
        }
    }
}

/// Turns many held clients into one line at the beginning and one at the end. Pure.
#[derive(Debug, Default)]
struct HeldTally {
    held: usize,
    logged_at: Option<Instant>,
    log_open: bool,
    served: u64,
    gave_up: u64,
    left: u64,
    longest: Duration,
}

impl HeldTally {
    /// Whether a line is due.
    fn begin(&mut self, now: Instant) -> bool {
        self.held += 1;
        let rested = self.logged_at.is_none_or(|at| now.saturating_duration_since(at) >= HOLD_LOG_PAUSE);
        let due = self.held == 1 && rested;
        if due {
            self.logged_at = Some(now);
            self.log_open = true;
        }
        due
    }

    /// The line that is due when nobody is held any more.
    fn end(&mut self, end: HeldEnd, waited: Duration) -> Option<String> {
        self.held = self.held.saturating_sub(1);
        self.longest = self.longest.max(waited);
        match end {
            HeldEnd::Served => self.served += 1,
            HeldEnd::GaveUp => self.gave_up += 1,
            HeldEnd::Left => self.left += 1,
        }
        if self.held > 0 || !self.log_open {
            return None;
        }
        let HeldTally { served, gave_up, left, longest, .. } = self;
        let line = format!(
            "no client is held any more: {served} served, {gave_up} refused after the hold, {left} left; longest {} ms",
            longest.as_millis()
        );
        *self = HeldTally { logged_at: self.logged_at, ..HeldTally::default() };
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_held_clients_is_two_lines() {
        let (mut tally, start) = (HeldTally::default(), Instant::now());
        let begins = (0..1_000).filter(|_| tally.begin(start)).count();
        let ends: Vec<_> = (0..1_000)
            .filter_map(|n| {
                let end = if n < 990 { HeldEnd::Served } else { HeldEnd::GaveUp };
                tally.end(end, Duration::from_millis(n))
            })
            .collect();
        assert_eq!(begins, 1);
        assert_eq!(
            ends,
            ["no client is held any more: 990 served, 10 refused after the hold, 0 left; longest 999 ms"]
        );
        assert!(!tally.begin(start + Duration::from_millis(10)), "too soon for another line");
        assert_eq!(tally.end(HeldEnd::Left, Duration::ZERO), None);
        assert!(tally.begin(start + HOLD_LOG_PAUSE));
    }

    #[test]
    fn counters_are_bounded_and_count_out() {
        let stats = Stats::default();
        let one = stats.client(1);
        assert!(one.is_some() && stats.client(1).is_none());
        drop(one);
        assert!(stats.client(1).is_some());
        assert_eq!(stats.snapshot().to_string(), "connections 0, clients 0, held 0");
        stats.session_ended(0);
        assert_eq!(stats.snapshot().to_string(), "connections 0, clients 0, held 0, ended with epoch 0: 1");
        (0..100).for_each(|epoch| stats.session_ended(epoch));
        assert_eq!(stats.snapshot().ended_by_epoch.len(), EPOCHS_MAX);
        assert_eq!((stats.ended_of(99), stats.ended_of(0)), (1, 0));
    }
}
