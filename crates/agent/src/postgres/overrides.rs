//! Takes back what somebody set by ALTER SYSTEM and pgkeel sets itself.
//!
//! PostgreSQL reads postgresql.auto.conf after everything else (manual, 20.1.2), so a line there would hold, and commits
//! could be acknowledged without the standbys that the cluster counts on.

use super::{PgError, Place, files};
use std::path::Path;

/// Not written by pgkeel, and no more anybody's to set: they end recovery, feed it from elsewhere, or take away the files and
/// pages that pgkeel relies on. `recovery_target` and all that begin so come on top.
const ALSO: [&str; 8] = [
    "archive_cleanup_command",
    "full_page_writes",
    "hba_file",
    "ident_file",
    "promote_trigger_file",
    "recovery_end_command",
    "restore_command",
    "wal_level",
];

/// Removes the settings of these names, and others that must not be set, from postgresql.auto.conf in the data directory
/// `data`; a reload or start is to follow. Returns those that it found, in lower case.
///
/// # Errors
/// When the file cannot be read or written.
pub fn take_back(place: &Place, data: &Path, names: &[&str]) -> Result<Vec<String>, PgError> {
    let path = data.join("postgresql.auto.conf");
    let mut taken = Vec::new();
    // An ALTER SYSTEM that had read the file before puts its lines back: looked at once more.
    for _ in 0..2 {
        let text = match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => break,
            read => read.map_err(PgError::file("read", &path))?,
        };
        let (kept, found) = without(&text, names);
        if found.is_empty() {
            break;
        }
        tracing::warn!("removed from {}, as it is not to be set: {}", path.display(), found.join("; "));
        files::replace(&path, &kept, place.owner())?;
        taken.extend(found);
    }
    Ok(taken)
}

/// The text without the lines that set one of the names, and the names that were found. ALTER SYSTEM writes one line each, in
/// whatever encoding the session had.
fn without(text: &[u8], names: &[&str]) -> (Vec<u8>, Vec<String>) {
    let (mut kept, mut taken) = (Vec::new(), Vec::new());
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let start = line.trim_ascii_start();
        let end = start.iter().position(|byte| *byte == b'=' || byte.is_ascii_whitespace());
        let name = String::from_utf8_lossy(&start[..end.unwrap_or(start.len())]).to_ascii_lowercase();
        let known = |known: &&str| **known == name;
        let set = names.iter().any(known) || ALSO.iter().any(known) || name.starts_with("recovery_target");
        // Logical slots need it: a server that has some would not start without.
        let needed = name == "wal_level" && line.windows(7).any(|word| word.eq_ignore_ascii_case(b"logical"));
        if set && !needed {
            taken.push(name);
        } else {
            kept.extend_from_slice(line);
        }
    }
    (kept, taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_named_settings_go() {
        let text =
            b"# Do not edit\nPort = '1'\nlog_line_prefix = '\xfc'\nprimary_conninfo='host=a'\nportal = ''\n\
                     wal_level = 'logical'\nrecovery_target_time = ''\nrestore_command = 'true'";
        let names = ["port", "primary_conninfo", "wal_level"];
        let (kept, taken) = without(text, &names);
        assert_eq!(kept, b"# Do not edit\nlog_line_prefix = '\xfc'\nportal = ''\nwal_level = 'logical'\n");
        assert_eq!(taken, ["port", "primary_conninfo", "recovery_target_time", "restore_command"]);
        assert_eq!(without(&kept, &names), (kept.clone(), Vec::new()));
        assert_eq!(without(b"wal_level = minimal", &names).1, ["wal_level"]);
    }
}
