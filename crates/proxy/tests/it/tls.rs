//! TLS towards clients, asked for by psql and by hand.

use crate::certificates::{Authority, Files, Signed};
use crate::pooled::pooled;
use crate::postgres::{Postgres, psql};
use crate::raw_client::{RawClient, startup_packet};
use crate::raw_tls::{ask, begin, connect};
use crate::setup::{Proxy, settings, view};
use pgwire::startup::{ALPN_PROTOCOL, encode_ssl_request};
use proxy::{ClientAuth, ClientTls, ClientTlsMode, Settings};
use std::io::{Read, Write};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::task::block_in_place;

/// TLS with a certificate of this authority for `localhost`.
pub fn tls(mode: ClientTlsMode, files: &Files, authority: &Authority) -> ClientTls {
    let Signed { cert, key } = authority.sign(&["localhost"]);
    let ca = (mode == ClientTlsMode::Verify).then(|| files.write("ca.crt", &authority.pem));
    ClientTls { mode, cert: files.write("proxy.crt", &cert), key: files.write("proxy.key", &key), ca }
}

/// How psql reaches a proxy by the name of its certificate.
pub fn target(proxy: &Proxy, rest: &str) -> String {
    let port = proxy.address.port();
    format!("host=localhost hostaddr=127.0.0.1 port={port} user=postgres dbname=postgres {rest}")
}

/// What psql tells that must succeed.
pub fn run(conninfo: &str, sql: &str) -> String {
    let (succeeds, text) = block_in_place(|| psql(conninfo, sql));
    assert!(succeeds, "{conninfo}: {text}");
    text
}

/// What psql tells that must fail.
pub fn fail(conninfo: &str, sql: &str) -> String {
    let (succeeds, text) = block_in_place(|| psql(conninfo, sql));
    assert!(!succeeds, "{conninfo}: {text}");
    text
}

/// More than a megabyte, as result and by COPY, both ways.
pub const MUCH: &str = "
    create temp table much (a int, b text);
    insert into much select n, repeat(md5(n::text), 10) from generate_series(1, 5000) n;
    \\copy much to '/dev/null'
    \\copy much to program 'cat > /dev/null'
    \\copy much from program 'seq 1 200000 | sed \"s/$/\\tfoobarfoobarfoobar/\"'
    select count(*), sum(a), sum(length(b)) from much;
    select length(string_agg(b, '')) from much where a <= 5000 and length(b) > 100;
    \\o /dev/null
    select * from much where a <= 20000;
    \\o
    select length(repeat('x', 30000000));";

pub const MUCH_ANSWER: &str = "205000|20012602500|5200000\n1600000\n30000000\n";

async fn proxy_of(postgres: &Postgres, settings: Settings) -> Proxy {
    Proxy::start_with(settings, view(1, 1, Some(postgres.as_node("n1")))).await
}

