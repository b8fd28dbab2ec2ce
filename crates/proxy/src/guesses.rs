//! Who has failed to log in: whoever guesses passwords is slowed down, address by address. Pure: the time is handed in.
//!
//! The address that has failed a few times hears so later and later. Whoever does not wait for that, but tries on other
//! connections meanwhile, is not let in at all once many wait. So an address has some twenty guesses a second at most, and
//! one guess every few seconds on a connection of its own.
//!
//! After a failure the question whether a user exists is answered at beats of a clock: whether its secret was at hand or had
//! to be looked up cannot be told from the time. Addresses without failures do not wait for anything.

use crate::source::Source;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Failures are forgotten when no other one came for so long.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(300);

/// So many are answered at once: people mistype.
const FREE: u32 = 3;

/// The first pause; each further one is twice as long.
const PAUSE_FIRST: Duration = Duration::from_millis(100);

/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(3);

/// More failures of one address do not wait to be told.
const WAITING_MAX: u32 = 64;

/// Most addresses that are remembered.
const SOURCES_MAX: usize = 10_000;

/// The beat of answers to an address that has failed.
const BEAT: Duration = Duration::from_millis(10);

/// Of one address.
#[derive(Clone, Copy, Debug)]
struct Known {
    failures: u32,
    last: Instant,
    waiting: u32,
}

/// How an address stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has not failed.
    Good,
    /// It has: its answers come at beats.
    Suspect,
    /// So many of its failures wait to be told that it may not try.
    Shut,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Guesses(Mutex<HashMap<Source, Known>>);

/// A failure that is to be told; it counts as waiting until this is dropped.
#[derive(Debug)]
pub struct Failure<'a> {
    guesses: &'a Guesses,
    source: Source,
    /// When it is told, from now on.
    pub pause: Duration,
}

impl Guesses {
    /// How `source` stands now.
    pub fn standing(&self, source: impl Into<Source>, now: Instant) -> Standing {
        match self.lock().get(&source.into().network()) {
            Some(known) if known.waiting >= WAITING_MAX => Standing::Shut,
            Some(known) if known.is_remembered(now) => Standing::Suspect,
            _ => Standing::Good,
        }
    }

    /// A login from `source` has failed.
    pub fn failed(&self, source: impl Into<Source>, now: Instant) -> Failure<'_> {
        let source = source.into().network();
        let mut sources = self.lock();
        if sources.len() >= SOURCES_MAX && !sources.contains_key(&source) {
            sources.retain(|_, known| known.waiting > 0 || known.is_remembered(now));
            if sources.len() >= SOURCES_MAX {
                // Somebody has very many addresses; of those that do not try at present, nothing is remembered.
                sources.retain(|_, known| known.waiting > 0);
            }
        }
        let known = sources.entry(source).or_insert(Known { failures: 0, last: now, waiting: 0 });
        if !known.is_remembered(now) {
            known.failures = 0;
        }
        known.failures = known.failures.saturating_add(1);
        known.last = now;
        known.waiting += 1;
        Failure { guesses: self, source, pause: pause_after(known.failures) }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Source, Known>> {
        // Each change is one statement, so a panic elsewhere spoils nothing.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn is_remembered(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) < FORGOTTEN_AFTER
    }
}

impl Drop for Failure<'_> {
    fn drop(&mut self) {
        if let Some(known) = self.guesses.lock().get_mut(&self.source) {
            known.waiting = known.waiting.saturating_sub(1);
        }
    }
}

/// How long an answer that took `so_far` waits for the next beat.
pub fn until_beat(so_far: Duration) -> Duration {
    let over = so_far.as_nanos() % BEAT.as_nanos();
    BEAT - Duration::from_nanos(u64::try_from(over).unwrap_or(0))
}

fn pause_after(failures: u32) -> Duration {
    match failures.checked_sub(FREE + 1) {
        None => Duration::ZERO,
        Some(doublings) => PAUSE_FIRST.saturating_mul(1 << doublings.min(10)).min(PAUSE_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};

    fn host(number: u32) -> IpAddr {
        Ipv4Addr::from(number).into()
    }

    #[test]
    fn pauses_grow_and_are_forgotten() {
        let (guesses, start) = (Guesses::default(), Instant::now());
        assert_eq!(guesses.standing(host(1), start), Standing::Good);
        let pauses: Vec<u128> = (0..12).map(|_| guesses.failed(host(1), start).pause.as_millis()).collect();
        assert_eq!(pauses, [0, 0, 0, 100, 200, 400, 800, 1_600, 3_000, 3_000, 3_000, 3_000]);
        assert_eq!(guesses.standing(host(1), start), Standing::Suspect);
        assert_eq!(guesses.standing(host(2), start), Standing::Good);
        let later = start + FORGOTTEN_AFTER;
        assert_eq!(guesses.standing(host(1), later), Standing::Good);
        assert_eq!(guesses.failed(host(1), later).pause, Duration::ZERO);
    }

    #[test]
    fn who_does_not_wait_is_shut_out_until_it_does() {
        let (guesses, start) = (Guesses::default(), Instant::now());
        let mut waiting: Vec<_> = (0..WAITING_MAX).map(|_| guesses.failed(host(1), start)).collect();
        assert_eq!(guesses.standing(host(1), start + FORGOTTEN_AFTER), Standing::Shut);
        assert_eq!(guesses.standing(host(2), start), Standing::Good);
        waiting.pop();
        assert_eq!(guesses.standing(host(1), start), Standing::Suspect);
    }

    #[test]
    fn many_addresses_cannot_grow_it_and_those_of_one_host_count_as_one() {
        let (guesses, start) = (Guesses::default(), Instant::now());
        let kept = guesses.failed(host(0), start);
        for number in 1..30_000 {
            drop(guesses.failed(host(number), start));
        }
        assert!(guesses.lock().len() <= SOURCES_MAX && guesses.lock().contains_key(&host(0).into()));
        drop(kept);
        let [a, b]: [IpAddr; 2] =
            ["2001:db8:1:2::1", "2001:db8:1:2:3:4:5:6"].map(|text| text.parse().unwrap());
        drop(guesses.failed(a, start));
        assert_eq!(guesses.standing(b, start), Standing::Suspect);
        assert_eq!(guesses.standing("2001:db8:1:3::1".parse::<IpAddr>().unwrap(), start), Standing::Good);
        assert_eq!(guesses.standing("::ffff:0.0.0.0".parse::<IpAddr>().unwrap(), start), Standing::Suspect);
    }

    #[test]
    fn answers_come_at_beats() {
        let ms = Duration::from_millis;
        assert_eq!([0, 3, 9, 10, 27].map(|n| (ms(n) + until_beat(ms(n))).as_millis()), [10, 10, 10, 20, 30]);
    }
}
