//! Statements and portals in orders that drivers rarely choose: nobody else may notice, and the answers are PostgreSQL's own.

use crate::pooled::pooled;
use crate::postgres::Postgres;
use crate::raw_client::RawClient;
use crate::setup::{Proxy, view};
use pgwire::message::{put, put_query};
use proxy::ClientAuth;
use tokio::io::AsyncWriteExt;

/// One server, so that whatever is left behind meets the next client.
pub async fn proxy_of(postgres: &Postgres) -> Proxy {
    Proxy::start_with(pooled(1, ClientAuth::Trust), view(1, 1, Some(postgres.as_node("n1")))).await
}

/// Messages of the extended protocol, in words: `P name=text`, `B portal=statement`, `CS name`, `DS name`, `DP name`,
/// `E portal`, `S`, `H`; and `Q text`.
fn messages(words: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    for word in words {
        if let Some(text) = word.strip_prefix("Q ") {
            put_query(text.as_bytes(), &mut out);
            continue;
        }
        let (kind, rest) = word.split_once(' ').unwrap_or((word, ""));
        let (name, value) = rest.split_once('=').unwrap_or((rest, ""));
        let (name, value) = (name.as_bytes(), value.as_bytes());
        match kind {
            "P" => put(b'P', &[name, b"\0", value, b"\0\0\0"], &mut out),
            "B" => put(b'B', &[name, b"\0", value, b"\0\0\0\0\0\0\0"], &mut out),
            "CS" => put(b'C', &[b"S", name, b"\0"], &mut out),
            "DS" => put(b'D', &[b"S", name, b"\0"], &mut out),
            "DP" => put(b'D', &[b"P", name, b"\0"], &mut out),
            "E" => put(b'E', &[name, b"\0\0\0\0\0"], &mut out),
            "S" => put(b'S', &[], &mut out),
            "H" => put(b'H', &[], &mut out),
            other => panic!("{other} is no message"),
        }
    }
    out
}

/// What is answered up to the last ReadyForQuery, by kind, and its text.
pub async fn say(client: &mut RawClient, words: &[&str]) -> (String, String) {
    client.stream.write_all(&messages(words)).await.unwrap();
    let (mut kinds, mut text) = (String::new(), String::new());
    for _ in words.iter().filter(|word| **word == "S" || word.starts_with("Q ")) {
        hear(client, &mut kinds, &mut text).await;
    }
    (kinds, text)
}

async fn hear(client: &mut RawClient, kinds: &mut String, text: &mut String) {
    let heard = client.hear_until_ready().await;
    let mut rest = &heard.bytes[..];
    while let [kind, a, b, c, d, ..] = rest {
        kinds.push(char::from(*kind));
        rest = &rest[1 + u32::from_be_bytes([*a, *b, *c, *d]) as usize..];
    }
    text.push_str(&heard.text());
}

pub async fn ask(client: &mut RawClient, sql: &str) -> String {
    client.query(sql).await;
    let (mut kinds, mut text) = (String::new(), String::new());
    hear(client, &mut kinds, &mut text).await;
    text
}

