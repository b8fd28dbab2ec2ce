//! Users of the operating system, as the system's user database has them.

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OsUser {
    /// Login name.
    pub name: String,
    /// User number.
    pub uid: u32,
    /// Number of the user's first group.
    pub gid: u32,
    /// Home directory.
    pub home: PathBuf,
}

/// Looks a user up by name, the way the system is set up to (files, LDAP, ...); `None` when there is no such user.
///
/// # Errors
/// When neither `getent` nor /etc/passwd can be asked.
pub fn find(name: &str) -> std::io::Result<Option<OsUser>> {
    ask(name, |user| user.name == name)
}

/// Looks a user up by number.
///
/// # Errors
/// As [`find`].
pub fn of_number(uid: u32) -> std::io::Result<Option<OsUser>> {
    ask(&uid.to_string(), |user| user.uid == uid)
}

/// Numbers of all groups of a user; none when they cannot be looked up.
#[must_use]
pub fn groups(name: &str) -> Vec<u32> {
    let asked =
        Command::new("id").args(["-G", "--", name]).stdin(Stdio::null()).stderr(Stdio::null()).output();
    let text =
        asked.ok().filter(|output| output.status.success()).map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&text).split_whitespace().filter_map(|gid| gid.parse().ok()).collect()
}

/// The user that this process runs as.
///
/// # Errors
/// As [`find`].
pub fn own() -> std::io::Result<Option<OsUser>> {
    of_number(rustix::process::geteuid().as_raw())
}

/// First line of the user database for `key` (a name or a number) that `wanted` accepts.
fn ask(key: &str, wanted: impl Fn(&OsUser) -> bool) -> std::io::Result<Option<OsUser>> {
    let asked = Command::new("getent").args(["passwd", "--", key]).stdin(Stdio::null()).output();
    let text = match asked {
        Ok(output) => output.stdout,
        Err(_) => std::fs::read("/etc/passwd")?,
    };
    Ok(String::from_utf8_lossy(&text).lines().filter_map(parse).find(|user| wanted(user)))
}

/// Reads "name:password:uid:gid:gecos:home:shell", passwd(5).
fn parse(line: &str) -> Option<OsUser> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, _, home, ..] = fields.as_slice() else { return None };
    Some(OsUser {
        name: (*name).to_owned(),
        uid: uid.parse().ok()?,
        gid: gid.parse().ok()?,
        home: PathBuf::from(home),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_passwd() {
        let user = parse("pg:x:115:121::/var/lib/pg:/bin/sh").unwrap();
        assert_eq!((user.name.as_str(), user.uid, user.gid), ("pg", 115, 121));
        assert_eq!(parse("broken"), None);
        assert_eq!(parse("a:x:no:1::/:/bin/sh"), None);
    }

    #[test]
    fn a_strange_name_is_nobody() {
        assert_eq!(find("nobody-has-this-name").unwrap(), None);
        assert_eq!(find("--help").unwrap(), None);
    }

    #[test]
    fn this_process_has_a_user() {
        assert_eq!(own().unwrap().map(|user| user.uid), Some(rustix::process::geteuid().as_raw()));
    }
}
