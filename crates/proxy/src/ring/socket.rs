//! A connection whose bytes come by a [`Ring`].

use super::Ring;
use super::inner::{Inner, WRITABLE};
use super::slot::{Ahead, End, Receiving, Unread};
use crate::source::Peer;
use io_uring::opcode;
use io_uring::types::Fd;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

/// Longest message that is kept to be sent; a longer one is sent at once. Bytes.
const KEPT_MAX: usize = 4 * 1024;

/// See the module. Dropping it closes the connection.
pub struct RingSocket {
    ring: Rc<Ring>,
    number: u32,
}

impl fmt::Debug for RingSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RingSocket").field("number", &self.number).finish_non_exhaustive()
    }
}

impl RingSocket {
    /// Takes a connection over, which should block: that requests wait on one that does not is promised nowhere, though
    /// Linux 6.18 lets them.
    pub fn new(socket: TcpStream, ahead: Ahead, ring: &Rc<Ring>) -> RingSocket {
        let number = ring.inner.borrow_mut().enter(socket, ahead);
        RingSocket { ring: Rc::clone(ring), number }
    }

    /// Reads what is there; nothing, if the peer sends nothing more.
    pub fn poll_read(&mut self, chunk: &mut [u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut inner = self.ring.inner.borrow_mut();
        if let Some(read) = inner.take(self.number, chunk)? {
            return Poll::Ready(Ok(read));
        }
        if let Some(slot) = inner.slot(self.number) {
            keep_waker(&mut slot.reader, cx.waker());
        }
        Poll::Pending
    }

    /// As [`RingSocket::poll_read`], but nobody is woken when more comes.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if nothing is there; otherwise the connection is broken.
    pub fn try_read(&mut self, chunk: &mut [u8]) -> io::Result<usize> {
        let read = self.ring.inner.borrow_mut().take(self.number, chunk)?;
        read.ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }

    /// Whether bytes have come that nobody has read.
    pub fn has_unread(&self) -> bool {
        let mut inner = self.ring.inner.borrow_mut();
        inner.slot(self.number).is_some_and(|slot| {
            let peeked = recv(&slot.socket, &mut [0; 1][..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
            !matches!(slot.unread, Unread::Nothing) || peeked.is_ok_and(|(_, len)| len > 0)
        })
    }

    /// Ready when the peer has closed its side and nothing of it is unread.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.ring.inner.borrow_mut();
        let Some(slot) = inner.slot(self.number) else { return Poll::Ready(()) };
        if slot.end.is_some() && matches!(slot.unread, Unread::Nothing) {
            return Poll::Ready(());
        }
        keep_waker(&mut slot.reader, cx.waker());
        inner.receive(self.number);
        Poll::Pending
    }

    /// Has the kernel receive nothing more. Ready when it does not, and has nothing to send either; or with `false` when
    /// this has to wait, for room to send, or is no use any more.
    pub fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut inner = self.ring.inner.borrow_mut();
        let Some(slot) = inner.slot(self.number) else { return Poll::Ready(false) };
        if slot.sending.is_some() || slot.awaits_room {
            keep_waker(&mut slot.writer, cx.waker());
            inner.awaits_sent = true;
            return Poll::Ready(false);
        }
        if slot.end.is_some() || slot.unsendable.is_some() {
            return Poll::Ready(false);
        }
        if slot.receiving == Receiving::No {
            return Poll::Ready(true);
        }
        keep_waker(&mut slot.reader, cx.waker());
        inner.stop_receiving(self.number);
        Poll::Pending
    }

    /// What was received and not read, and the socket, once more.
    ///
    /// # Errors
    /// There are too many open files.
    pub fn to_parts(&self) -> io::Result<(Vec<u8>, OwnedFd)> {
        let mut inner = self.ring.inner.borrow_mut();
        let inner = &mut *inner;
        let slot = inner.slots.get_mut(self.number as usize).and_then(Option::as_mut);
        let slot = slot.ok_or(io::ErrorKind::NotConnected)?;
        let unread = match (&slot.unread, &inner.buffers) {
            (Unread::InBuffer(filled, from), Some(buffers)) => buffers.bytes(filled)[*from..].to_vec(),
            (Unread::Own(own, from), _) => own[*from..].to_vec(),
            (Unread::Nothing, _) | (_, None) => Vec::new(),
        };
        Ok((unread, OwnedFd::from(slot.socket.try_clone()?)))
    }

    /// Takes as much of `bytes` as can be sent now; how many. They may still be here.
    pub fn poll_write(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match self.try_write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            written => return Poll::Ready(written),
        }
        let mut inner = self.ring.inner.borrow_mut();
        let Some(slot) = inner.slot(self.number) else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        keep_waker(&mut slot.writer, cx.waker());
        if slot.sending.is_some() {
            inner.awaits_sent = true;
        } else if !std::mem::replace(&mut slot.awaits_room, true) {
            let fd = Fd(slot.socket.as_raw_fd());
            let entry = opcode::PollAdd::new(fd, u32::from(PollFlags::OUT.bits())).build();
            inner.request(entry, self.number, WRITABLE);
        }
        Poll::Pending
    }

