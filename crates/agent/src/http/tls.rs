//! TLS of the HTTP client: whom it believes, and what it shows of itself. PEM files, read anew for every connection, so that
//! replaced ones are used without a word.

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::io::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates of the authorities that sign servers' certificates.
    pub ca: PathBuf,
    /// Own certificate and its key, for servers that ask for one.
    pub own: Option<(PathBuf, PathBuf)>,
}

impl TlsFiles {
    /// What is wrong with the files, if anything is.
    ///
    /// # Errors
    /// That, with the file.
    pub fn check(&self) -> Result<()> {
        self.config().map(|_| ())
    }

    /// Makes sure that the server at `address` (`host:port`) is who it should be, and talks to it in secret.
    pub(super) async fn wrap(&self, address: &str, stream: TcpStream) -> Result<TlsStream<TcpStream>> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host).map_err(Error::other)?;
        TlsConnector::from(Arc::new(self.config()?)).connect(name, stream).await
    }

    fn config(&self) -> Result<ClientConfig> {
        let mut trusted = RootCertStore::empty();
        for certificate in certificates(&self.ca)? {
            trusted.add(certificate).map_err(|e| about(&self.ca, &e))?;
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(Error::other)?
            .with_root_certificates(trusted);
        match &self.own {
            None => Ok(builder.with_no_client_auth()),
            Some((cert, key)) => {
                let chain = certificates(cert)?;
                let secret = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|e| about(key, &e))?;
                builder.with_client_auth_cert(chain, secret).map_err(|e| about(cert, &e))
            }
        }
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let bytes = read(file)?;
    let found: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(found) if found.is_empty() => Err(about(file, &"it holds no certificate in PEM form")),
        Ok(found) => Ok(found),
        Err(e) => Err(about(file, &e)),
    }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).map_err(|e| about(file, &e))
}

fn about(file: &Path, what: &dyn std::fmt::Display) -> Error {
    Error::other(format!("{} cannot be used: {what}", file.display()))
}
