//! `pgkeel config check` about the proxy's certificates: what it says of files that cannot work on this host.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use pgkeel::cli::config::judge;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};

/// A directory of one test, removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("pgkeel-config-tls-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("a scratch directory");
        Scratch(dir)
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        let file = self.0.join(name);
        fs::write(&file, text).expect("a file");
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("its mode");
    }

    /// Writes a certificate that is good in these years, and its key.
    fn certify(&self, years: (i32, i32)) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec!["db".to_owned()]).expect("a name");
        (params.not_before, params.not_after) = (date_time_ymd(years.0, 1, 1), date_time_ymd(years.1, 1, 1));
        self.write("cert", &params.self_signed(&key).expect("a certificate").pem(), 0o644);
        self.write("key", &key.serialize_pem(), 0o600);
    }

    /// What is said of a proxy in front of pools, with these lines in `[proxy]`, without the name of the directory.
    fn judged(&self, lines: &str) -> (u8, String) {
        let dir = self.0.display();
        let file = self.0.join("pgkeel.toml");
        let text = format!(
            "cluster = \"shop\"\n[proxy]\nlisten = \"0.0.0.0:6432\"\nagents = \"10.0.0.1:7400\"\n\
             pool_mode = \"pooled\"\nauth = \"trust\"\n{}\n[proxy.tls]\ncert = \"{dir}/cert\"\nkey = \"{dir}/key\"\n",
            lines.replace("TMP", &dir.to_string())
        );
        fs::write(&file, text).expect("write the file");
        let verdict = judge(&file);
        (verdict.exit_code, (verdict.out + &verdict.err).replace(&dir.to_string(), "TMP"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn files_that_fit_are_right() {
    let scratch = Scratch::new("right");
    scratch.certify((2020, 2500));
    let (code, said) = scratch.judged("server_tls = \"verify-full\"\nserver_ca = \"TMP/cert\"");
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("its clients may use TLS, its own certificate is TMP/cert\n"), "{said}");
    assert!(
        said.contains("TLS to servers with a certificate that TMP/cert has signed for their host\n"),
        "{said}"
    );
}

#[test]
fn files_that_are_not_there() {
    let scratch = Scratch::new("missing");
    let (code, said) = scratch.judged("server_tls = \"verify-ca\"\nserver_ca = \"TMP/ca\"");
    assert_eq!(code, 1);
    assert_eq!(
        said,
        "TMP/pgkeel.toml: proxy.tls.cert = \"TMP/cert\": cannot be read: No such file or directory (os error 2)\n\
         TMP/pgkeel.toml: proxy.server_ca = \"TMP/ca\": cannot be read: No such file or directory (os error 2)\n"
    );
}

#[test]
fn files_that_are_something_else() {
    let scratch = Scratch::new("other");
    scratch.certify((2020, 2500));
    scratch.write(
        "key",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
        0o600,
    );
    let (_, said) = scratch.judged("");
    assert_eq!(
        said,
        "TMP/pgkeel.toml: proxy.tls.key = \"TMP/key\": holds no private key in PEM form, or one with a passphrase, which \
         nobody could enter here\n"
    );
    scratch.write("cert", "dear all", 0o644);
    let (_, said) = scratch.judged("");
    assert_eq!(
        said,
        "TMP/pgkeel.toml: proxy.tls.cert = \"TMP/cert\": holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)\n"
    );
    scratch.certify((2020, 2500));
    scratch.write("cert", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", 0o644);
    let (code, said) = scratch.judged("");
    assert!(said.starts_with("TMP/pgkeel.toml: proxy.tls.cert = \"TMP/cert\": ") && code == 1, "{said}");
}

#[test]
fn a_key_of_another_certificate() {
    let scratch = Scratch::new("mismatch");
    scratch.certify((2020, 2500));
    scratch.write("key", &KeyPair::generate().expect("a key").serialize_pem(), 0o600);
    let (code, said) = scratch.judged("");
    assert_eq!(
        (code, said.as_str()),
        (
            1,
            "TMP/pgkeel.toml: proxy.tls.key = \"TMP/key\": is not the key of the certificate in \"TMP/cert\"\n"
        )
    );
}

#[test]
fn a_key_that_others_can_read() {
    let scratch = Scratch::new("open");
    scratch.certify((2020, 2500));
    scratch.write("key", &fs::read_to_string(scratch.0.join("key")).expect("the key"), 0o644);
    let (code, said) = scratch.judged("");
    assert_eq!(
        (code, said.as_str()),
        (
            1,
            "TMP/pgkeel.toml: proxy.tls.key = \"TMP/key\": can be read by others (mode 0644): a key must have 0600 or less, or \
             0640 or less when it belongs to root; chmod it\n"
        )
    );
}

#[test]
fn certificates_out_of_their_time() {
    let scratch = Scratch::new("time");
    scratch.certify((2020, 2021));
    let (code, said) = scratch.judged("");
    assert_eq!(
        (code, said.as_str()),
        (
            1,
            "TMP/pgkeel.toml: proxy.tls.cert = \"TMP/cert\": the certificate was good until 2021-01-01T00:00:00Z: who \
             checks it refuses it; replace it, or set this host's clock if that is wrong\n"
        )
    );
    scratch.certify((2400, 2500));
    let (_, said) = scratch.judged("");
    assert_eq!(
        said,
        "TMP/pgkeel.toml: proxy.tls.cert = \"TMP/cert\": the certificate is good from 2400-01-01T00:00:00Z on, which is still \
         to come: is this host's clock right?\n"
    );
}
