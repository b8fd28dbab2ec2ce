//! Whether a server takes a configuration, asked before anything is recorded.
//!
//! A value is judged by PostgreSQL itself: `postgres -C NAME -c NAME=VALUE` reads it as a start of the server would, with
//! units, range, list of words and the parameter's own check (`set_config_option`, src/backend/utils/misc/guc.c), and ends
//! before it touches anything. Names and what they belong to come from the running server's pg_settings, which knows the
//! extensions that are loaded. Rules for pg_hba.conf are judged where the server will read them (pg_hba_file_rules), while
//! nobody else writes that file.

use super::connection::{connect, within};
use super::layers::{self, Doors, value_of};
use super::{PgError, Place};
use crate::settings::managed::{hba_line, is_name, managed_because, unfit};
use crate::settings::nearest::nearest;
use cluster::configuration::Content;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio_postgres::Client;

const LIMIT: Duration = Duration::from_secs(5);

/// Beyond [`managed_because`]: taken silently from the node's file, where it has no effect.
const SET_BY_PGKEEL: [&str; 3] =
    ["wal_log_hints", "wal_receiver_status_interval", "wal_retrieve_retry_interval"];

/// What is wrong: the parameter (`None`: a rule of pg_hba.conf), and what is said of it.
pub type Wrong = Vec<(Option<String>, String)>;

/// A parameter as the server knows it.
struct Known {
    context: String,
    vartype: String,
    min: Option<String>,
    max: Option<String>,
    words: Option<Vec<String>>,
    unit: Option<String>,
    now: String,
}

/// What is wrong with the parts of `to` that are not in `from`.
///
/// # Errors
/// When the server cannot be asked.
pub async fn judge(place: &Place, from: &Content, to: &Content) -> Result<Wrong, PgError> {
    let client = connect(place, LIMIT).await?;
    let known = parameters(&client).await?;
    let mut wrong = Wrong::new();
    for (name, value) in
        to.parameters.iter().filter(|(name, value)| from.parameters.get(*name) != Some(*value))
    {
        if let Some(said) = parameter(place, &known, name, value).await? {
            wrong.push((Some(name.clone()), said));
        }
    }
    wrong.extend(together(place, &known, to));
    for line in to.hba.iter().filter(|line| !from.hba.contains(line)) {
        if let Err(said) = hba_line(line) {
            wrong.push((None, said));
        }
    }
    if wrong.is_empty() && from.hba != to.hba {
        wrong.extend(rules(place, &client, from, to).await?.into_iter().map(|said| (None, said)));
    }
    Ok(wrong)
}

async fn parameters(client: &Client) -> Result<BTreeMap<String, Known>, PgError> {
    let question = "select lower(name) as name, context, vartype, min_val, max_val, enumvals, unit, setting
                      from pg_settings";
    let rows = within("asking for the parameters", LIMIT, client.query(question, &[])).await?;
    rows.iter()
        .map(|row| {
            let known = Known {
                context: row.try_get("context")?,
                vartype: row.try_get("vartype")?,
                min: row.try_get("min_val")?,
                max: row.try_get("max_val")?,
                words: row.try_get("enumvals")?,
                unit: row.try_get("unit")?,
                now: row.try_get::<_, Option<String>>("setting")?.unwrap_or_default(),
            };
            Ok((row.try_get("name")?, known))
        })
        .collect()
}

async fn parameter(
    place: &Place,
    known: &BTreeMap<String, Known>,
    name: &str,
    value: &str,
) -> Result<Option<String>, PgError> {
    if let Some(reason) = managed_because(name, value) {
        return Ok(Some(format!("is managed by pgkeel and cannot be set: {reason}")));
    }
    if SET_BY_PGKEEL.contains(&name) {
        return Ok(Some("is set by pgkeel, as replication and rewinding need it".to_owned()));
    }
    if !is_name(name) || name.to_ascii_lowercase() != name {
        return Ok(Some("is not the name of a PostgreSQL parameter, in small letters".to_owned()));
    }
    if let Some(said) = unfit(value) {
        return Ok(Some(said));
    }
    let extension = name.contains('.');
    match known.get(name) {
        None if !extension => {
            let hint = nearest(name, known.keys().map(String::as_str));
            let hint = hint.map_or_else(String::new, |near| format!("; did you mean {near}?"));
            Ok(Some(format!("PostgreSQL has no such parameter{hint}")))
        }
        // An extension that is not loaded yet; PostgreSQL takes whatever is written for it.
        None => Ok(None),
        Some(found) if found.context == "internal" => {
            Ok(Some("cannot be changed: it belongs to the build or the data directory".to_owned()))
        }
        Some(found) if extension => Ok(of_extension(found, value)),
        Some(_) => by_postgres(place, name, value).await,
    }
}

