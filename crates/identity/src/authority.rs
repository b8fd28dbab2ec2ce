//! The cluster's certificate authority: a key that signs for whom a certificate is. Whoever has it can become anybody in the
//! cluster, so it lies only on hosts that may let others in.

use crate::certificate;
use crate::subject::{Role, Subject};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CustomExtension, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::time::{Duration, UNIX_EPOCH};
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
/// An authority is good from a little before it is made: clocks of hosts differ.
const BEFORE: Duration = DAY;

/// How long a certificate is good if nobody says otherwise.
pub const GOOD_DEFAULT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// What could not be signed.
#[derive(Debug, Error)]
pub enum CannotSign {
    /// The authority's own files do not fit together.
    #[error("the authority cannot be used: {0}")]
    Authority(String),
    /// By this host's clock, nothing that it signs would be good.
    #[error("nothing is signed before the authority was made or after its end: is this host's clock right?")]
    Clock,
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
    /// The first and the last moment at which its own certificate is good.
    good: (Duration, Duration),
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
        let now = certificate::now();
        (params.not_before, params.not_after) =
            (moment(now.saturating_sub(BEFORE)), moment(now + AUTHORITY_GOOD));
        let certificate = params.self_signed(&key).map_err(failed)?;
        Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// From its key and the certificates of authorities, all as PEM: of several, which are trusted while one is exchanged for
    /// another, it is the one that the key is for.
    ///
    /// # Errors
    /// [`CannotSign::Authority`]
    pub fn load(certificates: &str, key: &str) -> Result<Authority, CannotSign> {
        let wrong = |error: rcgen::Error| CannotSign::Authority(error.to_string());
        let key = KeyPair::from_pem(key).map_err(wrong)?;
        let public = key.subject_public_key_info();
        let (text, der) = each(certificates)
            .find(|(_, der)| certificate::public_key(der).is_some_and(|its| its == public))
            .ok_or_else(|| {
                CannotSign::Authority(
                    "ca.key is not the key of a certificate in ca.crt: they are of two authorities"
                        .to_owned(),
                )
            })?;
        let no_time = || CannotSign::Authority("its certificate does not say when it is good".to_owned());
        let good = certificate::span(&der).ok_or_else(no_time)?;
        let issuer = Issuer::from_ca_cert_pem(text, key).map_err(wrong)?;
        Ok(Authority { certificate: format!("{text}\n"), issuer, good })
    }

    /// Whether this certificate is the authority's own, or another one for the same key.
    #[must_use]
    pub fn is(&self, der: &[u8]) -> bool {
        certificate::public_key(der).is_some_and(|key| key == self.issuer.key().subject_public_key_info())
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
        self.issue_at(subject, good, certificate::now())
    }

    /// The same when the clock says `now`, as time since 1970.
    ///
    /// # Errors
    /// As [`Authority::issue`].
    pub fn issue_at(&self, subject: &Subject, good: Duration, now: Duration) -> Result<Pair, CannotSign> {
        let failed = |error: rcgen::Error| CannotSign::Failed(error.to_string());
        let key = KeyPair::generate().map_err(failed)?;
        let params = self.params(subject, good, now)?;
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
        request.params = self.params(subject, good, certificate::now())?;
        let signed = request.signed_by(&self.issuer);
        Ok(signed.map_err(|error| CannotSign::Failed(error.to_string()))?.pem())
    }

    /// It is good from the authority's own first moment on, and not from now: a clock that runs ahead here, if only for a moment,
    /// would else make a certificate that nobody accepts. When it was made stands in [`certificate::made_at`].
    fn params(
        &self,
        subject: &Subject,
        good: Duration,
        now: Duration,
    ) -> Result<CertificateParams, CannotSign> {
        let failed = |error: rcgen::Error| CannotSign::Failed(error.to_string());
        if now < self.good.0 || now > self.good.1 {
            return Err(CannotSign::Clock);
        }
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
        let (number, content) = certificate::made_at(now).ok_or(CannotSign::Clock)?;
        params.custom_extensions.push(CustomExtension::from_oid_content(&number, content));
        (params.not_before, params.not_after) = (moment(self.good.0), moment(now + good));
        Ok(params)
    }
}

/// The certificates of a text (PEM), each with its own part of it. What is none is passed over.
fn each(text: &str) -> impl Iterator<Item = (&str, CertificateDer<'static>)> {
    const END: &str = "-----END CERTIFICATE-----";
    text.split_inclusive(END).filter_map(|part| {
        let part = &part[part.find("-----BEGIN CERTIFICATE-----")?..];
        Some((part, CertificateDer::from_pem_slice(part.as_bytes()).ok()?))
    })
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

/// As the library wants it.
fn moment(since_1970: Duration) -> OffsetDateTime {
    (UNIX_EPOCH + since_1970).into()
}
