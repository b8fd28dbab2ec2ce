//! Makes the database: initdb with data checksums, and the roles that the cluster needs.

use super::connection::{connect, within};
use super::{PgError, Place, REPLICATION_ROLE, SUPERUSER, files};
use std::time::Duration;

const INITDB_LIMIT: Duration = Duration::from_secs(300);
const SQL_LIMIT: Duration = Duration::from_secs(20);

/// Runs initdb beside the data directory and moves the result into its place.
///
/// # Errors
/// When initdb fails, or the data directory's parent cannot be written.
pub async fn initdb(place: &Place) -> Result<(), PgError> {
    let fresh = place.data_new();
    files::remove_dir(&fresh)?;
    files::make_dir(place, &fresh, 0o700)?;
    let fresh_text = fresh.display().to_string();
    let args = [
        "--pgdata",
        &fresh_text,
        "--username",
        SUPERUSER,
        "--data-checksums",
        "--encoding=UTF8",
        "--auth-local=peer",
        "--auth-host=scram-sha-256",
        "--no-instructions",
    ];
    place.run("initdb", &args, INITDB_LIMIT).await?;
    let _ = std::fs::remove_dir(place.data());
    files::rename(&fresh, place.data())
}

/// Makes the roles; repeatable.
///
/// # Errors
/// When the server refuses.
pub async fn create_roles(place: &Place, password: &str) -> Result<(), PgError> {
    let client = connect(place, SQL_LIMIT).await?;
    // A server that was taken over may make verifiers that the rules do not accept, and may log statements.
    let first = "set password_encryption = 'scram-sha-256'; set log_statement = 'none'; set log_min_error_statement = 'panic';
                 set log_min_duration_statement = -1; set log_min_duration_sample = -1; set log_duration = off";
    within("preparing the session", SQL_LIMIT, client.batch_execute(first)).await?;
    let exists = client.query_opt("select 1 from pg_roles where rolname = $1", &[&REPLICATION_ROLE]);
    let verb = match within("looking up the replication role", SQL_LIMIT, exists).await? {
        Some(_) => "alter",
        None => "create",
    };
    // What pg_rewind reads needs these grants when its role is no superuser (manual page of pg_rewind, Notes).
    let sql = format!(
        "{verb} role {REPLICATION_ROLE} with login replication password '{}';
         grant execute on function pg_catalog.pg_ls_dir(text, boolean, boolean) to {REPLICATION_ROLE};
         grant execute on function pg_catalog.pg_stat_file(text, boolean) to {REPLICATION_ROLE};
         grant execute on function pg_catalog.pg_read_binary_file(text) to {REPLICATION_ROLE};
         grant execute on function pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean) to {REPLICATION_ROLE};",
        password.replace('\'', "''")
    );
    within("creating the replication role", SQL_LIMIT, client.batch_execute(&sql)).await
}
