//! A new process takes the listening sockets over from an old one, which serves its clients to their end.
//!
//! The old one can be asked by a Unix socket of its own. It sends the listening sockets themselves, so that a client that
//! knocks meanwhile waits in them for whoever accepts next, and none is turned away. Only when the new one has said that it
//! accepts does the old one stop; until then nothing has changed, whatever becomes of the new one.
//!
//! Then, if both are of the same version, the old one passes its clients' sessions on as they become idle ([`leave`],
//! [`arrive`]; what a session is, [`session`]).
//!
//! Both sides look who the other is: only the same user, or the superuser, is given or believed anything.

mod arrive;

mod leave;

mod pass;

mod session;

mod wire;

pub use arrive::{Arrival, Arrivals, Predecessor, inboxes};
pub use leave::{Ferry, Outcome, carry};
pub use session::Session;
pub use wire::BODY_LEN_MAX;

use pass::{Message, receive, send};
use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, geteuid};
use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::time::timeout;

/// How long either side waits for the next word of the other.
const WORD_MAX: Duration = Duration::from_secs(10);

/// How long the new one may take from being given the sockets to accepting.
const START_MAX: Duration = Duration::from_secs(60);

/// By which the new one says that it accepts.
const ACCEPTS: &[u8; 8] = b"accepts\n";

/// By which it says so, and that sessions can come. It gives this word to nobody who has not named the very same format.
const TAKES_ALL: &[u8; 8] = b"accepts+";

/// By which the old one says then that its desk is gone, where otherwise it ends the line.
const SESSIONS_FOLLOW: u8 = b'+';

/// Sockets, each with the address on which it listens.
pub type Listeners = Vec<(SocketAddr, TcpListener)>;

/// Sockets of an old process.
pub struct Taken {
    pub listeners: Listeners,
    /// The old one can pass on sessions, too.
    has_sessions: bool,
    line: UnixStream,
}

impl fmt::Debug for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Taken").field("listeners", &self.listeners).finish_non_exhaustive()
    }
}

impl Taken {
    /// Of the old process.
    ///
    /// # Errors
    /// The line is broken.
    pub fn pid(&self) -> io::Result<Pid> {
        Ok(socket_peercred(&self.line)?.pid)
    }

    /// Tells the old one that its sockets are accepted from now on; returns when its desk is gone. Blocks. The line by
    /// which sessions will come, if they can.
    ///
    /// # Errors
    /// It does not hear it any more, or does not answer.
    pub fn accepts(mut self) -> io::Result<Option<UnixStream>> {
        self.line.write_all(if self.has_sessions { TAKES_ALL } else { ACCEPTS })?;
        let mut word = [0];
        match (self.line.read(&mut word)?, word) {
            // It says nothing more, but ends the line.
            (0, _) => Ok(None),
            (_, [SESSIONS_FOLLOW]) if self.has_sessions => {
                self.line.set_nonblocking(true)?;
                Ok(Some(self.line))
            }
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "it said nothing known")),
        }
    }
}

/// Asks who listens there; `None` if nobody does. Blocks.
///
/// # Errors
/// Somebody does, and does not give its sockets.
pub fn ask(path: &Path) -> io::Result<Option<Taken>> {
    let line = match UnixStream::connect(path) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        connected => connected?,
    };
    check_peer(&line)?;
    line.set_read_timeout(Some(WORD_MAX))?;
    line.set_write_timeout(Some(WORD_MAX))?;
    let (Message { listen, sessions }, files) = receive(&line)?;
    if listen.len() != files.len() {
        let what = format!("{} sockets were announced and {} came", listen.len(), files.len());
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    let listeners: Vec<_> = listen.into_iter().zip(files.into_iter().map(TcpListener::from)).collect();
    for (address, listener) in &listeners {
        if listener.local_addr()? != *address {
            let what = format!("what was sent as the socket of {address} is another one");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
    }
    let has_sessions = sessions.as_deref() == Some(session::FORMAT);
    Ok(Some(Taken { listeners, has_sessions, line }))
}

fn check_peer(line: impl AsFd) -> io::Result<()> {
    let uid = socket_peercred(line)?.uid;
    if uid.is_root() || uid == geteuid() {
        return Ok(());
    }
    let what = format!("it belongs to user {}", uid.as_raw());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, what))
}

/// Where a later process can ask. Dropping it takes the way away, unless somebody else has it by now.
#[derive(Debug)]
pub struct Desk {
    /// Where it belongs.
    path: PathBuf,
    /// Where it is.
    at: PathBuf,
    listener: UnixListener,
    inode: Option<(u64, u64)>,
}

/// Which file it is.
pub fn inode(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    fs::symlink_metadata(path).ok().map(|facts| (facts.dev(), facts.ino()))
}

