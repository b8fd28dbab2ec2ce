//! The cluster's certificate authority: a key that signs for whom a certificate is. Whoever has it can become anybody in the
//! cluster, so it lies only on hosts that may let others in.

use crate::certificate;
use crate::subject::{Role, Subject};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use std::time::{Duration, SystemTime};
use thiserror::Error;
use time::OffsetDateTime;

/// The DNS name in the certificate of every agent, by which rustls checks who answers. An address would tie the certificate to
/// where a host is today; that it is an agent of this cluster is what counts.
pub(crate) const AGENT_DNS: &str = "agent.pgkeel";

/// The name of every authority, before that of its cluster.
const NAME_BEGINS: &str = "pgkeel authority of ";

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long the authority is good: longer than a cluster, as its end would be everybody's.
const AUTHORITY_GOOD: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);
/// Certificates are good from a little before they are made: clocks of hosts differ.
const BEFORE: Duration = DAY;

/// How long a certificate is good if nobody says otherwise.
pub const GOOD_DEFAULT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// What could not be signed.
#[derive(Debug, Error)]
pub enum CannotSign {
    /// The authority's own files do not fit together.
    #[error("the authority cannot be used: {0}")]
    Authority(String),
    /// What was handed in is no request, or is not signed with its own key.
    #[error("this is no request for a certificate: {0}")]
    Request(String),
    /// The library refused.
    #[error("no certificate could be made: {0}")]
    Failed(String),
}

/// Signs. See the module.
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key, both as PEM.
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

impl Authority {
    /// A new one for this cluster: its certificate, and its key.
    ///
    /// # Errors
    /// [`CannotSign::Failed`]
    pub fn found(cluster: &str) -> Result<Pair, CannotSign> {
        let failed = |error: rcgen::Error| CannotSign::Failed(error.to_string());
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("{NAME_BEGINS}{cluster}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        (params.not_before, params.not_after) = good_for(AUTHORITY_GOOD);
        let certificate = params.self_signed(&key).map_err(failed)?;
        Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// From its certificate and its key, both as PEM.
    ///
    /// # Errors
    /// [`CannotSign::Authority`]
    pub fn load(certificate: &str, key: &str) -> Result<Authority, CannotSign> {
        let wrong = |error: rcgen::Error| CannotSign::Authority(error.to_string());
        let key = KeyPair::from_pem(key).map_err(wrong)?;
        let issuer = Issuer::from_ca_cert_pem(certificate, key).map_err(wrong)?;
        Ok(Authority { certificate: certificate.to_owned(), issuer })
    }

    /// The authority's own certificate as PEM.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A new key, and a certificate for it.
    ///
    /// # Errors
    /// [`CannotSign::Failed`]
    pub fn issue(&self, subject: &Subject, good: Duration) -> Result<Pair, CannotSign> {
        let failed = |error: rcgen::Error| CannotSign::Failed(error.to_string());
        let key = KeyPair::generate().map_err(failed)?;
        let params = params(subject, good)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// A certificate for the key of a request (PEM), whose secret half stays where it was made. What the request asks for
    /// beside that does not count: `subject` says for whom it is.
    ///
    /// # Errors
    /// [`CannotSign`]
    pub fn sign(&self, request: &str, subject: &Subject, good: Duration) -> Result<String, CannotSign> {
        let request = CertificateSigningRequestParams::from_pem(request);
        let mut request = request.map_err(|error| CannotSign::Request(error.to_string()))?;
        request.params = params(subject, good)?;
        let signed = request.signed_by(&self.issuer);
        Ok(signed.map_err(|error| CannotSign::Failed(error.to_string()))?.pem())
    }
}

/// A new key (PEM), and a request for a certificate for it (PEM).
///
/// # Errors
/// [`CannotSign::Failed`]
pub fn request() -> Result<(String, String), CannotSign> {
    let failed = |error: rcgen::Error| CannotSign::Failed(error.to_string());
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let request = params.serialize_request(&key).map_err(failed)?;
    Ok((key.serialize_pem(), request.pem().map_err(failed)?))
}

/// The cluster whose authority this certificate is, as [`Authority::found`] has named it.
#[must_use]
pub fn cluster_of(certificate: &[u8]) -> Option<String> {
    certificate::common_name(certificate)?.strip_prefix(NAME_BEGINS).map(str::to_owned)
}

fn params(subject: &Subject, good: Duration) -> Result<CertificateParams, CannotSign> {
    let failed = |error: rcgen::Error| CannotSign::Failed(error.to_string());
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, subject.name.clone());
    params.subject_alt_names.push(SanType::URI(subject.uri().try_into().map_err(failed)?));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    if subject.role == Role::Agent {
        params.subject_alt_names.push(SanType::DnsName(AGENT_DNS.to_owned().try_into().map_err(failed)?));
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    (params.not_before, params.not_after) = good_for(good);
    Ok(params)
}

fn good_for(good: Duration) -> (OffsetDateTime, OffsetDateTime) {
    let now = SystemTime::now();
    ((now - BEFORE).into(), (now + good).into())
}
