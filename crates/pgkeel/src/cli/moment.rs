//! A moment to come, as people write it: "30min" from now, "03:00" by the clock on the wall, a date and a time.

use cluster::WallMs;
use jiff::civil::{DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, Zoned};

const WRONG: &str = "write a length of time from now, like 30min or 12h, a local time, like 03:00 or \"2026-11-22 03:00\", \
                     one with its zone, like 2026-11-22T03:00:00Z, or seconds since 1970, like @1790000000";

/// Reads a moment by this host's clock and time zone.
///
/// # Errors
/// When it is none of the forms, is past, or its local time does not exist or comes twice that day.
pub fn later(text: &str) -> Result<WallMs, String> {
    let zone = TimeZone::try_system().map_err(|e| format!("this host's time zone is not known: {e}"));
    later_than(text, &Timestamp::now(), zone)
}

fn later_than(text: &str, now: &Timestamp, zone: Result<TimeZone, String>) -> Result<WallMs, String> {
    let wrong = || WRONG.to_owned();
    let now_ms = u64::try_from(now.as_millisecond()).map_err(|_| wrong())?;
    if let Some(seconds) = text.strip_prefix('@') {
        return seconds.parse::<u64>().ok().and_then(|s| s.checked_mul(1000)).ok_or_else(wrong);
    }
    if let Ok(wait) = humantime::parse_duration(text) {
        let wait = u64::try_from(wait.as_millis()).map_err(|_| wrong())?;
        return now_ms.checked_add(wait).ok_or_else(wrong);
    }
    let moment = match text.parse::<Timestamp>() {
        Ok(moment) => moment,
        Err(_) => local(text, &now.to_zoned(zone?))?,
    };
    let ms = u64::try_from(moment.as_millisecond()).map_err(|_| wrong())?;
    if ms < now_ms {
        return Err(format!("{} is past", moment.to_zoned(TimeZone::try_system().unwrap_or(TimeZone::UTC))));
    }
    Ok(ms)
}

/// "2026-11-22 03:00", or "03:00": the next one.
fn local(text: &str, now: &Zoned) -> Result<Timestamp, String> {
    let (at, day) = match (text.parse::<DateTime>(), text.parse::<Time>()) {
        (Ok(at), _) => (at, ""),
        (Err(_), Ok(time)) if time.to_datetime(now.date()) < now.datetime() => {
            let tomorrow = now.date().checked_add(1.day()).map_err(|e| e.to_string())?;
            (time.to_datetime(tomorrow), " (tomorrow)")
        }
        (Err(_), Ok(time)) => (time.to_datetime(now.date()), ""),
        (Err(_), Err(_)) => return Err(WRONG.to_owned()),
    };
    let zoned = now.time_zone().to_ambiguous_zoned(at).unambiguous();
    zoned.map(|zoned| zoned.timestamp()).map_err(|_| {
        format!("the local time {at}{day} does not exist or comes twice, as the clocks change; add the zone, like 2026-11-22T03:00:00Z")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At noon, five hours east, on 2023-11-14.
    fn at_noon(text: &str) -> Result<WallMs, String> {
        let now = Timestamp::from_second(1_699_945_200).unwrap();
        later_than(text, &now, Ok(TimeZone::fixed(jiff::tz::offset(5))))
    }

    const NOON: u64 = 1_699_945_200_000;
    const HOUR: u64 = 3_600_000;

    #[test]
    fn every_form_is_read() {
        assert_eq!(at_noon("30min"), Ok(NOON + HOUR / 2));
        assert_eq!(at_noon("@1790000000"), Ok(1_790_000_000_000));
        assert_eq!(at_noon("13:00"), Ok(NOON + HOUR));
        assert_eq!(at_noon("11:00:00"), Ok(NOON + 23 * HOUR), "tomorrow");
        assert_eq!(at_noon("2023-11-14 14:00"), Ok(NOON + 2 * HOUR));
        assert_eq!(at_noon("2023-11-14T09:00:00Z"), Ok(NOON + 2 * HOUR));
    }

    #[test]
    fn what_is_past_or_no_time_is_refused() {
        assert!(at_noon("2023-11-14 11:00").unwrap_err().contains("past"));
        assert!(at_noon("soon").unwrap_err().contains("30min"));
        assert!(at_noon("25:00").unwrap_err().contains("30min"));
        assert!(later_than("03:00", &Timestamp::now(), Err("no zone".to_owned())).is_err());
    }

    #[test]
    fn a_time_that_the_change_of_clocks_makes_twice_is_refused() {
        let Ok(berlin) = TimeZone::get("Europe/Berlin") else { return };
        let now = Timestamp::from_second(1_698_000_000).unwrap();
        assert!(later_than("2023-10-29 02:30", &now, Ok(berlin.clone())).unwrap_err().contains("twice"));
        assert!(later_than("2023-10-29 03:30", &now, Ok(berlin)).is_ok());
    }
}
