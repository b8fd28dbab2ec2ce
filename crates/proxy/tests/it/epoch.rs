//! A newer epoch ends the sessions of the older one.

use crate::postgres::Postgres;
use crate::raw_client::RawClient;
use crate::setup::{Proxy, server_port, view};
use pgwire::Notable;
use std::time::Duration;
use tokio_postgres::error::SqlState;

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_epoch_ends_sessions_with_57p01_even_before_it_has_a_primary() {
    let (old, new) = (Postgres::started(), Postgres::started());
    let proxy = Proxy::start(view(1, 1, Some(old.as_node("n1")))).await;
    let (client, connection) = proxy.login().await.unwrap();
    let connection = tokio::spawn(connection);
    client.batch_execute("begin; create table lost (a int)").await.unwrap();

    proxy.agent.publish(view(2, 2, None));
    let error = connection.await.unwrap().unwrap_err();
    let told = error.as_db_error().unwrap();
    assert_eq!(told.code(), &SqlState::ADMIN_SHUTDOWN);
    assert_eq!(
        told.message(),
        "terminating connection because the primary of cluster shop is no longer n1 (epoch 1), epoch 2 has begun; reconnect"
    );
    assert_eq!(told.detail(), Some("A transaction was open: it is rolled back."));

    let (client, ()) = tokio::join!(proxy.client(), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        proxy.agent.publish(view(2, 3, Some(new.as_node("n2"))));
    });
    assert_eq!(server_port(&client).await, new.port);

    // An agent that lags behind cannot bring the old primary back.
    proxy.agent.publish(view(1, 9, Some(old.as_node("n1"))));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(server_port(&proxy.client().await).await, new.port);
    assert_eq!(server_port(&client).await, new.port);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_statement_is_told_that_its_outcome_is_unknown() {
    let postgres = Postgres::started();
    let proxy = Proxy::start(view(1, 1, Some(postgres.as_node("n1")))).await;
    let mut client = RawClient::logged_in(proxy.address).await;
    client.query("select pg_sleep(60)").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    proxy.agent.publish(view(2, 2, Some(postgres.as_node("n2"))));
    let heard = client.hear_all().await;
    assert!(
        heard.at_boundary
            && matches!(heard.messages.last(), Some(Notable::Error(e)) if e.fatal && e.is("57P01"))
    );
    assert!(heard.text().contains("changed from n1 (epoch 1) to n2 (epoch 2)"), "{}", heard.text());
    assert!(heard.text().contains("whether it took effect is unknown"), "{}", heard.text());
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_under_way_is_never_mixed_with_the_error() {
    let postgres = Postgres::started();
    let proxy = Proxy::start(view(1, 1, Some(postgres.as_node("n1")))).await;
    let mut client = RawClient::logged_in(proxy.address).await;
    // One row of 100 MB that the client does not read yet.
    client.query("select repeat('x', 100000000)").await;
    while client.stream.peek(&mut [0; 1024]).await.unwrap() < 1024 {}
    tokio::time::sleep(Duration::from_millis(300)).await;
    proxy.agent.publish(view(2, 2, None));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let heard = client.hear_all().await;
    assert!(!heard.at_boundary && heard.bytes.len() < 100_000_000, "{} bytes", heard.bytes.len());
    assert!(!heard.text().contains("57P01"));
    proxy.stop().await;
}
