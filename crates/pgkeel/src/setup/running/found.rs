//! What is carried over from a server that ran before: parameters, rules, maps of user names, where clients find it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use agent::postgres::SUPERUSER;
use agent::settings::managed::{hba_line, ident_line, managed_because, unfit};

use super::Answer;

/// Set by pgkeel as it needs them, or of no use to a server that it runs.
const OURS: [&str; 5] = [
    "external_pid_file",
    "stats_temp_directory",
    "wal_log_hints",
    "wal_receiver_status_interval",
    "wal_retrieve_retry_interval",
];
/// Fewer WAL senders or slots than this are no use to a cluster.
const SENDERS_MIN: u32 = 4;
/// What somebody would miss.
const MISSED: [&str; 3] = ["archive_cleanup_command", "recovery_end_command", "restore_command"];

/// What is carried over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Parameters.
    pub settings: BTreeMap<String, String>,
    /// Rules.
    pub hba: Vec<String>,
    /// Maps of user names.
    pub ident: Vec<String>,
    /// Where clients of its host find it.
    pub socket_dirs: Vec<PathBuf>,
    /// What is left out, one sentence each.
    pub left_out: Vec<String>,
}

pub(super) fn carried_over(data_dir: &Path, answer: &Answer) -> Result<Taken, String> {
    let mut taken = Taken::default();
    for (name, value) in &answer.settings {
        if let Some(because) = managed_because(name, value) {
            if MISSED.contains(&name.as_str()) && !value.is_empty() {
                taken.left_out.push(format!("{name} is not carried over: {because}"));
            }
        } else if let Some(problem) = unfit(value) {
            return Err(format!(
                "{name} {problem}, so it cannot be carried over: change it, reload, and run this again"
            ));
        } else if too_few(name, value) {
            taken.left_out.push(format!("{name} = {value} is not carried over: standbys need more"));
        } else if !OURS.contains(&name.as_str()) {
            taken.settings.insert(name.clone(), value.clone());
        }
    }
    if let Some(kept) = answer.kept_for_slots() {
        taken.settings.entry("max_slot_wal_keep_size".to_owned()).or_insert_with(|| kept.to_owned());
    }
    if answer.wal_level == "logical" {
        taken.settings.insert("wal_level".to_owned(), "logical".to_owned());
    }
    taken.hba = lines_of(&answer.hba_file, (data_dir, answer.version), hba_line)?;
    taken.ident = lines_of(&answer.ident_file, (data_dir, answer.version), ident_line)?;
    taken.left_out.extend(taken.hba.iter().filter(|rule| is_shadowed(rule)).map(|rule| {
        format!(
            "the rule \"{rule}\" comes after pgkeel's own: over a socket, postgres is for the users root and {SUPERUSER} alone, and \
             replication for nobody"
        )
    }));
    let dirs = answer.socket_dirs.split(',').map(|dir| dir.trim().trim_matches('"'));
    // One that begins so is no file (manual, "Connections and Authentication").
    taken.socket_dirs = dirs.filter(|dir| dir.starts_with('/')).map(PathBuf::from).collect();
    Ok(taken)
}

fn too_few(name: &str, value: &str) -> bool {
    matches!(name, "max_wal_senders" | "max_replication_slots")
        && value.parse().is_ok_and(|number: u32| number < SENDERS_MIN)
}

/// Whether a rule for sockets says something that pgkeel's rules before it say otherwise.
fn is_shadowed(rule: &str) -> bool {
    let words: Vec<&str> = rule.split(' ').collect();
    let [kind, database, user, method, options @ ..] = words.as_slice() else { return false };
    let of_postgres = user.split(',').any(|user| user == SUPERUSER);
    *kind == "local"
        && (*database == "replication" || of_postgres && (*method != "peer" || !options.is_empty()))
}

/// Where the server is to listen: as before, and where the other nodes reach it.
#[must_use]
pub fn listen_addresses(before: &str, host: &str) -> String {
    let entries: Vec<&str> = before.split(',').map(str::trim).filter(|entry| !entry.is_empty()).collect();
    let hears = entries.iter().any(|entry| *entry == "*" || *entry == "0.0.0.0" || *entry == host);
    let own = (!hears).then_some(host);
    entries.into_iter().chain(own).collect::<Vec<_>>().join(",")
}

fn lines_of(
    file: &str,
    (data_dir, version): (&Path, u32),
    check: impl Fn(&str) -> Result<String, String>,
) -> Result<Vec<String>, String> {
    let text = std::fs::read(file).map_err(|e| format!("{file} cannot be read: {e}; run this as root"))?;
    let beside = Path::new(file).parent() == Some(data_dir);
    let mut lines = Vec::new();
    for line in entries(&String::from_utf8_lossy(&text), version) {
        let line = check(&line).map_err(|problem| format!("{file}: {problem}"))?;
        if !beside && line.split([' ', ',']).any(|word| word.starts_with('@') && !word.starts_with("@/")) {
            return Err(format!(
                "{file}: {line:?} names a file beside it: write its whole path, reload, and run this again"
            ));
        }
        lines.push(line);
    }
    Ok(lines)
}

