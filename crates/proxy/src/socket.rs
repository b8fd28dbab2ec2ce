//! A connection, read by epoll or by the worker's ring.
//!
//! Mostly it is one of TCP. A Unix socket is kept in the same types, which know a connection by its descriptor and ask the
//! kernel for the rest: only that it has no address, and none of TCP's options.

use crate::ring::{Ahead, Ring, RingSocket};
use crate::source::Peer;
use socket2::{SockRef, TcpKeepalive};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// Idle time after which the kernel asks whether the peer is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);

/// See the module. What was written may still be on its way; it gets there by itself.
#[derive(Debug)]
pub enum Socket {
    Epoll(TcpStream),
    Ring(RingSocket),
}

impl Socket {
    /// Small messages go out at once, and a peer that vanished is noticed some day. Connections that a socket accepts have
    /// what was set for it (on Linux; net/ipv4/tcp_minisocks.c, `tcp_create_openreq_child`).
    ///
    /// # Errors
    /// Those of setting a socket's options.
    pub fn prepare(socket: &impl AsFd) -> io::Result<()> {
        let socket = SockRef::from(socket);
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_IDLE))
    }

    /// A connection to a server.
    ///
    /// # Errors
    /// Those of looking up the name and of connecting.
    pub async fn connect(host: &str, port: u16, ring: Option<&Rc<Ring>>) -> io::Result<Socket> {
        let socket = Ring::beside(ring, TcpStream::connect((host, port))).await?;
        Socket::prepare(&socket)?;
        Socket::of_server(socket.into_std()?, ring)
    }

    /// A connection to a server by its Unix socket.
    ///
    /// # Errors
    /// Those of connecting. It is one of them if more wait there than the server lets wait.
    pub async fn connect_unix(path: &Path, ring: Option<&Rc<Ring>>) -> io::Result<Socket> {
        let socket = Ring::beside(ring, UnixStream::connect(path)).await?.into_std()?;
        Socket::of_server(OwnedFd::from(socket).into(), ring)
    }

    /// Reads a connection, which does not block, by epoll.
    ///
    /// # Errors
    /// Those of telling epoll of it.
    pub fn by_epoll(socket: std::net::TcpStream) -> io::Result<Socket> {
        Ok(Socket::Epoll(TcpStream::from_std(socket)?))
    }

    /// Of a connection that does not block.
    fn of_server(socket: std::net::TcpStream, ring: Option<&Rc<Ring>>) -> io::Result<Socket> {
        Ok(match ring {
            None => Socket::by_epoll(socket)?,
            Some(ring) => {
                // As the ring wants it.
                socket.set_nonblocking(false)?;
                Socket::Ring(RingSocket::new(socket, Ahead::More, ring))
            }
        })
    }

    /// A connection that was accepted already, by whomever: one reads from it here from now on.
    ///
    /// # Errors
    /// Those of setting how it waits, and of watching it.
    pub fn adopt(socket: std::net::TcpStream, ring: Option<&Rc<Ring>>) -> io::Result<Socket> {
        // Whether it blocks is a property of the connection, not of a process.
        socket.set_nonblocking(ring.is_none())?;
        Ok(match ring {
            None => Socket::Epoll(TcpStream::from_std(socket)?),
            Some(ring) => Socket::Ring(RingSocket::new(socket, Ahead::One, ring)),
        })
    }

    /// See [`crate::stream::Stream::poll_rest`].
    pub fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        match self {
            // Nothing is read or written but when it is asked for.
            Socket::Epoll(_) => Poll::Ready(true),
            Socket::Ring(socket) => socket.poll_rest(cx),
        }
    }

    /// See [`crate::stream::Stream::to_parts`].
    ///
    /// # Errors
    /// There are too many open files.
    pub fn to_parts(&self) -> io::Result<(Vec<u8>, OwnedFd)> {
        match self {
            Socket::Epoll(socket) => Ok((Vec::new(), socket.as_fd().try_clone_to_owned()?)),
            Socket::Ring(socket) => socket.to_parts(),
        }
    }

    /// The address of this side.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Socket::Epoll(socket) => socket.local_addr(),
            Socket::Ring(socket) => socket.local_addr(),
        }
    }

    /// Who is at the other end.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn peer(&self) -> io::Result<Peer> {
        match self {
            Socket::Epoll(socket) => Peer::of(socket),
            Socket::Ring(socket) => socket.peer(),
        }
    }

    /// Whether bytes have come that nobody has read.
    pub async fn has_unread(&self) -> bool {
        match self {
            Socket::Epoll(socket) => {
                let peek = |cx: &mut Context<'_>| socket.poll_peek(cx, &mut ReadBuf::new(&mut [0]));
                poll_fn(|cx| Poll::Ready(matches!(peek(cx), Poll::Ready(Ok(1..))))).await
            }
            Socket::Ring(socket) => socket.has_unread(),
        }
    }

    /// Reads what is there into `chunk`; nothing, if the peer sends nothing more.
    pub fn poll_read(&mut self, chunk: &mut [u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match self {
            Socket::Epoll(socket) => {
                let mut buffer = ReadBuf::new(chunk);
                ready!(Pin::new(socket).poll_read(cx, &mut buffer))?;
                Poll::Ready(Ok(buffer.filled().len()))
            }
            Socket::Ring(socket) => socket.poll_read(chunk, cx),
        }
    }

    /// As [`Socket::poll_read`], but nobody is woken when more comes.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if nothing is there; otherwise the connection is broken.
    pub fn try_read(&mut self, chunk: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Epoll(socket) => socket.try_read(chunk),
            Socket::Ring(socket) => socket.try_read(chunk),
        }
    }

    /// Takes as much of `bytes` as can be sent now; how many.
    pub fn poll_write(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match self {
            Socket::Epoll(socket) => Pin::new(socket).poll_write(cx, bytes),
            Socket::Ring(socket) => socket.poll_write(bytes, cx),
        }
    }

    /// As [`Socket::poll_write`], but nobody is woken when there is room.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if there is no room; otherwise the connection is broken.
    pub fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Epoll(socket) => socket.try_write(bytes),
            Socket::Ring(socket) => socket.try_write(bytes),
        }
    }

    /// Tells the peer that nothing more will come, once all has left.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Socket::Epoll(socket) => Pin::new(socket).poll_shutdown(cx),
            Socket::Ring(socket) => socket.poll_shutdown(cx),
        }
    }

    /// Ready when the peer has closed its side. Nothing that it sends is lost.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Socket::Epoll(socket) => match ready!(socket.poll_peek(cx, &mut ReadBuf::new(&mut [0]))) {
                Ok(0) | Err(_) => Poll::Ready(()),
                // It has sent more than PostgreSQL's protocol has it send now. The server will judge that; behind those
                // bytes its end cannot be seen.
                Ok(_) => Poll::Pending,
            },
            Socket::Ring(socket) => socket.poll_gone(cx),
        }
    }
}
