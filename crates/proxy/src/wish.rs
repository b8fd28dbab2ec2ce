//! What a client asks for before its session begins, encryption first.

use crate::error::Refusal;
use crate::settings::ClientTlsMode;
use crate::source::Peer;
use crate::stream::Stream;
use crate::tls::Clients;
use crate::worker::Worker;
use pgwire::startup::{TLS_HANDSHAKE, body_len, parse_body};
use pgwire::{CancelKey, Startup, StartupError};
use std::io;

/// What a client wants, once that is known.
pub enum Wish {
    /// A session; the whole start-up packet, to be passed on as it is.
    Session(Vec<u8>),
    /// Another one's statement is to be cancelled.
    Cancel(CancelKey),
}

/// Why no wish was understood.
pub enum NoWish {
    /// It closed the connection without a word or in the middle of one, as port checks do.
    Gone,
    /// Nothing that it would understand can be answered.
    NotPostgres(StartupError),
    /// It was offered TLS, or began it by itself, and that did not work.
    NoTls(io::Error),
    /// It began TLS by itself without asking for PostgreSQL: it may have been led here by somebody who wants its bytes to be
    /// taken for another protocol.
    NotForPostgres,
    /// It is to be told this.
    Refused(Stream, Refusal),
}

/// Reads what a client wants. The connection has TLS afterwards if it came to that.
pub async fn read_wish(mut client: Stream, worker: &Worker) -> Result<(Stream, Wish), NoWish> {
    let tls = worker.shared.tls.clients.as_ref();
    let (mut ssl_asked, mut gss_asked) = (false, false);
    loop {
        let mut length_word = [0; 4];
        client.read_exact(&mut length_word).await.map_err(|_| NoWish::Gone)?;
        if let (TLS_HANDSHAKE, Some(tls), false, false) = (length_word[0], tls, ssl_asked, gss_asked) {
            client = encrypt(client, &length_word, tls, worker).await?;
            if !client.tls().is_some_and(|tls| tls.asks_for_postgresql()) {
                return Err(NoWish::NotForPostgres);
            }
            (ssl_asked, gss_asked) = (true, true);
            continue;
        }
        let len = body_len(length_word).map_err(NoWish::NotPostgres)?;
        let mut packet = vec![0; 4 + len];
        packet[..4].copy_from_slice(&length_word);
        client.read_exact(&mut packet[4..]).await.map_err(|_| NoWish::Gone)?;
        let wants_tls = match parse_body(&packet[4..]) {
            Ok(Startup::Session(_)) => {
                return match refuse_unsafe(&client, tls) {
                    Some(refusal) => Err(NoWish::Refused(client, refusal)),
                    None => Ok((client, Wish::Session(packet))),
                };
            }
            Ok(Startup::Cancel(key)) => return Ok((client, Wish::Cancel(key))),
            Ok(Startup::SslRequest) => true,
            Ok(Startup::GssEncRequest) => false,
            Err(error) => return Err(NoWish::Refused(client, Refusal::BadStartup(error))),
        };
        let asked = if wants_tls { &mut ssl_asked } else { &mut gss_asked };
        if std::mem::replace(asked, true) {
            return Err(NoWish::Refused(client, Refusal::RepeatedEncryptionRequest));
        }
        let Some(tls) = tls.filter(|_| wants_tls) else {
            client.write_all(b"N").await.map_err(|_| NoWish::Gone)?;
            continue;
        };
        // A client waits for the answer. Bytes that somebody has put behind its request must not be taken for its own
        // (CVE-2021-23214); what comes after this look can only break the handshake.
        if client.has_unread().await {
            return Err(NoWish::Refused(client, Refusal::UnencryptedData));
        }
        client.write_all(b"S").await.map_err(|_| NoWish::Gone)?;
        client = encrypt(client, &[], tls, worker).await?;
        (ssl_asked, gss_asked) = (true, true);
    }
}

async fn encrypt(client: Stream, begun: &[u8], tls: &Clients, worker: &Worker) -> Result<Stream, NoWish> {
    client.begin_tls(begun, &tls.identity(), &worker.scratch).await.map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => NoWish::Gone,
        _ => NoWish::NoTls(error),
    })
}

/// Why no session may begin on this connection. Cancel requests may: libpq sends them without TLS.
fn refuse_unsafe(client: &Stream, tls: Option<&Clients>) -> Option<Refusal> {
    // Nobody is in between there, and PostgreSQL has no TLS on Unix sockets either; not for who has to show a certificate.
    let is_here = || matches!(client.peer(), Ok(Peer::Unix { .. }));
    match (tls.map(Clients::mode), client.tls()) {
        (Some(ClientTlsMode::Require), None) if is_here() => None,
        (None | Some(ClientTlsMode::Allow), _) | (Some(ClientTlsMode::Require), Some(_)) => None,
        (Some(ClientTlsMode::Require | ClientTlsMode::Verify), None) => Some(Refusal::NoEncryption),
        (Some(ClientTlsMode::Verify), Some(tls)) => {
            (!tls.peer_has_certificate()).then_some(Refusal::NoClientCertificate)
        }
    }
}
