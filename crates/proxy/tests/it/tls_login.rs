//! Logins that are bound to their TLS connection, and somebody in between.

use crate::certificates::{Authority, Files, Signed};
use crate::pooled::pooled;
use crate::postgres::Postgres;
use crate::raw_tls::in_the_middle;
use crate::setup::{Proxy, view};
use crate::tls::{fail, run, tls};
use proxy::{ClientAuth, ClientTlsMode, Lookup, ServerTls, Settings, Verifiers};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::task::block_in_place;

/// A server on which `ann` has to log in, with TLS or without.
pub fn postgres_of_ann(tls: Option<&Signed>) -> Postgres {
    let postgres = Postgres::create();
    if let Some(Signed { cert, key }) = tls {
        postgres.use_tls(cert, key);
    }
    postgres.start();
    let direct =
        format!("host=127.0.0.1 port={} user=postgres dbname=postgres sslmode=prefer", postgres.port);
    run(&direct, "create role ann login password 'pen cil'");
    postgres.ask_passwords_of("ann");
    run(&direct, "select pg_reload_conf()");
    // The postmaster takes it up a moment later.
    block_in_place(|| std::thread::sleep(Duration::from_millis(300)));
    postgres
}

pub fn scram() -> Settings {
    let lookup = Lookup { user: "postgres".into(), password: None, database: "postgres".into() };
    pooled(2, ClientAuth::Scram(Verifiers::Role(lookup)))
}

pub fn ann(address: SocketAddr, rest: &str) -> String {
    format!("host=127.0.0.1 port={} user=ann password='pen cil' dbname=postgres {rest}", address.port())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_bound_to_the_proxy_s_certificate() {
    let (files, authority) = (Files::new(), Authority::new());
    let postgres = postgres_of_ann(None);
    let tls = Some(tls(ClientTlsMode::Allow, &files, &authority));
    let proxy =
        Proxy::start_with(Settings { tls, ..scram() }, view(1, 1, Some(postgres.as_node("n1")))).await;
    for rest in ["require", "prefer", "disable"] {
        let conninfo = ann(proxy.address, &format!("sslmode=require channel_binding={rest}"));
        assert_eq!(run(&conninfo, "select session_user"), "ann\n", "{rest}");
    }
    assert_eq!(run(&ann(proxy.address, "sslmode=disable"), "select session_user"), "ann\n");
    let wrong = ann(proxy.address, "sslmode=require").replace("pen cil", "pencil");
    assert!(fail(&wrong, "select 1").contains("password authentication failed"));

    let Signed { cert, key } = Authority::new().sign(&["localhost"]);
    let relay = in_the_middle(proxy.address, &cert, &key, false);
    let told = fail(&ann(relay, "sslmode=require"), "select 1");
    assert!(told.contains("SCRAM channel binding check failed"), "{told}");
    let stripper = in_the_middle(proxy.address, &cert, &key, true);
    let told = fail(&ann(stripper, "sslmode=require"), "select 1");
    assert!(told.contains("supports SCRAM channel binding but thinks the server does not"), "{told}");
    // The test can see what it says it sees: without channel binding, nobody notices who is in the middle.
    let unbound = ann(stripper, "sslmode=require channel_binding=disable");
    assert!(!fail(&unbound.replace("pen cil", "pencil"), "select 1").contains("channel binding"));
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_binds_its_own_logins_to_the_server_s_certificate() {
    let authority = Authority::new();
    let postgres = postgres_of_ann(Some(&authority.sign(&["localhost"])));
    let settings = || Settings { server_tls: ServerTls::Require, hold: Duration::from_secs(2), ..scram() };
    let direct: SocketAddr = ([127, 0, 0, 1], postgres.port).into();
    let proxy = Proxy::start_with(settings(), view(1, 1, Some(postgres.as_node("n1")))).await;
    let sql = "select session_user, ssl from pg_stat_ssl where pid = pg_backend_pid()";
    assert_eq!(run(&ann(proxy.address, "sslmode=disable"), sql), "ann|t\n");
    proxy.stop().await;

    let Signed { cert, key } = Authority::new().sign(&["localhost"]);
    for (strips, word) in
        [(false, "channel binding check failed"), (true, "channel binding negotiation error")]
    {
        let relay = in_the_middle(direct, &cert, &key, strips);
        let mut server = postgres.as_node("n1");
        server.port = relay.port();
        let proxy = Proxy::start_with(settings(), view(1, 1, Some(server))).await;
        let told = fail(&ann(proxy.address, "sslmode=disable"), "select 1");
        assert!(told.contains(word), "{told}");
        proxy.stop().await;
    }
}
