//! The operating-system user that runs the server: from name to numbers.

use std::fs;
use std::process::Command;

/// Numbers of an operating-system user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OsUser {
    /// User id.
    pub uid: u32,
    /// Id of its primary group.
    pub gid: u32,
}

/// Why a name gave no user.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// Not a name that a user can have.
    #[error("{0:?} is not the name of an operating-system user; use letters, digits, '.', '_' and '-'")]
    NotAName(String),
    /// No such user, neither in /etc/passwd nor for `getent passwd`.
    #[error(
        "there is no operating-system user {0:?}; create it (for example: useradd --system {0}) or name another"
    )]
    Unknown(String),
}

/// Looks a user up: /etc/passwd first, then `getent passwd`, which also knows directory services.
pub fn look_up_user(name: &str) -> Result<OsUser, UserError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.starts_with('-') || !name.chars().all(plain) {
        return Err(UserError::NotAName(name.to_string()));
    }
    let local = fs::read_to_string("/etc/passwd").ok().and_then(|text| find_user(&text, name));
    local.or_else(|| ask_getent(name)).ok_or_else(|| UserError::Unknown(name.to_string()))
}

fn ask_getent(name: &str) -> Option<OsUser> {
    let output = Command::new("getent").args(["passwd", name]).output().ok()?;
    find_user(&String::from_utf8_lossy(&output.stdout), name)
}

/// One line a user: `name:password:uid:gid:...` (passwd(5)).
fn find_user(passwd: &str, name: &str) -> Option<OsUser> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(name) {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(OsUser { uid, gid })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_passwd() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nbroken\npg:x:115:121::/var/lib/pg:/bin/sh\n";
        assert_eq!(find_user(passwd, "pg"), Some(OsUser { uid: 115, gid: 121 }));
        assert_eq!(find_user(passwd, "p"), None);
        assert_eq!(find_user(passwd, "broken"), None);
    }

    #[test]
    fn says_when_there_is_no_such_user() {
        let message = look_up_user("nobody-has-this-name").expect_err("no such user").to_string();
        assert!(message.contains("no operating-system user \"nobody-has-this-name\""), "{message}");
        assert!(matches!(look_up_user("a:b"), Err(UserError::NotAName(_))));
        assert!(matches!(look_up_user("-x"), Err(UserError::NotAName(_))));
    }
}