/// The program knows nothing of extensions: as much as the server's catalogue tells.
fn of_extension(known: &Known, value: &str) -> Option<String> {
    match known.vartype.as_str() {
        "enum" => {
            let words = known.words.as_deref().unwrap_or_default();
            let fits = words.iter().any(|word| word.eq_ignore_ascii_case(value));
            (!fits).then(|| format!("{value:?} is none of {}", words.join(", ")))
        }
        "bool" => {
            let words = ["on", "off", "true", "false", "yes", "no", "1", "0"];
            let fits = words.iter().any(|word| word.eq_ignore_ascii_case(value));
            (!fits).then(|| format!("{value:?} is not on or off"))
        }
        "integer" | "real" => {
            let bound = |text: &Option<String>| text.as_ref().and_then(|t| t.parse::<f64>().ok());
            let (min, max) = (bound(&known.min), bound(&known.max));
            match value.parse::<f64>() {
                Ok(number) => {
                    let fits = min.is_none_or(|min| number >= min) && max.is_none_or(|max| number <= max);
                    let (min, max) =
                        (known.min.as_deref().unwrap_or("-"), known.max.as_deref().unwrap_or("-"));
                    (!fits).then(|| format!("{value} is outside of its range, {min} to {max}"))
                }
                // With a unit; what it comes to is the server's to say.
                Err(_) if known.unit.is_some() && value.starts_with(|c: char| c.is_ascii_digit()) => None,
                Err(_) => Some(format!("{value:?} is not a number")),
            }
        }
        _ => None,
    }
}

async fn by_postgres(place: &Place, name: &str, value: &str) -> Result<Option<String>, PgError> {
    let assignment = format!("{name}={value}");
    let data = place.data().display().to_string();
    match place.run("postgres", &["-C", name, "-D", &data, "-c", &assignment], LIMIT).await {
        Ok(_) => Ok(None),
        Err(PgError::Program { said, .. }) => Ok(Some(last_words(&said))),
        Err(other) => Err(other),
    }
}

/// PostgreSQL's own message and hint: `... FATAL:  invalid value ...`, `... HINT:  Valid units ...`.
fn last_words(said: &str) -> String {
    let after = |label: &str| {
        said.lines().find_map(|line| line.split_once(label).map(|(_, text)| text.trim().to_owned()))
    };
    let message = ["FATAL:", "ERROR:"].into_iter().find_map(after);
    let hints: Vec<String> = ["DETAIL:", "HINT:"].into_iter().filter_map(after).collect();
    let message = message.unwrap_or_else(|| said.trim().to_owned());
    if hints.is_empty() { message } else { format!("{message} ({})", hints.join(" ")) }
}

/// What PostgreSQL refuses only when it starts (`PostmasterMain`, src/backend/postmaster/postmaster.c).
fn together(
    place: &Place,
    known: &BTreeMap<String, Known>,
    to: &Content,
) -> Option<(Option<String>, String)> {
    let number = |name: &str| -> i64 {
        let layered = value_of(place, to, name).and_then(|text| text.parse().ok());
        layered.or_else(|| known.get(name).and_then(|k| k.now.parse().ok())).unwrap_or(0)
    };
    let reserved = number("superuser_reserved_connections") + number("reserved_connections");
    let connections = number("max_connections");
    let concerned = ["max_connections", "superuser_reserved_connections", "reserved_connections"];
    let set = concerned.into_iter().find(|name| to.parameters.contains_key(*name))?;
    (reserved >= connections).then(|| {
        let said = format!(
            "a server with max_connections = {connections} does not start while {reserved} of them are reserved \
             (superuser_reserved_connections, reserved_connections)"
        );
        (Some(set.to_owned()), said)
    })
}

/// Writes the file for a moment and lets the server read it; nothing of it comes into force without a reload.
async fn rules(place: &Place, client: &Client, from: &Content, to: &Content) -> Result<Vec<String>, PgError> {
    layers::write_hba(place, place.data(), to, Doors::Open)?;
    let asked = rule_errors(client).await;
    layers::write_hba(place, place.data(), from, Doors::Open)?;
    asked
}

/// What is wrong with pg_hba.conf as it is on disk.
///
/// # Errors
/// When the server does not answer.
pub async fn rule_errors(client: &Client) -> Result<Vec<String>, PgError> {
    let question = "select error from pg_hba_file_rules where error is not null order by line_number limit 5";
    let rows = within("asking for the rules", LIMIT, client.query(question, &[])).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn postgresql_has_its_say() {
        let said = "exit status: 1: 2026-11-22 18:00:00.000 GMT [7] FATAL:  invalid value for parameter \"work_mem\": \"4XB\"\n\
                    2026-11-22 18:00:00.000 GMT [7] HINT:  Valid units for this parameter are \"B\", \"kB\".";
        assert_eq!(
            last_words(said),
            "invalid value for parameter \"work_mem\": \"4XB\" (Valid units for this parameter are \"B\", \"kB\".)"
        );
        assert_eq!(last_words("no such file"), "no such file");
    }
}
