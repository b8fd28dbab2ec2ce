//! Where a host, or a person, keeps certificates: one directory, four files.

use crate::authority::{Authority, CannotSign, Pair};
use crate::credentials::Trouble;
use crate::exchange::{self, Belongs, Lock, replace};
use crate::file_changes::Stamp;
use crate::files;
use crate::subject::Subject;
use rustix::fs::{Access, AtFlags, CWD, accessat};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// A key is its owner's alone.
pub(crate) const KEY_MODE: u32 = 0o600;
pub(crate) const CERTIFICATE_MODE: u32 = 0o644;

/// All of them.
pub(crate) const OWN_FILES: [&str; 4] = ["ca.crt", "ca.key", "own.crt", "own.key"];

/// Why a certificate and its key were not put in place.
#[derive(Debug, Error)]
pub enum NotWritten {
    /// The system.
    #[error("the files cannot be written: {0}")]
    Io(#[from] io::Error),
    /// They would not do.
    #[error("the new files are not used: {0}")]
    Unfit(#[from] Trouble),
    /// They are for another holder.
    #[error("the new files are not used: they are for {found}, and not for {expected}")]
    SomebodyElse {
        /// Whom they name.
        found: Subject,
        /// Who has asked for them.
        expected: Subject,
    },
}

/// The directory that the configuration calls `tls.dir`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder(PathBuf);

impl Folder {
    /// In this directory, whether it is there or not.
    #[must_use]
    pub fn at(dir: &Path) -> Folder {
        Folder(dir.to_owned())
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.0
    }

    /// The authorities that are trusted, one or several.
    #[must_use]
    pub fn authorities(&self) -> PathBuf {
        self.0.join("ca.crt")
    }

    /// The authority's key; only where others are let in.
    #[must_use]
    pub fn authority_key(&self) -> PathBuf {
        self.0.join("ca.key")
    }

    /// The holder's own certificate.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.0.join("own.crt")
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> PathBuf {
        self.0.join("own.key")
    }

    /// How the files look now that a running process has read.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        Stamp::of(&[self.authorities(), self.certificate(), self.key()])
    }

    /// Whether this host can sign.
    #[must_use]
    pub fn has_authority_key(&self) -> bool {
        self.authority_key().exists()
    }

    /// The authority, for signing.
    ///
    /// # Errors
    /// When one of its files cannot be read, or they do not fit together.
    pub fn authority(&self) -> Result<Authority, CannotSign> {
        // As secret as any key, and more.
        let secret = files::private_key("ca.key", &self.authority_key());
        secret.map_err(|problem| CannotSign::Authority(problem.to_string()))?;
        let read = |path: PathBuf| {
            let text = fs::read_to_string(&path);
            text.map_err(|error| CannotSign::Authority(format!("{}: {error}", path.display())))
        };
        Authority::load(&read(self.authorities())?, &read(self.authority_key())?)
    }

    /// Writes a new authority; refuses to replace one.
    ///
    /// # Errors
    /// What the system says.
    pub fn write_authority(&self, pair: &Pair) -> io::Result<()> {
        self.make()?;
        let _lock = Lock::of(&self.0)?;
        for path in [self.authorities(), self.authority_key()] {
            if path.exists() {
                let said = format!("{} exists: there is an authority already", path.display());
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, said));
            }
        }
        write(&self.authority_key(), &pair.key, KEY_MODE)?;
        write(&self.authorities(), &pair.certificate, CERTIFICATE_MODE)
    }

    /// Puts a certificate and its key in place of those that are there, once they have been found good: who could not start
    /// with them keeps what it has. Owner, group and mode of the key stay, and the old pair is kept as `own.crt.old` and
    /// `own.key.old`. Two processes at once do it one after the other.
    ///
    /// # Errors
    /// What the system says, or what is wrong with them.
    pub fn write_own(&self, pair: &Pair) -> Result<(), NotWritten> {
        self.make()?;
        exchange::exchange(self, pair, None)
    }

    /// The same for a pair that somebody else has signed: it must be for this holder.
    ///
    /// # Errors
    /// As [`Folder::write_own`], or [`NotWritten::SomebodyElse`].
    pub fn renew_own(&self, pair: &Pair, holder: &Subject) -> Result<(), NotWritten> {
        exchange::exchange(self, pair, Some(holder))
    }

    /// Where the file is kept that this one has replaced.
    #[must_use]
    pub fn old_of(file: &Path) -> PathBuf {
        let mut name = file.file_name().unwrap_or_default().to_owned();
        name.push(".old");
        file.with_file_name(name)
    }

    /// Whether this process could write there.
    ///
    /// # Errors
    /// What the system has against it.
    pub fn check_writable(&self) -> io::Result<()> {
        let access = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
        accessat(CWD, &self.0, access, AtFlags::EACCESS).map_err(|error| {
            let (user, error) = (rustix::process::geteuid().as_raw(), io::Error::from(error));
            let said = format!("{} cannot be written by user number {user} ({error})", self.0.display());
            io::Error::new(error.kind(), said)
        })
    }

    /// Writes the certificates of those that are trusted.
    ///
    /// # Errors
    /// What the system says.
    pub fn write_authorities(&self, certificates: &str) -> io::Result<()> {
        self.make()?;
        let _lock = Lock::of(&self.0)?;
        write(&self.authorities(), certificates, CERTIFICATE_MODE)
    }

    /// Writes the authority's key, for a host that is to sign as well.
    ///
    /// # Errors
    /// What the system says.
    pub fn write_authority_key(&self, key: &str) -> io::Result<()> {
        self.make()?;
        let _lock = Lock::of(&self.0)?;
        write(&self.authority_key(), key, KEY_MODE)
    }

    fn make(&self) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new().recursive(true).mode(0o755).create(&self.0)
    }
}

fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    replace(path, text, Belongs { owner: None, mode })
}
