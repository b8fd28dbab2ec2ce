//! A TLS connection on a socket.
//!
//! What is decrypted and what is sealed goes through two buffers that the connections of a worker share. A connection keeps
//! only what does not fit: plaintext that its reader has no room for, ciphertext that the peer does not take. Both are
//! bounded, because nothing more is read or sealed before they are gone.

use super::certificate::end_point;
use super::channel::{Channel, Say, Sinks};
use super::{Identity, Servers};
use crate::socket::Socket;
use identity::certificate::common_name;
use pgwire::startup::ALPN_PROTOCOL;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

/// Ciphertext that is read at once, together with what was kept: two of the longest records. It bounds what a peer may
/// send as one message of the handshake, its chain of certificates.
const INCOMING_LEN: usize = 2 * (16 * 1024 + 261);

/// Plaintext that is sealed at once: one record.
const SEALED_AT_ONCE: usize = 16 * 1024;

/// Buffers that all TLS connections of a worker share. Never borrowed across an await.
#[derive(Debug)]
pub struct Scratch {
    incoming: RefCell<Box<[u8]>>,
    sealed: RefCell<Vec<u8>>,
}

impl Default for Scratch {
    fn default() -> Scratch {
        let incoming = RefCell::new(vec![0; INCOMING_LEN].into_boxed_slice());
        Scratch { incoming, sealed: RefCell::default() }
    }
}

/// See the module.
#[derive(Debug)]
pub struct TlsStream {
    socket: Socket,
    channel: Channel,
    scratch: Rc<Scratch>,
    decrypted: Kept,
    sealed: Kept,
    end: End,
    /// Why nothing more can be read.
    broken: Option<Box<str>>,
    end_point: Option<Box<[u8]>>,
}

/// How far this side has said that it sends nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Open,
    /// It is sealed; the socket is closed behind it.
    Sealed,
    Shut,
}

/// What one read of the socket brought.
enum Filled {
    /// So many bytes for the reader; none, if it was TLS' own affair.
    Bytes(usize),
    /// The end.
    Ended,
}

impl TlsStream {
    /// Shakes hands with a client, whose first bytes may have been read already.
    ///
    /// # Errors
    /// Those of the socket, and rustls' as [`io::ErrorKind::InvalidData`].
    pub async fn accept(
        socket: Socket,
        begun: &[u8],
        identity: &Identity,
        scratch: &Rc<Scratch>,
    ) -> io::Result<TlsStream> {
        let mut channel = Channel::server(identity.config.clone()).map_err(invalid)?;
        channel.begin_with(begun);
        let mut stream = TlsStream::new(socket, channel, scratch);
        poll_fn(|cx| stream.poll_handshake(cx)).await?;
        stream.end_point = identity.end_point.as_deref().map(Into::into);
        Ok(stream)
    }

    /// Shakes hands with the server of this host.
    ///
    /// # Errors
    /// As [`TlsStream::accept`].
    pub async fn connect(
        socket: Socket,
        host: &str,
        servers: &Servers,
        scratch: &Rc<Scratch>,
    ) -> io::Result<TlsStream> {
        let name = servers.name_of(host).map_err(|why| io::Error::new(io::ErrorKind::InvalidInput, why))?;
        let channel = Channel::client(servers.config(), name).map_err(invalid)?;
        let mut stream = TlsStream::new(socket, channel, scratch);
        poll_fn(|cx| Poll::Ready(stream.send(Say::Nothing, cx))).await?;
        poll_fn(|cx| stream.poll_handshake(cx)).await?;
        let certificate = stream.channel.facts().peer_certificates().and_then(<[_]>::first);
        stream.end_point = certificate.and_then(|certificate| end_point(certificate)).map(Into::into);
        Ok(stream)
    }

    fn new(socket: Socket, channel: Channel, scratch: &Rc<Scratch>) -> TlsStream {
        TlsStream {
            socket,
            channel,
            scratch: Rc::clone(scratch),
            decrypted: Kept::default(),
            sealed: Kept::default(),
            end: End::Open,
            broken: None,
            end_point: None,
        }
    }

    /// The hash of the server's certificate on this connection, whichever side the server is, if a login can be bound to it.
    pub fn end_point(&self) -> Option<&[u8]> {
        self.end_point.as_deref()
    }

    /// Whether the peer has shown a certificate; it was checked then.
    pub fn peer_has_certificate(&self) -> bool {
        self.channel.facts().peer_certificates().is_some_and(|chain| !chain.is_empty())
    }

    /// The common name of the client's certificate, which was checked; `None` without one, empty if it has no name or several.
    pub fn peer_common_name(&self) -> Option<String> {
        self.channel.facts().peer_certificates()?.first().map(|own| common_name(own).unwrap_or_default())
    }

