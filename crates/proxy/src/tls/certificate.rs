//! What a login is bound to by a certificate.

use aws_lc_rs::digest::{self, Algorithm, SHA224, SHA256, SHA384, SHA512};
use x509_cert::Certificate;
use x509_cert::der::asn1::ContextSpecific;
use x509_cert::der::{Decode, SliceReader, TagNumber};
use x509_cert::spki::AlgorithmIdentifierOwned;

/// The hash of a server's certificate to which a login can be bound (`tls-server-end-point`, RFC 5929, chapter 4.1). `None`
/// if none is defined: the signature uses no single hash, as Ed25519, or one that is not known here.
#[must_use]
pub fn end_point(der: &[u8]) -> Option<Vec<u8>> {
    let certificate = Certificate::from_der(der).ok()?;
    let hash = hash_of_signature(&certificate.signature_algorithm)?;
    Some(digest::digest(hash, der).as_ref().to_vec())
}

/// The hash that a signature uses, except that MD5 and SHA-1 give SHA-256.
fn hash_of_signature(algorithm: &AlgorithmIdentifierOwned) -> Option<&'static Algorithm> {
    match algorithm.oid.to_string().as_str() {
        // With RSA and MD5, SHA-1, SHA-256; with ECDSA and SHA-1, SHA-256; with DSA and SHA-1, SHA-256.
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.1"
        | "1.2.840.10045.4.3.2"
        | "1.2.840.10040.4.3"
        | "2.16.840.1.101.3.4.3.2" => Some(&SHA256),
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => Some(&SHA384),
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => Some(&SHA512),
        "1.2.840.113549.1.1.14" | "1.2.840.10045.4.3.1" => Some(&SHA224),
        // RSASSA-PSS says in its parameters which.
        "1.2.840.113549.1.1.10" => hash_of_pss(algorithm),
        _ => None,
    }
}

fn hash_of_pss(algorithm: &AlgorithmIdentifierOwned) -> Option<&'static Algorithm> {
    let parameters = algorithm.parameters.as_ref()?.value();
    let mut reader = SliceReader::new(parameters).ok()?;
    let hash = ContextSpecific::<AlgorithmIdentifierOwned>::decode_explicit(&mut reader, TagNumber::N0);
    match hash.ok()? {
        // SHA-1 is what it uses when nothing is said.
        None => Some(&SHA256),
        Some(hash) => match hash.value.oid.to_string().as_str() {
            "1.3.14.3.2.26" | "2.16.840.1.101.3.4.2.1" => Some(&SHA256),
            "2.16.840.1.101.3.4.2.2" => Some(&SHA384),
            "2.16.840.1.101.3.4.2.3" => Some(&SHA512),
            "2.16.840.1.101.3.4.2.4" => Some(&SHA224),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{
        CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
        SignatureAlgorithm,
    };

    fn signed_with(algorithm: &'static SignatureAlgorithm) -> Vec<u8> {
        let key = KeyPair::generate_for(algorithm).unwrap();
        CertificateParams::new(vec!["n1".to_owned()]).unwrap().self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn a_login_is_bound_by_the_hash_of_the_signature() {
        for (algorithm, hash) in [(&PKCS_ECDSA_P256_SHA256, &SHA256), (&PKCS_ECDSA_P384_SHA384, &SHA384)] {
            let der = signed_with(algorithm);
            assert_eq!(end_point(&der).unwrap(), digest::digest(hash, &der).as_ref());
        }
        assert_eq!(end_point(&signed_with(&PKCS_ED25519)), None, "it has no hash of its own");
    }

    #[test]
    fn weak_hashes_are_replaced_and_pss_names_its_own() {
        let of = |oid: &str, parameters: &[u8]| {
            let oid = x509_cert::der::asn1::ObjectIdentifier::new(oid).unwrap();
            let parameters =
                (!parameters.is_empty()).then(|| x509_cert::der::Any::from_der(parameters).unwrap());
            hash_of_signature(&AlgorithmIdentifierOwned { oid, parameters })
        };
        for weak in ["1.2.840.113549.1.1.4", "1.2.840.113549.1.1.5", "1.2.840.10045.4.1"] {
            assert_eq!(of(weak, b""), Some(&SHA256));
        }
        assert_eq!(of("1.2.840.113549.1.1.13", b"\x05\0"), Some(&SHA512));
        let pss = "1.2.840.113549.1.1.10";
        assert_eq!(of(pss, b"\x30\0"), Some(&SHA256), "SHA-1, which is replaced");
        let sha384 = b"\x30\x0f\xa0\x0d\x30\x0b\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x02";
        assert_eq!(of(pss, sha384), Some(&SHA384));
        assert_eq!(of(pss, b""), None);
        assert_eq!(of("1.2.3.4", b""), None);
    }

    #[test]
    fn what_is_no_certificate_is_not_read_and_does_not_panic() {
        let der = signed_with(&PKCS_ECDSA_P256_SHA256);
        for cut in 0..der.len() {
            assert_eq!(end_point(&der[..cut]), None);
            let mut broken = der.clone();
            broken[cut] ^= 0xff;
            let _ = end_point(&broken);
        }
    }
}
