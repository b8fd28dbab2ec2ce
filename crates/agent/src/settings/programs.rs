//! Where PostgreSQL's server programs are.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The programs that must be in `bin_dir`.
pub const PROGRAMS: [&str; 6] =
    ["postgres", "initdb", "pg_basebackup", "pg_rewind", "pg_controldata", "pg_ctl"];

/// Where Debian and its relatives put one directory for each major version.
const DEBIAN_ROOT: &str = "/usr/lib/postgresql";

/// Finds the directory of the server programs when nobody named it.
///
/// # Errors
/// One sentence for people when there is none, or more than one to choose from.
pub fn find_bin_dir() -> Result<PathBuf, String> {
    choose_bin_dir(ask_pg_config(), installed_under(Path::new(DEBIAN_ROOT)))
}

/// The rule behind [`find_bin_dir`]: what pg_config says if a server is there, else the only installed one.
///
/// # Errors
/// One sentence for people when there is none, or more than one to choose from.
pub fn choose_bin_dir(pg_config: Option<PathBuf>, installed: Vec<PathBuf>) -> Result<PathBuf, String> {
    if let Some(dir) = pg_config
        && (dir.join("postgres").is_file() || installed.is_empty())
    {
        return Ok(dir);
    }
    match installed.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err("no PostgreSQL server programs found on this host (asked pg_config, looked in /usr/lib/postgresql); \
             install PostgreSQL's server package or set postgres.bin_dir"
            .to_owned()),
        several => {
            let names: Vec<String> = several.iter().map(|dir| dir.display().to_string()).collect();
            Err(format!(
                "several PostgreSQL versions are installed ({}); say which one by postgres.bin_dir",
                names.join(", ")
            ))
        }
    }
}

/// Major version of the server program in `bin_dir`, such as 15.
///
/// # Errors
/// One sentence for people when the program cannot be run or says something unexpected.
pub fn major_version(bin_dir: &Path) -> Result<u32, String> {
    let program = bin_dir.join("postgres");
    let output = Command::new(&program)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{} cannot be run: {error}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse_major(&text).ok_or_else(|| {
        format!(
            "{} --version said {:?} instead of a version; is this a PostgreSQL server program?",
            program.display(),
            text.chars().take(80).collect::<String>()
        )
    })
}

/// Reads the major version from "postgres (PostgreSQL) 15.18 (Debian ...)" or "... 18beta1".
fn parse_major(text: &str) -> Option<u32> {
    let version = text.split("(PostgreSQL)").nth(1)?.trim_start();
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

fn ask_pg_config() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let dir = PathBuf::from(text.trim());
    (output.status.success() && dir.is_absolute()).then_some(dir)
}

fn installed_under(root: &Path) -> Vec<PathBuf> {
    let Ok(versions) = std::fs::read_dir(root) else { return Vec::new() };
    let mut found: Vec<PathBuf> = versions
        .flatten()
        .map(|version| version.path().join("bin"))
        .filter(|bin| bin.join("postgres").is_file())
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pg_config_is_believed_only_when_a_server_is_there() {
        let installed = vec![PathBuf::from("/usr/lib/postgresql/15/bin")];
        let client_only = Some(PathBuf::from("/no/server/here"));
        assert_eq!(choose_bin_dir(client_only.clone(), installed.clone()), Ok(installed[0].clone()));
        assert_eq!(choose_bin_dir(client_only, Vec::new()), Ok(PathBuf::from("/no/server/here")));
        let none = choose_bin_dir(None, Vec::new()).unwrap_err();
        assert!(none.starts_with("no PostgreSQL server programs found on this host"), "{none}");
        let several = choose_bin_dir(None, vec!["/a/15/bin".into(), "/a/17/bin".into()]).unwrap_err();
        assert_eq!(
            several,
            "several PostgreSQL versions are installed (/a/15/bin, /a/17/bin); say which one by postgres.bin_dir"
        );
    }

    #[test]
    fn versions_are_read_as_the_server_prints_them() {
        assert_eq!(parse_major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(parse_major("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(parse_major("GNU bash 5.2\n"), None);
    }
}
