//! How a host calls that has no certificate of the cluster yet: first to hear who the authority is, then to join.

use crate::authority;
use crate::provider;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::sync::Arc;

/// Somebody without a certificate.
#[derive(Clone, Debug)]
pub(crate) struct Stranger {
    pub(crate) client: Arc<ClientConfig>,
    /// Whose agents it talks to; `None`: it does not know yet, and believes nobody.
    pub(crate) cluster: Option<String>,
}

impl Stranger {
    /// Talks to whoever answers. Only for what is public, and is checked by other means.
    pub(crate) fn unverified() -> Result<Stranger, Error> {
        let verifier = Arc::new(Anybody);
        let client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        Ok(Stranger { client: Arc::new(quiet(client)), cluster: None })
    }

    /// Talks to agents of the cluster that has these authorities, the first of which names it.
    pub(crate) fn of(authorities: Vec<CertificateDer<'static>>) -> Result<Stranger, Error> {
        let cluster = authorities.first().and_then(|first| authority::cluster_of(first));
        let cluster = cluster.ok_or_else(|| Error::General("it is no authority of pgkeel".to_owned()))?;
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add(authority)?;
        }
        let client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Stranger { client: Arc::new(quiet(client)), cluster: Some(cluster) })
    }
}

/// As for those who are known.
fn quiet(mut client: ClientConfig) -> ClientConfig {
    client.enable_sni = false;
    client.resumption = rustls::client::Resumption::disabled();
    client
}

/// Takes every certificate, if the other side has its key.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
