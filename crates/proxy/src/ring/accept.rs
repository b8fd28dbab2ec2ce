//! Clients come in by the ring, too: one request stays with the kernel, which accepts whoever comes.
//!
//! A socket that other processes or threads have as well does not block, as it would do so for all of them, and the kernel
//! accepts by itself only where it may wait. There it says that somebody is at the door, and they are let in one by one.

use super::Ring;
use super::inner::{ACCEPTED, CANCELLED, Inner, KNOCKED};
use crate::source::Peer;
use io_uring::types::Fd;
use io_uring::{cqueue, opcode};
use rustix::event::PollFlags;
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::{SocketFlags, accept_with};
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// No program that this one starts shall have them.
const ACCEPT_FLAGS: i32 = SocketFlags::CLOEXEC.bits().cast_signed();

/// Where clients come in. Dropping it closes the socket.
pub struct Acceptor {
    ring: Rc<Ring>,
    number: u32,
}

/// What the ring knows of one. It stays until the ring ends: a worker has few.
pub(super) struct Door {
    /// `None` once it is closed.
    listener: Option<OwnedFd>,
    lets_in: LetsIn,
    came: VecDeque<io::Result<OwnedFd>>,
    /// The kernel was asked to.
    asked: bool,
    dropped: bool,
    waits: Option<Waker>,
}

/// Who accepts clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LetsIn {
    /// The kernel, by itself.
    Kernel,
    /// We do. Whether somebody may be waiting.
    We { knocked: bool },
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Acceptor {
    /// Of a socket that listens, which nobody else has.
    ///
    /// # Errors
    /// Those of setting a socket's options.
    pub fn new(listener: impl Into<OwnedFd>, ring: &Rc<Ring>) -> io::Result<Acceptor> {
        Acceptor::with(listener.into(), LetsIn::Kernel, ring)
    }

    /// Of a socket that listens, and that others may have as well.
    ///
    /// # Errors
    /// Those of setting a socket's options.
    pub fn of_shared(listener: impl Into<OwnedFd>, ring: &Rc<Ring>) -> io::Result<Acceptor> {
        Acceptor::with(listener.into(), LetsIn::We { knocked: true }, ring)
    }

    fn with(listener: OwnedFd, lets_in: LetsIn, ring: &Rc<Ring>) -> io::Result<Acceptor> {
        ioctl_fionbio(&listener, lets_in != LetsIn::Kernel)?;
        let mut inner = ring.inner.borrow_mut();
        let number = u32::try_from(inner.doors.len()).unwrap_or(u32::MAX);
        let (listener, came) = (Some(listener), VecDeque::new());
        inner.doors.push(Door { listener, lets_in, came, asked: false, dropped: false, waits: None });
        Ok(Acceptor { ring: Rc::clone(ring), number })
    }

    /// The next client. Its socket blocks, as the ring wants it.
    ///
    /// # Errors
    /// Those of accepting: mostly that no file can be opened any more.
    pub async fn accept(&self) -> io::Result<(TcpStream, Peer)> {
        loop {
            let accepted = with_peer(poll_fn(|cx| self.poll_accept(cx)).await?);
            if let Some(client) = accepted {
                return Ok(client);
            }
        }
    }

    /// A client that waits at a socket that is shared, if there is one.
    pub fn accept_now(&self) -> Option<(TcpStream, Peer)> {
        let inner = self.ring.inner.borrow();
        let door = inner.doors.get(self.number as usize)?;
        match (door.lets_in, &door.listener) {
            (LetsIn::We { .. }, Some(listener)) => loop {
                match let_in(listener)? {
                    Ok(socket) => match with_peer(socket) {
                        None => {}
                        some => return some,
                    },
                    Err(_) => return None,
                }
            },
            _ => None,
        }
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<OwnedFd>> {
        let mut inner = self.ring.inner.borrow_mut();
        let Some(door) = inner.doors.get_mut(self.number as usize) else { return Poll::Pending };
        if let Some(came) = door.came.pop_front() {
            return Poll::Ready(came);
        }
        if let (LetsIn::We { knocked: true }, Some(listener)) = (door.lets_in, &door.listener) {
            match let_in(listener) {
                Some(came) => return Poll::Ready(came),
                None => door.lets_in = LetsIn::We { knocked: false },
            }
        }
        door.waits = Some(cx.waker().clone());
        if let (false, Some(listener)) = (door.asked, &door.listener) {
            let fd = Fd(listener.as_raw_fd());
            let entry = match door.lets_in {
                LetsIn::Kernel => opcode::AcceptMulti::new(fd).flags(ACCEPT_FLAGS).build(),
                LetsIn::We { .. } => opcode::PollAdd::new(fd, u32::from(PollFlags::IN.bits())).build(),
            };
            let what = door.lets_in.completion();
            door.asked = true;
            if !inner.request(entry, self.number, what) {
                inner.doors[self.number as usize].asked = false;
                return Poll::Ready(Err(io::ErrorKind::ResourceBusy.into()));
            }
        }
        Poll::Pending
    }
}

impl LetsIn {
    /// What completions of its request are about.
    fn completion(self) -> u64 {
        match self {
            LetsIn::Kernel => ACCEPTED,
            LetsIn::We { .. } => KNOCKED,
        }
    }
}

/// Who has broken its connection while it waited is accepted like any other, but nobody can say who it was.
fn with_peer(socket: OwnedFd) -> Option<(TcpStream, Peer)> {
    let socket = TcpStream::from(socket);
    let peer = Peer::of(&socket).ok()?;
    Some((socket, peer))
}

/// The next of those who wait at a socket that does not block, if there is one.
fn let_in(listener: impl AsFd) -> Option<io::Result<OwnedFd>> {
    loop {
        match accept_with(&listener, SocketFlags::CLOEXEC) {
            Ok(socket) => return Some(Ok(socket)),
            // Who did not wait any longer is nobody's trouble.
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            Err(Errno::AGAIN) => return None,
            Err(error) => return Some(Err(error.into())),
        }
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        let mut inner = self.ring.inner.borrow_mut();
        let Some(door) = inner.doors.get_mut(self.number as usize) else { return };
        door.dropped = true;
        door.came.clear();
        if door.asked {
            let what = door.lets_in.completion();
            let entry = opcode::AsyncCancel::new(what << 32 | u64::from(self.number)).build();
            inner.request(entry, self.number, CANCELLED);
        } else {
            door.listener = None;
        }
    }
}

impl Inner {
    #[allow(unsafe_code)]
    pub(super) fn accepted(&mut self, number: u32, completion: &cqueue::Entry) {
        let came = match completion.result() {
            // SAFETY: the kernel has opened it for this completion, and nobody else knows of it.
            file @ 0.. => Ok(unsafe { OwnedFd::from_raw_fd(file) }),
            error => Err(io::Error::from_raw_os_error(-error)),
        };
        let Some(door) = self.doors.get_mut(number as usize) else { return };
        door.asked = cqueue::more(completion.flags());
        if !door.dropped {
            door.came.push_back(came);
            self.woken.extend(door.waits.take());
        } else if !door.asked {
            door.listener = None;
        }
    }

    /// Somebody is at the door, or the kernel does not look any more.
    pub(super) fn knocked(&mut self, number: u32) {
        let Some(door) = self.doors.get_mut(number as usize) else { return };
        (door.asked, door.lets_in) = (false, LetsIn::We { knocked: true });
        self.woken.extend(door.waits.take());
        if door.dropped {
            door.listener = None;
        }
    }
}
