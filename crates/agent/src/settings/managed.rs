//! PostgreSQL settings that are not the user's to set, in the node's file or cluster-wide, and what a value may look like.

/// Longest value that is passed on, in bytes.
pub const VALUE_BYTES_MAX: usize = 8_192;
/// Longest line of pg_hba.conf, in bytes.
pub const HBA_BYTES_MAX: usize = 1_024;

/// Settings that pgkeel writes itself, or that would break what it promises, each with the reason a refusal gives.
const MANAGED: [(&str, &str); 22] = [
    ("archive_cleanup_command", "pgkeel decides which WAL is kept"),
    ("config_file", "pgkeel decides which files the server reads"),
    ("data_directory", "use postgres.data_dir"),
    ("full_page_writes", "it must stay on, pg_rewind needs it"),
    ("hba_file", "pgkeel writes it, use postgres.hba"),
    ("hot_standby", "it must stay on, so that standbys can be watched and read"),
    ("ident_file", "pgkeel writes it, use postgres.ident"),
    ("include", "pgkeel decides which files the server reads"),
    ("include_dir", "pgkeel decides which files the server reads"),
    ("include_if_exists", "pgkeel decides which files the server reads"),
    ("listen_addresses", "use postgres.listen_addresses"),
    ("port", "use postgres.port"),
    ("primary_conninfo", "pgkeel points it at the primary of the moment"),
    ("primary_slot_name", "pgkeel keeps a slot for every node"),
    ("promote_trigger_file", "only pgkeel promotes"),
    ("recovery_end_command", "only pgkeel promotes"),
    ("restore_command", "standbys fetch their WAL from the other nodes"),
    ("standby_mode", "pgkeel decides who is a standby"),
    ("synchronous_standby_names", "use [replication]"),
    ("trigger_file", "only pgkeel promotes"),
    ("unix_socket_directories", "use postgres.socket_dirs"),
    ("wal_level", "pgkeel sets it as replication needs it"),
];

/// Why a setting may not be given this value; `None` when it is the user's to choose.
#[must_use]
pub fn managed_because(name: &str, value: &str) -> Option<&'static str> {
    // More than replication needs, and logical slots need it.
    if (name, value) == ("wal_level", "logical") {
        return None;
    }
    if name.starts_with("recovery_target") {
        return Some("a standby must replay everything");
    }
    MANAGED.iter().find(|(managed, _)| *managed == name).map(|(_, reason)| *reason)
}

/// Whether it may be the name of a setting, of an extension's too (`valid_custom_variable_name`,
/// src/backend/utils/misc/guc.c).
#[must_use]
pub fn is_name(name: &str) -> bool {
    let begins_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    begins_well && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.' || c == '$')
}

/// What is wrong with a value before any server is asked.
#[must_use]
pub fn unfit(value: &str) -> Option<String> {
    if value.len() > VALUE_BYTES_MAX {
        return Some(format!("is longer than {VALUE_BYTES_MAX} bytes"));
    }
    value.chars().any(char::is_control).then(|| "must be one line of plain text".to_owned())
}

/// A line of pg_hba.conf with single blanks. Looks only at the shape; the server itself judges the rest. See PostgreSQL's
/// chapter "The pg_hba.conf File".
///
/// # Errors
/// What is wrong with it.
pub fn hba_line(text: &str) -> Result<String, String> {
    if text.chars().any(|c| c.is_control() && c != '\t') || text.len() > HBA_BYTES_MAX {
        return Err(format!("every entry is one line of at most {HBA_BYTES_MAX} bytes"));
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    let words_min = match words.first().copied() {
        Some("local") => 4,
        Some("host" | "hostssl" | "hostnossl" | "hostgssenc" | "hostnogssenc") => 5,
        _ => {
            return Err(format!(
                "{text:?} is not a line of pg_hba.conf; it begins with host, hostssl or local"
            ));
        }
    };
    if words.len() < words_min {
        return Err(format!(
            "{text:?} is not a line of pg_hba.conf; it has type, database, user, address (not for local) and method"
        ));
    }
    Ok(words.join(" "))
}

/// A line of pg_ident.conf with single blanks; looks only at the shape. See PostgreSQL's chapter "User Name Maps".
///
/// # Errors
/// What is wrong with it.
pub fn ident_line(text: &str) -> Result<String, String> {
    if text.chars().any(|c| c.is_control() && c != '\t') || text.len() > HBA_BYTES_MAX {
        return Err(format!("every entry is one line of at most {HBA_BYTES_MAX} bytes"));
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    match words.first().copied() {
        Some("pgkeel") => Err("the map pgkeel is its own; give yours another name".to_owned()),
        Some(first) if words.len() >= 3 && !first.starts_with("include") => Ok(words.join(" ")),
        _ => Err(format!(
            "{text:?} is not a line of pg_ident.conf; it has the name of a map, a user of the system and one of the database"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_map_has_three_words() {
        assert_eq!(ident_line("ops  ada\tpostgres"), Ok("ops ada postgres".to_owned()));
        for wrong in ["", "ops ada", "pgkeel ada postgres", "include_dir a b", "a b \n c"] {
            assert!(ident_line(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn every_managed_name_can_be_found() {
        for (name, reason) in MANAGED {
            assert_eq!(managed_because(name, "x"), Some(reason));
        }
        assert!(managed_because("recovery_target_lsn", "").is_some());
        assert!(managed_because("shared_buffers", "1GB").is_none());
        assert!(managed_because("wal_level", "logical").is_none());
    }
}
