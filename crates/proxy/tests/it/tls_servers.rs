//! TLS towards servers: whom the proxy believes, and what its clients are told when it does not.

use crate::certificates::{Authority, Files, Signed};
use crate::pooled::pooled;
use crate::postgres::{Postgres, free_port};
use crate::setup::{Proxy, settings, view};
use crate::tls::{MUCH, fail, run, tls};
use cluster::view::Server;
use proxy::{ClientAuth, ClientTlsMode, ServerTls, Settings};
use std::time::{Duration, Instant};
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;

const IS_ENCRYPTED: &str = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";

fn with_tls(signed: &Signed) -> Postgres {
    let postgres = Postgres::create();
    postgres.use_tls(&signed.cert, &signed.key);
    postgres.start();
    postgres
}

fn at(postgres: &Postgres, host: &str) -> Server {
    Server { node: "n1".to_owned(), host: host.to_owned(), port: postgres.port }
}

/// What a client hears through a proxy that reaches its server so; once as a session, once from a pool.
async fn heard(server: &Server, server_tls: &ServerTls, sql: &str) -> [String; 2] {
    let mut both = [String::new(), String::new()];
    for (heard, settings) in both.iter_mut().zip([settings(), pooled(2, ClientAuth::Trust)]) {
        let settings =
            Settings { server_tls: server_tls.clone(), hold: Duration::from_millis(800), ..settings };
        let proxy = Proxy::start_with(settings, view(1, 1, Some(server.clone()))).await;
        let conninfo = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", proxy.address.port());
        let (_, text) = tokio::task::block_in_place(|| crate::postgres::psql(&conninfo, sql));
        *heard = text;
        proxy.stop().await;
    }
    both
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_are_believed_as_far_as_the_settings_say() {
    let (files, authority) = (Files::new(), Authority::new());
    let ca = files.write("ca.crt", &authority.pem);
    let stranger = files.write("stranger.crt", &Authority::new().pem);
    let postgres = with_tls(&authority.sign(&["localhost"]));
    let (by_name, by_address) = (at(&postgres, "localhost"), at(&postgres, "127.0.0.1"));
    for (server, server_tls, answer) in [
        (&by_name, ServerTls::Disable, "f\n"),
        (&by_name, ServerTls::Prefer, "t\n"),
        (&by_address, ServerTls::Require, "t\n"),
        (&by_address, ServerTls::VerifyCa(ca.clone()), "t\n"),
        (&by_name, ServerTls::VerifyFull(ca.clone()), "t\n"),
    ] {
        let heard = heard(server, &server_tls, IS_ENCRYPTED).await;
        assert_eq!(heard, [answer, answer], "{server_tls:?}");
    }
    for (server, server_tls, why) in [
        (&by_address, ServerTls::VerifyFull(ca), "not valid for name"),
        (&by_name, ServerTls::VerifyFull(stranger.clone()), "UnknownIssuer"),
        (&by_name, ServerTls::VerifyCa(stranger), "UnknownIssuer"),
    ] {
        for heard in heard(server, &server_tls, IS_ENCRYPTED).await {
            assert!(heard.contains("has no primary that takes connections"), "{heard}");
            assert!(
                heard.contains("The primary n1 cannot be reached by TLS: invalid peer certificate"),
                "{heard}"
            );
            assert!(heard.contains(why), "{why}: {heard}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_tls_is_used_only_where_it_may_be() {
    let postgres = Postgres::started();
    let server = at(&postgres, "127.0.0.1");
    assert_eq!(heard(&server, &ServerTls::Prefer, IS_ENCRYPTED).await, ["f\n", "f\n"]);
    for heard in heard(&server, &ServerTls::Require, IS_ENCRYPTED).await {
        assert!(heard.contains("cannot be reached by TLS: the server has none"), "{heard}");
    }
    // Nobody listens there.
    let nobody = Server { port: free_port(), ..server };
    for heard in heard(&nobody, &ServerTls::Require, IS_ENCRYPTED).await {
        assert!(heard.contains("cannot be reached: Connection refused"), "{heard}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn much_passes_with_tls_to_the_server_and_on_both_sides() {
    let (files, authority) = (Files::new(), Authority::new());
    let postgres = with_tls(&authority.sign(&["localhost"]));
    let clients = tls(ClientTlsMode::Require, &files, &authority);
    for (settings, tls, mode) in [
        (settings(), None, "disable"),
        (pooled(2, ClientAuth::Trust), None, "disable"),
        (pooled(2, ClientAuth::Trust), Some(clients), "require"),
    ] {
        let settings = Settings { server_tls: ServerTls::Require, tls, ..settings };
        let proxy = Proxy::start_with(settings, view(1, 1, Some(at(&postgres, "127.0.0.1")))).await;
        let port = proxy.address.port();
        let conninfo = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres sslmode={mode}");
        let told = run(&conninfo, MUCH);
        assert!(told.ends_with(crate::tls::MUCH_ANSWER), "{told}");
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_tls_logs_in_at_a_server_that_has_it() {
    let authority = Authority::new();
    let postgres = with_tls(&authority.sign(&["localhost"]));
    let direct = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", postgres.port);
    run(&direct, "create role ann login password 'pencil'");
    postgres.ask_passwords_of("ann");
    run(&direct, "select pg_reload_conf()");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let settings = Settings { server_tls: ServerTls::Require, ..settings() };
    let proxy = Proxy::start_with(settings, view(1, 1, Some(at(&postgres, "127.0.0.1")))).await;
    let port = proxy.address.port();
    let by =
        |password: &str| format!("host=127.0.0.1 port={port} user=ann password={password} dbname=postgres");
    assert_eq!(run(&by("pencil"), &format!("select session_user; {IS_ENCRYPTED}")), "ann\nt\n");
    assert!(fail(&by("pen"), "select 1").contains("password authentication failed"));
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_requests_go_by_tls_as_well() {
    let authority = Authority::new();
    let signed = authority.sign(&["localhost"]);
    let postgres = with_tls(&signed);
    for settings in [settings(), pooled(2, ClientAuth::Trust)] {
        let settings = Settings { server_tls: ServerTls::Require, ..settings };
        let proxy = Proxy::start_with(settings, view(1, 1, Some(at(&postgres, "127.0.0.1")))).await;
        let client = proxy.client().await;
        let cancel = client.cancel_token();
        let begun = Instant::now();
        let sleep = tokio::spawn(async move { client.batch_execute("select pg_sleep(60)").await });
        tokio::time::sleep(Duration::from_millis(300)).await;
        cancel.cancel_query(NoTls).await.unwrap();
        let error = sleep.await.unwrap().unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED));
        assert!(begun.elapsed() < Duration::from_secs(20));
        proxy.stop().await;
    }
}
