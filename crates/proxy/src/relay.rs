//! Moves bytes between a client and its server until one of them ends, a newer epoch begins, or the proxy stops.
//!
//! One task for each session, nothing between its two sides. Bytes go through the worker's one buffer; only what a peer
//! does not take at once is kept, at most one chunk for each direction.

use crate::pool::OpenConnection;
use crate::portable::Obstacle;
use crate::session::Session;
use crate::stream::Stream;
use crate::watch::Views;
use crate::worker::{Worker, stopped};
use pgwire::FrameError;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::time::sleep_until;

/// Drivers close a prepared statement with the next thing they send, or a moment after they have used it.
const CLOSING_MAX: Duration = Duration::from_millis(100);

/// Why a relay ended.
#[derive(Debug)]
pub enum End {
    /// The client cannot be reached any more.
    ClientGone,
    /// The server closed or broke the connection.
    ServerGone,
    /// What the server sent is not PostgreSQL's protocol.
    ServerGarbled(FrameError),
    /// A newer epoch than the session's has been seen.
    EpochChanged,
    /// The proxy stops.
    Stopping,
}

/// Why a relay does not go on by itself.
#[derive(Debug)]
pub enum Stop {
    /// There is nothing more to relay.
    Ended(End),
    /// The primary is about to be replaced, and the session is quiet: it could move. The relay can be run again.
    Quiet,
}

/// What a session does about a view that says that nothing new may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    /// The view does not say so.
    Off,
    /// It may move once it is quiet; until then it goes on.
    Seeking,
    /// It could not move because of something that clients often drop by themselves: it goes on until then, and tries
    /// once more.
    Lingering { until: Instant },
    /// As [`Hold::Seeking`], for the last time.
    LastTry,
    /// It cannot move: it begins nothing new until then.
    Staying { until: Instant },
    /// It has waited long enough; the server still serves.
    Over,
}

/// The two sides of one session.
#[derive(Debug)]
pub struct Relay<'a> {
    pub client: &'a mut Stream,
    pub server: &'a mut Stream,
    pub session: &'a mut Session,
    pub connection: &'a OpenConnection<'a>,
    pub worker: &'a Worker,
    /// Bytes of the server that the client has not taken yet.
    pub to_client: Unsent,
    to_server: Unsent,
    client_input: Input,
    server_output: Output,
    hold: Hold,
}

#[derive(Debug, PartialEq, Eq)]
enum Input {
    Open,
    /// The client has closed its side, or nothing it sends can be delivered.
    Ended,
}

#[derive(Debug, PartialEq, Eq)]
enum Output {
    Open,
    /// Writing failed. What the server said last may still be readable.
    Broken,
}