    /// As [`RingSocket::poll_write`], but nobody is woken when there is room.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if there is no room; otherwise the connection is broken.
    pub fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut inner = self.ring.inner.borrow_mut();
        let inner = &mut *inner;
        let slot = inner.slots.get_mut(self.number as usize).and_then(Option::as_mut);
        let slot = slot.ok_or(io::ErrorKind::NotConnected)?;
        if let Some(error) = slot.unsendable {
            return Err(error.into());
        }
        if slot.sending.is_some() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if bytes.len() <= KEPT_MAX {
            let mut kept = inner.spare.pop().unwrap_or_default();
            kept.clear();
            kept.extend_from_slice(bytes);
            slot.sending = Some((kept, 0));
            inner.send(self.number);
            return Ok(bytes.len());
        }
        loop {
            match send(&slot.socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                sent => return Ok(sent?),
            }
        }
    }

    /// Ready when all that was taken has left.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.ring.inner.borrow_mut();
        let Some(slot) = inner.slot(self.number) else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        match (&slot.sending, slot.unsendable) {
            (_, Some(error)) => Poll::Ready(Err(error.into())),
            (None, None) => Poll::Ready(Ok(())),
            (Some(_), None) => {
                keep_waker(&mut slot.writer, cx.waker());
                inner.awaits_sent = true;
                Poll::Pending
            }
        }
    }

    /// Tells the peer that nothing more will come, once all has left.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        let mut inner = self.ring.inner.borrow_mut();
        let slot = inner.slot(self.number).ok_or(io::ErrorKind::NotConnected)?;
        Poll::Ready(Ok(shutdown(&slot.socket, Shutdown::Write)?))
    }

    /// Of this side.
    ///
    /// # Errors
    /// Those of asking.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.with_socket(TcpStream::local_addr)
    }

    /// Who is at the other end.
    ///
    /// # Errors
    /// Those of asking.
    pub fn peer(&self) -> io::Result<Peer> {
        self.with_socket(|socket| Peer::of(socket))
    }

    fn with_socket<T>(&self, ask: impl FnOnce(&TcpStream) -> io::Result<T>) -> io::Result<T> {
        let mut inner = self.ring.inner.borrow_mut();
        ask(&inner.slot(self.number).ok_or(io::ErrorKind::NotConnected)?.socket)
    }
}

impl Drop for RingSocket {
    fn drop(&mut self) {
        self.ring.inner.borrow_mut().leave(self.number);
    }
}

fn keep_waker(kept: &mut Option<Waker>, waker: &Waker) {
    match kept {
        Some(kept) => kept.clone_from(waker),
        None => *kept = Some(waker.clone()),
    }
}

impl Inner {
    /// Takes what is unread, if something is; the kernel goes on receiving.
    fn take(&mut self, number: u32, chunk: &mut [u8]) -> io::Result<Option<usize>> {
        let slot = self.slots.get_mut(number as usize).and_then(Option::as_mut);
        let (Some(slot), Some(buffers)) = (slot, &mut self.buffers) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let taken = match std::mem::take(&mut slot.unread) {
            Unread::Nothing => None,
            Unread::InBuffer(filled, from) => {
                let len = copy(&buffers.bytes(&filled)[from..], chunk);
                if from + len < buffers.bytes(&filled).len() {
                    slot.unread = Unread::InBuffer(filled, from + len);
                } else {
                    buffers.give_back(filled);
                }
                Some(len)
            }
            Unread::Own(own, from) => {
                let len = copy(&own[from..], chunk);
                if from + len < own.len() {
                    slot.unread = Unread::Own(own, from + len);
                }
                Some(len)
            }
        };
        match (taken, slot.end) {
            (Some(len), _) => {
                // Of clients, the next is received when it is asked for: many say no more than goodbye.
                if matches!(slot.unread, Unread::Nothing) && slot.ahead == Ahead::More {
                    self.receive(number);
                }
                Ok(Some(len))
            }
            (None, Some(End::Closed)) => Ok(Some(0)),
            (None, Some(End::Broken(error))) => Err(error.into()),
            (None, None) => {
                self.receive(number);
                Ok(None)
            }
        }
    }
}

fn copy(from: &[u8], to: &mut [u8]) -> usize {
    let len = from.len().min(to.len());
    to[..len].copy_from_slice(&from[..len]);
    len
}
