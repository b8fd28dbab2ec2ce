//! A connection to a client or to a server, plain or with TLS. Every other file reads and writes through it; sockets are
//! touched here, in [`crate::socket`] and in [`crate::tls`] only.
//!
//! What was written may still be on its way; it gets there by itself. [`Stream::poll_shutdown`] waits for it.

use crate::ring::Ring;
use crate::socket::Socket;
use crate::source::Peer;
use crate::tls::{Identity, Scratch, Servers, TlsStream};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

/// Read at once where the reader says no number. Bytes.
const PIECE_LEN: usize = 2 * 1024;

/// See the module.
#[derive(Debug)]
pub enum Stream {
    /// Bytes go as they are.
    Plain(Socket),
    /// Bytes are sealed; boxed, because most of what TLS has to know is large.
    Tls(Box<TlsStream>),
}

impl Stream {
    /// A connection to a server, without TLS so far.
    ///
    /// # Errors
    /// Those of looking up the name and of connecting.
    pub async fn connect(host: &str, port: u16, ring: Option<&Rc<Ring>>) -> io::Result<Stream> {
        Ok(Stream::Plain(Socket::connect(host, port, ring).await?))
    }

    /// A connection to a server by its Unix socket.
    ///
    /// # Errors
    /// Those of connecting.
    pub async fn connect_unix(path: &Path, ring: Option<&Rc<Ring>>) -> io::Result<Stream> {
        Ok(Stream::Plain(Socket::connect_unix(path, ring).await?))
    }

    /// Begins TLS with a client. `begun` are bytes of its handshake that have been read already.
    ///
    /// # Errors
    /// Those of the socket, and those of the handshake, in words.
    pub async fn begin_tls(
        self,
        begun: &[u8],
        identity: &Identity,
        scratch: &Rc<Scratch>,
    ) -> io::Result<Stream> {
        let socket = self.into_socket()?;
        Ok(Stream::Tls(Box::new(TlsStream::accept(socket, begun, identity, scratch).await?)))
    }

    /// Begins TLS with the server of this host.
    ///
    /// # Errors
    /// As [`Stream::begin_tls`].
    pub async fn begin_tls_to(
        self,
        host: &str,
        servers: &Servers,
        scratch: &Rc<Scratch>,
    ) -> io::Result<Stream> {
        let socket = self.into_socket()?;
        Ok(Stream::Tls(Box::new(TlsStream::connect(socket, host, servers, scratch).await?)))
    }

    fn into_socket(self) -> io::Result<Socket> {
        match self {
            Stream::Plain(socket) => Ok(socket),
            Stream::Tls(_) => Err(io::Error::new(io::ErrorKind::InvalidInput, "TLS has begun already")),
        }
    }

    /// The TLS of the connection.
    pub fn tls(&self) -> Option<&TlsStream> {
        match self {
            Stream::Plain(_) => None,
            Stream::Tls(tls) => Some(tls),
        }
    }

    fn socket(&self) -> &Socket {
        match self {
            Stream::Plain(socket) => socket,
            Stream::Tls(tls) => tls.socket(),
        }
    }

    /// The address of this side.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket().local_addr()
    }

    /// Who is at the other end.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn peer(&self) -> io::Result<Peer> {
        self.socket().peer()
    }

    /// Whether bytes have come that nobody has read.
    pub async fn has_unread(&self) -> bool {
        self.socket().has_unread().await
    }

    /// Stops reading, so that another process can begin to. Ready when nobody reads here any more and all that was written
    /// has left; whether that is so, for it may still be on its way. Never so with TLS.
    pub fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        match self {
            Stream::Plain(socket) => socket.poll_rest(cx),
            Stream::Tls(_) => Poll::Ready(false),
        }
    }

    /// Of a connection that rests: what was received and not read, and the socket, once more.
    ///
    /// # Errors
    /// There are too many open files, or it has TLS.
    pub fn to_parts(&self) -> io::Result<(Vec<u8>, OwnedFd)> {
        match self {
            Stream::Plain(socket) => socket.to_parts(),
            Stream::Tls(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Reads what is there into `chunk`; nothing, if the peer sends nothing more.
    pub fn poll_read(&mut self, chunk: &mut [u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match self {
            Stream::Plain(socket) => socket.poll_read(chunk, cx),
            Stream::Tls(tls) => tls.poll_read(chunk, cx),
        }
    }

    /// Takes as much of `bytes` as can be sent now; how many.
    pub fn poll_write(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match self {
            Stream::Plain(socket) => socket.poll_write(bytes, cx),
            Stream::Tls(tls) => tls.poll_write(bytes, cx),
        }
    }

    /// Sends what was taken and is still here, as far as nobody else does.
    pub fn poll_push(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            // The kernel has it, or the ring sees to it.
            Stream::Plain(_) => Poll::Ready(Ok(())),
            Stream::Tls(tls) => tls.poll_push(cx),
        }
    }

    /// Tells the peer that nothing more will come.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Plain(socket) => socket.poll_shutdown(cx),
            Stream::Tls(tls) => tls.poll_shutdown(cx),
        }
    }

    /// As [`Stream::poll_read`], but nobody is woken when more comes.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if nothing is there; otherwise the connection is broken.
    pub fn try_read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.try_read(bytes),
            Stream::Tls(tls) => at_once(tls.poll_read(bytes, &mut Context::from_waker(Waker::noop()))),
        }
    }

    /// As [`Stream::poll_write`], but nobody is woken when there is room.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if there is no room; otherwise the connection is broken.
    pub fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.try_write(bytes),
            Stream::Tls(tls) => at_once(tls.poll_write(bytes, &mut Context::from_waker(Waker::noop()))),
        }
    }

    /// Reads what comes next; nothing, if the peer sends nothing more.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        poll_fn(|cx| self.poll_read(bytes, cx)).await
    }

    /// Reads until `bytes` is full.
    ///
    /// # Errors
    /// The connection is broken or ends.
    pub async fn read_exact(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        let mut filled = 0;
        poll_fn(|cx| {
            while filled < bytes.len() {
                match ready!(self.poll_read(&mut bytes[filled..], cx))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                    len => filled += len,
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Appends what comes next; how many bytes, none if the peer sends nothing more.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn read_buf(&mut self, bytes: &mut Vec<u8>) -> io::Result<usize> {
        poll_fn(|cx| {
            let mut piece = [0; PIECE_LEN];
            let len = ready!(self.poll_read(&mut piece, cx))?;
            bytes.extend_from_slice(&piece[..len]);
            Poll::Ready(Ok(len))
        })
        .await
    }

    /// Sends all of `bytes`, and what was still here. The last of it may be on its way when this returns: who waited for its
    /// end could not receive the answer meanwhile.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut sent = 0;
        poll_fn(|cx| {
            while sent < bytes.len() {
                match ready!(self.poll_write(&bytes[sent..], cx))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    len => sent += len,
                }
            }
            self.poll_push(cx)
        })
        .await
    }

    /// Tells the peer that nothing more will come.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_shutdown(cx)).await
    }

    /// Returns when the peer has closed its side. Nothing that it sends is lost.
    pub async fn gone(&mut self) {
        poll_fn(|cx| self.poll_gone(cx)).await;
    }

    /// As [`Stream::gone`].
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Stream::Plain(socket) => socket.poll_gone(cx),
            Stream::Tls(tls) => tls.poll_gone(cx),
        }
    }
}

fn at_once(outcome: Poll<io::Result<usize>>) -> io::Result<usize> {
    match outcome {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}
