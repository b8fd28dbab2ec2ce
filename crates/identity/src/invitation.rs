//! What a person carries to a host that is to join: which invitation, its secret, and by what the authority of the cluster is
//! known, in one word: `pgkeel1-1f2e3d4c-<32 digits>-<64 digits>`. Whoever has it may join once, so it is not logged.

use crate::authority::CannotSign;
use crate::files::Problem;
use crate::folder::Folder;
use aws_lc_rs::{digest, rand};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::fmt::{self, Write as _};
use std::str::FromStr;
use thiserror::Error;

/// Says what the word is, and in which form.
const BEGINS: &str = "pgkeel1";
const ID_DIGITS: usize = 8;
const SECRET_DIGITS: usize = 32;
/// Of a SHA-256.
const FINGERPRINT_DIGITS: usize = 64;

/// An invitation as it is carried. See the module.
#[derive(Clone, PartialEq, Eq)]
pub struct Invitation {
    /// Its identity; no secret.
    pub id: String,
    /// What nobody else knows.
    pub secret: String,
    /// The fingerprint of the cluster's authority, see [`fingerprint`].
    pub authority: String,
}

/// A text that is no invitation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NoInvitation {
    /// It is something else.
    #[error(
        "this is no invitation: one begins with {BEGINS}-; ask for one with `pgkeel invite` in the cluster"
    )]
    SomethingElse,
    /// It was made by a program that is newer than this one.
    #[error(
        "this invitation is of a form that this version does not know; use the version that the cluster runs"
    )]
    OtherForm,
    /// A part is missing or has another length.
    #[error("the invitation is not whole: copy all of it, in one piece, as `pgkeel invite` has printed it")]
    Cut,
    /// A part is no hexadecimal number.
    #[error(
        "the invitation has characters that none can have; copy it once more, as `pgkeel invite` has printed it"
    )]
    Garbled,
}

impl Invitation {
    /// A new one, into a cluster whose authority has this fingerprint.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn make(authority: &str) -> Result<Invitation, CannotSign> {
        Ok(Invitation {
            id: random(ID_DIGITS)?,
            secret: random(SECRET_DIGITS)?,
            authority: authority.to_owned(),
        })
    }

    /// What the cluster remembers instead of the secret.
    #[must_use]
    pub fn hash(&self) -> String {
        sha256(self.secret.as_bytes())
    }

    /// The whole word, for the one who is invited and nobody else.
    #[must_use]
    pub fn word(&self) -> String {
        format!("{BEGINS}-{}-{}-{}", self.id, self.secret, self.authority)
    }
}

/// Without the secret: this may come into a log.
impl fmt::Debug for Invitation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Invitation({})", self.id)
    }
}

impl FromStr for Invitation {
    type Err = NoInvitation;

    fn from_str(text: &str) -> Result<Invitation, NoInvitation> {
        let mut parts = text.trim().split('-');
        match parts.next() {
            Some(BEGINS) => {}
            Some(other) if is_other_form(other) => return Err(NoInvitation::OtherForm),
            _ => return Err(NoInvitation::SomethingElse),
        }
        let mut part = |digits: usize| {
            let part = parts.next().ok_or(NoInvitation::Cut)?;
            if !part.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(NoInvitation::Garbled);
            }
            if part.len() == digits { Ok(part.to_ascii_lowercase()) } else { Err(NoInvitation::Cut) }
        };
        let (id, secret) = (part(ID_DIGITS)?, part(SECRET_DIGITS)?);
        let authority = part(FINGERPRINT_DIGITS)?;
        if parts.next().is_some() {
            return Err(NoInvitation::Garbled);
        }
        Ok(Invitation { id, secret, authority })
    }
}

fn is_other_form(word: &str) -> bool {
    let digits = word.strip_prefix("pgkeel").unwrap_or_default();
    !digits.is_empty() && digits.len() < 5 && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// The SHA-256 of a certificate (DER), in hexadecimal.
#[must_use]
pub fn fingerprint(certificate: &[u8]) -> String {
    sha256(certificate)
}

/// The fingerprint of the authority that signs for the holder of this folder: the first in its file, as for signing.
///
/// # Errors
/// When the file cannot be read, or holds none.
pub fn fingerprint_of(folder: &Folder) -> Result<String, Problem> {
    let all = crate::files::certificates("tls.dir", &folder.authorities())?;
    // There is at least one.
    Ok(all.first().map(|der| fingerprint(der)).unwrap_or_default())
}

/// The authority with this fingerprint among those of a text (PEM) that comes from outside.
#[must_use]
pub fn authority_in(text: &str, wanted: &str) -> Option<CertificateDer<'static>> {
    let mut all = CertificateDer::pem_slice_iter(text.as_bytes()).filter_map(Result::ok);
    all.find(|der| fingerprint(der) == wanted)
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

pub(crate) fn random(digits: usize) -> Result<String, CannotSign> {
    let mut bytes = vec![0; digits / 2];
    let filled = rand::fill(&mut bytes);
    filled.map_err(|_| CannotSign::Failed("the system gives no random numbers".to_owned()))?;
    Ok(hex(&bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Authority;

    fn invitation() -> Invitation {
        Invitation::make(&fingerprint(b"an authority")).unwrap()
    }

    #[test]
    fn what_is_printed_is_read() {
        let one = invitation();
        assert_eq!(one.word().parse::<Invitation>().unwrap(), one);
        assert_eq!(format!(" {} \n", one.word()).parse::<Invitation>().unwrap(), one);
        assert_eq!(one.word().replace(&one.secret, &one.secret.to_uppercase()).parse(), Ok(one.clone()));
        assert_eq!((one.id.len(), one.secret.len(), one.hash().len()), (8, 32, 64));
        assert_ne!(one.secret, invitation().secret);
        assert!(!format!("{one:?}").contains(&one.secret));
    }

    #[test]
    fn a_hash_is_the_usual_one() {
        assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn anything_else_is_refused_and_nothing_panics() {
        let word = invitation().word();
        let read = |text: &str| text.parse::<Invitation>();
        for text in ["", "-", "pgkeel", "pgkeel1x-", "pgkeelé", "hello", "pgkeel-1-2-3", "--------"] {
            assert_eq!(read(text), Err(NoInvitation::SomethingElse), "{text:?}");
        }
        assert_eq!(read(&word.replacen("pgkeel1", "pgkeel2", 1)), Err(NoInvitation::OtherForm));
        assert_eq!(read(&format!("{word}-00")), Err(NoInvitation::Garbled));
        assert_eq!(read(&word.replacen('-', "", 3)), Err(NoInvitation::SomethingElse));
        for cut in 8..word.len() {
            assert_eq!(read(&word[..cut]), Err(NoInvitation::Cut), "{cut}");
        }
        for at in 8..word.len() {
            for other in ["é", "g", " ", "\0", "\n", "-", ""] {
                let text = format!("{}{other}{}", &word[..at], &word[at + 1..]);
                assert!(text == word || read(&text).is_err(), "{text:?}");
            }
        }
        assert!(read(&"pgkeel1-".repeat(100_000)).is_err());
    }

    #[test]
    fn the_authority_is_found_among_others_and_rubbish() {
        let pair = |name| Authority::found(name).unwrap().certificate;
        let (one, other) = (pair("shop"), pair("shop"));
        let der = CertificateDer::from_pem_slice(one.as_bytes()).unwrap();
        let wanted = fingerprint(&der);
        assert_eq!(authority_in(&format!("{other}{one}"), &wanted), Some(der));
        assert_eq!(authority_in(&other, &wanted), None);
        assert_eq!(authority_in("-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----", &wanted), None);
    }
}
