//! The server's side: connecting to PostgreSQL, with TLS if it is wanted, its first answer, and cancel requests.

use crate::hold::Wanted;
use crate::reach::{self, Identity, Way};
use crate::route::{Failure, Target};
use crate::stream::Stream;
use crate::tls::{Servers, Trust};
use crate::unbind::{Unbound, unbind};
use crate::worker::{CHUNK_LEN, Worker};
use cluster::view::Server;
use pgwire::startup::encode_ssl_request;
use pgwire::{CancelKey, FrameTracker, Notable, encode_cancel_request};
use std::io;
use tokio::time::timeout;

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
    pub stream: Stream,
    /// What the server has sent so far; the client has seen nothing of it.
    pub first: Vec<u8>,
}

/// Connects, with TLS if the settings want it.
async fn open(server: &Server, identity: Identity, worker: &Worker) -> Result<(Stream, Way), Failure> {
    let settings = &worker.shared.settings();
    let opened = timeout(settings.connect_timeout, reach::connect(server, identity, worker)).await;
    let (stream, way) = match opened {
        Ok(Ok(connected)) => connected,
        Ok(Err(error)) => return Err(Failure::Connect(error.to_string())),
        Err(_) => {
            let limit_ms = settings.connect_timeout.as_millis();
            let text = format!("no answer from {}:{} in {limit_ms} ms", server.host, server.port);
            return Err(Failure::Connect(text));
        }
    };
    let (Some(tls), Way::Tcp) = (&worker.shared.tls.servers, way) else { return Ok((stream, way)) };
    let limit = settings.startup_timeout;
    let encrypted = timeout(limit, encrypt(stream, server, tls, worker)).await;
    let slow = || Failure::Tls(format!("no answer in {} s", limit.as_secs_f64()));
    Ok((encrypted.map_err(|_| slow())??, way))
}

/// Asks the server for TLS and begins it.
async fn encrypt(
    mut stream: Stream,
    server: &Server,
    tls: &Servers,
    worker: &Worker,
) -> Result<Stream, Failure> {
    let no_answer = |error: io::Error| Failure::NoAnswer(error.to_string());
    stream.write_all(&encode_ssl_request()).await.map_err(no_answer)?;
    // One byte is read and no more: what somebody has put behind it in plain text can only break the handshake
    // (CVE-2021-23222).
    let mut answer = [0];
    stream.read_exact(&mut answer).await.map_err(no_answer)?;
    match (answer, tls.trust()) {
        ([b'S'], _) => {
            let begun = stream.begin_tls_to(&server.host, tls, &worker.scratch).await;
            begun.map_err(|error| Failure::Tls(error.to_string()))
        }
        ([b'N'], Trust::Optional) => Ok(stream),
        ([b'N'], Trust::Needed) => Err(Failure::Tls("the server has none (ssl = off)".to_owned())),
        ([b'E'], _) => Err(Failure::Tls("the server answers the request for it with an error".to_owned())),
        ([other], _) => Err(Failure::Garbled(format!("0x{other:02x} is no answer to the request for TLS"))),
    }
}

/// Connects, sends the client's start-up packet and waits for the answer. Cancel safe: dropping it closes the
/// connection. It sets no limit to the answer's time; a slow answer (name look-ups in pg_hba.conf) is not a failure.
///
/// # Errors
/// [`Failure`] when another attempt is worth making.
pub async fn begin_session(
    target: &Target,
    wanted: &Wanted<'_>,
    worker: &Worker,
) -> Result<Answered, Failure> {
    let Wanted { startup_packet, until, identity, .. } = *wanted;
    let (mut stream, way) = open(&target.server, identity, worker).await?;
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
            FirstAnswer::Incomplete | FirstAnswer::GoesOn => {
                if (way, identity) == (Way::Unix, Identity::Unchecked) && asks_nothing(&first) {
                    return Err(Failure::NoAnswer(BELIEVES_PROXY.to_owned()));
                }
                // What the server offers the proxy's own TLS connection is not for the client, which logs in through it.
                if until == Until::FirstAnswer && stream.tls().is_some() {
                    match unbind(&first) {
                        Unbound::Incomplete if first.len() < len_max => continue,
                        Unbound::Incomplete | Unbound::AsTheyAre => {}
                        Unbound::Without(rest) => first = rest,
                    }
                }
                return Ok(Answered { stream, first });
            }
            FirstAnswer::CannotConnectNow => return Err(Failure::CannotConnectNow),
            FirstAnswer::Garbled(why) => return Err(Failure::Garbled(why)),
        }
    }
}

const BELIEVES_PROXY: &str = "over its Unix socket it asks for no password (peer or trust in its pg_hba.conf): it would believe the \
    proxy, and nobody has checked the client; write scram-sha-256 for local there, or reach it by TCP";

/// Whether a server lets in whom it has asked for nothing.
fn asks_nothing(mut bytes: &[u8]) -> bool {
    let mut tracker = FrameTracker::of_server();
    loop {
        match tracker.next(&mut bytes) {
            Ok(Some(Notable::Authentication(0))) => return true,
            Ok(Some(Notable::Other(b'v' | b'N'))) => {}
            Ok(_) | Err(_) => return false,
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
/// [`Failure`]: it may not have been taken.
pub async fn forward_cancel(server: &Server, key: &CancelKey, worker: &Worker) -> Result<(), Failure> {
    let (mut stream, _) = open(server, Identity::Checked, worker).await?;
    let no_answer = |error: io::Error| Failure::NoAnswer(error.to_string());
    stream.write_all(&encode_cancel_request(key)).await.map_err(no_answer)?;
    let limit = worker.shared.settings().connect_timeout;
    let closed = timeout(limit, stream.read(&mut [0])).await;
    closed.map(|_| ()).map_err(|_| Failure::NoAnswer("it does not close the connection".to_owned()))
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
