//! Undoes what a diverged node wrote after it parted from the primary's WAL (pg_rewind).

use super::configuration::Upstream;
use super::connection::{connect_to, within};
use super::process::{self, Kind};
use super::{PgError, Place, control, programs};
use cluster::Timeline;
use std::time::{Duration, Instant};

const ASK_LIMIT: Duration = Duration::from_secs(10);
/// The primary makes a checkpoint as soon as it is promoted; a busy disk may take its time.
const CHECKPOINT_LIMIT: Duration = Duration::from_secs(600);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
const RECOVERY_LIMIT: Duration = Duration::from_secs(3600);
const REWIND_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// Rewinds the data directory, whose server was stopped in order, to a prefix of `from`, which writes `timeline`.
///
/// # Errors
/// When pg_rewind fails, or finds nothing to undo: the data directory must then be cloned.
pub async fn rewind(
    place: &Place,
    from: &Upstream,
    timeline: Timeline,
    progress: impl FnMut(u64, u64),
) -> Result<(), PgError> {
    end_recovery(place).await?;
    let mut command = place.command_that_writes("pg_rewind");
    command.env("PGPASSWORD", &from.password).arg("--progress");
    command.arg("--target-pgdata").arg(place.data()).arg("--source-server").arg(from.conninfo());
    programs::run_telling("pg_rewind", command, REWIND_LIMIT, progress).await?;
    let reached = control::look(place).await?.1.map_or(0, |c| c.min_recovery_timeline);
    if reached != timeline {
        return Err(PgError::Unexpected(format!(
            "pg_rewind changed nothing: the data is to recover to timeline {reached}, not {timeline}"
        )));
    }
    Ok(())
}

/// Waits until the primary has made its first checkpoint on `timeline`. Before PostgreSQL 16 pg_rewind takes the primary's
/// timeline from its control file (src/bin/pg_rewind/pg_rewind.c, `source_tli`), where a promotion shows only after that
/// checkpoint: until then it believes that there is nothing to undo.
///
/// # Errors
/// When the primary does not answer, or has made none after ten minutes.
pub async fn wait_for_checkpoint(from: &Upstream, timeline: Timeline) -> Result<(), PgError> {
    let client = connect_to(from, ASK_LIMIT).await?;
    let began = Instant::now();
    let mut told = false;
    loop {
        let query = client.query_one("select timeline_id from pg_control_checkpoint()", &[]);
        let row = within("asking the primary for its last checkpoint", ASK_LIMIT, query).await?;
        let written: i32 = row.try_get(0)?;
        if Timeline::try_from(written).is_ok_and(|written| written >= timeline) {
            return Ok(());
        }
        if began.elapsed() > CHECKPOINT_LIMIT {
            let node = &from.node;
            let doing = format!("the first checkpoint of {node} on timeline {timeline} (is its disk busy?)");
            return Err(PgError::Slow { doing, limit_s: CHECKPOINT_LIMIT.as_secs() });
        }
        if !std::mem::replace(&mut told, true) {
            tracing::info!("waits for the first checkpoint of {} on timeline {timeline}", from.node);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// pg_rewind looks for divergence only up to the last restartpoint of a server that was stopped in recovery
/// (src/bin/pg_rewind/pg_rewind.c, `target_wal_endrec`), and so overlooks WAL that was replayed after it. In single-user
/// mode, without standby.signal, the server ends its recovery with a checkpoint behind all of its WAL.
async fn end_recovery(place: &Place) -> Result<(), PgError> {
    process::mark_standby(place, Kind::Primary)?;
    let mut command = place.command_that_writes("postgres");
    command
        .args(["--single", "-F", "-c", "synchronous_standby_names=", "-D"])
        .arg(place.data())
        .arg("template1");
    programs::run("postgres --single", command, RECOVERY_LIMIT).await?;
    Ok(())
}
