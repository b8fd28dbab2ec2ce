//! Lets other processes of the cluster in, and says who they are.

use crate::credentials::{Credentials, Plain};
use crate::holder::Holder;
use crate::stream::Stream;
use crate::subject::Subject;
use rustls::{CertificateError, Error as TlsError};
use std::io;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsStream};

/// First byte of a TLS record that begins a handshake (RFC 8446, chapter 5.1).
const HANDSHAKE: u8 = 22;

/// The answer to who speaks HTTP without TLS.
const TLS_ONLY: &str = "this agent speaks TLS only: use a configuration file with [tls], or --tls DIR\n";

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// Somebody who was not asked: the cluster has no TLS, or tolerates those that do not speak it.
    Unasked,
    /// Somebody who showed no certificate.
    Nameless,
    /// A user who has shown his token over TLS, and no certificate. The acceptor never says so: whoever knows the users does.
    User(Subject),
    /// The holder of a certificate of this cluster's authority. A connection can last longer: see [`Holder::standing`].
    Known(Holder),
}

/// See the module. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Acceptor {
    credentials: Option<Credentials>,
}

impl Acceptor {
    /// With these, or without TLS if there are none.
    #[must_use]
    pub fn with(credentials: Option<Credentials>) -> Acceptor {
        Acceptor { credentials }
    }

    /// Agrees on TLS with who has connected. Ends by itself only when the other side does its part: the caller sets a limit.
    ///
    /// # Errors
    /// When the other side is not let in.
    pub async fn accept(&self, mut stream: TcpStream) -> io::Result<(Stream, Who)> {
        let Some(credentials) = &self.credentials else { return Ok((Stream::Plain(stream), Who::Unasked)) };
        let mut first = [0];
        if stream.peek(&mut first).await? == 1 && first[0] != HANDSHAKE {
            if credentials.plain() == Plain::Allowed {
                return Ok((Stream::Plain(stream), Who::Unasked));
            }
            let answer = format!(
                "HTTP/1.1 403 Forbidden\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{TLS_ONLY}",
                TLS_ONLY.len()
            );
            stream.write_all(answer.as_bytes()).await?;
            stream.shutdown().await?;
            return Err(io::Error::other("it does not speak TLS"));
        }
        let current = credentials.current();
        let stream = TlsAcceptor::from(current.server.clone()).accept(stream).await.map_err(explained)?;
        let shown = stream.get_ref().1.peer_certificates();
        let shown = shown.map(|chain| chain.iter().map(|der| der.clone().into_owned()).collect::<Vec<_>>());
        let who = match shown.as_deref().map(|chain| Holder::of(chain, &current)) {
            None => Who::Nameless,
            Some(Some(holder)) if holder.cluster == current.subject.cluster => Who::Known(holder),
            Some(Some(holder)) => {
                return Err(io::Error::other(format!("its certificate is for another cluster: {}", *holder)));
            }
            Some(None) => return Err(io::Error::other("its certificate does not say for whom it is")),
        };
        Ok((Stream::Tls(Box::new(TlsStream::from(stream))), who))
    }
}

/// What the library says of who was not let in, in words that help; of the same kind.
fn explained(error: io::Error) -> io::Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>());
    let said = match inner {
        Some(TlsError::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        )) => "it shows a certificate that this cluster's authority has not signed".to_owned(),
        Some(TlsError::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        )) => "it shows a certificate whose time is over".to_owned(),
        Some(TlsError::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        )) => "it shows a certificate whose time has not come: is the clock of both hosts right?".to_owned(),
        Some(TlsError::AlertReceived(alert)) => {
            format!("it broke off ({alert:?}): it may know another authority, or none")
        }
        _ => return error,
    };
    io::Error::new(error.kind(), said)
}
