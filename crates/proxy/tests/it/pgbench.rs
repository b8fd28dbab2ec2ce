//! A load of transactions goes through a switchover without an error.

use crate::postgres::{Postgres, pgbench};
use crate::setup::{Proxy, handing_over, view};
use std::time::{Duration, Instant};
use tokio_postgres::NoTls;

/// Waits until no client backend is left, as the primary's agent does before it stops the server.
async fn drained(server: &Postgres) {
    let config = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", server.port);
    let (client, connection) = tokio_postgres::connect(&config, NoTls).await.unwrap();
    tokio::spawn(connection);
    let others = "select count(*) from pg_stat_activity \
        where backend_type = 'client backend' and pid <> pg_backend_pid()";
    let begun = Instant::now();
    while client.query_one(others, &[]).await.unwrap().get::<_, i64>(0) > 0 {
        assert!(begun.elapsed() < Duration::from_secs(10), "sessions are left on the old primary");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn load_through_a_switchover(protocol: &str) {
    let (old, new) = (Postgres::started(), Postgres::started());
    for server in [&old, &new] {
        pgbench(server.port, &["-i", "-q"]);
    }
    let proxy = Proxy::start(view(1, 1, Some(old.as_node("n1")))).await;
    let load = std::thread::spawn({
        let (port, protocol) = (proxy.address.port(), protocol.to_string());
        move || pgbench(port, &["-n", "-c", "8", "-T", "5", "-P", "1", "-M", &protocol])
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    let begun = Instant::now();
    proxy.agent.publish(handing_over(1, 2, old.as_node("n1")));
    drained(&old).await;
    let empty = begun.elapsed();
    old.stop_in_order();
    let stopped = begun.elapsed();
    proxy.agent.publish(view(2, 3, None));
    proxy.agent.publish(view(2, 4, Some(new.as_node("n2"))));
    let output = load.join().unwrap();
    println!("empty after {empty:?}, stopped after {stopped:?}\n{output}");
    assert!(output.contains("number of failed transactions: 0 (0.000%)"), "{output}");
    assert!(!output.contains("abort") && !output.contains("error"), "{output}");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn simple_protocol() {
    load_through_a_switchover("simple").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn extended_protocol() {
    load_through_a_switchover("extended").await;
}
