//! Exchanges the own certificate and its key for others while processes read them. The two files cannot change in one moment, so
//! that a crash can leave one of each; what is there says then what is to be done, and one process at a time does it.
//!
//! They are made in a directory beside: while it has a certificate and no key, the key has been put in place and the certificate
//! not. Files in it that are not of such an exchange are left alone.

use crate::authority::Pair;
use crate::credentials::Loaded;
use crate::files::{self, certificates, private_key};
use crate::folder::{CERTIFICATE_MODE, Folder, KEY_MODE, NotWritten, OWN_FILES};
use crate::subject::Subject;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;
use std::time::{Duration, Instant};

/// The directory for it.
const NEXT: &str = ".pgkeel-next";

/// How long another process may take with the same directory.
const LOCK_LIMIT: Duration = Duration::from_secs(10);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// The right to change a directory's files, until it is dropped or the process ends.
pub(crate) struct Lock(#[expect(dead_code, reason = "it is held by being open")] File);

impl Lock {
    /// Waits for who has it.
    pub(crate) fn of(dir: &Path) -> io::Result<Lock> {
        let file = File::open(dir)?;
        let began = Instant::now();
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Lock(file)),
                Err(Errno::WOULDBLOCK) if began.elapsed() < LOCK_LIMIT => std::thread::sleep(LOCK_PAUSE),
                Err(Errno::WOULDBLOCK) => {
                    let said = format!(
                        "another process has been changing the certificates in {} for {} s; try again when it has ended",
                        dir.display(),
                        LOCK_LIMIT.as_secs()
                    );
                    return Err(io::Error::new(io::ErrorKind::WouldBlock, said));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Puts them in place once they have been found good, and for `expected` if that is said. Those that were there are kept as
/// `own.crt.old` and `own.key.old`.
pub(crate) fn exchange(folder: &Folder, pair: &Pair, expected: Option<&Subject>) -> Result<(), NotWritten> {
    let _lock = Lock::of(folder.dir())?;
    clear(folder)?;
    let next = next(folder);
    let done = prepare(folder, &next, pair, expected).and_then(|()| {
        keep_old(folder);
        fs::rename(next.key(), folder.key())?;
        fs::rename(next.certificate(), folder.certificate())?;
        Ok(sync(folder.dir())?)
    });
    let cleared = clear(folder);
    done?;
    Ok(cleared?)
}

fn next(folder: &Folder) -> Folder {
    Folder::at(&folder.dir().join(NEXT))
}

fn prepare(
    folder: &Folder,
    next: &Folder,
    pair: &Pair,
    expected: Option<&Subject>,
) -> Result<(), NotWritten> {
    fs::DirBuilder::new().mode(0o700).create(next.dir()).map_err(|e| named(next.dir(), e))?;
    let trusted = folder.authorities();
    let trusted = fs::read_to_string(&trusted).map_err(|error| named(&trusted, error))?;
    let fresh = |mode| Belongs { owner: None, mode };
    replace(&next.authorities(), &trusted, fresh(CERTIFICATE_MODE))?;
    let own = rustix::process::geteuid().as_raw();
    let key = match Belongs::like(&folder.key()) {
        // One that was open to others is not made so again.
        Some(as_now) if as_now.is_secret(own) => as_now,
        _ => fresh(KEY_MODE),
    };
    replace(&next.key(), &pair.key, key)?;
    let certificate = Belongs::like(&folder.certificate()).unwrap_or(fresh(CERTIFICATE_MODE));
    replace(&next.certificate(), &pair.certificate, certificate)
        // It is no secret: whose it is does not matter so much.
        .or_else(|_| replace(&next.certificate(), &pair.certificate, fresh(CERTIFICATE_MODE)))?;
    let loaded = Loaded::read_once(next)?;
    if let Some(doubt) = loaded.doubt(crate::certificate::now(), &next.certificate()) {
        return Err(NotWritten::Unfit(doubt.into()));
    }
    match expected {
        Some(expected) if loaded.subject != *expected => {
            Err(NotWritten::SomebodyElse { found: loaded.subject, expected: expected.clone() })
        }
        _ => Ok(()),
    }
}

/// For a person who wants to return to them. A pair that does not belong together does not replace one that was kept before.
fn keep_old(folder: &Folder) {
    if !is_pair(&folder.certificate(), &folder.key()) {
        return;
    }
    for file in [folder.certificate(), folder.key()] {
        let old = Folder::old_of(&file);
        let _ = fs::remove_file(&old);
        // A second name of the same file: its owner and mode stay.
        if let Err(error) = fs::hard_link(&file, &old) {
            tracing::warn!("{} is not kept as {}: {error}", file.display(), old.display());
        }
    }
}

fn is_pair(certificate: &Path, key: &Path) -> bool {
    match (certificates("", certificate), private_key("", key)) {
        (Ok(chain), Ok(key)) => files::fits(chain, key),
        _ => false,
    }
}

/// Does the rest of an exchange that was broken off between the key and the certificate; for who is about to read them. What cannot be
/// done is found wrong by him.
pub(crate) fn finish(folder: &Folder) {
    if is_half_done(folder)
        && let Ok(_lock) = Lock::of(folder.dir())
    {
        finish_locked(folder);
    }
}

fn is_half_done(folder: &Folder) -> bool {
    let next = next(folder);
    let is_dir = fs::symlink_metadata(next.dir()).is_ok_and(|facts| facts.is_dir());
    is_dir && next.certificate().exists() && !next.key().exists()
}

fn finish_locked(folder: &Folder) {
    let next = next(folder);
    // The key may have been replaced by somebody else since.
    if is_half_done(folder) && is_pair(&next.certificate(), &folder.key()) {
        let _ = fs::rename(next.certificate(), folder.certificate());
        let _ = sync(folder.dir());
    }
}

/// Finishes or removes what an exchange has left, of a process that was ended in it.
fn clear(folder: &Folder) -> io::Result<()> {
    finish_locked(folder);
    remove_temporaries(folder.dir())?;
    let next = next(folder);
    match fs::symlink_metadata(next.dir()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(named(next.dir(), error)),
        Ok(facts) if facts.is_dir() => {}
        Ok(_) => {
            return Err(named(next.dir(), io::Error::other("is in the way, and no directory; remove it")));
        }
    }
    for file in [next.authorities(), next.certificate(), next.key()] {
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(named(&file, error)),
            _ => {}
        }
    }
    remove_temporaries(next.dir())?;
    fs::remove_dir(next.dir()).map_err(|error| match error.kind() {
        io::ErrorKind::DirectoryNotEmpty => {
            named(next.dir(), io::Error::other("holds files that pgkeel has not made; take them away"))
        }
        _ => named(next.dir(), error),
    })
}

/// Of [`replace`], by a process that was ended in it: nobody else is at work.
fn remove_temporaries(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)?.flatten() {
        if is_temporary(&entry.file_name()) && entry.file_type().is_ok_and(|it| it.is_file()) {
            fs::remove_file(entry.path()).map_err(|error| named(&entry.path(), error))?;
        }
    }
    Ok(())
}

/// As `own.key.123.new`.
fn is_temporary(name: &OsStr) -> bool {
    let Some(name) = name.to_str().and_then(|name| name.strip_suffix(".new")) else { return false };
    let Some((file, pid)) = name.rsplit_once('.') else { return false };
    OWN_FILES.contains(&file) && !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit())
}

