//! Sessions in quiet times: queries, large results, cancel requests, the end of a session.

use crate::postgres::Postgres;
use crate::raw_client::{RawClient, startup_packet};
use crate::setup::{Proxy, server_port, settings, view};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;

#[tokio::test(flavor = "multi_thread")]
async fn sessions_reach_the_primary_and_large_results_pass() {
    let postgres = Postgres::started();
    let proxy = Proxy::start(view(1, 1, Some(postgres.as_node("n1")))).await;
    let client = proxy.client().await;
    assert_eq!(server_port(&client).await, postgres.port);
    let row = client.query_one("select repeat('x', 20000000)", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0).len(), 20_000_000);
    let sent = "y".repeat(5_000_000);
    let row = client.query_one("select length($1::text)", &[&sent]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 5_000_000);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_request_reaches_the_right_server() {
    let postgres = Postgres::started();
    let proxy = Proxy::start(view(1, 1, Some(postgres.as_node("n1")))).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_breaks_ends_its_sessions_with_57p01() {
    let postgres = Postgres::started();
    let proxy = Proxy::start(view(1, 1, Some(postgres.as_node("n1")))).await;
    let mut client = RawClient::logged_in(proxy.address).await;
    client.query("select pg_terminate_backend(pg_backend_pid())").await;
    let heard = client.hear_all().await.text();
    assert_eq!(heard.matches("57P01").count(), 1, "the server's own word is enough: {heard}");

    let mut client = RawClient::logged_in(proxy.address).await;
    client.query("select 1/0; select pg_sleep(60)").await;
    client.query("select pg_sleep(60)").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    // Its sessions get a warning, then their connections break.
    postgres.stop_immediately();
    let heard = client.hear_all().await;
    assert!(heard.text().contains("57P01"), "{}", heard.text());
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_closes_its_side_still_gets_its_answers() {
    let postgres = Postgres::started();
    let proxy = Proxy::start(view(1, 1, Some(postgres.as_node("n1")))).await;
    let mut client = RawClient::logged_in(proxy.address).await;
    client.query("select pg_sleep(0.3), 'answered'").await;
    client.stream.shutdown().await.unwrap();
    let heard = client.hear_all().await.text();
    assert!(heard.contains("answered") && !heard.contains("FATAL"), "{heard}");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn encryption_is_declined_once_and_then_the_session_goes_on() {
    let postgres = Postgres::started();
    let proxy = Proxy::start(view(1, 1, Some(postgres.as_node("n1")))).await;
    let mut client = RawClient::connect(proxy.address).await;
    for code in [5679_u32, 5680] {
        let request = [8_u32.to_be_bytes(), ((1234 << 16) | code).to_be_bytes()].concat();
        client.stream.write_all(&request).await.unwrap();
        assert_eq!(client.stream.read_u8().await.unwrap(), b'N');
    }
    client.stream.write_all(&startup_packet()).await.unwrap();
    assert_eq!(client.stream.read_u8().await.unwrap(), b'R');
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_the_proxy_and_too_many_clients_are_told() {
    let postgres = Postgres::started();
    let mut few = settings();
    few.clients_max = 1;
    let proxy = Proxy::start_with(few, view(1, 1, Some(postgres.as_node("n1")))).await;
    let mut client = RawClient::logged_in(proxy.address).await;
    let error = proxy.login().await.err().unwrap();
    assert_eq!(error.code(), Some(&SqlState::TOO_MANY_CONNECTIONS));
    let heard = tokio::spawn(async move { client.hear_all().await.text() });
    proxy.stop().await;
    let heard = heard.await.unwrap();
    assert!(heard.contains("57P01") && heard.contains("the proxy is stopping"), "{heard}");
}
