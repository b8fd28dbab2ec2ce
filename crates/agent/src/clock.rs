//! The clock that agent and guard share: CLOCK_BOOTTIME. It never goes back, nobody can set it, and it goes on
//! while the machine is suspended, so a lease measured by it cannot be outslept.

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Milliseconds since this machine was started, time spent suspended included (CLOCK_BOOTTIME).
/// The same for every process of the machine, so a deadline can be handed from one to another.
pub fn boottime_ms() -> u64 {
    to_ms(clock_gettime(ClockId::Boottime))
}

/// Wall clock, milliseconds since 1970 UTC: for people and logs, never for a decision.
#[must_use]
pub fn wall_ms() -> u64 {
    to_ms(clock_gettime(ClockId::Realtime))
}

/// Rounds down; this clock starts at zero, so a negative part cannot occur and counts as zero.
fn to_ms(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1000).saturating_add(nanoseconds / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_down_to_milliseconds() {
        assert_eq!(to_ms(Timespec { tv_sec: 12, tv_nsec: 3_999_999 }), 12_003);
    }

    #[test]
    fn goes_forward() {
        let before = boottime_ms();
        std::thread::sleep(std::time::Duration::from_millis(3));
        assert!(boottime_ms() >= before + 3);
    }
}
