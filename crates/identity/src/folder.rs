//! Where a host, or a person, keeps certificates: one directory, four files.

use crate::authority::{Authority, CannotSign, Pair};
use crate::credentials::{Loaded, Trouble};
use crate::file_changes::Stamp;
use crate::files;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// A key is its owner's alone.
const KEY_MODE: u32 = 0o600;
const CERTIFICATE_MODE: u32 = 0o644;

/// Why a certificate and its key were not put in place.
#[derive(Debug, Error)]
pub enum NotWritten {
    /// The system.
    #[error("the files cannot be written: {0}")]
    Io(#[from] io::Error),
    /// They would not do.
    #[error("the new files are not used: {0}")]
    Unfit(#[from] Trouble),
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
        secret.map_err(|problem| CannotSign::Authority(problem.trouble.to_string()))?;
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
        for path in [self.authorities(), self.authority_key()] {
            if path.exists() {
                let said = format!("{} exists: there is an authority already", path.display());
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, said));
            }
        }
        replace(&self.authority_key(), &pair.key, KEY_MODE)?;
        replace(&self.authorities(), &pair.certificate, CERTIFICATE_MODE)
    }

    /// Puts a certificate and its key in place of those that are there, once they have been found good: who could not start
    /// with them keeps what it has.
    ///
    /// # Errors
    /// What the system says, or what is wrong with them.
    pub fn write_own(&self, pair: &Pair) -> Result<(), NotWritten> {
        self.make()?;
        let next = self.next();
        next.make()?;
        replace(&next.authorities(), &fs::read_to_string(self.authorities())?, CERTIFICATE_MODE)?;
        replace(&next.key(), &pair.key, KEY_MODE)?;
        replace(&next.certificate(), &pair.certificate, CERTIFICATE_MODE)?;
        Loaded::read(&next)?;
        // Between the two they do not fit. Who reads them then reads them again (`file_changes`), and who finds the key
        // exchanged and the certificate not, after a crash, does the rest (`finish_exchange`).
        fs::rename(next.key(), self.key())?;
        match fs::rename(next.certificate(), self.certificate()) {
            // Somebody who read them just now was faster.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            renamed => renamed?,
        }
        sync(&self.0)?;
        Ok(fs::remove_dir_all(next.dir())?)
    }

    fn next(&self) -> Folder {
        Folder(self.0.join("next"))
    }

    /// See [`Folder::write_own`]. What cannot be done is found wrong by who reads.
    pub(crate) fn finish_exchange(&self) {
        let next = self.next();
        if next.certificate().exists() && !next.key().exists() {
            let _ = fs::rename(next.certificate(), self.certificate());
        }
    }

    /// Writes the certificates of those that are trusted.
    ///
    /// # Errors
    /// What the system says.
    pub fn write_authorities(&self, certificates: &str) -> io::Result<()> {
        self.make()?;
        replace(&self.authorities(), certificates, CERTIFICATE_MODE)
    }

    /// Writes the authority's key, for a host that is to sign as well.
    ///
    /// # Errors
    /// What the system says.
    pub fn write_authority_key(&self, key: &str) -> io::Result<()> {
        self.make()?;
        replace(&self.authority_key(), key, KEY_MODE)
    }

    fn make(&self) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new().recursive(true).mode(0o755).create(&self.0)
    }
}

fn sync(dir: &Path) -> io::Result<()> {
    fs::File::open(dir)?.sync_all()
}

/// Whole or not at all, and on disk when it returns.
fn replace(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = (|| {
        // One that was left would keep its mode; that of a key holds from the first byte on.
        let _ = fs::remove_file(&temporary);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        path.parent().map_or(Ok(()), sync)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(named)
}