fn lines_without_tags(text: &str) -> String {
    let tags = ["CREATE TABLE", "INSERT", "COPY"];
    text.lines()
        .filter(|line| !tags.iter().any(|tag| line.starts_with(tag)))
        .map(|l| format!("{l}\n"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_verifies_the_proxy_and_much_passes_in_both_modes() {
    let (postgres, files) = (Postgres::started(), Files::new());
    let (authority, other) = (Authority::new(), Authority::new());
    let ca = files.write("trusted.crt", &authority.pem);
    let wrong = files.write("other.crt", &other.pem);
    for settings in [settings(), pooled(2, ClientAuth::Trust)] {
        let tls = Some(tls(ClientTlsMode::Allow, &files, &authority));
        let proxy = proxy_of(&postgres, Settings { tls, ..settings }).await;
        let verified = target(&proxy, &format!("sslmode=verify-full sslrootcert={}", ca.display()));
        let told = run(&verified, "\\conninfo");
        assert!(told.contains("SSL connection (protocol: TLSv1.3"), "{told}");
        let old = format!("{verified} ssl_max_protocol_version=TLSv1.2");
        assert!(run(&old, "\\conninfo").contains("SSL connection (protocol: TLSv1.2"));
        for conninfo in [&verified, &old] {
            assert_eq!(lines_without_tags(&run(conninfo, MUCH)), MUCH_ANSWER);
        }
        let wrong = target(&proxy, &format!("sslmode=verify-full sslrootcert={}", wrong.display()));
        assert!(fail(&wrong, "select 1").contains("certificate verify failed"));
        let by_address = verified.replace("host=localhost", "host=127.0.0.1");
        assert!(fail(&by_address, "select 1").contains("does not match host name"), "another name");
        assert_eq!(run(&target(&proxy, "sslmode=disable"), "select 1"), "1\n", "they may do without");
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_must_use_tls_is_told_so() {
    let (postgres, files, authority) = (Postgres::started(), Files::new(), Authority::new());
    for settings in [settings(), pooled(2, ClientAuth::Trust)] {
        let tls = Some(tls(ClientTlsMode::Require, &files, &authority));
        let proxy = proxy_of(&postgres, Settings { tls, ..settings }).await;
        let told = fail(&target(&proxy, "sslmode=disable"), "select 1");
        assert!(told.contains("the proxy takes no connections without TLS"), "{told}");
        assert_eq!(run(&target(&proxy, "sslmode=prefer"), "select 1"), "1\n");
        let mut plain = RawClient::connect(proxy.address).await;
        plain.stream.write_all(&startup_packet()).await.unwrap();
        assert!(plain.hear_all().await.text().contains("C28000"));
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_show_certificates_where_they_must() {
    let (postgres, files) = (Postgres::started(), Files::new());
    let (authority, other) = (Authority::new(), Authority::new());
    let tls = Some(tls(ClientTlsMode::Verify, &files, &authority));
    let proxy = proxy_of(&postgres, Settings { tls, ..settings() }).await;
    let with = |name: &str, signed: &Signed| {
        let (cert, key) = (
            files.write(&format!("{name}.crt"), &signed.cert),
            files.write(&format!("{name}.key"), &signed.key),
        );
        target(&proxy, &format!("sslmode=require sslcert={} sslkey={}", cert.display(), key.display()))
    };
    let none = fail(&target(&proxy, "sslmode=require sslcert=/none"), "select 1");
    assert!(none.contains("connection requires a valid client certificate"), "{none}");
    assert_eq!(run(&with("ann", &authority.sign(&["ann"])), "select 1"), "1\n");
    let told = fail(&with("eve", &other.sign(&["ann"])), "select 1");
    assert!(told.contains("unknown ca") || told.contains("server closed the connection"), "{told}");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_from_the_first_byte_needs_the_name_of_the_protocol() {
    let (postgres, files, authority) = (Postgres::started(), Files::new(), Authority::new());
    let tls = Some(tls(ClientTlsMode::Require, &files, &authority));
    let proxy = proxy_of(&postgres, Settings { tls, ..settings() }).await;
    let address = proxy.address;
    block_in_place(|| {
        let mut direct = begin(connect(address), Some(ALPN_PROTOCOL));
        direct.write_all(&startup_packet()).unwrap();
        let mut answer = [0];
        direct.read_exact(&mut answer).unwrap();
        assert_eq!(answer, *b"R");
        for alpn in [None, Some(&b"http/1.1"[..])] {
            let mut other = begin(connect(address), alpn);
            let sent = other.write_all(&startup_packet());
            assert!(sent.is_err() || other.read_exact(&mut answer).is_err(), "{alpn:?}");
        }
        let mut twice = ask(address);
        twice.write_all(&encode_ssl_request()).unwrap();
        let mut told = Vec::new();
        let _ = twice.read_to_end(&mut told);
        assert!(String::from_utf8_lossy(&told).contains("08P01"), "TLS within TLS");
    });
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_between_the_request_for_tls_and_its_beginning_are_refused() {
    let (postgres, files, authority) = (Postgres::started(), Files::new(), Authority::new());
    let tls = Some(tls(ClientTlsMode::Allow, &files, &authority));
    let proxy = proxy_of(&postgres, Settings { tls, ..settings() }).await;
    let mut client = RawClient::connect(proxy.address).await;
    client.stream.write_all(&[&encode_ssl_request()[..], &startup_packet()].concat()).await.unwrap();
    let told = client.hear_all().await.text();
    assert!(told.contains("08P01") && told.contains("received unencrypted data"), "{told}");
    let address = proxy.address;
    block_in_place(|| {
        // Who comes later than the answer is taken for a part of the handshake.
        let mut socket = connect(address);
        socket.write_all(&encode_ssl_request()).unwrap();
        let mut answer = [0];
        socket.read_exact(&mut answer).unwrap();
        assert_eq!(answer, *b"S");
        socket.write_all(&startup_packet()).unwrap();
        let mut told = Vec::new();
        let _ = begin(socket, None).read_to_end(&mut told);
        assert_eq!(told, b"");
    });
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_handshakes_are_closed_and_others_are_served_meanwhile() {
    let (postgres, files, authority) = (Postgres::started(), Files::new(), Authority::new());
    let tls = Some(tls(ClientTlsMode::Allow, &files, &authority));
    let short = Settings { tls, startup_timeout: Duration::from_millis(1_500), ..settings() };
    let proxy = proxy_of(&postgres, short).await;
    let begun = Instant::now();
    let mut slow = Vec::new();
    for _ in 0..20 {
        let mut client = RawClient::connect(proxy.address).await;
        client.stream.write_all(b"\x16\x03\x01\x02\x00").await.unwrap();
        slow.push(client);
    }
    assert_eq!(run(&target(&proxy, "sslmode=require"), "select 1"), "1\n");
    for client in &mut slow {
        assert_eq!(client.hear_all().await.bytes, b"");
    }
    assert!(begun.elapsed() >= Duration::from_millis(1_500));
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_while_it_is_held_is_noticed() {
    let (files, authority) = (Files::new(), Authority::new());
    let tls = Some(tls(ClientTlsMode::Allow, &files, &authority));
    let proxy = Proxy::start_with(Settings { tls, clients_max: 1, ..settings() }, view(1, 1, None)).await;
    let address = proxy.address;
    block_in_place(|| {
        let mut held = ask(address);
        held.write_all(&startup_packet()).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        let refused = |socket: &mut dyn Read| {
            let mut byte = [0];
            matches!(socket.read(&mut byte), Ok(1..))
        };
        let mut second = ask(address);
        second.write_all(&startup_packet()).unwrap();
        assert!(refused(&mut second), "there is one already");
        // It says goodbye before it closes, so that bytes of it are there to be read.
        held.conn.send_close_notify();
        held.flush().unwrap();
        drop(held);
        let begun = Instant::now();
        loop {
            let mut next = ask(address);
            next.sock.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            next.write_all(&startup_packet()).unwrap();
            if !refused(&mut next) {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "its place is not free");
        }
    });
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_under_open_sessions_and_broken_ones_are_not_taken() {
    let (postgres, files) = (Postgres::started(), Files::new());
    let (old, new) = (Authority::new(), Authority::new());
    let tls = tls(ClientTlsMode::Require, &files, &old);
    let proxy = proxy_of(&postgres, Settings { tls: Some(tls), ..pooled(2, ClientAuth::Trust) }).await;
    let by = |authority: &Authority, name: &str| {
        target(
            &proxy,
            &format!("sslmode=verify-full sslrootcert={}", files.write(name, &authority.pem).display()),
        )
    };
    let (by_old, by_new) = (by(&old, "old-ca.crt"), by(&new, "new-ca.crt"));
    run(&by_old, "select 1");
    let mut open = block_in_place(|| {
        let mut session = ask(proxy.address);
        session.write_all(&startup_packet()).unwrap();
        session
    });
    let Signed { cert, key } = new.sign(&["localhost"]);
    files.write("proxy.crt", &cert);
    files.write("proxy.key", "this is no key");
    tokio::time::sleep(Duration::from_secs(7)).await;
    run(&by_old, "select 1");
    files.write("proxy.key", &key);
    let begun = Instant::now();
    while !block_in_place(|| psql(&by_new, "select 1")).0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "the new certificate is not shown");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    fail(&by_old, "select 1");
    block_in_place(|| {
        open.write_all(b"Q\0\0\0\x18select 'still here'\0").unwrap();
        let (mut heard, mut bytes) = (Vec::new(), [0; 1_024]);
        while !String::from_utf8_lossy(&heard).contains("still here") {
            let len = open.read(&mut bytes).unwrap();
            assert!(len > 0, "the open session was closed");
            heard.extend_from_slice(&bytes[..len]);
        }
    });
    proxy.stop().await;
}
