//! BEGIN is answered before it is sent.

use crate::pooled::pooled;
use crate::postgres::{Postgres, psql};
use crate::raw_client::{PATIENCE, RawClient};
use crate::setup::{Proxy, view};
use pgwire::message::put;
use proxy::ClientAuth;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;

async fn proxy_of(postgres: &Postgres) -> Proxy {
    Proxy::start_with(pooled(1, ClientAuth::Trust), view(1, 1, Some(postgres.as_node("n1")))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_begins_although_its_client_says_nothing() {
    let postgres = Postgres::started();
    let proxy = proxy_of(&postgres).await;
    let client = proxy.client().await;
    client.batch_execute("begin").await.unwrap();
    let direct = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", postgres.port);
    let begun =
        "select count(*) from pg_stat_activity where state = 'idle in transaction' and query = 'begin'";
    let since = Instant::now();
    while psql(&direct, begun).1.trim() != "1" {
        assert!(since.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Its time is not that of its first statement.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let row = client.query_one("select clock_timestamp() - now() >= '0.1 s'", &[]).await.unwrap();
    assert!(row.get::<_, bool>(0));
    client.batch_execute("rollback").await.unwrap();
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_it_is_one_transaction() {
    let postgres = Postgres::started();
    let proxy = proxy_of(&postgres).await;
    let (mut client, other) = (proxy.client().await, proxy.client().await);
    client.batch_execute("create table t (a int)").await.unwrap();
    for silence in [0, 50] {
        let pause = || tokio::time::sleep(Duration::from_millis(silence));
        client.batch_execute("begin").await.unwrap();
        pause().await;
        client.batch_execute("insert into t values (1)").await.unwrap();
        client.batch_execute("rollback").await.unwrap();
        let transaction = client.transaction().await.unwrap();
        pause().await;
        transaction.execute("insert into t values ($1)", &[&2]).await.unwrap();
        transaction.rollback().await.unwrap();
        client.batch_execute("begin").await.unwrap();
        pause().await;
        client.batch_execute("select 1/0").await.unwrap_err();
        client.batch_execute("insert into t values (3)").await.unwrap_err();
        client.batch_execute("commit").await.unwrap();
        client.batch_execute("begin").await.unwrap();
        client.batch_execute("commit").await.unwrap();
        let transaction = client.transaction().await.unwrap();
        transaction.execute("insert into t values ($1)", &[&4]).await.unwrap();
        transaction.commit().await.unwrap();
    }
    let rows = other.query("select a from t", &[]).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.get::<_, i32>(0)).collect::<Vec<_>>(), [4, 4]);
    proxy.stop().await;
}

/// What [`proxy`] relies on so that nothing runs outside of a transaction that was refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_ignores_a_query_behind_a_pipeline_that_has_failed() {
    let postgres = Postgres::started();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, postgres.port));
    let mut client = RawClient::logged_in(address).await;
    let mut said = Vec::new();
    put(b'P', &[b"\0select 1/0\0\0\0"], &mut said);
    put(b'B', &[b"\0\0\0\0\0\0\0\0"], &mut said);
    put(b'E', &[b"\0\0\0\0\0"], &mut said);
    put(b'Q', &[b"create table ignored ()\0"], &mut said);
    put(b'S', &[], &mut said);
    client.stream.write_all(&said).await.unwrap();
    let heard = client.hear_until_ready().await;
    assert!(heard.text().contains("C22012") && heard.bytes.ends_with(b"I"), "{}", heard.text());
    client.query("select count(*) from pg_class where relname = 'ignored'").await;
    let heard = client.hear_until_ready().await;
    assert!(heard.bytes.windows(5).any(|part| part == b"\0\0\0\x010"), "{}", heard.text());
}