    /// Whether the client has asked for PostgreSQL by name.
    pub fn asks_for_postgresql(&self) -> bool {
        self.channel.facts().alpn_protocol() == Some(ALPN_PROTOCOL)
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_push(cx))?;
            if !self.channel.facts().is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            if let Filled::Ended = ready!(self.poll_fill(&mut [], cx))? {
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the connection was closed in the middle of the TLS handshake",
                )));
            }
        }
    }

    /// Reads what is there into `chunk`; nothing, if the peer sends nothing more.
    pub fn poll_read(&mut self, chunk: &mut [u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            if !self.decrypted.is_empty() {
                return Poll::Ready(Ok(self.decrypted.take(chunk)));
            }
            match ready!(self.poll_fill(chunk, cx))? {
                Filled::Bytes(0) => {}
                Filled::Bytes(len) => return Poll::Ready(Ok(len)),
                Filled::Ended => return Poll::Ready(Ok(0)),
            }
        }
    }

    /// Ready when the peer has closed its side and nothing of it is left to be read.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if !self.decrypted.is_empty() {
                // What comes behind it is not read before it is taken.
                return Poll::Pending;
            }
            match ready!(self.poll_fill(&mut [], cx)) {
                Ok(Filled::Bytes(_)) => {}
                Ok(Filled::Ended) | Err(_) => return Poll::Ready(()),
            }
        }
    }

    /// Reads once from the socket. What does not fit into `chunk` is kept.
    fn poll_fill(&mut self, chunk: &mut [u8], cx: &mut Context<'_>) -> Poll<io::Result<Filled>> {
        if let Some(why) = &self.broken {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why.to_string())));
        }
        if self.channel.peer_has_ended() {
            return Poll::Ready(Ok(Filled::Ended));
        }
        let scratch = Rc::clone(&self.scratch);
        let (mut incoming, mut sealed) = (scratch.incoming.borrow_mut(), scratch.sealed.borrow_mut());
        let from = self.channel.partial_len();
        if from >= incoming.len() {
            return Poll::Ready(Err(invalid("a message of the TLS handshake is too long")));
        }
        let to = from + ready!(self.socket.poll_read(&mut incoming[from..], cx))?;
        if to == from {
            return Poll::Ready(Ok(Filled::Ended));
        }
        sealed.clear();
        let (mut filled, decrypted) = (0, &mut self.decrypted);
        let mut plain = |bytes: &[u8]| {
            let (fits, rest) = bytes.split_at(bytes.len().min(chunk.len() - filled));
            chunk[filled..filled + fits.len()].copy_from_slice(fits);
            filled += fits.len();
            decrypted.add(rest);
        };
        let mut sinks = Sinks { plain: &mut plain, sealed: &mut sealed };
        let outcome = self.channel.receive(&mut incoming[..to], &mut sinks);
        let told = self.put(&sealed, cx);
        match outcome {
            Ok(()) => told?,
            // What came before it counts first.
            Err(error) if filled > 0 || !self.decrypted.is_empty() => {
                self.broken = Some(error.to_string().into());
            }
            Err(error) => return Poll::Ready(Err(invalid(error))),
        }
        Poll::Ready(Ok(Filled::Bytes(filled)))
    }

    /// Seals and sends as much as the socket takes; how many bytes were taken over.
    pub fn poll_write(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut taken = 0;
        while taken < bytes.len() {
            match self.poll_push(cx)? {
                Poll::Pending if taken == 0 => return Poll::Pending,
                Poll::Pending => break,
                Poll::Ready(()) => {}
            }
            let next = &bytes[taken..bytes.len().min(taken + SEALED_AT_ONCE)];
            self.send(Say::Data(next), cx)?;
            taken += next.len();
        }
        Poll::Ready(Ok(taken))
    }

    /// Gives the socket what was sealed and not taken yet.
    pub fn poll_push(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.sealed.is_empty() {
            match ready!(self.socket.poll_write(self.sealed.rest(), cx))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                len => self.sealed.skip(len),
            }
        }
        if self.end == End::Sealed {
            let shut = ready!(self.socket.poll_shutdown(cx));
            self.end = End::Shut;
            shut?;
        }
        Poll::Ready(Ok(()))
    }

    /// Tells the peer that nothing more will come.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.end == End::Open {
            self.end = End::Sealed;
            // A connection that is broken is closed without it.
            let _ = self.send(Say::Goodbye, cx);
        }
        self.poll_push(cx)
    }

    fn send(&mut self, say: Say<'_>, cx: &mut Context<'_>) -> io::Result<()> {
        let scratch = Rc::clone(&self.scratch);
        let mut sealed = scratch.sealed.borrow_mut();
        sealed.clear();
        let decrypted = &mut self.decrypted;
        let mut plain = |bytes: &[u8]| decrypted.add(bytes);
        let said = self.channel.say(say, &mut Sinks { plain: &mut plain, sealed: &mut sealed });
        let put = self.put(&sealed, cx);
        said.map_err(invalid).and(put)
    }

    /// Sends sealed bytes and keeps what is not taken at once.
    fn put(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> io::Result<()> {
        let mut sent = 0;
        while sent < bytes.len() && self.sealed.is_empty() {
            match self.socket.poll_write(&bytes[sent..], cx)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(len) => sent += len,
                Poll::Pending => break,
            }
        }
        self.sealed.add(&bytes[sent..]);
        Ok(())
    }

    /// The socket beneath.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Bytes that wait for somebody to take them; no memory is held while there are none.
#[derive(Debug, Default)]
struct Kept {
    bytes: Vec<u8>,
    taken: usize,
}

impl Kept {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn rest(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn skip(&mut self, len: usize) {
        self.taken += len;
        if self.taken >= self.bytes.len() {
            *self = Kept::default();
        }
    }

    fn take(&mut self, into: &mut [u8]) -> usize {
        let len = into.len().min(self.rest().len());
        into[..len].copy_from_slice(&self.rest()[..len]);
        self.skip(len);
        len
    }
}
