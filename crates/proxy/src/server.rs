//! The server's side: connecting to PostgreSQL, its first answer, and cancel requests.

use crate::route::{Failure, Target};
use crate::worker::CHUNK_LEN;
use cluster::view::Server;
use pgwire::{CancelKey, FrameTracker, Notable, encode_cancel_request};
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Idle time after which the kernel asks whether the peer is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);

/// Most bytes of a whole login's answer.
const LOGIN_LEN_MAX: usize = 4 * CHUNK_LEN;

/// How much of the server's answer to a start-up packet is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Enough to know that it takes the connection.
    FirstAnswer,
    /// The whole login, up to ReadyForQuery, an error, or a request for a secret.
    LoggedIn,
}

/// A server that took the start-up packet and wants to go on.
#[derive(Debug)]
pub struct Answered {
    /// The connection.
    pub stream: TcpStream,
    /// What the server has sent so far; the client has seen nothing of it.
    pub first: Vec<u8>,
}

/// Small messages go out at once, and a peer that vanished is noticed some day.
///
/// # Errors
/// Those of setting a socket's options.
pub fn prepare_socket(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_IDLE))
}

async fn open(server: &Server, connect_timeout: Duration) -> io::Result<TcpStream> {
    let connecting = TcpStream::connect((server.host.as_str(), server.port));
    let stream = timeout(connect_timeout, connecting).await.map_err(|_| {
        let text =
            format!("no answer from {}:{} in {} ms", server.host, server.port, connect_timeout.as_millis());
        io::Error::new(io::ErrorKind::TimedOut, text)
    })??;
    prepare_socket(&stream)?;
    Ok(stream)
}

/// Connects, sends the client's start-up packet and waits for the answer. Cancel safe: dropping it closes the
/// connection. It sets no limit to the answer's time; a slow answer (name look-ups in pg_hba.conf) is not a failure.
///
/// # Errors
/// [`Failure`] when another attempt is worth making.
pub async fn begin_session(
    target: &Target,
    startup_packet: &[u8],
    until: Until,
    connect_timeout: Duration,
) -> Result<Answered, Failure> {
    let opened = open(&target.server, connect_timeout).await;
    let mut stream = opened.map_err(|error| Failure::Connect(error.to_string()))?;
    let no_answer = |error: io::Error| Failure::NoAnswer(error.to_string());
    stream.write_all(startup_packet).await.map_err(no_answer)?;
    let mut first = Vec::with_capacity(512);
    let len_max = match until {
        Until::FirstAnswer => CHUNK_LEN,
        Until::LoggedIn => LOGIN_LEN_MAX,
    };
    loop {
        if stream.read_buf(&mut first).await.map_err(no_answer)? == 0 {
            return Err(Failure::NoAnswer("it closed the connection".to_string()));
        }
        match first_answer(&first, until) {
            FirstAnswer::Incomplete if first.len() < len_max => {}
            FirstAnswer::Incomplete | FirstAnswer::GoesOn => return Ok(Answered { stream, first }),
            FirstAnswer::CannotConnectNow => return Err(Failure::CannotConnectNow),
            FirstAnswer::Garbled(why) => return Err(Failure::Garbled(why)),
        }
    }
}

/// What the first bytes of a server mean.
#[derive(Debug, PartialEq, Eq)]
enum FirstAnswer {
    Incomplete,
    GoesOn,
    CannotConnectNow,
    Garbled(String),
}

fn first_answer(mut bytes: &[u8], until: Until) -> FirstAnswer {
    let mut tracker = FrameTracker::of_server();
    loop {
        match tracker.next(&mut bytes) {
            Ok(None) => return FirstAnswer::Incomplete,
            // NegotiateProtocolVersion and notices come before the answer proper.
            Ok(Some(Notable::Other(b'v' | b'N'))) => {}
            Ok(Some(Notable::Error(error))) if error.is("57P03") => return FirstAnswer::CannotConnectNow,
            Ok(Some(Notable::Authentication(0) | Notable::Parameter { .. } | Notable::BackendKey(_)))
                if until == Until::LoggedIn => {}
            Ok(Some(_)) => return FirstAnswer::GoesOn,
            Err(error) => return FirstAnswer::Garbled(error.to_string()),
        }
    }
}

/// Sends a cancel request to `server` and waits until it has been taken: PostgreSQL closes the connection then.
///
/// # Errors
/// Those of connecting and writing, and a time-out.
pub async fn forward_cancel(server: &Server, key: &CancelKey, limit: Duration) -> io::Result<()> {
    let mut stream = open(server, limit).await?;
    stream.write_all(&encode_cancel_request(key)).await?;
    timeout(limit, stream.read_u8()).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut)).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first_answer(bytes: &[u8]) -> FirstAnswer {
        super::first_answer(bytes, Until::FirstAnswer)
    }

    #[test]
    fn the_first_answer_decides() {
        let starting = b"E\0\0\0\x16VFATAL\0C57P03\0Mx\0\0";
        assert_eq!(first_answer(starting), FirstAnswer::CannotConnectNow);
        for cut in 0..starting.len() {
            assert_eq!(first_answer(&starting[..cut]), FirstAnswer::Incomplete);
        }
        let negotiated = [&b"v\0\0\0\x0c\0\0\0\0\0\0\0\0"[..], starting].concat();
        assert_eq!(first_answer(&negotiated), FirstAnswer::CannotConnectNow);
        assert_eq!(first_answer(b"R\0\0\0\x08\0\0\0\0"), FirstAnswer::GoesOn);
        assert_eq!(first_answer(b"E\0\0\0\x13VFATAL\0C53300\0\0"), FirstAnswer::GoesOn);
        assert!(matches!(first_answer(b"HTTP/1.1 400 Bad Request"), FirstAnswer::Garbled(_)));
    }

    #[test]
    fn a_repeated_login_is_read_to_its_end() {
        let login = b"R\0\0\0\x08\0\0\0\0S\0\0\0\x0bTZ\0CET\0K\0\0\0\x0c\0\0\0\x07abcdZ\0\0\0\x05I";
        for cut in 0..login.len() {
            assert_eq!(super::first_answer(&login[..cut], Until::LoggedIn), FirstAnswer::Incomplete);
        }
        let secret = b"R\0\0\0\x08\0\0\0\x03";
        for whole in [&login[..], secret] {
            assert_eq!(super::first_answer(whole, Until::LoggedIn), FirstAnswer::GoesOn);
        }
    }
}
