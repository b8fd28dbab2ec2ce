//! Clients of the proxy's own host come in by a Unix socket.

use crate::certificates::Files;
use crate::pooled::pooled;
use crate::postgres::{Postgres, free_port, psql};
use crate::setup::{Proxy, settings, view};
use crate::tls_login::postgres_of_ann;
use proxy::{ClientAuth, Lookup, ProxyError, RuleFiles, Settings, UnixListen, Verifiers};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::PathBuf;
use std::time::Duration;
use tokio::task::block_in_place;
use tokio::time::{sleep, timeout};

const LIMIT: Duration = Duration::from_secs(30);

fn lookup() -> Lookup {
    Lookup { user: "postgres".into(), password: None, database: "postgres".into() }
}

/// A proxy that listens in the directory of `files` as well, and its socket.
fn here(files: &Files, settings: Settings) -> (Settings, PathBuf) {
    let dir = files.path().to_owned();
    let socket = dir.join(format!(".s.PGSQL.{}", settings.listen[0].port()));
    (Settings { unix_listen: Some(UnixListen { dir, mode: 0o700 }), ..settings }, socket)
}

fn by_socket(socket: &std::path::Path, rest: &str) -> String {
    let port = socket.extension().unwrap().to_str().unwrap().to_owned();
    format!("host={} port={port} dbname=postgres {rest}", socket.parent().unwrap().display())
}

/// Clients find the socket a moment after the port is there.
async fn opened(socket: &std::path::Path) {
    let opened = async {
        while std::os::unix::net::UnixStream::connect(socket).is_err() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LIMIT, opened).await.unwrap();
}

fn run(conninfo: &str, sql: &str) -> (bool, String) {
    block_in_place(|| psql(conninfo, sql))
}

