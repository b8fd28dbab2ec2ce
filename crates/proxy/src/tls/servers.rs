//! TLS towards servers: whether it is asked for, and whom the proxy believes.

use super::provider;
use crate::settings::ServerTls;
use identity::file_changes::Stamp;
use identity::files::{self, Problem, authorities};
use pgwire::startup::ALPN_PROTOCOL;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

const CA: &str = "proxy.server_ca";

/// What becomes of a server that has no TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// It is used without.
    Optional,
    /// It is not used.
    Needed,
}

/// See the module.
#[derive(Debug)]
pub struct Servers {
    settings: ServerTls,
    current: RwLock<Arc<ClientConfig>>,
    stamp: Stamp,
}

impl Servers {
    /// Reads the file that the settings name; `None` if there is to be no TLS.
    ///
    /// # Errors
    /// [`Problem`]: nobody could be believed.
    pub fn load(settings: &ServerTls) -> Result<Option<Servers>, Problem> {
        let stamp = Stamp::of(&files(settings));
        let Some(config) = read(settings)? else { return Ok(None) };
        Ok(Some(Servers { settings: settings.clone(), current: RwLock::new(Arc::new(config)), stamp }))
    }

    /// For the next connection.
    pub fn config(&self) -> Arc<ClientConfig> {
        // It is replaced as a whole, so a panic elsewhere spoils nothing.
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What becomes of a server that has no TLS.
    pub fn trust(&self) -> Trust {
        match &self.settings {
            ServerTls::Disable | ServerTls::Prefer => Trust::Optional,
            ServerTls::Require | ServerTls::VerifyCa(_) | ServerTls::VerifyFull(_) => Trust::Needed,
        }
    }

    /// The name that the server's certificate must have, and that it is asked for.
    ///
    /// # Errors
    /// What is wrong with the host, where it matters.
    pub fn name_of(&self, host: &str) -> Result<ServerName<'static>, String> {
        match (ServerName::try_from(host.to_owned()), &self.settings) {
            (Ok(name), _) => Ok(name),
            (Err(error), ServerTls::VerifyFull(_)) => Err(format!("{host:?} is no name to verify: {error}")),
            // Never looked at; of an address the server is not told either.
            (Err(_), _) => Ok(ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED))),
        }
    }

    /// How the file looked before it was read.
    pub fn stamp(&self) -> &Stamp {
        &self.stamp
    }

    /// How the file looks now.
    pub fn stamp_now(&self) -> Stamp {
        Stamp::of(&files(&self.settings))
    }

    /// Reads the file again. Nothing changes unless all is well with it.
    ///
    /// # Errors
    /// [`Problem`]
    pub fn renew(&self) -> Result<(), Problem> {
        if let Some(config) = read(&self.settings)? {
            *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
        }
        Ok(())
    }
}

fn files(settings: &ServerTls) -> Vec<PathBuf> {
    match settings {
        ServerTls::Disable | ServerTls::Prefer | ServerTls::Require => Vec::new(),
        ServerTls::VerifyCa(ca) | ServerTls::VerifyFull(ca) => vec![ca.clone()],
    }
}

fn read(settings: &ServerTls) -> Result<Option<ClientConfig>, Problem> {
    let verifier: Arc<dyn ServerCertVerifier> = match settings {
        ServerTls::Disable => return Ok(None),
        ServerTls::Prefer | ServerTls::Require => Arc::new(AnyName { chain: None, provider: provider() }),
        ServerTls::VerifyCa(ca) => Arc::new(AnyName { chain: Some(chain(ca)?), provider: provider() }),
        ServerTls::VerifyFull(ca) => chain(ca)?,
    };
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| unusable(Path::new(""), &error.to_string()))?;
    let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.alpn_protocols = vec![ALPN_PROTOCOL.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Some(config))
}

/// Checks that somebody who is trusted has signed, and the name.
fn chain(ca: &Path) -> Result<Arc<WebPkiServerVerifier>, Problem> {
    let trusted = Arc::new(authorities(CA, ca)?);
    let built = WebPkiServerVerifier::builder_with_provider(trusted, provider()).build();
    built.map_err(|error| unusable(ca, &error.to_string()))
}

fn unusable(ca: &Path, why: &str) -> Problem {
    Problem::new(CA, ca, files::Trouble::Unusable(why.to_owned()))
}

/// Whatever the name in the certificate is, and, without `chain`, whoever has signed it. That the server has the key of the
/// certificate is always checked.
#[derive(Debug)]
struct AnyName {
    chain: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is looked at last, when everything else was found good.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
