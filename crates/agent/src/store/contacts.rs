//! When this node last had an answer or a call from each other member, and how old the leader's last confirmed round
//! is. Time a suspended host slept through counts.

use openraft::async_runtime::Instant as _;
use openraft::type_config::alias::InstantOf;
use rustix::time::{ClockId, Timespec, clock_gettime};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::types::Types;

/// Last contact by member id.
pub(super) struct Contacts {
    since: Instant,
    last: Mutex<BTreeMap<u64, Instant>>,
    led: Mutex<Instant>,
}

impl Contacts {
    pub(super) fn new() -> Self {
        let since = Instant::now();
        Contacts { since, last: Mutex::new(BTreeMap::new()), led: Mutex::new(since) }
    }

    /// The member answered, or called.
    pub(super) fn heard(&self, id: u64) {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).insert(id, Instant::now());
    }

    /// A leader told this node what is recorded. That is more than a contact: it answers also those that it leads no more.
    pub(super) fn was_led(&self) {
        *self.led.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Time since a leader last did; since the start when none has.
    pub(super) fn not_led_for(&self) -> Duration {
        self.led.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Time since the last contact; since the start when there was none.
    pub(super) fn silence(&self, id: u64) -> Duration {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).get(&id).copied();
        last.unwrap_or(self.since).elapsed()
    }
}

/// Corrects an age measured on the monotonic clock, which stands still while the host is suspended.
///
/// Samples of (moment, time suspended until then) are taken all along. What was slept through since a moment is at most
/// the difference between now and the last sample before that moment: the correction can be too large, never too small.
pub(super) struct SuspendClock {
    samples: Mutex<VecDeque<(Instant, Duration)>>,
    keep: Duration,
}

impl SuspendClock {
    /// Answers for moments up to `keep` ago; older ones come out older still.
    pub(super) fn new(keep: Duration) -> Self {
        SuspendClock { samples: Mutex::new(VecDeque::from([(Instant::now(), suspended())])), keep }
    }

    /// Takes a sample. Call it often.
    pub(super) fn sample(&self) {
        self.take(Instant::now(), suspended());
    }

    fn take(&self, now: Instant, asleep: Duration) {
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let outdated = |at: &Instant| now.saturating_duration_since(*at) > self.keep;
        while samples.get(1).is_some_and(|(at, _)| outdated(at)) {
            samples.pop_front();
        }
        samples.push_back((now, asleep));
    }

    /// How long ago `moment` was, sleep included.
    pub(super) fn age(&self, moment: InstantOf<Types>) -> Duration {
        let now = Instant::now();
        self.age_at(now, moment.elapsed(), suspended())
    }

    fn age_at(&self, now: Instant, awake: Duration, asleep: Duration) -> Duration {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let before = samples.iter().rev().find(|(at, _)| now.saturating_duration_since(*at) >= awake);
        let slept_before = before.or(samples.front()).map_or(Duration::ZERO, |(_, slept)| *slept);
        awake + asleep.saturating_sub(slept_before)
    }
}

/// Time this host was suspended since it was started, within microseconds.
fn suspended() -> Duration {
    let since_boot = |clock| {
        let Timespec { tv_sec, tv_nsec } = clock_gettime(clock);
        Duration::new(u64::try_from(tv_sec).unwrap_or(0), u32::try_from(tv_nsec).unwrap_or(0))
    };
    // Monotonic first: a pause between the two readings makes the result larger, which is the safe side for an age.
    let awake = since_boot(ClockId::Monotonic);
    since_boot(ClockId::Boottime).saturating_sub(awake)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleep_after_the_moment_counts_and_sleep_before_does_not() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        let clock = SuspendClock { samples: Mutex::new(VecDeque::from([(start, ms(0))])), keep: ms(1000) };
        clock.take(start + ms(100), ms(5000)); // slept 5 s between 0 and 100
        clock.take(start + ms(200), ms(5000));
        // At 300, a moment at 150: nothing slept since.
        assert_eq!(clock.age_at(start + ms(300), ms(150), ms(5000)), ms(150));
        // At 300 and meanwhile slept 7 s more: all of it counts.
        assert_eq!(clock.age_at(start + ms(300), ms(150), ms(12000)), ms(7150));
        // A moment at 50: the sleep may have come after it, so it counts.
        assert_eq!(clock.age_at(start + ms(300), ms(250), ms(5000)), ms(5250));
    }

    #[test]
    fn old_samples_go_but_one_remains() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        let clock = SuspendClock { samples: Mutex::new(VecDeque::from([(start, ms(0))])), keep: ms(100) };
        for i in 1..1000 {
            clock.take(start + ms(i * 10), ms(0));
        }
        let held = clock.samples.lock().map(|s| s.len());
        assert!(held.is_ok_and(|n| n < 20), "bounded");
    }
}
