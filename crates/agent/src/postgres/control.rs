//! What pg_controldata says of a data directory.

use super::{PgError, Place};
use cluster::observe::DataDir;
use cluster::{Lsn, Timeline};
use std::time::Duration;

/// The part of pg_control that matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// Identifier of the database system.
    pub system_identifier: u64,
    /// Bytes in a WAL segment.
    pub wal_segment_bytes: u64,
    /// What became of the server last, in PostgreSQL's words: "in production", "shut down", "in archive recovery", "shut down in
    /// recovery" and some that it has in between.
    pub state: String,
    /// The timeline of its last checkpoint.
    pub timeline: Timeline,
    /// Where the record of its last checkpoint begins.
    pub checkpoint: Option<Lsn>,
    /// Where the shutdown checkpoint begins, when the server has stopped in order (and was no standby).
    pub shut_down_at: Option<Lsn>,
    /// Where replay begins at the next start.
    pub redo: Option<Lsn>,
    /// The timeline up to which it must recover to be consistent; 0 when it need not.
    pub min_recovery_timeline: Timeline,
    /// As many as the primary had of each in [`NEEDS`] when it wrote the last WAL that was replayed here.
    needs: [i64; NEEDS.len()],
}

/// What a standby must have at least as much of as its primary: the parameter, its label, and PostgreSQL's default
/// (src/backend/utils/misc/guc.c, in later versions guc_tables.c).
const NEEDS: [(&str, &str, i64); 5] = [
    ("max_connections", "max_connections setting", 100),
    ("max_worker_processes", "max_worker_processes setting", 8),
    ("max_wal_senders", "max_wal_senders setting", 10),
    ("max_prepared_transactions", "max_prepared_xacts setting", 0),
    ("max_locks_per_transaction", "max_locks_per_xact setting", 64),
];

impl Control {
    /// What a standby must have at least: the parameter, how much, and PostgreSQL's default.
    #[must_use]
    pub fn needs(&self) -> Vec<(&'static str, i64, i64)> {
        let each = NEEDS.iter().zip(self.needs);
        each.map(|((name, _, default), value)| (*name, value, *default)).collect()
    }
}

/// Looks at the data directory: absent, or present with its identity.
///
/// # Errors
/// When there is something that is no data directory, or pg_controldata cannot read it.
pub async fn look(place: &Place) -> Result<(DataDir, Option<Control>), PgError> {
    let data = place.data();
    let empty = match std::fs::read_dir(data) {
        Ok(mut entries) => entries.next().is_none(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => true,
        Err(e) => return Err(PgError::file("read", data)(e)),
    };
    if empty {
        return Ok((DataDir::Absent, None));
    }
    let text = place.run("pg_controldata", &[data], Duration::from_secs(10)).await?;
    let control = parse(&text).ok_or_else(|| {
        PgError::Unexpected(format!(
            "pg_controldata said nothing useful of {}; is it damaged?",
            data.display()
        ))
    })?;
    Ok((DataDir::Present { system_identifier: control.system_identifier }, Some(control)))
}

/// Labels as in src/bin/pg_controldata/pg_controldata.c (the C locale keeps them untranslated).
fn parse(text: &str) -> Option<Control> {
    let field = |label: &str| {
        text.lines()
            .find_map(|line| line.split_once(':').filter(|(l, _)| l.trim() == label).map(|(_, v)| v.trim()))
    };
    let in_order = field("Database cluster state") == Some("shut down");
    let checkpoint = field("Latest checkpoint location").and_then(|lsn| lsn.parse().ok());
    Some(Control {
        state: field("Database cluster state").unwrap_or_default().to_owned(),
        timeline: field("Latest checkpoint's TimeLineID").and_then(|value| value.parse().ok()).unwrap_or(0),
        checkpoint,
        shut_down_at: checkpoint.filter(|_| in_order),
        redo: field("Latest checkpoint's REDO location").and_then(|lsn| lsn.parse().ok()),
        system_identifier: field("Database system identifier")?.parse().ok()?,
        wal_segment_bytes: field("Bytes per WAL segment")?.parse().ok().filter(|b| *b > 0)?,
        needs: NEEDS.map(|(_, label, _)| field(label).and_then(|value| value.parse().ok()).unwrap_or(0)),
        min_recovery_timeline: field("Min recovery ending loc's timeline")?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_pg_controldata_prints() {
        let text = "pg_control version number:            1300\n\
                    Database system identifier:           7412345678901234567\n\
                    Database cluster state:               shut down\n\
                    Latest checkpoint location:           0/3000060\n\
                    Latest checkpoint's REDO location:    0/3000028\n\
                    Latest checkpoint's TimeLineID:       3\n\
                    Min recovery ending loc's timeline:   2\n\
                    max_connections setting:              300\n\
                    max_locks_per_xact setting:           64\n\
                    Bytes per WAL segment:                16777216\n";
        let control = Control {
            state: "shut down".to_owned(),
            timeline: 3,
            checkpoint: Some(Lsn(0x300_0060)),
            system_identifier: 7_412_345_678_901_234_567,
            wal_segment_bytes: 16_777_216,
            shut_down_at: Some(Lsn(0x300_0060)),
            redo: Some(Lsn(0x300_0028)),
            min_recovery_timeline: 2,
            needs: [300, 0, 0, 0, 64],
        };
        assert_eq!(parse(text), Some(control));
        assert_eq!(parse("garbage"), None);
    }
}
