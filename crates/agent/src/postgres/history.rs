//! Timelines on disk: history files, and the timeline of a position.

use super::{PgError, Place};
use cluster::state::Fork;
use cluster::{Lsn, Timeline};

/// Reads the forks of `timeline` from its history file; timeline 1 has none.
///
/// # Errors
/// When the file is missing or not as PostgreSQL writes it (src/backend/access/transam/timeline.c).
pub fn read_forks(place: &Place, timeline: Timeline) -> Result<Vec<Fork>, PgError> {
    if timeline <= 1 {
        return Ok(Vec::new());
    }
    let path = place.data().join(format!("pg_wal/{timeline:08X}.history"));
    let text = std::fs::read_to_string(&path).map_err(PgError::file("read", &path))?;
    parse(&text)
        .ok_or_else(|| PgError::Unexpected(format!("{} is not a timeline history file", path.display())))
}

fn parse(text: &str) -> Option<Vec<Fork>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let mut fields = line.split_whitespace();
            let timeline = fields.next()?.parse().ok()?;
            let at = fields.next()?.parse().ok()?;
            Some(Fork { timeline, at })
        })
        .collect()
}

/// The timeline of the last WAL before `lsn`: the greatest one that has a segment file for it.
///
/// # Errors
/// When pg_wal cannot be read.
pub fn timeline_of(place: &Place, lsn: Lsn, segment_bytes: u64) -> Result<Option<Timeline>, PgError> {
    let name = segment_name(0, lsn.0.saturating_sub(1) / segment_bytes, segment_bytes);
    let suffix = &name[8..];
    let wal = place.data().join("pg_wal");
    let entries = std::fs::read_dir(&wal).map_err(PgError::file("read", &wal))?;
    let timelines = entries.flatten().filter_map(|entry| {
        let name = entry.file_name();
        let name = name.to_str().filter(|n| n.len() == 24 && n.ends_with(suffix))?;
        Timeline::from_str_radix(&name[..8], 16).ok()
    });
    Ok(timelines.max())
}

/// The name of a segment's file: timeline, then the segment's number in two halves (XLogFileName,
/// src/include/access/xlog_internal.h).
#[must_use]
pub fn segment_name(timeline: Timeline, number: u64, segment_bytes: u64) -> String {
    let per_file = 0x1_0000_0000 / segment_bytes;
    format!("{timeline:08X}{:08X}{:08X}", number / per_file, number % per_file)
}

/// The timeline in the name of a WAL file.
#[must_use]
pub fn timeline_in_name(name: &str) -> Option<Timeline> {
    name.get(..8).and_then(|t| Timeline::from_str_radix(t, 16).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_history_file() {
        let text =
            "1\t0/5000060\tno recovery target specified\n\n2\t0/6000000\tno recovery target specified\n";
        let forks =
            vec![Fork { timeline: 1, at: Lsn(0x500_0060) }, Fork { timeline: 2, at: Lsn(0x600_0000) }];
        assert_eq!(parse(text), Some(forks));
        assert_eq!(parse("x y z"), None);
        assert_eq!(segment_name(2, 0x1_03, 16 << 20), "000000020000000100000003");
        assert_eq!(timeline_in_name("000000020000000000000006"), Some(2));
    }
}
