//! Limits that several worker threads have in common, wherever clients come in.

use crate::pooled::{direct, pooled, servers, text};
use crate::postgres::Postgres;
use crate::setup::{Proxy, view};
use proxy::{ClientAuth, Settings};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio_postgres::Client;

async fn start(postgres: &Postgres, workers: usize, servers_max: usize) -> Proxy {
    let settings = Settings { workers, ..pooled(servers_max, ClientAuth::Trust) };
    Proxy::start_with(settings, view(1, 1, Some(postgres.as_node("n1")))).await
}

async fn in_transaction(proxy: &Proxy) -> Client {
    let client = proxy.client().await;
    client.batch_execute("begin; select 1").await.unwrap();
    client
}

/// A server that was closed takes a moment to go.
async fn until_servers(direct: &Client, count: i64) {
    let begun = Instant::now();
    while servers(direct).await != count {
        assert!(begun.elapsed() < Duration::from_secs(10), "{} servers, not {count}", servers(direct).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_get_all_servers_of_a_pool_wherever_they_come_in_and_no_more() {
    let postgres = Postgres::started();
    let (proxy, direct) = (Arc::new(start(&postgres, 4, 4).await), direct(&postgres).await);
    // Each time, they are spread over the workers in another way.
    for _ in 0..5 {
        let mut busy = Vec::new();
        for _ in 0..4 {
            busy.push(in_transaction(&proxy).await);
        }
        let proxy = Arc::clone(&proxy);
        // It may have to wait for its login already: what servers report is known to workers that have had one.
        let waiting = tokio::spawn(async move { text(&proxy.client().await, "select 'served'").await });
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!waiting.is_finished(), "all servers are lent");
        until_servers(&direct, 4).await;
        busy.pop().unwrap().batch_execute("commit").await.unwrap();
        assert_eq!(waiting.await.unwrap(), "served");
        until_servers(&direct, 4).await;
    }
    Arc::into_inner(proxy).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fewer_servers_than_workers_serve_everybody_in_turn() {
    let postgres = Postgres::started();
    let (proxy, direct) = (start(&postgres, 4, 2).await, direct(&postgres).await);
    let mut all = JoinSet::new();
    for number in 0..16 {
        let client = proxy.client().await;
        all.spawn(async move {
            client.batch_execute(&format!("set work_mem = '{}kB'", 100 + number)).await.unwrap();
            for _ in 0..100 {
                assert_eq!(text(&client, "show work_mem").await, format!("{}kB", 100 + number));
            }
            client
        });
    }
    let clients = all.join_all().await;
    until_servers(&direct, 2).await;
    drop(clients);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_listens_makes_room_for_clients_of_another_worker() {
    let postgres = Postgres::started();
    let proxy = start(&postgres, 2, 4).await;
    let mut clients = Vec::new();
    for number in 0..12 {
        let client = proxy.client().await;
        client.batch_execute(&format!("listen channel_{number}")).await.unwrap();
        clients.push(client);
    }
    for client in &clients {
        assert_eq!(text(client, "select 'served'").await, "served");
    }
    proxy.stop().await;
}