/// Whether there is a socket. Nothing else is ever removed.
///
/// # Errors
/// There is something else, or it cannot be looked at.
pub fn is_socket(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::FileTypeExt;
    match fs::symlink_metadata(path) {
        Ok(facts) if facts.file_type().is_socket() => Ok(true),
        Ok(_) => {
            let what = format!("{} is no socket", path.display());
            Err(io::Error::new(io::ErrorKind::AlreadyExists, what))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

impl Desk {
    /// Makes one beside its place, where nobody finds it yet: an older one there stays until its process has been told.
    ///
    /// # Errors
    /// The socket cannot be made, or something else is in its place.
    pub fn prepare(path: &Path) -> io::Result<Desk> {
        use std::os::unix::fs::PermissionsExt;
        is_socket(path)?;
        let mut at = path.as_os_str().to_owned();
        at.push(format!(".{}", std::process::id()));
        let at = PathBuf::from(at);
        // Of a process that had the same number and was killed.
        if is_socket(&at)? {
            fs::remove_file(&at)?;
        }
        let listener = UnixListener::bind(&at)?;
        let desk = Desk { path: path.to_owned(), inode: inode(&at), at, listener };
        fs::set_permissions(&desk.at, fs::Permissions::from_mode(0o600))?;
        Ok(desk)
    }

    /// From now on it is found.
    ///
    /// # Errors
    /// Those of renaming a file.
    pub fn put_in_place(&mut self) -> io::Result<()> {
        fs::rename(&self.at, &self.path)?;
        self.at.clone_from(&self.path);
        Ok(())
    }

    /// Gives the sockets to whoever asks; returns when somebody has taken them over, with the line by which that one takes
    /// sessions, if it does.
    pub async fn give(self, listeners: Listeners) -> Option<tokio::net::UnixStream> {
        loop {
            let mut line = match self.listener.accept().await {
                Ok((line, _)) => line,
                Err(error) => {
                    tracing::warn!("nobody can take over by {}: {error}", self.path.display());
                    tokio::time::sleep(WORD_MAX).await;
                    continue;
                }
            };
            match give_to(&mut line, &listeners).await {
                Ok(takes_sessions) => {
                    // Before anything is said, which the new one takes for its own desk to be put in place.
                    drop(self);
                    if !takes_sessions {
                        return None;
                    }
                    return line.write_all(&[SESSIONS_FOLLOW]).await.is_ok().then_some(line);
                }
                Err(error) => tracing::warn!("who wanted to take over did not: {error}; goes on"),
            }
        }
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        if self.inode.is_some() && inode(&self.at) == self.inode {
            let _ = fs::remove_file(&self.at);
        }
    }
}

/// Whether sessions can go there, too.
async fn give_to(
    line: &mut tokio::net::UnixStream,
    listeners: &[(SocketAddr, TcpListener)],
) -> io::Result<bool> {
    check_peer(&*line)?;
    let listen = listeners.iter().map(|(address, _)| *address).collect();
    let files: Vec<_> = listeners.iter().map(|(_, listener)| listener.as_fd()).collect();
    send(&*line, &Message { listen, sessions: Some(session::FORMAT.to_owned()) }, &files)?;
    let mut word = [0; ACCEPTS.len()];
    timeout(START_MAX, line.read_exact(&mut word)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    match &word {
        ACCEPTS => Ok(false),
        TAKES_ALL => Ok(true),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "it said nothing known")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("pgkeel-takeover-{name}-{}", std::process::id()))
    }

    fn open(path: &Path) -> Desk {
        let mut desk = Desk::prepare(path).unwrap();
        desk.put_in_place().unwrap();
        desk
    }

    fn listener() -> (SocketAddr, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        (listener.local_addr().unwrap(), listener)
    }

    #[tokio::test]
    async fn who_knocks_meanwhile_is_let_in_by_the_next() {
        let path = path("knock");
        assert!(ask(&path).unwrap().is_none(), "nobody is there");
        let (address, socket) = listener();
        let given = socket.try_clone().unwrap();
        let giving = tokio::spawn(open(&path).give(vec![(address, given)]));
        let of_path = path.clone();
        let give_up = tokio::task::spawn_blocking(move || drop(ask(&of_path).unwrap().unwrap()));
        give_up.await.unwrap();
        let knocks = std::net::TcpStream::connect(address).unwrap();
        drop(socket);
        let of_path = path.clone();
        let taken = tokio::task::spawn_blocking(move || ask(&of_path).unwrap().unwrap()).await.unwrap();
        assert_eq!(taken.listeners[0].0, address);
        let own = taken.listeners[0].1.try_clone().unwrap();
        assert!(!giving.is_finished(), "it has not been told yet");
        let line = tokio::task::spawn_blocking(move || taken.accepts().unwrap()).await.unwrap();
        assert!(line.is_some(), "it is the same program");
        assert!(!path.exists(), "the way is gone with the old one");
        tokio::time::timeout(WORD_MAX, giving).await.unwrap().unwrap();
        let (_, peer) = own.accept().unwrap();
        assert_eq!(peer, knocks.local_addr().unwrap());
    }

    #[tokio::test]
    async fn a_desk_that_is_not_in_place_yet_leaves_the_older_one_there() {
        use std::os::unix::fs::MetadataExt;
        let path = path("desks");
        let older = open(&path);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        drop(Desk::prepare(&path).unwrap());
        assert_eq!(inode(&path), older.inode, "who is gone before it accepts changes nothing");
        let later = open(&path);
        drop(older);
        assert_eq!(inode(&path), later.inode);
        drop(later);
        assert!(!path.exists());
        fs::write(&path, "").unwrap();
        assert_eq!(Desk::prepare(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        fs::remove_file(&path).unwrap();
    }
}
