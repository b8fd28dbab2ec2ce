//! Connects to agents of the cluster.

use crate::credentials::{Credentials, Plain, agent_name};
use crate::stranger::Stranger;
use crate::stream::Stream;
use crate::subject::{Role, Subject};
use crate::token::Token;
use rustls::pki_types::CertificateDer;
use rustls::{CertificateError, ClientConfig, Error as TlsError, InvalidMessage};
use std::io;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, TlsStream};

/// How a process calls agents. Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    credentials: Option<Credentials>,
    /// Only without credentials.
    stranger: Option<Stranger>,
    /// Only of a stranger who knows the authority.
    token: Option<Token>,
}

impl Caller {
    /// Without TLS.
    #[must_use]
    pub fn plain() -> Caller {
        Caller::default()
    }

    /// With TLS, without a certificate, and whoever answers is believed: to be used for nothing but public things which are
    /// checked by other means.
    ///
    /// # Errors
    /// What the library says.
    pub fn unverified() -> io::Result<Caller> {
        let stranger = Stranger::unverified().map_err(io::Error::other)?;
        Ok(Caller { stranger: Some(stranger), ..Caller::default() })
    }

    /// With TLS and without a certificate: for who wants to join the cluster whose authority this is.
    ///
    /// # Errors
    /// When it is no cluster's authority.
    pub fn trusting(authority: CertificateDer<'static>) -> io::Result<Caller> {
        let stranger = Stranger::of(vec![authority]).map_err(io::Error::other)?;
        Ok(Caller { stranger: Some(stranger), ..Caller::default() })
    }

    /// With TLS, without a certificate and with a user's token, which is shown to nobody but agents that one of these authorities
    /// has signed for.
    ///
    /// # Errors
    /// When they are no cluster's authorities.
    pub fn with_token(authorities: Vec<CertificateDer<'static>>, token: Token) -> io::Result<Caller> {
        let stranger = Stranger::of(authorities).map_err(io::Error::other)?;
        Ok(Caller { credentials: None, stranger: Some(stranger), token: Some(token) })
    }

    /// Whether it calls with TLS, if the other side has it.
    #[must_use]
    pub fn has_tls(&self) -> bool {
        self.credentials.is_some() || self.stranger.is_some()
    }

    /// What goes with each request as `Authorization`: a secret.
    #[must_use]
    pub fn authorization(&self) -> Option<String> {
        self.token.as_ref().map(|token| format!("Bearer {}", token.word()))
    }

    /// With these, or without TLS if there are none.
    #[must_use]
    pub fn with(credentials: Option<Credentials>) -> Caller {
        Caller { credentials, ..Caller::default() }
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
        if let Some(Stranger { client, cluster }) = &self.stranger {
            let agreed = agree(client, cluster.as_deref(), stream).await;
            return agreed.map(|stream| Stream::Tls(Box::new(stream))).map_err(explained);
        }
        let Some(credentials) = &self.credentials else { return Ok(Stream::Plain(stream)) };
        let current = credentials.current();
        match agree(&current.client, Some(&current.subject.cluster), stream).await {
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

/// `cluster`: of which the other side must be an agent.
async fn agree(
    client: &Arc<ClientConfig>,
    cluster: Option<&str>,
    stream: TcpStream,
) -> io::Result<TlsStream<TcpStream>> {
    let connector = TlsConnector::from(Arc::clone(client));
    let stream = connector.connect(agent_name().map_err(io::Error::other)?, stream).await?;
    let Some(cluster) = cluster else { return Ok(stream.into()) };
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let subject = shown.and_then(|der| Subject::of_certificate(der));
    match subject {
        Some(it) if it.role == Role::Agent && it.cluster == cluster => Ok(stream.into()),
        Some(it) => Err(io::Error::other(format!(
            "its certificate is for {it}, which is no agent of {cluster}; is the address right?"
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
