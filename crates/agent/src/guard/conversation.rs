//! The guard's side of its socket: agents that come, speak and go. Nothing here waits for an agent.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::fs::Mode;
use rustix::process::umask;

use super::protocol::{Command, LineBuffer, ProtocolError, Report};

/// Connections held at once. One is normal, two while an agent is replaced.
const AGENTS_MAX: usize = 8;
/// Most bytes taken from one agent before the deadline is looked at again.
const READ_BYTES: usize = 512;

/// An agent that is connected.
pub(super) struct Agent {
    stream: UnixStream,
    heard: LineBuffer,
}

/// Is the agent still connected?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    Open,
    Closed,
}

/// Listens at `path` for this user only. A socket file that nobody listens at is replaced; one with a listener, or
/// a file of another kind, is an error.
pub(super) fn listen(path: &Path) -> io::Result<UnixListener> {
    remove_stale_socket(path)?;
    let before = umask(Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(path);
    umask(before);
    let listener = bound?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Removes the file of a socket that nobody listens at any more. Connecting to a regular file is refused in the same
/// words, so the kind of file is looked at first.
pub(super) fn remove_stale_socket(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(io::Error::new(ErrorKind::AlreadyExists, "there is a file that is not a socket"));
        }
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(ErrorKind::AddrInUse, "another guard listens there")),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
    }
}

/// Takes in everybody who is waiting, and greets them. With too many, the ones that came first must go: a restarted
/// agent has to get in even if its frozen predecessors still hold their connections.
pub(super) fn welcome(
    listener: &UnixListener,
    agents: &mut VecDeque<Agent>,
    greeting: &Report,
) -> io::Result<()> {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        stream.set_nonblocking(true)?;
        let mut agent = Agent { stream, heard: LineBuffer::default() };
        if agent.tell(greeting) == Line::Closed {
            continue;
        }
        if agents.len() == AGENTS_MAX
            && let Some(mut oldest) = agents.pop_front()
        {
            oldest.tell(&Report::Error(format!("more than {AGENTS_MAX} connections: the oldest is closed")));
        }
        agents.push_back(agent);
    }
}

impl AsFd for Agent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Agent {
    /// Takes what the agent has said. Whoever does not keep to the protocol gets one answer and is closed.
    pub(super) fn listen(&mut self) -> (Vec<Command>, Line) {
        let mut bytes = [0; READ_BYTES];
        let count = match self.stream.read(&mut bytes) {
            Ok(0) => return (Vec::new(), Line::Closed),
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return (Vec::new(), Line::Open);
            }
            Err(_) => return (Vec::new(), Line::Closed),
        };
        let lines = match self.heard.push(bytes.get(..count).unwrap_or_default()) {
            Ok(lines) => lines,
            Err(error) => return (Vec::new(), self.send_away(&error)),
        };
        let mut commands = Vec::new();
        for line in lines {
            match Command::parse(&line) {
                Ok(command) => commands.push(command),
                Err(error) => return (commands, self.send_away(&error)),
            }
        }
        (commands, Line::Open)
    }

    fn send_away(&mut self, error: &ProtocolError) -> Line {
        self.tell(&Report::Error(error.to_string()));
        Line::Closed
    }

    /// Says one line. An agent that has let the socket fill up does not listen and counts as gone.
    pub(super) fn tell(&mut self, report: &Report) -> Line {
        let line = format!("{report}\n");
        match self.stream.write(line.as_bytes()) {
            Ok(count) if count == line.len() => Line::Open,
            Ok(_) | Err(_) => Line::Closed,
        }
    }
}
