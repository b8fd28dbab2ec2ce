//! Gives the leadership up when the agent's loop does not go round, and ends the process when that lasts.
//!
//! What the loop does may hang in the kernel: a write to a disk that does not answer, a line for a log that nobody takes.
//! The rest of the process would go on without it: as the leader it would keep its leadership, give no lease and decide
//! nothing, for as long as it hangs. Ended, it is what the others know how to deal with, a silent agent; its server is left
//! to its guard.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A disk may take its time over some writes without being lost. Heartbeats have ended long before.
const PATIENCE_MIN: Duration = Duration::from_secs(30);
/// Time for the last words: what takes them may be what hangs.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// The loop's rounds; the watch ends when it is dropped.
pub struct Rounds(Arc<AtomicU64>);

impl Rounds {
    /// To be called with each round.
    pub fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Begins to watch, in a thread of its own. After `quiet_after` without a round `may_lead(false)` is called, and with the next
/// round `may_lead(true)`; after two leases, and at least thirty seconds, the process is ended.
///
/// # Errors
/// When the thread cannot be made.
pub fn watch(
    lease: Duration,
    quiet_after: Duration,
    may_lead: impl Fn(bool) + Send + 'static,
) -> std::io::Result<Rounds> {
    let rounds = Arc::new(AtomicU64::new(0));
    let seen = Arc::downgrade(&rounds);
    let patience = (2 * lease).max(PATIENCE_MIN);
    std::thread::Builder::new().name("pgkeel-stall".into()).spawn(move || {
        if hangs(&seen, (quiet_after, patience), may_lead) {
            end_process(patience);
        }
    })?;
    Ok(Rounds(rounds))
}

/// Returns `true` when no round came for that long; `false` when nobody counts any more.
///
/// Its own looks are what it counts, not a clock: where the whole process was stopped for a while, or gets no processor,
/// the loop is not to blame.
fn hangs(
    rounds: &Weak<AtomicU64>,
    (quiet_after, patience): (Duration, Duration),
    may_lead: impl Fn(bool),
) -> bool {
    let looks_in = |time: Duration| time.as_millis() / LOOK_EVERY.as_millis();
    let (mut last, mut looks, mut quiet) = (0, 0, false);
    while let Some(rounds) = rounds.upgrade() {
        let now = rounds.load(Ordering::Relaxed);
        looks = if now == last { looks + 1 } else { 0 };
        last = now;
        let is_late = looks > looks_in(quiet_after);
        if is_late != std::mem::replace(&mut quiet, is_late) {
            may_lead(!is_late);
        }
        if looks > looks_in(patience) {
            return true;
        }
        drop(rounds);
        std::thread::sleep(LOOK_EVERY);
    }
    false
}

fn end_process(patience: Duration) {
    std::thread::spawn(move || {
        eprintln!(
            "the agent has hung for {} s in something it asked of this host (does its disk answer? is its log taken?); it \
             ends itself, so that the others can go on without it; start it again once the host is well",
            patience.as_secs()
        );
    });
    std::thread::sleep(LAST_WORDS);
    std::process::abort();
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(300);

    #[test]
    fn a_loop_that_stands_still_is_noticed() {
        let rounds = Arc::new(AtomicU64::new(7));
        let told = std::cell::RefCell::new(Vec::new());
        assert!(hangs(&Arc::downgrade(&rounds), (SHORT / 2, SHORT), |may| told.borrow_mut().push(may)));
        assert_eq!(*told.borrow(), [false], "it leads no more before it is ended");
    }

    #[test]
    fn a_loop_that_goes_round_is_left_alone_until_it_ends() {
        let rounds = Rounds(Arc::new(AtomicU64::new(0)));
        let seen = Arc::downgrade(&rounds.0);
        let long = (Duration::from_secs(5), Duration::from_secs(5));
        let watching = std::thread::spawn(move || hangs(&seen, long, |_| panic!("it is not late")));
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(10));
            rounds.count();
        }
        drop(rounds);
        assert!(!watching.join().expect("it does not panic"));
    }
}
