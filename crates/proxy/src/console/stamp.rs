//! Moments, as people read them.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A moment of the monotonic clock, and what the other one said then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// How long ago it was when it was asked.
    pub ago: Duration,
    /// On the wall.
    pub at: SystemTime,
}

impl Moment {
    /// Of an instant that is not in the future.
    pub fn of(instant: Instant) -> Moment {
        let ago = instant.elapsed();
        let now = SystemTime::now();
        Moment { ago, at: now.checked_sub(ago).unwrap_or(now) }
    }

    /// `2026-11-22 03:00:00 UTC`
    pub fn text(&self) -> String {
        stamp(self.at)
    }
}

/// As [`Moment::text`].
pub fn stamp(at: SystemTime) -> String {
    let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// The date of a day, which is counted from 1970-01-01. Years are counted from March, so that the leap day is the last.
fn date(days: u64) -> (u64, u64, u64) {
    // From 0000-03-01.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_known_days() {
        let at = |seconds| stamp(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(at(951_782_399), "2000-02-28 23:59:59 UTC");
        assert_eq!(at(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(at(951_868_800), "2000-03-01 00:00:00 UTC");
        assert_eq!(at(1_767_225_599), "2025-12-31 23:59:59 UTC");
        assert_eq!(at(4_107_542_400), "2100-03-01 00:00:00 UTC");
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let mut known = date(0);
        for days in 1..200_000 {
            let next = date(days);
            let same_month = (next.0, next.1) == (known.0, known.1) && next.2 == known.2 + 1;
            let same_year = next.0 == known.0 && next.1 == known.1 + 1 && next.2 == 1;
            let new_year = next == (known.0 + 1, 1, 1) && (known.1, known.2) == (12, 31);
            assert!(same_month || same_year || new_year, "{known:?} {next:?}");
            known = next;
        }
    }
}