async fn work_mem(client: &mut RawClient) -> String {
    let told = ask(client, "select '<' || current_setting('work_mem') || '>'").await;
    told.split(['<', '>']).nth(1).unwrap_or(&told).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_by_statements_that_are_executed_by_name_stay_with_their_client() {
    let postgres = Postgres::started();
    let proxy = proxy_of(&postgres).await;
    let (mut one, mut other) =
        (RawClient::logged_in(proxy.address).await, RawClient::logged_in(proxy.address).await);
    let before = work_mem(&mut other).await;
    say(&mut one, &["P s=set work_mem = '3MB'", "S"]).await;
    assert!(ask(&mut one, "execute s").await.contains("SET"));
    assert_eq!((work_mem(&mut one).await, work_mem(&mut other).await), ("3MB".into(), before.clone()));

    // The same by the extended protocol.
    say(&mut one, &["P t=set work_mem = '5MB'", "S"]).await;
    let (kinds, _) = say(&mut one, &["P =execute t", "B =", "DP ", "E ", "S"]).await;
    assert_eq!(kinds, "12nCZ");
    assert_eq!((work_mem(&mut one).await, work_mem(&mut other).await), ("5MB".into(), before.clone()));

    // A portal that was bound before a Sync and is executed after it.
    ask(&mut one, "begin").await;
    say(&mut one, &["P =set work_mem = '7MB'", "B x=", "S"]).await;
    say(&mut one, &["P =select 1", "B =", "E ", "S"]).await;
    say(&mut one, &["E x", "S"]).await;
    ask(&mut one, "commit").await;
    assert_eq!((work_mem(&mut one).await, work_mem(&mut other).await), ("7MB".into(), before.clone()));
    ask(&mut one, "begin").await;
    say(&mut one, &["P =set work_mem = '9MB'", "B x=", "S"]).await;
    say(&mut one, &["E x", "S"]).await;
    ask(&mut one, "rollback").await;
    assert_eq!((work_mem(&mut one).await, work_mem(&mut other).await), ("7MB".into(), before.clone()));

    // So many that they are not followed: the client keeps its server, and it goes with the client.
    ask(&mut one, "begin").await;
    let binds: Vec<String> = (0..150).map(|n| format!("B x{n}=")).collect();
    let mut words = vec!["P =set work_mem = '11MB'"];
    words.extend(binds.iter().map(String::as_str));
    words.push("S");
    say(&mut one, &words).await;
    say(&mut one, &["E x149", "S"]).await;
    ask(&mut one, "commit").await;
    assert_eq!(work_mem(&mut one).await, "11MB");
    drop(one);
    assert_eq!(work_mem(&mut other).await, before);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_in_the_extended_protocol_knows_what_the_protocol_prepared() {
    let postgres = Postgres::started();
    let proxy = proxy_of(&postgres).await;
    let (mut one, mut other) =
        (RawClient::logged_in(proxy.address).await, RawClient::logged_in(proxy.address).await);
    say(&mut one, &["P s=select 7 as seven", "P Quoted=select 8", "S"]).await;
    // Somebody else has the server in between, and the same statement.
    say(&mut other, &["P mine=select 7 as seven", "S"]).await;
    let (kinds, text) = say(&mut one, &["P =execute S", "DS ", "B =", "E ", "S"]).await;
    assert_eq!(kinds, "1tT2DCZ");
    assert!(text.contains("seven") && text.contains("SELECT"), "{text}");
    let (kinds, _) = say(&mut one, &["P e=execute \"Quoted\"", "B =e", "E ", "B =e", "E ", "S"]).await;
    assert_eq!(kinds, "12DC2DCZ");
    // Its own unnamed statement is there nevertheless.
    say(&mut one, &["P =select 'unnamed'", "S"]).await;
    say(&mut one, &["B =e", "E ", "S"]).await;
    let (_, text) = say(&mut one, &["P d=deallocate s", "B =d", "E ", "B =", "E ", "S"]).await;
    assert!(text.contains("DEALLOCATE"), "{text}");
    let (_, text) = say(&mut one, &["B =s", "S"]).await;
    assert!(text.contains("C26000"), "{text}");
    let (kinds, text) = say(&mut one, &["P s=select 9", "B =s", "E ", "S"]).await;
    assert!(kinds == "12DCZ" && text.contains('9'), "{kinds} {text}");
    let (kinds, text) = say(&mut other, &["B =mine", "E ", "S"]).await;
    assert_eq!(kinds, "2DCZ", "{text}");
    let (_, text) = say(&mut one, &["P =execute nobody", "B =", "E ", "S"]).await;
    assert!(text.contains("C26000"), "{text}");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_skipped_after_an_error_is_not_prepared() {
    let postgres = Postgres::started();
    let proxy = proxy_of(&postgres).await;
    let (mut one, mut other) =
        (RawClient::logged_in(proxy.address).await, RawClient::logged_in(proxy.address).await);
    say(&mut other, &["P theirs=select 41", "S"]).await;
    let (kinds, _) = say(&mut one, &["P =selct", "P b=select 41", "P c=select 42", "S"]).await;
    assert_eq!(kinds, "EZ");
    for name in ["B =b", "B =c"] {
        let (_, text) = say(&mut one, &[name, "E ", "S"]).await;
        assert!(text.contains("C26000"), "{text}");
    }
    let (kinds, text) =
        say(&mut one, &["P b=select 41", "P c=select 42", "B =b", "E ", "B =c", "E ", "S"]).await;
    assert_eq!(kinds, "112DC2DCZ", "{text}");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_behind_the_last_sync_keeps_no_server() {
    let postgres = Postgres::started();
    let proxy = proxy_of(&postgres).await;
    let (mut one, mut other) =
        (RawClient::logged_in(proxy.address).await, RawClient::logged_in(proxy.address).await);
    let (kinds, _) = say(&mut one, &["P =select 1", "B =", "E ", "S", "H"]).await;
    assert_eq!(kinds, "12DCZ");
    assert!(ask(&mut other, "select 2").await.contains("SELECT"));
    proxy.stop().await;
}
