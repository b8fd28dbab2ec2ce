//! Undoes what a diverged node wrote after it parted from the primary's WAL (pg_rewind).

use super::configuration::Upstream;
use super::process::{self, Kind};
use super::{PgError, Place, REPLICATION_ROLE, control, programs};
use cluster::Timeline;
use std::time::Duration;

const RECOVERY_LIMIT: Duration = Duration::from_secs(3600);
const REWIND_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// Rewinds the data directory, whose server was stopped in order, to a prefix of `from`, which writes `timeline`.
///
/// # Errors
/// When pg_rewind fails, or finds nothing to undo: the data directory must then be cloned.
pub async fn rewind(place: &Place, from: &Upstream, timeline: Timeline) -> Result<(), PgError> {
    end_recovery(place).await?;
    let source = format!(
        "host='{}' port={} user={REPLICATION_ROLE} dbname=postgres connect_timeout=5",
        from.address.host.replace('\\', "\\\\").replace('\'', "\\'"),
        from.address.port
    );
    let mut command = place.command("pg_rewind");
    command.env("PGPASSWORD", &from.password);
    command.arg("--target-pgdata").arg(place.data()).arg("--source-server").arg(source);
    programs::run("pg_rewind", command, REWIND_LIMIT).await?;
    let reached = control::look(place).await?.1.map_or(0, |c| c.min_recovery_timeline);
    if reached != timeline {
        return Err(PgError::Unexpected(format!(
            "pg_rewind changed nothing: the data is to recover to timeline {reached}, not {timeline}"
        )));
    }
    Ok(())
}

/// pg_rewind looks for divergence only up to the last restartpoint of a server that was stopped in recovery
/// (src/bin/pg_rewind/pg_rewind.c, `target_wal_endrec`), and so overlooks WAL that was replayed after it. In single-user
/// mode, without standby.signal, the server ends its recovery with a checkpoint behind all of its WAL.
async fn end_recovery(place: &Place) -> Result<(), PgError> {
    process::mark_standby(place, Kind::Primary)?;
    let mut command = place.command("postgres");
    command
        .args(["--single", "-F", "-c", "synchronous_standby_names=", "-D"])
        .arg(place.data())
        .arg("template1");
    programs::run("postgres --single", command, RECOVERY_LIMIT).await?;
    Ok(())
}
