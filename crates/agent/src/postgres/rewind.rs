//! Undoes what a diverged node wrote after it parted from the primary's WAL (pg_rewind).

use super::configuration::Upstream;
use super::{PgError, Place, REPLICATION_ROLE, programs};
use std::time::Duration;

const REWIND_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// Rewinds the data directory, whose server was stopped in order, to a prefix of `from`.
///
/// # Errors
/// When pg_rewind fails: the data directory must then be cloned.
pub async fn rewind(place: &Place, from: &Upstream) -> Result<(), PgError> {
    let source = format!(
        "host='{}' port={} user={REPLICATION_ROLE} dbname=postgres connect_timeout=5",
        from.address.host.replace('\\', "\\\\").replace('\'', "\\'"),
        from.address.port
    );
    let mut command = place.command("pg_rewind");
    command.env("PGPASSWORD", &from.password);
    command.arg("--target-pgdata").arg(place.data()).arg("--source-server").arg(source);
    programs::run("pg_rewind", command, REWIND_LIMIT).await?;
    Ok(())
}
