//! Versions of the protocol.

use crate::pooled::pooled;
use crate::postgres::Postgres;
use crate::scram::Raw;
use crate::setup::{Proxy, view};
use pgwire::cancel::encode_cancel_request;
use pgwire::{CancelKey, WholeMessage};
use proxy::ClientAuth;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

const USER: &str = "user\0postgres\0database\0postgres\0";

/// What comes up to ReadyForQuery.
async fn greeting(raw: &mut Raw) -> Vec<WholeMessage> {
    let mut messages = Vec::new();
    while messages.last().is_none_or(|last: &WholeMessage| last.kind() != b'Z') {
        messages.push(raw.hear().await);
    }
    messages
}

fn one_of(messages: &[WholeMessage], kind: u8) -> Option<&[u8]> {
    messages.iter().find(|message| message.kind() == kind).map(WholeMessage::body)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_agreed_on_and_long_keys_cancel() {
    let postgres = Postgres::started();
    let proxy =
        Proxy::start_with(pooled(2, ClientAuth::Trust), view(1, 1, Some(postgres.as_node("n1")))).await;
    let connect = || async { TcpStream::connect(proxy.address).await.unwrap() };
    let with_options = format!("{USER}_pq_.a\0b\0_pq_.c\0\0");
    for (minor, parameters, negotiated, key_len) in [
        (0, USER, None, 8),
        (1, USER, None, 8),
        (2, USER, None, 36),
        (0, &*with_options, Some(&b"\0\x03\0\0\0\0\0\x02_pq_.a\0_pq_.c\0"[..]), 8),
        (2, &*with_options, Some(b"\0\x03\0\x02\0\0\0\x02_pq_.a\0_pq_.c\0"), 36),
        (9, USER, Some(b"\0\x03\0\x02\0\0\0\0"), 36),
    ] {
        let mut raw = Raw::begin_with(connect().await, minor, parameters).await;
        let messages = greeting(&mut raw).await;
        assert_eq!(one_of(&messages, b'v'), negotiated, "3.{minor}");
        let key = one_of(&messages, b'K').unwrap();
        assert_eq!(key.len(), key_len, "3.{minor}");

        raw.say(Some(b'Q'), b"select pg_sleep(30)\0").await;
        sleep(Duration::from_millis(300)).await;
        let request = encode_cancel_request(&CancelKey::parse(key).unwrap());
        connect().await.write_all(&request).await.unwrap();
        let told = timeout(Duration::from_secs(20), greeting(&mut raw)).await.expect("it is cancelled");
        let error = String::from_utf8_lossy(one_of(&told, b'E').unwrap()).into_owned();
        assert!(error.contains("57014"), "{error}");
    }
    proxy.stop().await;
}
