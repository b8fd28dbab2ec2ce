//! Cancel requests that come to another proxy than their session.

use crate::pooled::pooled;
use crate::postgres::{Postgres, free_port};
use crate::raw_client::RawClient;
use crate::setup::{Proxy, settings, view};
use pgwire::{CancelKey, Notable, encode_cancel_request};
use proxy::{ClientAuth, Settings};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// A client that sleeps, and its key.
pub async fn sleeper(proxy: SocketAddr) -> (RawClient, CancelKey) {
    let mut client = RawClient::connect(proxy).await;
    client.stream.write_all(&crate::raw_client::startup_packet()).await.unwrap();
    let greeting = client.hear_until_ready().await;
    let key = greeting.messages.into_iter().find_map(|message| match message {
        Notable::BackendKey(key) => Some(key),
        _ => None,
    });
    client.query("select pg_sleep(30)").await;
    sleep(Duration::from_millis(300)).await;
    (client, key.expect("a key"))
}

/// Returns when the proxy has closed the connection.
pub async fn cancel(proxy: SocketAddr, key: &CancelKey) {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    stream.write_all(&encode_cancel_request(key)).await.unwrap();
    let closed = timeout(Duration::from_secs(20), stream.read(&mut [0])).await.expect("it is answered");
    assert!(matches!(closed, Ok(0) | Err(_)), "nothing is said");
}

pub async fn sleeps(client: &mut RawClient) -> bool {
    timeout(Duration::from_millis(700), client.stream.peek(&mut [0])).await.is_err()
}

async fn pass_on(settings: fn() -> Settings) {
    let postgres = Postgres::started();
    let (first, second, third) = (settings(), settings(), settings());
    let nobody = format!("127.0.0.1:{}", free_port());
    // Both name themselves, each other, and one that is not there.
    let peers = vec![first.listen[0].to_string(), nobody, second.listen[0].to_string()];
    let start = |settings, peers: &[String]| {
        let settings = Settings { peers: peers.to_vec(), ..settings };
        Proxy::start_with(settings, view(1, 1, Some(postgres.as_node("n1"))))
    };
    let (here, there) = (start(first, &peers).await, start(second, &peers).await);
    let alone = start(third, &[]).await;

    let (mut client, key) = sleeper(here.address).await;
    let (mut neighbour, _) = sleeper(here.address).await;
    cancel(alone.address, &key).await;
    assert!(sleeps(&mut client).await, "a proxy without peers knows nobody to ask");
    let mut marked = key.to_bytes();
    marked[0] |= 0x80;
    cancel(there.address, &CancelKey::parse(&marked).unwrap()).await;
    assert!(sleeps(&mut client).await, "what was passed on is not passed on again");
    let mut wrong = key.to_bytes();
    *wrong.last_mut().unwrap() ^= 1;
    cancel(there.address, &CancelKey::parse(&wrong).unwrap()).await;
    assert!(sleeps(&mut client).await, "a wrong secret");

    cancel(there.address, &key).await;
    let told = timeout(Duration::from_secs(20), client.hear_until_ready()).await.expect("it is cancelled");
    assert!(told.text().contains("C57014"), "{}", told.text());
    assert!(sleeps(&mut neighbour).await, "another client's statement");
    client.query("select 1").await;
    client.hear_until_ready().await;
    for proxy in [here, there, alone] {
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn they_find_their_session_in_the_pooled_mode() {
    pass_on(|| pooled(2, ClientAuth::Trust)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn they_find_their_session_in_the_session_mode() {
    pass_on(settings).await;
}
