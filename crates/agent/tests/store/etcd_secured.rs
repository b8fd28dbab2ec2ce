//! A store in an etcd that asks who is there: users with passwords, certificates on both sides.

use super::servers::{Servers, write};
use super::trio::*;
use agent::http::tls::TlsFiles;
use agent::store::{EtcdUser, Limits};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use serde_json::json;
use std::path::Path;

#[test]
fn users_and_passwords() {
    let Some(mut servers) = Servers::start("users", 1) else { return };
    let ask = |path: &str, body: serde_json::Value| servers.ask(path, &body).unwrap();
    for name in ["root", "pgkeel"] {
        ask("/v3/auth/user/add", json!({"name": name, "password": format!("secret of {name}")}));
        ask("/v3/auth/role/add", json!({"name": name}));
        ask("/v3/auth/user/grant", json!({"user": name, "role": name}));
    }
    // "/pgkeel/test/" up to "/pgkeel/test0", as the documentation says it.
    let range =
        json!({"permType": "READWRITE", "key": "L3Bna2VlbC90ZXN0Lw==", "range_end": "L3Bna2VlbC90ZXN0MA=="});
    ask("/v3/auth/role/grant", json!({"name": "pgkeel", "perm": range}));
    ask("/v3/auth/enable", json!({}));
    let password_file = servers.dir.0.join("password");
    write(&password_file, "wrong\n");
    servers.user = Some(EtcdUser { name: "pgkeel".into(), password_file: password_file.clone() });
    let mut trio = Trio::new("users", On::Etcd(servers));
    trio.start("n1");
    let problem = until("it is said", || trio.up[&name("n1")].standing().problem);
    assert!(problem.contains("authentication failed"), "{problem}");
    write(&password_file, "secret of pgkeel\n");
    trio.start_all_but("n1");
    trio.record();
    trio.check();
}

impl Trio {
    fn start_all_but(&mut self, running: &str) {
        for node in ["n1", "n2", "n3"] {
            if node != running {
                self.start(node);
            }
        }
        self.leader();
    }
}

/// Makes an authority and certificates by it, for the server and for the agents.
fn certify(dir: &Path) -> TlsFiles {
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_certificate = authority.self_signed(&authority_key).unwrap();
    write(&dir.join("ca.crt"), &authority_certificate.pem());
    let issuer = Issuer::new(authority, authority_key);
    for (file, names) in [("server", vec!["127.0.0.1".to_owned()]), ("client", vec!["agent".to_owned()])] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names).unwrap();
        // etcd's gateway is a client of its own member, with the server's certificate.
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        write(&dir.join(format!("{file}.crt")), &params.signed_by(&key, &issuer).unwrap().pem());
        write(&dir.join(format!("{file}.key")), &key.serialize_pem());
    }
    TlsFiles { ca: dir.join("ca.crt"), own: Some((dir.join("client.crt"), dir.join("client.key"))) }
}

#[test]
fn certificates_on_both_sides() {
    let dir = Dir::new("certificates");
    std::fs::create_dir_all(&dir.0).unwrap();
    let files = certify(&dir.0);
    let path = |file: &str| dir.0.join(file).display().to_string();
    let arguments = [
        format!("--cert-file={}", path("server.crt")),
        format!("--key-file={}", path("server.key")),
        format!("--trusted-ca-file={}", path("ca.crt")),
        "--client-cert-auth".to_owned(),
    ];
    let started = Servers::start_with("tls", 1, "https", &arguments, Some(files.clone()));
    let Some(mut servers) = started else { return };
    let mut trio = {
        // Without a certificate of its own, nobody is let in.
        servers.tls = Some(TlsFiles { own: None, ..files.clone() });
        let trio = Trio::new("tls", On::Etcd(servers));
        let stranger = Node::start(&trio.options("n1"), Limits::default());
        stranger.form_in_background();
        let problem = until("it is said", || stranger.standing().problem);
        assert!(problem.contains("etcd"), "{problem}");
        eprintln!("{problem}");
        stranger.crash();
        trio
    };
    trio.servers().tls = Some(files);
    trio.start_all();
    trio.record();
    trio.check();
}
