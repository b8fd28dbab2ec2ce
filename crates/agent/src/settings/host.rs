//! Can this host run what the settings ask for? Looks, never changes anything.
//!
//! Not checked here: whether a port is free, because an agent that comes back finds its own server listening.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::Access;

use crate::os_user::{self, OsUser};
use crate::store::{EtcdOptions, StoreKind};

use super::{MAJOR_MIN, OS_USER_DEFAULT, PROGRAMS, PostgresSettings, SecondLine, Settings, major_version};

/// Everything on this host that stands in the way, one sentence each with what to do next; empty when nothing does.
#[must_use]
pub fn check_host(settings: &Settings) -> Vec<String> {
    let mut problems = Vec::new();
    problems.extend(cannot_create("node.dir", &settings.dir));
    if let StoreKind::Etcd(etcd) = &settings.store {
        problems.extend(check_etcd_files(etcd));
    }
    if settings.second_line == SecondLine::Nftables {
        problems.extend(crate::fence::hindrance());
    }
    if let Some(postgres) = &settings.postgres {
        let owner = check_os_user(postgres, &mut problems);
        let major = check_programs(&postgres.bin_dir, &mut problems);
        problems.extend(cannot_create("postgres.data_dir", &postgres.data_dir));
        check_data_dir(&postgres.data_dir, owner.as_ref(), major, &mut problems);
    }
    problems
}

/// What is wrong with the files that the way to etcd needs.
fn check_etcd_files(etcd: &EtcdOptions) -> Vec<String> {
    let tls = etcd.tls.as_ref().and_then(|tls| tls.check().err()).map(|error| {
        format!("[store]: {error}; name files in PEM form that this user can read (store.ca, store.cert, store.key)")
    });
    let password = etcd.user.as_ref().and_then(|user| {
        let error = std::fs::read_to_string(&user.password_file).err()?;
        let shown = user.password_file.display();
        Some(format!(
            "store.password_file = \"{shown}\": cannot be read: {error}; put the password there, in one line"
        ))
    });
    tls.into_iter().chain(password).collect()
}

/// The user the server will run as, when that is possible.
fn check_os_user(postgres: &PostgresSettings, problems: &mut Vec<String>) -> Option<OsUser> {
    let own_uid = rustix::process::geteuid().as_raw();
    match (own_uid, postgres.os_user.as_deref()) {
        (0, named) => check_user_for_root(named.unwrap_or(OS_USER_DEFAULT), problems),
        (_, None) => os_user::own().ok().flatten(),
        (_, Some(name)) => {
            let user = os_user::find(name).ok().flatten().filter(|user| user.uid == own_uid);
            if user.is_none() {
                problems.push(format!(
                    "postgres.os_user = {name:?}: only an agent started as root can run the server as another user, and \
                     this one has user number {own_uid}; start pgkeel as root or as {name}, or leave os_user out"
                ));
            }
            user
        }
    }
}

fn check_user_for_root(name: &str, problems: &mut Vec<String>) -> Option<OsUser> {
    let problem = match os_user::find(name) {
        Ok(Some(user)) if user.uid != 0 => return Some(user),
        Ok(Some(_)) => format!(
            "postgres.os_user = {name:?} is the superuser, as whom PostgreSQL refuses to run; name an unprivileged user"
        ),
        Ok(None) => format!(
            "started as root, so the server must run as another user, but this host has no operating-system user {name:?}; \
             create it (useradd --system {name}) or name another by postgres.os_user"
        ),
        Err(error) => {
            format!("the users of this host cannot be looked up ({error}); check getent and /etc/passwd")
        }
    };
    problems.push(problem);
    None
}

/// Major version of the programs, when they are all there.
fn check_programs(bin_dir: &Path, problems: &mut Vec<String>) -> Option<u32> {
    let shown = bin_dir.display();
    if !bin_dir.is_dir() {
        problems.push(format!(
            "postgres.bin_dir = \"{shown}\": there is no such directory on this host; install PostgreSQL's server package, \
             or set bin_dir to the directory that holds postgres and initdb"
        ));
        return None;
    }
    let missing: Vec<&str> =
        PROGRAMS.into_iter().filter(|program| !bin_dir.join(program).is_file()).collect();
    if !missing.is_empty() {
        problems.push(format!(
            "postgres.bin_dir = \"{shown}\" lacks {}; install PostgreSQL's server package (a client package is not \
             enough), or set bin_dir to another directory",
            missing.join(", ")
        ));
        return None;
    }
    match major_version(bin_dir) {
        Ok(major) if major >= MAJOR_MIN => Some(major),
        Ok(major) => {
            problems.push(format!(
                "postgres.bin_dir = \"{shown}\" holds PostgreSQL {major}; pgkeel needs {MAJOR_MIN} or later"
            ));
            None
        }
        Err(problem) => {
            problems.push(format!("postgres.bin_dir = \"{shown}\": {problem}"));
            None
        }
    }
}

fn check_data_dir(dir: &Path, owner: Option<&OsUser>, major: Option<u32>, problems: &mut Vec<String>) {
    let Ok(found) = std::fs::metadata(dir) else { return };
    let shown = dir.display();
    let empty = std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none());
    if !found.is_dir() || empty {
        return;
    }
    if let Some(owner) = owner.filter(|owner| owner.uid != found.uid()) {
        problems.push(format!(
            "postgres.data_dir = \"{shown}\" belongs to user number {}, but the server will run as {} ({}); change \
             postgres.os_user, or give it away: chown -R {}: {shown}",
            found.uid(),
            owner.name,
            owner.uid,
            owner.name
        ));
    }
    match std::fs::read_to_string(dir.join("PG_VERSION")) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => problems.push(format!(
            "postgres.data_dir = \"{shown}\" is not empty and is no PostgreSQL data directory (it has no PG_VERSION); \
             name another directory, or move its content away"
        )),
        Err(error) => problems.push(format!("postgres.data_dir = \"{shown}\" cannot be read: {error}")),
        Ok(version) => {
            if let (Ok(data), Some(programs)) = (version.trim().parse::<u32>(), major)
                && data != programs
            {
                problems.push(format!(
                    "postgres.data_dir = \"{shown}\" was made by PostgreSQL {data}, but bin_dir holds {programs}; set \
                     postgres.bin_dir to the programs of version {data}"
                ));
            }
        }
    }
}

/// Why a directory neither exists nor can be made, if so.
fn cannot_create(key: &str, dir: &Path) -> Option<String> {
    let shown = dir.display();
    let nearest = dir.ancestors().find(|ancestor| ancestor.symlink_metadata().is_ok())?;
    if !nearest.is_dir() {
        return Some(format!(
            "{key} = \"{shown}\": {} is not a directory; name another path, or move that file away",
            nearest.display()
        ));
    }
    match rustix::fs::access(nearest, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => None,
        Err(error) => Some(format!(
            "{key} = \"{shown}\": {} is not writable for this user ({error}); create {shown} and give it to this user, or \
             name another path",
            nearest.display()
        )),
    }
}
