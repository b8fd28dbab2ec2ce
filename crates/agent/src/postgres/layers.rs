//! The user's part of a server's configuration, in layers: pgkeel's defaults, the cluster-wide configuration, the node's own
//! file. The later one holds: who sets something for one node means that node.
//!
//! Of rules in pg_hba.conf the first that fits holds, so there the node's own come first.

use super::{PgError, Place, REPLICATION_ROLE, SUPERUSER, files};
use crate::os_user;
use crate::settings::HBA_DEFAULT;
use cluster::configuration::Content;
use std::fmt::Write as _;
use std::path::Path;

/// What pgkeel sets where nobody sets anything else.
pub const DEFAULTS: [(&str, &str); 6] = [
    ("max_slot_wal_keep_size", "16GB"),
    ("max_wal_senders", "20"),
    ("max_replication_slots", "20"),
    ("wal_sender_timeout", "10s"),
    ("wal_receiver_timeout", "10s"),
    ("wal_level", "replica"),
];

/// Whether clients may log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doors {
    /// As the rules say.
    Open,
    /// Only pgkeel and standbys: sessions do not wait for standbys yet.
    Closed,
}

/// Writes the settings and the rules into the data directory `data`.
///
/// # Errors
/// When a file cannot be written.
pub fn write(place: &Place, data: &Path, content: &Content, doors: Doors) -> Result<(), PgError> {
    write_settings(place, data, content)?;
    write_hba(place, data, content, doors)?;
    files::replace(&data.join("pg_ident.conf"), ident(place), place.owner())
}

/// Writes the settings alone.
///
/// # Errors
/// When the file cannot be written.
pub fn write_settings(place: &Place, data: &Path, content: &Content) -> Result<(), PgError> {
    files::replace(&data.join("pgkeel.user.conf"), settings(place, content), place.owner())
}

/// Writes the rules alone.
///
/// # Errors
/// When the file cannot be written.
pub fn write_hba(place: &Place, data: &Path, content: &Content, doors: Doors) -> Result<(), PgError> {
    files::replace(&data.join("pg_hba.conf"), hba(place, content, doors), place.owner())
}

/// A value between single quotes, as src/backend/utils/misc/guc-file.l reads it.
#[must_use]
pub fn quote(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

/// What the layers say of a parameter, the last one first; `None`: PostgreSQL's own default holds.
#[must_use]
pub fn value_of<'a>(place: &'a Place, content: &'a Content, name: &str) -> Option<&'a str> {
    let own = place.settings.settings.get(name).or_else(|| content.parameters.get(name));
    let default = || DEFAULTS.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
    own.map(String::as_str).or_else(default)
}

fn settings(place: &Place, content: &Content) -> String {
    let mut text = String::from(
        "# Written by pgkeel at every start and change; use pgkeel config set, or [postgres.settings] in this node's \
         configuration file.\n# Defaults:\n",
    );
    for (name, value) in DEFAULTS {
        let _ = writeln!(text, "{name} = {}", quote(value));
    }
    text.push_str("# Of all nodes:\n");
    for (name, value) in &content.parameters {
        let _ = writeln!(text, "{name} = {}", quote(value));
    }
    text.push_str("# Of this node, from its configuration file:\n");
    for (name, value) in &place.settings.settings {
        let _ = writeln!(text, "{name} = {}", quote(value));
    }
    text
}

fn hba(place: &Place, content: &Content, doors: Doors) -> String {
    let mut text = format!(
        "# Written by pgkeel; add lines by pgkeel config edit, or by [postgres] hba in this node's configuration file.\n\
         local all {SUPERUSER} peer map=pgkeel\n"
    );
    let replication = format!(
        "host replication {REPLICATION_ROLE} all scram-sha-256\n\
         host postgres {REPLICATION_ROLE} all scram-sha-256\n\
         host all {REPLICATION_ROLE} all reject\n\
         local replication all reject\n"
    );
    if doors == Doors::Closed {
        return text + &replication;
    }
    text.push_str(&replication);
    let rules = rules(place, content);
    for line in &rules {
        text.push_str(line);
        text.push('\n');
    }
    // Whoever has rules for sockets means those, and no others.
    if !rules.iter().any(|line| line.starts_with("local")) {
        text.push_str("local all all peer\n");
    }
    text
}

/// The user's rules: the node's own, those of all nodes, or the default where there are none.
fn rules<'a>(place: &'a Place, content: &'a Content) -> Vec<&'a str> {
    let own = place.settings.hba.iter().flatten();
    let given: Vec<&str> = own.chain(&content.hba).map(String::as_str).collect();
    if given.is_empty() && place.settings.hba.is_none() { vec![HBA_DEFAULT] } else { given }
}

/// Over the Unix socket the agent's own user (and the server's) is the superuser.
fn ident(place: &Place) -> String {
    let mut users: Vec<String> = os_user::own().ok().flatten().map(|u| u.name).into_iter().collect();
    users.extend(place.user.as_ref().map(|u| u.name.clone()));
    let mut text = String::from("# Written by pgkeel.\n");
    for user in users {
        let _ = writeln!(text, "pgkeel {user} {SUPERUSER}");
    }
    for line in &place.settings.ident {
        let _ = writeln!(text, "{line}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster_wide() -> Content {
        Content {
            parameters: [("work_mem", "8MB"), ("max_wal_senders", "30")]
                .map(|(n, v)| (n.into(), v.into()))
                .into(),
            hba: vec!["host all all 10.0.0.0/8 md5".to_owned()],
        }
    }

    #[test]
    fn the_node_itself_has_the_last_word() {
        let mut place = Place::under(Path::new("/x"));
        place.settings.settings.insert("work_mem".to_owned(), "64MB".to_owned());
        let content = cluster_wide();
        assert_eq!(value_of(&place, &content, "work_mem"), Some("64MB"));
        assert_eq!(value_of(&place, &content, "max_wal_senders"), Some("30"));
        assert_eq!(value_of(&place, &content, "wal_sender_timeout"), Some("10s"));
        assert_eq!(value_of(&place, &content, "max_connections"), None);
        let text = settings(&place, &content);
        let at = |line: &str| text.find(line).unwrap_or_else(|| panic!("{line} is not in {text}"));
        assert!(at("max_wal_senders = '20'") < at("max_wal_senders = '30'"));
        assert!(at("work_mem = '8MB'") < at("work_mem = '64MB'"));
    }

    #[test]
    fn rules_of_the_node_come_first_and_the_default_only_alone() {
        let mut place = Place::under(Path::new("/x"));
        assert_eq!(rules(&place, &Content::default()), [HBA_DEFAULT]);
        assert_eq!(rules(&place, &cluster_wide()), ["host all all 10.0.0.0/8 md5"]);
        place.settings.hba = Some(vec!["host all ada all trust".to_owned()]);
        assert_eq!(rules(&place, &cluster_wide()), ["host all ada all trust", "host all all 10.0.0.0/8 md5"]);
        place.settings.hba = Some(Vec::new());
        assert!(rules(&place, &Content::default()).is_empty(), "nobody was to come");
        assert!(!hba(&place, &cluster_wide(), Doors::Closed).contains("md5"));
    }

    #[test]
    fn values_are_quoted_as_postgresql_reads_them() {
        assert_eq!(quote("a'b\\c"), "'a''b\\\\c'");
    }
}
