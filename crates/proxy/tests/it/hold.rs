//! New connections while there is no primary.

use crate::postgres::Postgres;
use crate::raw_client::{RawClient, startup_packet};
use crate::setup::{Proxy, server_port, settings, view};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio_postgres::error::SqlState;

#[tokio::test(flavor = "multi_thread")]
async fn a_new_connection_waits_for_the_primary_and_is_served() {
    let postgres = Postgres::started();
    let proxy = Proxy::start(view(1, 1, None)).await;
    let (published, served) = tokio::join!(
        async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            proxy.agent.publish(view(1, 2, Some(postgres.as_node("n1"))));
            Instant::now()
        },
        async {
            let client = proxy.client().await;
            (server_port(&client).await, Instant::now())
        },
    );
    assert_eq!(served.0, postgres.port);
    assert!(served.1 > published, "it was served before there was a primary");
    assert!(served.1 - published < Duration::from_secs(5));
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_connections_wait_for_a_server_that_is_not_up_yet() {
    let postgres = Postgres::create();
    let proxy = Proxy::start(view(1, 1, Some(postgres.as_node("n1")))).await;
    let logins: Vec<_> = (0..40).map(|_| proxy.client()).collect();
    let (clients, ()) = tokio::join!(join_all(logins), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        postgres.start();
    });
    for client in &clients {
        assert_eq!(server_port(client).await, postgres.port);
    }
    proxy.stop().await;
}

async fn join_all<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut running: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut done: Vec<Option<F::Output>> = running.iter().map(|_| None).collect();
    std::future::poll_fn(move |cx| {
        for (future, done) in running.iter_mut().zip(&mut done) {
            if done.is_none()
                && let std::task::Poll::Ready(output) = future.as_mut().poll(cx)
            {
                *done = Some(output);
            }
        }
        if done.iter().all(Option::is_some) {
            std::task::Poll::Ready(done.iter_mut().filter_map(Option::take).collect())
        } else {
            std::task::Poll::Pending
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_is_over_tells_cluster_epoch_time_and_reason() {
    let mut short = settings();
    short.hold = Duration::from_millis(500);
    let proxy = Proxy::start_with(short, view(7, 1, None)).await;
    // The view must have arrived, or the reason would be that no agent has told it.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let error = proxy.login().await.err().unwrap();
    let told = error.as_db_error().unwrap();
    assert_eq!(told.code(), &SqlState::CANNOT_CONNECT_NOW);
    assert_eq!(
        told.message(),
        "cluster \"shop\" has no primary that takes connections (epoch 7); waited 0.5 s"
    );
    assert_eq!(told.detail(), Some("Waiting for the seal of n3."));
    assert!(told.hint().unwrap().contains("pgkeel why"));
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_client_that_leaves_is_not_served_later() {
    let postgres = Postgres::started();
    let mut one = settings();
    one.clients_max = 1;
    let proxy = Proxy::start_with(one, view(1, 1, None)).await;
    let mut leaving = RawClient::connect(proxy.address).await;
    leaving.stream.write_all(&startup_packet()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(proxy.login().await.is_err(), "the only place is taken by the held client");
    drop(leaving);
    tokio::time::sleep(Duration::from_millis(200)).await;
    proxy.agent.publish(view(1, 2, Some(postgres.as_node("n1"))));
    assert_eq!(server_port(&proxy.client().await).await, postgres.port);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_on_a_frozen_primary_is_dropped_when_the_view_changes() {
    let (frozen, lively) = (Postgres::started(), Postgres::started());
    let proxy = Proxy::start(view(1, 1, Some(frozen.as_node("n1")))).await;
    drop(proxy.client().await);
    frozen.signal("STOP");
    let (published, served) = tokio::join!(
        async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            proxy.agent.publish(view(2, 2, Some(lively.as_node("n2"))));
            Instant::now()
        },
        async { (server_port(&proxy.client().await).await, Instant::now()) },
    );
    frozen.signal("CONT");
    assert_eq!(served.0, lively.port);
    assert!(served.1 - published < Duration::from_secs(5));
    proxy.stop().await;
}
