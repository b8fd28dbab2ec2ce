//! The Unix socket by which clients of this host come in.
//!
//! It is made beside its place and put there when all workers accept, so that clients find it with somebody behind it, or
//! not at all. A socket that nobody listens on any more is replaced; one of a process that runs is not, unless that one is
//! being taken over; and nothing that is no socket ever is.

use crate::takeover::{inode, is_socket};
use rustix::net::sockopt::socket_peercred;
use rustix::process::Pid;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// See the module. Dropping it takes the file away, unless it is somebody else's by now.
#[derive(Debug)]
pub struct UnixDoor {
    /// Where it belongs.
    path: PathBuf,
    /// Where it is.
    at: Mutex<PathBuf>,
    listener: UnixListener,
    inode: Option<(u64, u64)>,
}

/// What becomes of a process that listens there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Other {
    /// It keeps its place.
    Stays,
    /// It gives its sockets up to this one, if it has this process id.
    Goes(Pid),
}

impl UnixDoor {
    /// Makes one, with these permissions, that nobody finds yet.
    ///
    /// # Errors
    /// The socket cannot be made, somebody listens there, or something else is in its place.
    pub fn prepare(path: &Path, mode: u32, other: Other) -> io::Result<UnixDoor> {
        if is_socket(path)? {
            match UnixStream::connect(path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(error),
                Ok(there) if other == Other::Goes(socket_peercred(&there)?.pid) => {}
                Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
            }
        }
        let mut at = path.as_os_str().to_owned();
        at.push(format!(".{}", std::process::id()));
        let at = PathBuf::from(at);
        // Of a process that had the same number and was killed.
        if is_socket(&at)? {
            fs::remove_file(&at)?;
        }
        let listener = UnixListener::bind(&at)?;
        let door = UnixDoor { path: path.to_owned(), inode: inode(&at), at: Mutex::new(at), listener };
        fs::set_permissions(&*door.at(), fs::Permissions::from_mode(mode))?;
        door.listener.set_nonblocking(true)?;
        Ok(door)
    }

    /// Where it belongs.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// From now on it is found.
    ///
    /// # Errors
    /// Those of renaming a file.
    pub fn put_in_place(&self) -> io::Result<()> {
        let mut at = self.at();
        fs::rename(&*at, &self.path)?;
        at.clone_from(&self.path);
        Ok(())
    }

    /// For one more worker.
    ///
    /// # Errors
    /// No more files can be opened.
    pub fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }

    /// Nobody finds it any more. The file of somebody else who has the place by now stays.
    pub fn take_away(&self) {
        let at = self.at();
        if self.inode.is_some() && inode(&at) == self.inode {
            let _ = fs::remove_file(&*at);
        }
    }

    fn at(&self) -> std::sync::MutexGuard<'_, PathBuf> {
        // Each change is one statement, so a panic elsewhere spoils nothing.
        self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for UnixDoor {
    fn drop(&mut self) {
        self.take_away();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("pgkeel-door-{name}-{}", std::process::id()))
    }

    fn open(path: &Path, other: Other) -> io::Result<UnixDoor> {
        let door = UnixDoor::prepare(path, 0o700, other)?;
        door.put_in_place().map(|()| door)
    }

    #[test]
    fn what_is_dead_is_replaced_and_nothing_else() {
        let path = path("dead");
        drop(UnixListener::bind(&path).unwrap());
        let door = open(&path, Other::Stays).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(open(&path, Other::Stays).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert!(UnixStream::connect(&path).is_ok(), "who runs is left alone");
        let later = open(&path, Other::Goes(rustix::process::getpid())).unwrap();
        drop(door);
        assert!(UnixStream::connect(&path).is_ok(), "the older one takes nothing away from the later one");
        drop(later);
        assert!(!path.exists());
        fs::write(&path, "").unwrap();
        for other in [Other::Stays, Other::Goes(rustix::process::getpid())] {
            assert_eq!(open(&path, other).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        }
        fs::remove_file(&path).unwrap();
    }
}
