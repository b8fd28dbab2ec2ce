//! What is to be known of a certificate beyond what rustls asks: until when it is good, for how long it was made, its key and its
//! common name.

use crate::subject::Subject;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_cert::Certificate;
use x509_cert::der::asn1::{GeneralizedTime, ObjectIdentifier};
use x509_cert::der::oid::AssociatedOid;
use x509_cert::der::{Decode, Encode, Tag, Tagged};
use x509_cert::ext::pkix::PrivateKeyUsagePeriod;
use x509_cert::time::Time;

/// `id-at-commonName` (X.520).
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// When a certificate is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Validity {
    /// Now.
    Now,
    /// From this time on, as text.
    NotYet(String),
    /// Until this time, as text.
    Expired(String),
}

/// The first and the last moment at which a certificate is good, as time since 1970. `None` if it cannot be read.
#[must_use]
pub fn span(der: &[u8]) -> Option<(Duration, Duration)> {
    let valid = Certificate::from_der(der).ok()?.tbs_certificate.validity;
    Some((valid.not_before.to_unix_duration(), valid.not_after.to_unix_duration()))
}

/// For how long a certificate was made: from the moment that [`made_at`] says, or else from the first at which it is good. `None` if it
/// cannot be read.
#[must_use]
pub fn lifetime(der: &[u8]) -> Option<Duration> {
    let whole = Certificate::from_der(der).ok()?.tbs_certificate;
    let (first, last) =
        (whole.validity.not_before.to_unix_duration(), whole.validity.not_after.to_unix_duration());
    let made = whole.get::<PrivateKeyUsagePeriod>().ok().flatten();
    let made = made.and_then(|(_, period)| period.not_before).map(|time| time.to_unix_duration());
    Some(last.saturating_sub(made.unwrap_or(first).max(first)))
}

/// The extension by which a certificate says when it was made (RFC 3280, chapter 4.2.1.4): its number and its content. The moment from
/// which it is good tells nothing of that, see `authority`. Programs that do not know it pass over it.
pub(crate) fn made_at(now: Duration) -> Option<(Vec<u64>, Vec<u8>)> {
    let not_before = Some(GeneralizedTime::from_unix_duration(now).ok()?);
    let content = PrivateKeyUsagePeriod { not_before, not_after: None }.to_der().ok()?;
    Some((PrivateKeyUsagePeriod::OID.arcs().map(u64::from).collect(), content))
}

/// Its public key with the algorithm, as DER.
pub(crate) fn public_key(der: &[u8]) -> Option<Vec<u8>> {
    Certificate::from_der(der).ok()?.tbs_certificate.subject_public_key_info.to_der().ok()
}

/// Whether a certificate is good at a moment, told as the time since 1970. `None` if it cannot be read.
#[must_use]
pub fn validity(der: &[u8], now: Duration) -> Option<Validity> {
    let valid = Certificate::from_der(der).ok()?.tbs_certificate.validity;
    let text = |time: &Time| time.to_date_time().to_string();
    Some(if now < valid.not_before.to_unix_duration() {
        Validity::NotYet(text(&valid.not_before))
    } else if now > valid.not_after.to_unix_duration() {
        Validity::Expired(text(&valid.not_after))
    } else {
        Validity::Now
    })
}

/// The only common name of its subject. A name with a zero byte in it is none: somebody else could be meant by its beginning.
#[must_use]
pub fn common_name(der: &[u8]) -> Option<String> {
    let subject = Certificate::from_der(der).ok()?.tbs_certificate.subject;
    let mut names = subject.0.iter().flat_map(|part| part.0.iter()).filter(|part| part.oid == COMMON_NAME);
    let (name, None) = (names.next()?, names.next()) else { return None };
    let text = match name.value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String => str::from_utf8(name.value.value()).ok()?,
        _ => return None,
    };
    (!text.contains('\0')).then(|| text.to_owned())
}

/// Whom the first certificate of a text (PEM) names; says nothing of who has signed it.
#[must_use]
pub fn subject_of_text(text: &str) -> Option<Subject> {
    let der = CertificateDer::from_pem_slice(text.as_bytes()).ok()?;
    Subject::of_certificate(&der)
}

/// The host's clock, as time since 1970.
#[must_use]
pub fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    #[test]
    fn a_certificate_is_good_in_its_time_only() {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(vec!["n1".to_owned()]).unwrap();
        (parameters.not_before, parameters.not_after) =
            (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        let der = parameters.self_signed(&key).unwrap().der().to_vec();
        let at = |days: u64| validity(&der, Duration::from_secs(days * 86_400)).unwrap();
        assert_eq!(at(18_261), Validity::NotYet("2020-01-01T00:00:00Z".to_owned()));
        assert_eq!(at(18_300), Validity::Now);
        assert_eq!(at(20_000), Validity::Expired("2021-01-01T00:00:00Z".to_owned()));
    }

    #[test]
    fn what_is_no_certificate_is_not_read_and_does_not_panic() {
        let key = KeyPair::generate().unwrap();
        let der = CertificateParams::default().self_signed(&key).unwrap().der().to_vec();
        for cut in 0..der.len() {
            assert_eq!(span(&der[..cut]), None);
            let mut broken = der.clone();
            broken[cut] ^= 0xff;
            let _ = (span(&broken), common_name(&broken), crate::Subject::of_certificate(&broken));
        }
    }
}
