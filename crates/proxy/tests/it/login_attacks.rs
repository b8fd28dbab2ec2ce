//! What somebody without a password can try. Channel binding that is taken away is in `tls_login`.

use crate::scram::{NONCE, Raw};
use crate::setup::{Proxy, view};
use crate::tls::run;
use crate::tls_login::{ann, postgres_of_ann, scram};
use pgwire::WholeMessage;
use pgwire::scram::{Client, ClientChannel, Secret};
use proxy::Settings;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::{JoinSet, block_in_place};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(30);

async fn begin(proxy: SocketAddr, user: &str) -> Raw {
    Raw::begin(TcpStream::connect(proxy).await.unwrap(), user).await
}

/// What a wrong password is answered by: the challenge, and the last message.
async fn guess(stream: TcpStream, user: &str) -> (Vec<u8>, WholeMessage) {
    let mut raw = Raw::begin(stream, user).await;
    let offered = raw.hear().await;
    if offered.kind() == b'E' {
        return (Vec::new(), offered);
    }
    assert_eq!(offered.body(), b"\0\0\0\x0aSCRAM-SHA-256\0\0");
    let client = Client::new(Secret::Password(b"pencil".to_vec()), ClientChannel::Open, NONCE);
    raw.choose("SCRAM-SHA-256", &client.first()).await;
    let challenge = raw.hear().await.body()[4..].to_vec();
    let (_, last) = client.prove(&challenge).unwrap();
    raw.say(Some(b'p'), &last).await;
    (challenge, raw.hear().await)
}

async fn guess_at(proxy: SocketAddr, user: &str) -> (Vec<u8>, WholeMessage) {
    guess(TcpStream::connect(proxy).await.unwrap(), user).await
}

/// Without the nonce, which is another one each time.
fn salt_and_iterations(challenge: &[u8]) -> String {
    let text = String::from_utf8(challenge.to_vec()).unwrap();
    text.split_once(',').unwrap().1.to_owned()
}

fn text(message: &WholeMessage) -> String {
    String::from_utf8_lossy(message.body()).replace('\0', " ")
}

fn is_let_in(proxy: SocketAddr) -> bool {
    block_in_place(|| run(&ann(proxy, "sslmode=disable"), "select session_user") == "ann\n")
}