/// The lines that say something: without comments, and from version 14 on those that end with a backslash together with the next
/// (src/backend/libpq/hba.c, `tokenize_auth_file`).
fn entries(text: &str, version: u32) -> Vec<String> {
    let plain = text.replace("\r\n", "\n");
    let joined = if version >= 14 { plain.replace("\\\n", "") } else { plain };
    let without_comment = |line: &str| {
        let mut quoted = false;
        let end = line.find(|c| {
            quoted ^= c == '"';
            c == '#' && !quoted
        });
        line[..end.unwrap_or(line.len())].trim().to_owned()
    };
    joined.lines().map(without_comment).filter(|line| !line.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_that_say_something_are_taken() {
        let text = "# a comment\n\nlocal all all peer # who else\nhost \"a#b\" all \\\n  10.0.0.0/8 md5\n";
        assert_eq!(entries("# a \\\r\nlocal all all reject", 13), ["local all all reject"]);
        assert_eq!(entries(text, 15), ["local all all peer", "host \"a#b\" all   10.0.0.0/8 md5"]);
    }

    #[test]
    fn rules_that_do_not_come_to_speak_are_known() {
        for rule in
            ["local all postgres md5", "local all a,postgres peer map=x", "local replication all peer"]
        {
            assert!(is_shadowed(rule), "{rule}");
        }
        for rule in ["local all all md5", "local all postgres peer", "host all postgres all md5"] {
            assert!(!is_shadowed(rule), "{rule}");
        }
    }

    #[test]
    fn it_listens_where_it_did_and_where_the_others_are() {
        for (before, wanted) in [
            ("*", "*"),
            ("localhost", "localhost,10.0.0.1"),
            ("", "10.0.0.1"),
            ("localhost, 10.0.0.1", "localhost,10.0.0.1"),
            ("0.0.0.0", "0.0.0.0"),
        ] {
            assert_eq!(listen_addresses(before, "10.0.0.1"), wanted, "{before:?}");
        }
    }

    #[test]
    fn what_pgkeel_decides_is_left_out_and_what_would_be_missed_is_told() {
        let dir = std::env::temp_dir().join(format!("pgkeel-carried-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("hba"), "host all all samenet md5\n").unwrap();
        std::fs::write(dir.join("ident"), "").unwrap();
        let file = |name: &str| dir.join(name).display().to_string();
        let mut text = serde_json::json!({
            "superuser": true, "has_role": true, "version": 15, "system_identifier": "7", "in_recovery": false, "port": 5432,
            "listen_addresses": "*", "socket_dirs": "/run/postgresql, /tmp, @abstract", "wal_level": "replica",
            "sync_names": "", "slot": "", "config_file": file("x"), "hba_file": file("hba"), "ident_file": file("ident"),
            "tablespaces": [], "streams": false, "standbys": [], "watchers": [], "slots": 0, "kept_for_slots": "-1", "apply_delay": "0",
            "settings": {"work_mem": "8MB", "port": "5432", "restore_command": "cp", "wal_log_hints": "off",
                         "max_wal_senders": "0"},
        });
        let read = |text: &serde_json::Value| Answer::read(&text.to_string()).unwrap();
        let taken = carried_over(&dir, &read(&text)).unwrap();
        assert_eq!(taken.settings, [("work_mem".to_owned(), "8MB".to_owned())].into());
        assert_eq!(taken.socket_dirs, [PathBuf::from("/run/postgresql"), "/tmp".into()]);
        let told = |begins: &str| taken.left_out.iter().any(|said| said.starts_with(begins));
        assert!(
            told("restore_command") && told("max_wal_senders = 0") && taken.left_out.len() == 2,
            "{taken:?}"
        );
        assert_eq!(taken.hba, ["host all all samenet md5"]);
        assert_eq!(read(&text).check(&dir), Ok(()));
        text["slots"] = serde_json::json!(1);
        text["wal_level"] = serde_json::json!("logical");
        let settings = carried_over(&dir, &read(&text)).unwrap().settings;
        assert_eq!(settings["max_slot_wal_keep_size"], "-1", "its slots would lose what they need");
        assert_eq!(settings["wal_level"], "logical");
        text["watchers"] = serde_json::json!(["Patroni heartbeat"]);
        assert!(read(&text).check(&dir).unwrap_err().contains("Patroni heartbeat"));
        text["watchers"] = serde_json::json!([]);
        text["tablespaces"] = serde_json::json!(["fast"]);
        assert!(read(&text).check(&dir).unwrap_err().contains("fast"));
        std::fs::write(dir.join("hba"), "host @names all samenet md5\n").unwrap();
        assert_eq!(
            carried_over(&dir, &read(&text)).map(|taken| taken.hba.len()),
            Ok(1),
            "it is found where it was"
        );
        let said = carried_over(Path::new("/elsewhere"), &read(&text)).unwrap_err();
        assert!(said.contains("whole path"), "{said}");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
