//! Text for people: aligned columns, wrapped sentences, lengths of time and amounts of bytes, local time.

use std::io::{IsTerminal, Write};

use cluster::WallMs;
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Columns when the terminal does not say.
const COLUMNS_DEFAULT: usize = 100;

/// Columns of the terminal that standard output is; `None` when it is a file or a pipe.
#[must_use]
pub fn terminal_columns() -> Option<usize> {
    let out = std::io::stdout();
    if !out.is_terminal() {
        return None;
    }
    let columns = rustix::termios::tcgetwinsize(&out).map_or(0, |size| usize::from(size.ws_col));
    Some(if columns == 0 { COLUMNS_DEFAULT } else { columns })
}

/// Writes to standard output; a reader that went away is no reason to fail.
pub fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Rows as lines, every column as wide as its widest cell, two blanks between them.
#[must_use]
pub fn columns(rows: &[Vec<String>]) -> Vec<String> {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|r| r.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// Cuts a line to `columns`, with a sign that it was cut.
#[must_use]
pub fn cut(line: &str, columns: usize) -> String {
    if line.chars().count() <= columns {
        return line.to_owned();
    }
    line.chars().take(columns.saturating_sub(1)).chain(['…']).collect()
}

/// Breaks a sentence between words so that it fits; lines after the first begin with `indent` blanks. `used` columns of
/// the first line are taken already.
#[must_use]
pub fn wrap(text: &str, used: usize, indent: usize, columns: usize) -> String {
    let mut wrapped = String::new();
    let mut at = used;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        let first = wrapped.is_empty();
        if !first && at + 1 + length > columns {
            wrapped.push('\n');
            wrapped.push_str(&" ".repeat(indent));
            at = indent;
        } else if !first {
            wrapped.push(' ');
            at += 1;
        }
        wrapped.push_str(word);
        at += length;
    }
    wrapped
}

/// "0.2 s", "61.0 s".
#[must_use]
pub fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1000, ms % 1000 / 100)
}

/// "12 ms", "1234 ms", "12.3 s".
#[must_use]
pub fn short_time(ms: u64) -> String {
    if ms < 10_000 { format!("{ms} ms") } else { seconds(ms) }
}

/// "0 B", "12 KiB", "1.5 GiB".
#[must_use]
pub fn bytes(count: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut rest = count as f64 / 1024.0;
    let mut unit = 0;
    while rest >= 1024.0 && unit + 1 < units.len() {
        rest /= 1024.0;
        unit += 1;
    }
    if rest < 10.0 { format!("{rest:.1} {}", units[unit]) } else { format!("{rest:.0} {}", units[unit]) }
}

/// A moment of the wall clock for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clock {
    /// "2026-11-21".
    pub date: String,
    /// "10:01:02.123", followed by "Z" when it is not local time.
    pub time: String,
}

/// A moment in local time; in UTC when the host's time zone cannot be read.
#[must_use]
pub fn clock(ms: WallMs) -> Clock {
    clock_in(TimeZone::try_system().ok(), ms)
}

/// The moments in local time, in their order.
#[must_use]
pub fn local_times(moments: &[WallMs]) -> Vec<Clock> {
    let zone = TimeZone::try_system().ok();
    moments.iter().map(|ms| clock_in(zone.clone(), *ms)).collect()
}

fn clock_in(zone: Option<TimeZone>, ms: WallMs) -> Clock {
    let mark = if zone.is_some() { "" } else { "Z" };
    let moment = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    let Some(moment) = moment else { return Clock { date: "?".to_owned(), time: "?".to_owned() } };
    let moment = moment.to_zoned(zone.unwrap_or(TimeZone::UTC));
    Clock {
        date: moment.strftime("%Y-%m-%d").to_string(),
        time: format!("{}{mark}", moment.strftime("%H:%M:%S%.3f")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &[&str]) -> Vec<String> {
        cells.iter().map(|cell| (*cell).to_owned()).collect()
    }

    #[test]
    fn columns_line_up() {
        let rows =
            [row(&["node", "role", "why"]), row(&["n1", "primary", ""]), row(&["north-2", "-", "waits"])];
        assert_eq!(columns(&rows), ["node     role     why", "n1       primary", "north-2  -        waits"]);
        assert!(columns(&[]).is_empty());
    }

    #[test]
    fn long_sentences_are_wrapped_or_cut() {
        assert_eq!(wrap("n2 chosen, the most advanced", 2, 4, 14), "n2 chosen,\n    the most\n    advanced");
        assert_eq!(wrap("a-word-that-never-fits", 5, 2, 10), "a-word-that-never-fits");
        assert_eq!(cut("streaming", 9), "streaming");
        assert_eq!(cut("streaming", 5), "stre…");
    }

    #[test]
    fn amounts_are_short() {
        assert_eq!([0, 950, 12_345].map(seconds), ["0.0 s", "0.9 s", "12.3 s"]);
        assert_eq!([9_999, 12_345].map(short_time), ["9999 ms", "12.3 s"]);
        assert_eq!(
            [0, 1023, 1024, 20 << 10, 3 << 40].map(bytes),
            ["0 B", "1023 B", "1.0 KiB", "20 KiB", "3.0 TiB"]
        );
        assert_eq!(bytes(u64::MAX), "16384 PiB");
    }

    #[test]
    fn moments_are_local_or_say_that_they_are_not() {
        let told = |date: &str, time: &str| Clock { date: date.to_owned(), time: time.to_owned() };
        let east = TimeZone::fixed(jiff::tz::offset(5));
        assert_eq!(clock_in(Some(east), 1_700_000_000_123), told("2023-11-15", "03:13:20.123"));
        assert_eq!(clock_in(None, 1_700_000_000_123), told("2023-11-14", "22:13:20.123Z"));
        assert_eq!(clock_in(None, u64::MAX), told("?", "?"));
        assert_eq!(local_times(&[0, 1_700_000_000_123]).len(), 2);
        assert!(local_times(&[]).is_empty());
    }
}