async fn proxy_of(postgres: &crate::postgres::Postgres) -> Proxy {
    let settings = Settings { workers: 2, ..scram() };
    Proxy::start_with(settings, view(1, 1, Some(postgres.as_node("n1")))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn whether_a_user_exists_is_not_told() {
    let postgres = postgres_of_ann(None);
    let direct = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", postgres.port);
    run(&direct, "create role bob login");
    let proxy = proxy_of(&postgres).await;
    let mut seen = Vec::new();
    for user in ["ann", "bob", "eve"] {
        let (challenge, last) = guess_at(proxy.address, user).await;
        let challenge = salt_and_iterations(&challenge);
        let told = text(&last).replace(user, "USER");
        assert!(told.contains("28P01") && told.contains("password authentication failed"), "{told}");
        seen.push((challenge.len(), told));
        // The salt of somebody who does not exist stays the same as well, whichever worker is asked.
        for _ in 0..10 {
            let mut raw = begin(proxy.address, user).await;
            raw.hear().await;
            let client = Client::new(Secret::Password(Vec::new()), ClientChannel::Open, NONCE);
            raw.choose("SCRAM-SHA-256", &client.first()).await;
            assert_eq!(salt_and_iterations(&raw.hear().await.body()[4..]), challenge, "{user}");
        }
    }
    assert!(seen.iter().all(|what| *what == seen[0]), "{seen:?}");

    // Nor by the time: that of one who has just logged in is at hand, the other is looked up.
    assert!(is_let_in(proxy.address));
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..15 {
        for (of_user, user) in times.iter_mut().zip(["ann".to_owned(), format!("eve{round}")]) {
            let since = Instant::now();
            begin(proxy.address, &user).await.hear().await;
            of_user.push(since.elapsed());
        }
    }
    let [known, unknown] = times.map(|mut of_user| {
        of_user.sort();
        of_user[of_user.len() / 2]
    });
    let ratio = known.as_secs_f64() / unknown.as_secs_f64();
    assert!((0.6..1.7).contains(&ratio), "known {known:?}, unknown {unknown:?}");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_overheard_cannot_be_said_again() {
    let postgres = postgres_of_ann(None);
    let proxy = proxy_of(&postgres).await;
    let client = Client::new(Secret::Password(b"pen cil".to_vec()), ClientChannel::Open, NONCE);
    let first = client.first();
    let mut raw = begin(proxy.address, "ann").await;
    raw.hear().await;
    raw.choose("SCRAM-SHA-256", &first).await;
    let (_, last) = client.prove(&raw.hear().await.body()[4..]).unwrap();
    raw.say(Some(b'p'), &last).await;
    assert_eq!(raw.hear().await.kind(), b'R', "it is right the first time");

    let mut replayed = begin(proxy.address, "ann").await;
    replayed.hear().await;
    replayed.choose("SCRAM-SHA-256", &first).await;
    replayed.hear().await;
    replayed.say(Some(b'p'), &last).await;
    let told = replayed.hear().await;
    assert!(told.kind() == b'E' && text(&told).contains("another nonce"), "{}", text(&told));
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_weaker_is_accepted() {
    let postgres = postgres_of_ann(None);
    let proxy = proxy_of(&postgres).await;
    let bound = b"p=tls-server-end-point,,n=,r=abcdefghijklmnopqrstuvwx";
    let plain = b"n,,n=,r=abcdefghijklmnopqrstuvwx";
    for (mechanism, first) in [
        ("PLAIN", &b"\0ann\0pen cil"[..]),
        ("SCRAM-SHA-1", plain),
        ("SCRAM-SHA-256-PLUS", bound),
        ("SCRAM-SHA-256", bound),
        ("", plain),
    ] {
        let mut raw = begin(proxy.address, "ann").await;
        assert_eq!(raw.hear().await.body(), b"\0\0\0\x0aSCRAM-SHA-256\0\0", "nothing else is offered");
        raw.choose(mechanism, first).await;
        let told = raw.hear().await;
        assert!(told.kind() == b'E' && text(&told).contains("08P01"), "{mechanism}: {}", text(&told));
    }
    // A password as it is, and one as MD5 would have it.
    for said in [&b"pen cil\0"[..], b"md5a3556571e93b0d20722ba62be61e8c2d\0"] {
        let mut raw = begin(proxy.address, "ann").await;
        raw.hear().await;
        raw.say(Some(b'p'), said).await;
        assert_eq!(raw.hear().await.kind(), b'E');
    }
    assert!(is_let_in(proxy.address));
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_messages_are_refused_before_they_have_come() {
    let postgres = postgres_of_ann(None);
    let proxy = proxy_of(&postgres).await;
    for len in [70_000_u32, 100_000_000, 0x3fff_ffff, 0x7fff_ffff, 3] {
        let mut raw = begin(proxy.address, "ann").await;
        raw.hear().await;
        raw.say_header(b'p', len).await;
        let told = timeout(LIMIT, raw.hear()).await.expect("it does not wait for the rest");
        assert!(told.kind() == b'E' && text(&told).contains("08P01"), "{len}: {}", text(&told));
    }
    let mut raw = begin(proxy.address, "ann").await;
    raw.hear().await;
    raw.choose("SCRAM-SHA-256", &[b"n,,n=,r=".to_vec(), vec![b'a'; 20_000]].concat()).await;
    assert_eq!(raw.hear().await.kind(), b'E');
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_guesses_is_slowed_down_and_nobody_else() {
    let postgres = postgres_of_ann(None);
    let proxy = proxy_of(&postgres).await;
    for _ in 0..7 {
        guess_at(proxy.address, "ann").await;
    }
    // Longer and longer: this one waits for more than a second, and meanwhile others are let in.
    let address = proxy.address;
    let waits = tokio::spawn(async move { guess_at(address, "ann").await });
    assert!(is_let_in(proxy.address), "the right password is not delayed");
    assert!(!waits.is_finished(), "a wrong one is");
    waits.await.unwrap();

    let mut guesses = JoinSet::new();
    for _ in 0..150 {
        guesses.spawn(async move { guess_at(address, "ann").await });
    }
    let elsewhere = TcpSocket::new_v4().unwrap();
    elsewhere.bind("127.0.0.77:0".parse().unwrap()).unwrap();
    let mut shut = 0;
    while let Some(guessed) = guesses.join_next().await {
        shut += usize::from(text(&guessed.unwrap().1).contains("too many logins from 127.0.0.1 have failed"));
    }
    assert!(shut > 0, "all were let try");
    let (_, last) = guess(elsewhere.connect(address).await.unwrap(), "ann").await;
    assert!(text(&last).contains("28P01"), "another address stands as if nothing were: {}", text(&last));
    assert!(is_let_in(proxy.address), "nobody is shut out for long");
    proxy.stop().await;
}
