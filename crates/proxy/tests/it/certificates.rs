//! Authorities and certificates made for one test, in a directory that goes with it.

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// Signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate.
    pub pem: String,
}

/// A certificate and its key, both PEM.
pub struct Signed {
    pub cert: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Each has its own name: two of one name would be taken for one that has changed its key.
        params.distinguished_name = named(&format!("authority {}", NEXT.fetch_add(1, Ordering::Relaxed)));
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// Signs a certificate for these names.
    pub fn sign(&self, names: &[&str]) -> Signed {
        self.sign_for("somebody", names)
    }

    /// Signs a certificate of this common name.
    pub fn sign_for(&self, common_name: &str, names: &[&str]) -> Signed {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = named(common_name);
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap().pem();
        Signed { cert, key: key.serialize_pem() }
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut all = DistinguishedName::new();
    all.push(DnType::CommonName, name);
    all
}

/// A directory of one test, removed at its end.
pub struct Files {
    dir: PathBuf,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Files {
    pub fn new() -> Files {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("pgkeel-tls-{}-{number}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        Files { dir }
    }

    /// Where they are.
    pub fn path(&self) -> &std::path::Path {
        &self.dir
    }

    /// Writes a file that only its owner can read, in the place of an older one.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let (file, new) = (self.dir.join(name), self.dir.join("new"));
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(&new, &file).unwrap();
        file
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}
