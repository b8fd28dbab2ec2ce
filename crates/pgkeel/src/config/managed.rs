//! The user's own PostgreSQL settings, and those that are not theirs to set.

use std::collections::BTreeMap;

use agent::settings::managed::{VALUE_BYTES_MAX, is_name, managed_because};
use toml::de::DeValue;

use super::report::Report;
use super::section::{Section, kind};

/// Reads `[postgres.settings]`: names in lower case, values as PostgreSQL reads them.
pub(super) fn read(postgres: &Section<'_>, report: &mut Report<'_>) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    let Some(section) = postgres.open(report, "settings") else { return settings };
    for (name, value, line) in section.entries(report) {
        match value {
            // `pg_stat_statements.max = 1` is a table in a table to TOML, and one name to PostgreSQL.
            DeValue::Table(extension) => {
                for (rest, value) in extension.iter() {
                    let line = report.line_of(&rest.span());
                    keep(report, line, &format!("{name}.{}", rest.get_ref()), value.get_ref(), &mut settings);
                }
            }
            DeValue::String(_) | DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) => {
                keep(report, line, name, value, &mut settings);
            }
            DeValue::Array(_) | DeValue::Datetime(_) => keep(report, line, name, value, &mut settings),
        }
    }
    warn_about(report, &settings);
    settings
}

fn keep(
    report: &mut Report<'_>,
    line: usize,
    name: &str,
    value: &DeValue<'_>,
    settings: &mut BTreeMap<String, String>,
) {
    let path = format!("postgres.settings.{name}");
    let name = name.to_ascii_lowercase();
    let text = setting_value(value);
    let checked = setting_name(&name, text.as_deref().unwrap_or_default()).and(text);
    let Some(found) = report.keep(line, &path, checked) else { return };
    if settings.insert(name, found.value).is_some() {
        report.error(
            line,
            &path,
            "given twice; PostgreSQL does not tell capitals from small letters".to_owned(),
        );
    }
}

fn setting_name(name: &str, value: &str) -> Result<(), String> {
    if let Some(reason) = managed_because(name, value) {
        return Err(format!("is managed by pgkeel and cannot be set here: {reason}"));
    }
    match is_name(name) {
        true => Ok(()),
        false => Err("is not the name of a PostgreSQL setting".to_owned()),
    }
}

fn setting_value(value: &DeValue<'_>) -> Result<String, String> {
    let text = match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(true) => "on".to_owned(),
        DeValue::Boolean(false) => "off".to_owned(),
        DeValue::Array(_) => return Err("must not be a list; PostgreSQL takes one text: \"a, b\"".to_owned()),
        DeValue::Datetime(_) | DeValue::Table(_) => {
            return Err(format!("must be a text, a number, true or false, not {}", kind(value)));
        }
    };
    if text.len() > VALUE_BYTES_MAX {
        return Err(format!("is longer than {VALUE_BYTES_MAX} bytes"));
    }
    if text.chars().any(char::is_control) {
        return Err("must be one line of plain text".to_owned());
    }
    Ok(text)
}

/// Settings that are the user's to choose, and take something away from what pgkeel promises.
fn warn_about(report: &mut Report<'_>, settings: &BTreeMap<String, String>) {
    let off = |name: &str| {
        settings.get(name).is_some_and(|value| matches!(value.as_str(), "off" | "no" | "false" | "0"))
    };
    if off("fsync") {
        report.warning(
            "postgres.settings.fsync: off: a host that loses power may come back with damaged data; remove it on any \
             server whose data matters",
        );
    }
    let local = settings.get("synchronous_commit").is_some_and(|value| value == "local");
    if off("synchronous_commit") || local {
        report.warning(
            "postgres.settings.synchronous_commit: commits do not wait for standbys, so acknowledged ones can be lost in a \
             failover whatever [replication] says",
        );
    }
}
