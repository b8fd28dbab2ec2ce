//! Decides whether something about a client's address may be logged again, so that a hostile client cannot fill the log.
//! Pure: the time is handed in.

use crate::source::Source;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// One line for an address in this time.
const QUIET: Duration = Duration::from_secs(60);

/// Most addresses remembered; while that many are, nothing is logged about further ones.
const SOURCES_MAX: usize = 1_024;

/// See the module.
#[derive(Debug, Default)]
pub struct OncePerSource {
    logged: HashMap<Source, Instant>,
}

impl OncePerSource {
    /// Whether a line about `source` is due; the answer `true` is taken as written.
    pub fn is_due(&mut self, source: impl Into<Source>, now: Instant) -> bool {
        let source = source.into();
        if self.logged.get(&source).is_some_and(|at| now.saturating_duration_since(*at) < QUIET) {
            return false;
        }
        if self.logged.len() >= SOURCES_MAX && !self.logged.contains_key(&source) {
            self.logged.retain(|_, at| now.saturating_duration_since(*at) < QUIET);
            if self.logged.len() >= SOURCES_MAX {
                return false;
            }
        }
        self.logged.insert(source, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};

    #[test]
    fn one_line_a_minute_for_each_address() {
        let (mut once, start) = (OncePerSource::default(), Instant::now());
        let [a, b] = [1, 2].map(|n| IpAddr::from(Ipv4Addr::new(10, 0, 0, n)));
        assert!(once.is_due(a, start));
        assert!(!once.is_due(a, start + QUIET / 2));
        assert!(once.is_due(b, start + QUIET / 2));
        assert!(once.is_due(a, start + QUIET));
    }

    #[test]
    fn many_addresses_cannot_grow_it() {
        let (mut once, start) = (OncePerSource::default(), Instant::now());
        let lines = (0..10_000_u32).filter(|n| once.is_due(IpAddr::from(Ipv4Addr::from(*n)), start)).count();
        assert_eq!((lines, once.logged.len()), (SOURCES_MAX, SOURCES_MAX));
        assert!(once.is_due(IpAddr::from(Ipv4Addr::from(99_999)), start + QUIET));
        assert_eq!(once.logged.len(), 1);
    }
}
