//! What a running server takes on only when it starts again, and what a standby must have before it starts.

use super::connection::within;
use super::control::{self, Control};
use super::layers::value_of;
use super::session::Asking;
use super::{PgError, Place};
use cluster::configuration::{Content, Pending};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(5);
/// For `postgres -C`.
const PROGRAM_LIMIT: Duration = Duration::from_secs(10);

/// Of a parameter that is in no file any more, the default will be in force. Where that is so already, PostgreSQL forgets to
/// take the mark back (`ProcessConfigFileInternal`, src/backend/utils/misc/guc-file.l, in later versions guc.c).
const PENDING: &str = "
select s.name, coalesce(current_setting(s.name, true), s.setting) as running, coalesce(f.setting, s.boot_val, '') as configured
  from pg_settings s
  left join lateral (select f.setting from pg_file_settings f where f.name = s.name
                      order by f.seqno desc limit 1) f on true
 where s.pending_restart and (f.setting is not null or s.setting is distinct from s.boot_val)
 order by s.name
 limit 50";

/// Asks the server.
///
/// # Errors
/// When it does not answer.
pub async fn ask(asking: &Asking) -> Result<Vec<Pending>, PgError> {
    let rows = within("asking what waits for a restart", LIMIT, asking.all(PENDING, &[])).await?;
    rows.iter()
        .map(|row| {
            Ok(Pending {
                name: row.try_get("name")?,
                running: row.try_get("running")?,
                configured: row.try_get("configured")?,
            })
        })
        .collect()
}

/// What the server that is about to start as a standby would have too little of for the WAL that it replays, with the
/// value that it needs. `postgres -C` says what all files together make of a parameter; it is asked only where the layers
/// leave it in doubt.
///
/// # Errors
/// When a program fails.
pub async fn needed(
    place: &Place,
    content: &Content,
    control: &Control,
) -> Result<Vec<(&'static str, String)>, PgError> {
    let mut needed = Vec::new();
    for (name, value, default) in control.needs() {
        let layered = value_of(place, content, name).map_or(Some(default), |text| text.parse().ok());
        let auto = mentions(place, name);
        if !auto && layered.is_some_and(|layered| layered >= value) {
            continue;
        }
        let data = place.data().display().to_string();
        let said = place.run("postgres", &["-C", name, "-D", &data], PROGRAM_LIMIT).await?;
        if said.trim().parse::<i64>().is_ok_and(|configured| configured < value) {
            needed.push((name, value.to_string()));
        }
    }
    Ok(needed)
}

/// Whether ALTER SYSTEM may have set it.
fn mentions(place: &Place, name: &str) -> bool {
    let auto = std::fs::read(place.data().join("postgresql.auto.conf")).unwrap_or_default();
    String::from_utf8_lossy(&auto).to_ascii_lowercase().contains(name)
}

/// Whether a standby that stands paused has too little of something for the WAL that comes next: it goes on only after a
/// start (`CheckRequiredParameterValues`, src/backend/access/transam/xlogrecovery.c; PostgreSQL 13 ends instead).
///
/// # Errors
/// When the server does not answer, or its data directory cannot be read.
pub async fn is_stuck(place: &Place, asking: &Asking) -> Result<bool, PgError> {
    let Some(control) = control::look(place).await?.1 else { return Ok(false) };
    let question = "select name, setting::bigint from pg_settings where name in ('max_connections',
        'max_locks_per_transaction', 'max_prepared_transactions', 'max_wal_senders', 'max_worker_processes')";
    for row in within("asking for its limits", LIMIT, asking.all(question, &[])).await? {
        let (name, running): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
        if control.needs().iter().any(|(needed, value, _)| *needed == name && *value > running) {
            return Ok(true);
        }
    }
    Ok(false)
}
