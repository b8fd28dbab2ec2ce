//! A moment on two clocks at once: one to measure with, one to compare with what agents of this host wrote down.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A moment.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    /// For lengths of time.
    pub instant: Instant,
    /// Wall clock, milliseconds since 1970 UTC, as in `cluster::state::Entry::at`.
    pub wall_ms: u64,
}

impl Stamp {
    /// This moment.
    #[must_use]
    pub fn now() -> Stamp {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Stamp { instant: Instant::now(), wall_ms: u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX) }
    }

    /// The moment so much later.
    #[must_use]
    pub fn plus(self, time: Duration) -> Stamp {
        let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Stamp { instant: self.instant + time, wall_ms: self.wall_ms.saturating_add(ms) }
    }
}
