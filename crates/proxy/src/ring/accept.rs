//! Clients come in by the ring, too: one request stays with the kernel, which accepts whoever comes.

use super::Ring;
use super::inner::{ACCEPTED, CANCELLED, Inner};
use crate::source::Peer;
use io_uring::types::Fd;
use io_uring::{cqueue, opcode};
use rustix::net::SocketFlags;
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
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
    listener: Option<TcpListener>,
    came: VecDeque<io::Result<OwnedFd>>,
    accepting: bool,
    dropped: bool,
    waits: Option<Waker>,
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Acceptor {
    /// Of a socket that listens.
    ///
    /// # Errors
    /// Those of setting a socket's options.
    pub fn new(listener: TcpListener, ring: &Rc<Ring>) -> io::Result<Acceptor> {
        listener.set_nonblocking(false)?;
        let mut inner = ring.inner.borrow_mut();
        let number = u32::try_from(inner.doors.len()).unwrap_or(u32::MAX);
        let (listener, came) = (Some(listener), VecDeque::new());
        inner.doors.push(Door { listener, came, accepting: false, dropped: false, waits: None });
        Ok(Acceptor { ring: Rc::clone(ring), number })
    }

    /// The next client. Its socket blocks, as the ring wants it.
    ///
    /// # Errors
    /// Those of accepting: mostly that no file can be opened any more.
    pub async fn accept(&self) -> io::Result<(TcpStream, Peer)> {
        let socket = TcpStream::from(poll_fn(|cx| self.poll_accept(cx)).await?);
        let peer = Peer::of(&socket)?;
        Ok((socket, peer))
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<OwnedFd>> {
        let mut inner = self.ring.inner.borrow_mut();
        let Some(door) = inner.doors.get_mut(self.number as usize) else { return Poll::Pending };
        if let Some(came) = door.came.pop_front() {
            return Poll::Ready(came);
        }
        door.waits = Some(cx.waker().clone());
        if let (false, Some(listener)) = (door.accepting, &door.listener) {
            let entry = opcode::AcceptMulti::new(Fd(listener.as_raw_fd())).flags(ACCEPT_FLAGS).build();
            door.accepting = true;
            if !inner.request(entry, self.number, ACCEPTED) {
                inner.doors[self.number as usize].accepting = false;
                return Poll::Ready(Err(io::ErrorKind::ResourceBusy.into()));
            }
        }
        Poll::Pending
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        let mut inner = self.ring.inner.borrow_mut();
        let Some(door) = inner.doors.get_mut(self.number as usize) else { return };
        door.dropped = true;
        door.came.clear();
        if door.accepting {
            let entry = opcode::AsyncCancel::new(ACCEPTED << 32 | u64::from(self.number)).build();
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
        door.accepting = cqueue::more(completion.flags());
        if !door.dropped {
            door.came.push_back(came);
            self.woken.extend(door.waits.take());
        } else if !door.accepting {
            door.listener = None;
        }
    }
}
