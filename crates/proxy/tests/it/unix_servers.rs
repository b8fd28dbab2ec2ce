//! Servers of the proxy's own host are reached by their Unix sockets, where the settings say so.

use crate::pooled::{direct, pooled, text};
use crate::postgres::{Postgres, psql};
use crate::setup::{Proxy, settings, view};
use cluster::view::Server;
use proxy::{ClientAuth, Settings};
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tokio_postgres::{Client, NoTls};

const LIMIT: Duration = Duration::from_secs(30);

/// One with a Unix socket in its own directory.
fn with_socket() -> Postgres {
    let postgres = Postgres::create();
    postgres.set(&format!("unix_socket_directories = '{}'", postgres.socket_dir().display()));
    postgres.start();
    postgres
}

fn by_socket(postgres: &Postgres, settings: Settings) -> Settings {
    Settings { server_sockets: [("n1".to_owned(), postgres.socket_dir())].into(), ..settings }
}

fn modes() -> [Settings; 2] {
    [pooled(2, ClientAuth::Trust), settings()]
}

fn mode() -> Settings {
    pooled(2, ClientAuth::Trust)
}

/// Whether the server sees the client come over TCP.
async fn way(client: &Client) -> &'static str {
    let row = client.query_one("select inet_server_port() is null", &[]).await.unwrap();
    if row.get(0) { "socket" } else { "tcp" }
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_large_answers_and_cancel_requests_go_by_the_socket() {
    let postgres = with_socket();
    {
        let proxy =
            Proxy::start_with(by_socket(&postgres, mode()), view(1, 1, Some(postgres.as_node("n1")))).await;
        let client = proxy.client().await;
        assert_eq!(way(&client).await, "socket");
        // More than the buffers of either side hold, both ways.
        let long = "x".repeat(3_000_000);
        assert_eq!(text(&client, "select repeat('x', 3000000)").await, long);
        let row = client.query_one("select length($1::text)", &[&long]).await.unwrap();
        assert_eq!(row.get::<_, i32>(0), 3_000_000);

        let token = client.cancel_token();
        let sleeping = tokio::spawn(async move { client.batch_execute("select pg_sleep(60)").await });
        let direct = direct(&postgres).await;
        let asleep = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'";
        while direct.query_one(asleep, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            sleep(Duration::from_millis(20)).await;
        }
        token.cancel_query(NoTls).await.unwrap();
        let error = timeout(LIMIT, sleeping).await.unwrap().unwrap().unwrap_err();
        assert_eq!(error.code(), Some(&tokio_postgres::error::SqlState::QUERY_CANCELED));
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_socket_and_for_nodes_of_other_hosts_it_is_tcp() {
    let postgres = Postgres::started();
    for settings in modes() {
        let proxy =
            Proxy::start_with(by_socket(&postgres, settings), view(1, 1, Some(postgres.as_node("n1")))).await;
        assert_eq!(way(&proxy.client().await).await, "tcp");
        proxy.stop().await;
    }
    // A server that is another node's is not taken for n1, though its socket is there.
    let (here, other) = (with_socket(), Postgres::started());
    {
        let proxy = Proxy::start_with(by_socket(&here, mode()), view(1, 1, Some(other.as_node("n2")))).await;
        assert_eq!(way(&proxy.client().await).await, "tcp");
        proxy.agent.publish(view(2, 1, Some(here.as_node("n1"))));
        let client = timeout(LIMIT, async {
            loop {
                let client = proxy.client().await;
                if let Ok(row) = client.query_one("select inet_server_port() is null", &[]).await
                    && row.get(0)
                {
                    return;
                }
                sleep(Duration::from_millis(50)).await;
            }
        });
        client.await.expect("the new primary is reached by its socket");
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_at_the_socket_does_not_come_in_by_tcp() {
    let postgres = with_socket();
    postgres.first_rule("local all postgres reject");
    let direct = direct(&postgres).await;
    direct.batch_execute("select pg_reload_conf()").await.unwrap();
    sleep(Duration::from_millis(500)).await;
    {
        let proxy =
            Proxy::start_with(by_socket(&postgres, mode()), view(1, 1, Some(postgres.as_node("n1")))).await;
        let refused = async {
            match proxy.login().await {
                Err(error) => error,
                Ok((client, connection)) => {
                    tokio::spawn(connection);
                    client.batch_execute("select 1").await.unwrap_err()
                }
            }
        };
        let told = timeout(LIMIT, refused).await.unwrap();
        let told = format!("{:?}", told.as_db_error());
        assert!(told.contains("pg_hba.conf rejects connection for host \\\"[local]\\\""), "{told}");
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_cluster_is_named_by_its_directory() {
    let postgres = with_socket();
    let host = postgres.socket_dir().display().to_string();
    let server = Server { node: "here".to_owned(), host, port: postgres.port };
    {
        let proxy = Proxy::start_alone(Settings { servers: vec![server.clone()], ..mode() }).await;
        let client = proxy.client().await;
        assert_eq!(way(&client).await, "socket");
        postgres.stop_immediately();
        postgres.start();
        let again = timeout(LIMIT, proxy.client()).await.unwrap();
        assert_eq!(way(&again).await, "socket");
        proxy.stop().await;
    }
}

/// Over its socket a server sees the proxy's user and believes it, by `peer` or `trust`; of these clients nobody has asked anything.
#[tokio::test(flavor = "multi_thread")]
async fn who_was_not_checked_by_the_proxy_never_comes_in_as_the_proxy() {
    let postgres = with_socket();
    let proxy =
        Proxy::start_with(by_socket(&postgres, settings()), view(1, 1, Some(postgres.as_node("n1")))).await;
    assert_eq!(way(&proxy.client().await).await, "tcp", "the session mode");
    proxy.stop().await;
    let proxy =
        Proxy::start_with(by_socket(&postgres, mode()), view(1, 1, Some(postgres.as_node("n1")))).await;
    let port = proxy.address.port();
    let replication =
        format!("host=127.0.0.1 port={port} user=postgres dbname=postgres replication=database");
    let told = tokio::task::block_in_place(|| psql(&replication, "select inet_server_port() is null"));
    assert_eq!(told, (true, "f\n".to_owned()), "a replication connection of the pooled mode");
    proxy.stop().await;

    let host = postgres.socket_dir().display().to_string();
    let server = Server { node: "here".to_owned(), host, port: postgres.port };
    let hold = Duration::from_secs(1);
    let proxy = Proxy::start_alone(Settings { servers: vec![server], hold, ..settings() }).await;
    let refused = timeout(LIMIT, proxy.login()).await.unwrap();
    let told = format!("{:?}", refused.map(|_| ()).unwrap_err().as_db_error());
    assert!(told.contains("it asks for no password"), "{told}");
    proxy.stop().await;
}
