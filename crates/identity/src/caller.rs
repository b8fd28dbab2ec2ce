//! Connects to agents of the cluster.

use crate::credentials::{Credentials, Plain, agent_name};
use crate::stream::Stream;
use crate::subject::{Role, Subject};
use rustls::{CertificateError, Error as TlsError, InvalidMessage};
use std::io;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, TlsStream};

/// How a process calls agents. Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    credentials: Option<Credentials>,
}

impl Caller {
    /// Without TLS.
    #[must_use]
    pub fn plain() -> Caller {
        Caller { credentials: None }
    }

    /// With these, or without TLS if there are none.
    #[must_use]
    pub fn with(credentials: Option<Credentials>) -> Caller {
        Caller { credentials }
    }

    /// What it shows others; `None`: there is no TLS.
    #[must_use]
    pub fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }

    /// A connection to the agent at `address` (`host:port`), which has shown that it is one of this cluster.
    ///
    /// # Errors
    /// What the system, or the other side's certificate, has against it. No byte of a request has gone then.
    pub async fn connect(&self, address: &str) -> io::Result<Stream> {
        let stream = open(address).await?;
        let Some(credentials) = &self.credentials else { return Ok(Stream::Plain(stream)) };
        match agree(credentials, stream).await {
            Ok(stream) => Ok(Stream::Tls(Box::new(stream))),
            Err(error) if is_plain(&error) && credentials.plain() == Plain::Allowed => {
                Ok(Stream::Plain(open(address).await?))
            }
            Err(error) => Err(explained(error)),
        }
    }
}

async fn open(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn agree(credentials: &Credentials, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    let current = credentials.current();
    let connector = TlsConnector::from(current.client.clone());
    let stream = connector.connect(agent_name().map_err(io::Error::other)?, stream).await?;
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let subject = shown.and_then(|der| Subject::of_certificate(der));
    match subject {
        Some(it) if it.role == Role::Agent && it.cluster == current.subject.cluster => Ok(stream.into()),
        Some(it) => Err(io::Error::other(format!(
            "its certificate is for {it}, which is no agent of {}; is the address right?",
            current.subject.cluster
        ))),
        None => Err(io::Error::other("its certificate does not say for whom it is")),
    }
}

/// What answers does not speak TLS.
fn is_plain(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>());
    matches!(inner, Some(TlsError::InvalidMessage(InvalidMessage::InvalidContentType)))
}

/// The same in words that help.
fn explained(error: io::Error) -> io::Error {
    if is_plain(&error) {
        return io::Error::other(
            "it does not speak TLS: its configuration has no [tls], or something else listens there",
        );
    }
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>());
    let said = match inner {
        Some(TlsError::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        )) => {
            "its certificate was not signed by this cluster's authority: this is another cluster, or somebody in between"
        }
        Some(TlsError::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        )) => {
            "its certificate is no longer good: on its host, run `pgkeel cert rotate`, or make one where the authority is"
        }
        Some(TlsError::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        )) => "its certificate is not good yet: is the clock of both hosts right?",
        Some(TlsError::InvalidCertificate(
            CertificateError::NotValidForName
            | CertificateError::NotValidForNameContext { .. }
            | CertificateError::InvalidPurpose
            | CertificateError::InvalidPurposeContext { .. },
        )) => "its certificate is not that of an agent",
        _ => return error,
    };
    io::Error::other(said)
}