/// To whom a file belongs, and who may do what with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Belongs {
    /// User and group; `None`: of the process.
    pub(crate) owner: Option<(u32, u32)>,
    pub(crate) mode: u32,
}

impl Belongs {
    fn like(file: &Path) -> Option<Belongs> {
        let facts = fs::metadata(file).ok()?;
        Some(Belongs { owner: Some((facts.uid(), facts.gid())), mode: facts.mode() & 0o777 })
    }

    fn is_secret(self, own: u32) -> bool {
        self.owner.is_some_and(|(owner, _)| files::check_secrecy(owner, self.mode, own).is_ok())
    }

    fn give(self, file: &File) -> io::Result<()> {
        let facts = file.metadata()?;
        let Some((user, group)) = self.owner else { return Ok(()) };
        if (facts.uid(), facts.gid()) != (user, group) {
            fchown(file, Some(user), Some(group)).map_err(|error| {
                let said = format!(
                    "{error}: the file in its place belongs to user number {user} and group number {group}, to whom this process \
                     cannot give another; run `pgkeel cert rotate` as root, or chown the file to the user that runs pgkeel"
                );
                io::Error::new(error.kind(), said)
            })?;
        }
        file.set_permissions(fs::Permissions::from_mode(self.mode))
    }
}

/// Whole or not at all, and on disk when it returns.
pub(crate) fn replace(path: &Path, text: &str, belongs: Belongs) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = (|| {
        // One that was left would keep its mode; that of a key holds from the first byte on.
        let _ = fs::remove_file(&temporary);
        let first = if belongs.owner.is_some() { KEY_MODE } else { belongs.mode };
        let mut file = OpenOptions::new().write(true).create_new(true).mode(first).open(&temporary)?;
        belongs.give(&file)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        path.parent().map_or(Ok(()), sync)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(|error| named(path, error))
}

fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_temporary_files_are_known_as_such() {
        for ours in ["own.key.1.new", "ca.crt.4194304.new", "ca.key.77.new", "own.crt.9.new"] {
            assert!(is_temporary(OsStr::new(ours)), "{ours}");
        }
        for other in [
            "own.key",
            "own.key.new",
            "own.key..new",
            "own.key.1a.new",
            "x.1.new",
            "own.key.1.new.old",
            ".new",
        ] {
            assert!(!is_temporary(OsStr::new(other)), "{other}");
        }
    }
}