impl<'a> Relay<'a> {
    /// A relay that has moved nothing yet.
    pub fn new(
        client: &'a mut Stream,
        server: &'a mut Stream,
        session: &'a mut Session,
        connection: &'a OpenConnection<'a>,
        worker: &'a Worker,
    ) -> Relay<'a> {
        let (to_client, to_server) = (Unsent::default(), Unsent::default());
        let (client_input, server_output) = (Input::Open, Output::Open);
        Relay {
            client,
            server,
            session,
            connection,
            worker,
            to_client,
            to_server,
            client_input,
            server_output,
            hold: Hold::Off,
        }
    }

    /// Takes what the server sent before the relay began.
    ///
    /// # Errors
    /// If it is not PostgreSQL's protocol.
    pub fn begin_with(&mut self, first: Vec<u8>) -> Result<(), FrameError> {
        note_server_bytes(self.session, self.connection, &first)?;
        self.to_client = Unsent { bytes: first, sent: 0 };
        Ok(())
    }

    /// Relays until the end, or until the session should move.
    pub async fn run(&mut self) -> Stop {
        let (mut views, mut stop) = (self.worker.views.clone(), self.worker.stop.clone());
        loop {
            if self.is_outdated() {
                return Stop::Ended(End::EpochChanged);
            }
            self.heed(&mut views);
            let hold = self.hold;
            let next_hold = async {
                match hold {
                    Hold::Staying { until } => sleep_until(until.into()).await,
                    Hold::Lingering { until } => {
                        sleep_until(until.into()).await;
                        return Hold::LastTry;
                    }
                    Hold::Off | Hold::Seeking | Hold::LastTry | Hold::Over => std::future::pending().await,
                }
                Hold::Over
            };
            tokio::select! {
                biased;
                () = views.changed() => {}
                () = stopped(&mut stop) => return Stop::Ended(End::Stopping),
                hold = next_hold => self.hold = hold,
                stop = poll_fn(|cx| self.poll(cx)) => return stop,
            }
        }
    }

    fn heed(&mut self, views: &mut Views) {
        self.hold = match (&views.latest().hold, self.hold) {
            (None, _) => Hold::Off,
            (Some(_), Hold::Off) => Hold::Seeking,
            (Some(_), hold) => hold,
        };
    }

    /// The session cannot move: it stays where it is, and begins nothing new while the view says so.
    pub fn stay(&mut self, obstacle: Obstacle) {
        let now = Instant::now();
        self.hold = match (self.hold, obstacle) {
            (Hold::Seeking, Obstacle::Prepared) => Hold::Lingering { until: now + CLOSING_MAX },
            (_, _) => Hold::Staying { until: now + self.worker.shared.settings().hold },
        };
    }

    /// Takes bytes for the client that did not come through the relay.
    ///
    /// # Errors
    /// If they are not PostgreSQL's protocol.
    pub fn add_for_client(&mut self, bytes: &[u8]) -> Result<(), FrameError> {
        note_server_bytes(self.session, self.connection, bytes)?;
        self.to_client.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// Whether a newer epoch than the session's has been seen.
    pub fn is_outdated(&self) -> bool {
        self.worker.views.newest_epoch() > self.session.epoch()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Stop> {
        if let Poll::Ready(end) = self.poll_to_client(cx) {
            return Poll::Ready(Stop::Ended(end));
        }
        self.poll_to_server(cx)
    }

    fn poll_to_client(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let mut chunk = self.worker.chunk.borrow_mut();
        loop {
            if ready!(self.to_client.poll_send(self.client, cx)).is_err() {
                return Poll::Ready(End::ClientGone);
            }
            let bytes = match ready!(poll_chunk(self.server, &mut chunk, cx)) {
                Ok(bytes) if !bytes.is_empty() => bytes,
                Ok(_) | Err(_) => return Poll::Ready(End::ServerGone),
            };
            if let Err(error) = note_server_bytes(self.session, self.connection, bytes) {
                return Poll::Ready(End::ServerGarbled(error));
            }
            if self.to_client.send_or_keep(self.client, bytes, cx).is_err() {
                return Poll::Ready(End::ClientGone);
            }
        }
    }

    fn poll_to_server(&mut self, cx: &mut Context<'_>) -> Poll<Stop> {
        let mut chunk = self.worker.chunk.borrow_mut();
        loop {
            // Asked before every write: nothing may reach a server of an older epoch.
            if self.is_outdated() {
                return Poll::Ready(Stop::Ended(End::EpochChanged));
            }
            if self.server_output == Output::Broken {
                return Poll::Pending;
            }
            if ready!(self.to_server.poll_send(self.server, cx)).is_err() {
                self.server_output = Output::Broken;
                return Poll::Pending;
            }
            if self.client_input == Input::Ended {
                return Poll::Pending;
            }
            if self.hold != Hold::Off && self.session.is_quiet() && self.to_client.is_empty() {
                match self.hold {
                    Hold::Seeking | Hold::LastTry => return Poll::Ready(Stop::Quiet),
                    Hold::Staying { .. } => return Poll::Pending,
                    Hold::Off | Hold::Lingering { .. } | Hold::Over => {}
                }
            }
            let bytes = match ready!(poll_chunk(self.client, &mut chunk, cx)) {
                Ok(bytes) => bytes,
                Err(_) => return Poll::Ready(Stop::Ended(End::ClientGone)),
            };
            if self.is_outdated() {
                return Poll::Ready(Stop::Ended(End::EpochChanged));
            }
            if bytes.is_empty() {
                self.client_input = Input::Ended;
                // The server shall see the end too, and may still answer what came before it.
                let _ = ready!(self.server.poll_shutdown(cx));
                return Poll::Pending;
            }
            self.session.client_sent(bytes);
            if self.to_server.send_or_keep(self.server, bytes, cx).is_err() {
                self.server_output = Output::Broken;
            }
        }
    }

    /// Whether the client has closed its side, so that it waits for no word.
    pub fn client_has_ended(&self) -> bool {
        self.client_input == Input::Ended
    }
}

fn note_server_bytes(
    session: &mut Session,
    connection: &OpenConnection<'_>,
    bytes: &[u8],
) -> Result<(), FrameError> {
    if let Some(key) = session.server_sent(bytes)? {
        connection.set_key(key);
    }
    Ok(())
}

/// Reads what is there into `chunk`.
pub fn poll_chunk<'b>(
    stream: &mut Stream,
    chunk: &'b mut [u8],
    cx: &mut Context<'_>,
) -> Poll<io::Result<&'b [u8]>> {
    let len = ready!(stream.poll_read(chunk, cx))?;
    Poll::Ready(Ok(&chunk[..len]))
}

/// Bytes that a peer has not taken yet; at most one chunk.
#[derive(Debug, Default)]
pub struct Unsent {
    bytes: Vec<u8>,
    sent: usize,
}

impl Unsent {
    /// Whether all was sent.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The bytes that are still to be sent.
    pub fn into_rest(mut self) -> Vec<u8> {
        self.bytes.split_off(self.sent)
    }

    /// Sends what is left, and frees the buffer once all is sent.
    pub fn poll_send(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.bytes.len() {
            match ready!(stream.poll_write(&self.bytes[self.sent..], cx)) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(n) => self.sent += n,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        if !self.bytes.is_empty() {
            *self = Unsent::default();
        }
        stream.poll_push(cx)
    }

    /// Sends `bytes` behind what is left; keeps what is not taken at once.
    pub fn add(&mut self, stream: &mut Stream, bytes: &[u8], cx: &mut Context<'_>) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        if self.is_empty() {
            return self.send_or_keep(stream, bytes, cx);
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// Sends `bytes` after everything else was sent, and keeps what is not taken at once.
    pub fn send_or_keep(
        &mut self,
        stream: &mut Stream,
        bytes: &[u8],
        cx: &mut Context<'_>,
    ) -> io::Result<()> {
        let taken = match stream.poll_write(bytes, cx) {
            Poll::Ready(written) => written?,
            Poll::Pending => 0,
        };
        if taken < bytes.len() {
            *self = Unsent { bytes: bytes[taken..].to_vec(), sent: 0 };
        }
        Ok(())
    }
}