#[tokio::test(flavor = "multi_thread")]
async fn they_are_let_in_as_by_tcp_in_both_modes() {
    let postgres = postgres_of_ann(None);
    let pools =
        [pooled(2, ClientAuth::Scram(Verifiers::Role(lookup()))), pooled(2, ClientAuth::Trust), settings()];
    for (number, settings) in pools.into_iter().enumerate() {
        let files = Files::new();
        let (settings, socket) = here(&files, settings);
        let proxy = Proxy::start_with(settings, view(1, 1, Some(postgres.as_node("n1")))).await;
        opened(&socket).await;
        let facts = fs::metadata(&socket).unwrap();
        assert!(facts.file_type().is_socket() && facts.permissions().mode() & 0o777 == 0o700);
        // Where the proxy asks for no password it has none for a server that does.
        let who = if number == 1 { "user=postgres" } else { "user=ann password='pen cil'" };
        // Long answers and questions, too.
        let sql = format!("select repeat('x', 2000000) = '{}'", "x".repeat(2_000_000));
        let (is_in, told) = run(&by_socket(&socket, who), &sql);
        assert!(is_in && told == "t\n", "{number}: {told}");
        if number != 1 {
            let (is_in, told) = run(&by_socket(&socket, "user=ann password=pencil"), "select 1");
            assert!(!is_in && told.contains("password authentication failed"), "{number}: {told}");
        }
        proxy.stop().await;
        assert!(!socket.exists(), "it is taken away");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_for_local_decide_about_them() {
    let (postgres, files) = (postgres_of_ann(None), Files::new());
    let rules = "local all ann scram-sha-256\nlocal template1 postgres peer map=here\nlocal all postgres peer\n\
                 host all postgres all reject\n";
    let who =
        String::from_utf8(std::process::Command::new("id").arg("-un").output().unwrap().stdout).unwrap();
    let ident = Some(files.write("pg_ident.conf", &format!("here {} postgres\n", who.trim())));
    let rules = RuleFiles { hba: files.write("pg_hba.conf", rules), ident };
    let (settings, socket) = here(&files, pooled(2, ClientAuth::Rules(rules, Verifiers::Role(lookup()))));
    let address = settings.listen[0];
    let agent = crate::agent::Agent::start(view(1, 1, Some(postgres.as_node("n1")))).await;
    let settings = Settings { agents: vec![agent.address.to_string()], ..settings };
    let (stop, stop_seen) = tokio::sync::watch::channel(false);
    let running = tokio::spawn(proxy::run(settings, Default::default(), stop_seen));
    opened(&socket).await;
    let sql = "select session_user";
    assert_eq!(run(&by_socket(&socket, "user=ann password='pen cil'"), sql), (true, "ann\n".to_owned()));
    let mapped = by_socket(&socket, "user=postgres").replace("dbname=postgres", "dbname=template1");
    assert_eq!(run(&mapped, sql), (true, "postgres\n".to_owned()));
    let (is_in, told) = run(&by_socket(&socket, "user=postgres"), sql);
    if who.trim() != "postgres" {
        assert!(!is_in && told.contains("peer authentication failed for user \"postgres\""), "{told}");
    }
    let (is_in, told) = run(&by_socket(&socket, "user=dan"), sql);
    assert!(!is_in && told.contains("no entry for host \"[local]\", user \"dan\""), "{told}");
    let tcp = format!("host=127.0.0.1 port={} user=postgres dbname=template1", address.port());
    let (is_in, told) = run(&tcp, sql);
    assert!(!is_in && told.contains("rejects connections"), "{told}");
    stop.send_replace(true);
    running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
    let (postgres, files) = (Postgres::started(), Files::new());
    let (settings, socket) = here(&files, pooled(1, ClientAuth::Trust));
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let living = Proxy::start_with(settings.clone(), view(1, 1, Some(postgres.as_node("n1")))).await;
    opened(&socket).await;
    assert_eq!(run(&by_socket(&socket, "user=postgres"), "select 1"), (true, "1\n".to_owned()));

    // The same port of another address.
    let other = Settings {
        listen: vec![SocketAddr::from(([127, 0, 0, 2], socket_port(&settings)))],
        agents: vec![format!("127.0.0.1:{}", free_port())],
        ..settings
    };
    let (_stop, stop_seen) = tokio::sync::watch::channel(false);
    let ended = timeout(LIMIT, proxy::run(other, Default::default(), stop_seen)).await.unwrap();
    assert!(matches!(ended, Err(ProxyError::UnixSocket { .. })), "{ended:?}");
    assert_eq!(run(&by_socket(&socket, "user=postgres"), "select 1"), (true, "1\n".to_owned()));
    living.stop().await;
}

fn socket_port(settings: &Settings) -> u16 {
    settings.listen[0].port()
}

#[tokio::test(flavor = "multi_thread")]
async fn none_is_turned_away_while_a_proxy_is_exchanged() {
    let (postgres, files) = (Postgres::started(), Files::new());
    let (settings, socket) = here(&files, pooled(4, ClientAuth::Trust));
    let desk = files.path().join("takeover");
    let settings = Settings { takeover: Some(desk.clone()), ..settings };
    let first = view(1, 1, Some(postgres.as_node("n1")));
    let one = Proxy::start_with(settings.clone(), first.clone()).await;
    while !desk.exists() {
        sleep(Duration::from_millis(5)).await;
    }
    opened(&socket).await;
    let config = by_socket(&socket, "user=postgres");
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let coming = tokio::spawn(async move {
        let mut count = 0;
        while !*stopped.borrow_and_update() {
            let (client, connection) = tokio_postgres::connect(&config, tokio_postgres::NoTls).await.unwrap();
            tokio::spawn(connection);
            client.batch_execute("select 1").await.unwrap();
            count += 1;
        }
        count
    });
    sleep(Duration::from_millis(200)).await;
    let two = Proxy::start_with(settings, first).await;
    timeout(LIMIT, one.ended()).await.unwrap();
    sleep(Duration::from_millis(200)).await;
    stop.send_replace(true);
    assert!(timeout(LIMIT, coming).await.unwrap().unwrap() > 10);
    assert!(socket.exists(), "the older one has taken nothing away");
    two.stop().await;
    assert!(!socket.exists());
}
