//! Reads certificates and keys (PEM), and says what is wrong with them.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::provider;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;

/// Longer files are refused unread.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What is wrong with a file that the configuration names.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{key} = {path:?}: {trouble}")]
pub struct Problem {
    /// The key of the configuration.
    pub key: &'static str,
    /// The file.
    pub path: PathBuf,
    /// What is wrong, and what would be right.
    pub trouble: Trouble,
}

/// See [`Problem`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Trouble {
    /// The system does not give it.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// It is longer than any such file.
    #[error("is longer than 1 MiB; is it a certificate?")]
    Long,
    /// There is nothing of the kind that was looked for.
    #[error("holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)")]
    NoCertificate,
    /// As above.
    #[error("holds no private key in PEM form, or one with a passphrase, which nobody could enter here")]
    NoKey,
    /// What is there cannot be used.
    #[error("cannot be used: {0}")]
    Unusable(String),
    /// Others could read the secret, or its group write it.
    #[error(
        "can be read by others (mode {0:04o}): a key must have 0600 or less, or 0640 or less when it belongs to \
         root; chmod it"
    )]
    OpenToOthers(u32),
    /// Somebody else has it in his hands: he can read it, whatever its mode is.
    #[error(
        "belongs to user number {owner}; a key must belong to root, or to the user that runs pgkeel (number {own}); chown it"
    )]
    Foreign {
        /// Of the file.
        owner: u32,
        /// Of the process.
        own: u32,
    },
    /// Key and certificate are not a pair.
    #[error("is not the key of the certificate in {0:?}")]
    OtherKey(PathBuf),
    /// Its time is over, by this host's clock.
    #[error(
        "the certificate was good until {0}: who checks it refuses it; replace it, or set this host's clock if that is wrong"
    )]
    Expired(String),
    /// Its time has not come, by this host's clock.
    #[error("the certificate is good from {0} on, which is still to come: is this host's clock right?")]
    NotYet(String),
}

impl Problem {
    /// Of the file that this key of the configuration names.
    #[must_use]
    pub fn new(key: &'static str, path: &Path, trouble: Trouble) -> Problem {
        Problem { key, path: path.to_owned(), trouble }
    }
}

/// The certificates of a file, in their order; at least one.
///
/// # Errors
/// [`Problem`]
pub fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let wrong = |trouble| Problem::new(key, path, trouble);
    let bytes = read(path, |_| Ok(())).map_err(wrong)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|error| wrong(Trouble::Unusable(error.to_string())))?;
    if found.is_empty() { Err(wrong(Trouble::NoCertificate)) } else { Ok(found) }
}

/// The certificates of a file as those that are trusted.
///
/// # Errors
/// [`Problem`]
pub fn authorities(key: &'static str, path: &Path) -> Result<RootCertStore, Problem> {
    let found = certificates(key, path)?;
    trusted(key, path, &found)
}

/// These, which were read from `path`.
pub(crate) fn trusted(
    key: &'static str,
    path: &Path,
    found: &[CertificateDer<'static>],
) -> Result<RootCertStore, Problem> {
    let mut store = RootCertStore::empty();
    for certificate in found {
        let added = store.add(certificate.clone());
        added.map_err(|error| Problem::new(key, path, Trouble::Unusable(error.to_string())))?;
    }
    Ok(store)
}

/// The first private key of a file, which nobody else must be able to read.
///
/// # Errors
/// [`Problem`]
pub fn private_key(key: &'static str, path: &Path) -> Result<PrivateKeyDer<'static>, Problem> {
    let wrong = |trouble| Problem::new(key, path, trouble);
    let bytes = read(path, check_file).map_err(wrong)?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| wrong(Trouble::NoKey))
}

/// A file that holds a secret of another kind, which nobody else must be able to read.
///
/// # Errors
/// [`Trouble`]
pub fn open_secret(path: &Path) -> Result<File, Trouble> {
    let file = File::open(path).map_err(|error| Trouble::Unreadable(error.to_string()))?;
    check_file(&file)?;
    Ok(file)
}

fn check_file(file: &File) -> Result<(), Trouble> {
    let facts = file.metadata().map_err(|error| Trouble::Unreadable(error.to_string()))?;
    let own = rustix::process::geteuid().as_raw();
    check_secrecy(facts.uid(), facts.mode() & 0o7777, own)
}

/// Whether it is the key of the first of these certificates.
#[must_use]
pub fn fits(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> bool {
    let key = provider().key_provider.load_private_key(key);
    key.is_ok_and(|key| rustls::sign::CertifiedKey::new(chain, key).keys_match().is_ok())
}

/// As PostgreSQL (src/backend/libpq/be-secure-common.c, `check_ssl_key_file_permissions`), but that a proxy may run as root.
pub(crate) fn check_secrecy(owner: u32, mode: u32, own: u32) -> Result<(), Trouble> {
    match owner {
        0 if mode & 0o037 == 0 => Ok(()),
        owner if owner == own && mode & 0o077 == 0 => Ok(()),
        owner if owner == own || owner == 0 => Err(Trouble::OpenToOthers(mode)),
        owner => Err(Trouble::Foreign { owner, own }),
    }
}

fn read(path: &Path, check: impl FnOnce(&File) -> Result<(), Trouble>) -> Result<Vec<u8>, Trouble> {
    let unreadable = |error: std::io::Error| Trouble::Unreadable(error.to_string());
    let file = File::open(path).map_err(unreadable)?;
    check(&file)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX { Err(Trouble::Long) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_its_owner_s_alone() {
        for (owner, mode, own) in [(7, 0o600, 7), (7, 0o400, 7), (0, 0o640, 7), (0, 0o600, 0), (0, 0o640, 0)]
        {
            assert_eq!(check_secrecy(owner, mode, own), Ok(()), "{owner} {mode:o} {own}");
        }
        for (owner, mode, own) in [(7, 0o640, 7), (7, 0o644, 7), (0, 0o644, 7), (0, 0o660, 0), (7, 0o604, 7)]
        {
            assert_eq!(check_secrecy(owner, mode, own), Err(Trouble::OpenToOthers(mode)));
        }
        assert_eq!(check_secrecy(8, 0o600, 7), Err(Trouble::Foreign { owner: 8, own: 7 }));
        assert_eq!(check_secrecy(8, 0o600, 0), Err(Trouble::Foreign { owner: 8, own: 0 }));
    }
}
