//! A connection to a client or to a server, plain or with TLS. Every other file reads and writes through it; sockets are
//! touched here and in [`crate::tls`] only.
//!
//! What was written may still be on its way: [`Stream::poll_flush`] and [`Stream::write_all`] see to it. On a plain
//! connection that costs nothing.

use crate::tls::{Identity, Scratch, Servers, TlsStream};
use socket2::{SockRef, TcpKeepalive};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Idle time after which the kernel asks whether the peer is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);

/// Read at once where the reader says no number. Bytes.
const PIECE_LEN: usize = 2 * 1024;

/// See the module.
#[derive(Debug)]
pub enum Stream {
    /// Bytes go as they are.
    Plain(TcpStream),
    /// Bytes are sealed; boxed, because most of what TLS has to know is large.
    Tls(Box<TlsStream>),
}

impl Stream {
    /// A client's connection: small messages go out at once, and a peer that vanished is noticed some day.
    ///
    /// # Errors
    /// Those of setting a socket's options.
    pub fn accepted(socket: TcpStream) -> io::Result<Stream> {
        socket.set_nodelay(true)?;
        SockRef::from(&socket).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_IDLE))?;
        Ok(Stream::Plain(socket))
    }

    /// A connection to a server, without TLS so far.
    ///
    /// # Errors
    /// Those of looking up the name and of connecting.
    pub async fn connect(host: &str, port: u16) -> io::Result<Stream> {
        Stream::accepted(TcpStream::connect((host, port)).await?)
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

    fn into_socket(self) -> io::Result<TcpStream> {
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

    /// The socket, whose addresses can be asked.
    pub fn socket(&self) -> &TcpStream {
        match self {
            Stream::Plain(socket) => socket,
            Stream::Tls(tls) => tls.socket(),
        }
    }

    /// Whether bytes have come that nobody has read.
    pub async fn has_unread(&self) -> bool {
        let socket = self.socket();
        let peek = |cx: &mut Context<'_>| socket.poll_peek(cx, &mut ReadBuf::new(&mut [0]));
        poll_fn(|cx| Poll::Ready(matches!(peek(cx), Poll::Ready(Ok(1..))))).await
    }

    /// Reads what is there into `chunk`; nothing, if the peer sends nothing more.
    pub fn poll_read(&mut self, chunk: &mut [u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match self {
            Stream::Plain(socket) => {
                let mut buffer = ReadBuf::new(chunk);
                ready!(Pin::new(socket).poll_read(cx, &mut buffer))?;
                Poll::Ready(Ok(buffer.filled().len()))
            }
            Stream::Tls(tls) => tls.poll_read(chunk, cx),
        }
    }

    /// Takes as much of `bytes` as can be sent now; how many.
    pub fn poll_write(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match self {
            Stream::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
            Stream::Tls(tls) => tls.poll_write(bytes, cx),
        }
    }

    /// Sends what was taken and is still here.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            // The kernel has it.
            Stream::Plain(_) => Poll::Ready(Ok(())),
            Stream::Tls(tls) => tls.poll_flush(cx),
        }
    }

    /// Tells the peer that nothing more will come.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
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
        match self {
            Stream::Plain(socket) => socket.read_buf(bytes).await,
            Stream::Tls(tls) => {
                poll_fn(|cx| {
                    let mut piece = [0; PIECE_LEN];
                    let len = ready!(tls.poll_read(&mut piece, cx))?;
                    bytes.extend_from_slice(&piece[..len]);
                    Poll::Ready(Ok(len))
                })
                .await
            }
        }
    }

    /// Sends all of `bytes`, and what was still here.
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
            self.poll_flush(cx)
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
        match self {
            Stream::Plain(socket) => match socket.peek(&mut [0]).await {
                Ok(0) | Err(_) => {}
                // It has sent more than PostgreSQL's protocol has it send now. The server will judge that; behind those
                // bytes its end cannot be seen.
                Ok(_) => std::future::pending().await,
            },
            Stream::Tls(tls) => poll_fn(|cx| tls.poll_gone(cx)).await,
        }
    }
}

fn at_once(outcome: Poll<io::Result<usize>>) -> io::Result<usize> {
    match outcome {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}
