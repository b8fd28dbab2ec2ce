//! Write-ahead log as short as it can be: a record is the epoch whose primary wrote it and the timeline it is on.
//!
//! A promoted server runs once: it is started again only as a standby. So a record's epoch and index name it, and two
//! histories that went different ways differ where they parted even if timeline and position are equal. PostgreSQL sees
//! only timelines and positions, and so does `may_stream`, which stands for its own check.

use cluster::Lsn;

/// A piece of WAL, one unit long.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub struct Record {
    /// The epoch whose primary wrote it.
    pub epoch: u64,
    /// The timeline it is on.
    pub timeline: u32,
}

/// The position after so many records.
pub fn lsn(records: usize) -> Lsn {
    Lsn(records as u64)
}

/// The timeline of the last record.
pub fn timeline(wal: &[Record]) -> u32 {
    wal.last().map_or(1, |r| r.timeline)
}

/// The timelines before the last one and where each was left, oldest first.
pub fn forks(wal: &[Record]) -> Vec<(u32, usize)> {
    let parted = wal.windows(2).enumerate().filter(|(_, pair)| pair[0].timeline != pair[1].timeline);
    parted.map(|(i, pair)| (pair[0].timeline, i + 1)).collect()
}

/// Whether PostgreSQL streams from `source` to a standby that holds `standby`.
pub fn may_stream(source: &[Record], standby: &[Record]) -> bool {
    let at = timeline(standby);
    let end = if at == timeline(source) {
        Some(source.len())
    } else {
        forks(source).iter().find(|(timeline, _)| *timeline == at).map(|(_, end)| *end)
    };
    end.is_some_and(|end| standby.len() <= end)
}

/// How many records pg_rewind keeps: up to the end of the last timeline that began at the same place in both.
pub fn rewind_point(mine: &[Record], source: &[Record]) -> Option<usize> {
    let ends = |wal: &[Record]| -> Vec<(u32, usize)> {
        forks(wal).into_iter().chain([(timeline(wal), wal.len())]).collect()
    };
    let mut common = None;
    let mut began = (0, 0);
    for (mine, theirs) in ends(mine).into_iter().zip(ends(source)) {
        if mine.0 != theirs.0 || began.0 != began.1 {
            break;
        }
        common = Some(mine.1.min(theirs.1));
        began = (mine.1, theirs.1);
    }
    common
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wal(timelines: &[u32]) -> Vec<Record> {
        timelines.iter().map(|&timeline| Record { epoch: u64::from(timeline), timeline }).collect()
    }

    #[test]
    fn a_standby_behind_the_fork_may_stream_and_one_ahead_may_not() {
        let source = wal(&[1, 1, 2, 2]);
        assert!(may_stream(&source, &wal(&[1, 1])));
        assert!(!may_stream(&source, &wal(&[1, 1, 1])));
        assert!(!may_stream(&wal(&[1, 1]), &source));
    }

    #[test]
    fn a_rewind_keeps_what_is_common() {
        assert_eq!(rewind_point(&wal(&[1, 1, 1]), &wal(&[1, 1, 2, 2])), Some(2));
        assert_eq!(rewind_point(&wal(&[1, 2, 2]), &wal(&[1, 1, 2])), Some(1));
    }
}
