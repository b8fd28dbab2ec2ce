//! Bytes that are not PostgreSQL's, clients that are slow, and start-ups that cannot work.

use crate::leaks::long;
use crate::pooled::pooled;
use crate::postgres::{Postgres, free_port};
use crate::raw_client::{PATIENCE, RawClient};
use crate::setup::{Proxy, server_port, settings, view};
use proxy::{ClientAuth, Settings};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::timeout;

async fn all_of_answer(proxy: SocketAddr, sent: &[u8]) -> Vec<u8> {
    let mut client = RawClient::connect(proxy).await;
    client.stream.write_all(sent).await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, client.stream.read_to_end(&mut answer)).await.expect("not closed");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_closed_and_others_are_served() {
    let postgres = Postgres::started();
    let proxy = Proxy::start(view(1, 1, Some(postgres.as_node("n1")))).await;
    for garbage in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 64], &[255; 64], b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"]
    {
        assert_eq!(all_of_answer(proxy.address, garbage).await, b"", "{garbage:?}");
    }
    let no_terminator = all_of_answer(proxy.address, b"\0\0\0\x0d\0\x03\0\0user\0").await;
    assert!(no_terminator.windows(5).any(|w| w == b"08P01"));
    let version_2 = all_of_answer(proxy.address, b"\0\0\0\x09\0\x02\0\0\0").await;
    assert!(version_2.windows(5).any(|w| w == b"0A000"));
    let ssl_twice = [&b"\0\0\0\x08\x04\xd2\x16\x2f"[..]; 2].concat();
    assert!(all_of_answer(proxy.address, &ssl_twice).await.windows(5).any(|w| w == b"08P01"));
    let unknown_key = all_of_answer(proxy.address, b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x01abcd").await;
    assert_eq!(unknown_key, b"");
    assert_eq!(server_port(&proxy.client().await).await, postgres.port);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_startup_packets_are_closed_and_others_are_served_meanwhile() {
    let postgres = Postgres::started();
    let mut short = settings();
    short.startup_timeout = Duration::from_millis(1_500);
    let proxy = Proxy::start_with(short, view(1, 1, Some(postgres.as_node("n1")))).await;
    let begun = Instant::now();
    let mut slow = Vec::new();
    for n in 0..50_usize {
        let mut client = RawClient::connect(proxy.address).await;
        client.stream.write_all(&b"\0\0\x10\0\0\x03\0\0user"[..n % 12]).await.unwrap();
        slow.push(client);
    }
    assert_eq!(server_port(&proxy.client().await).await, postgres.port);
    assert!(begun.elapsed() < Duration::from_millis(1_500));
    for client in &mut slow {
        assert_eq!(client.hear_all().await.bytes, b"");
    }
    assert!(begun.elapsed() >= Duration::from_millis(1_500));
    proxy.stop().await;
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut settings = settings();
    settings.listen = vec![taken.local_addr().unwrap()];
    settings.agents = vec![format!("127.0.0.1:{}", free_port())];
    let (_stop, stop_seen) = watch::channel(false);
    let error = proxy::run(settings, Default::default(), stop_seen).await.unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("cannot listen on {}: the port is taken", taken.local_addr().unwrap()))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_proxy_on_the_same_port_is_refused() {
    let proxy = Proxy::start(view(1, 1, None)).await;
    let mut second = settings();
    second.listen = vec![proxy.address];
    second.agents = vec![proxy.agent.address.to_string()];
    let (_stop, stop_seen) = watch::channel(false);
    assert!(matches!(
        proxy::run(second, Default::default(), stop_seen).await,
        Err(proxy::ProxyError::PortTaken { .. })
    ));
    proxy.stop().await;
}

/// Half of them say nothing, the others begin a start-up packet and go on with a byte now and then.
#[tokio::test(flavor = "multi_thread")]
async fn very_many_silent_connections_leave_the_others_served() {
    let postgres = Postgres::started();
    let wanted = if long().is_some() { 10_000 } else { 400 };
    let files = raise_file_limit(wanted * 2 + 1_000);
    let count = usize::try_from(wanted.min(files.saturating_sub(500) / 2)).unwrap();
    let settings = Settings {
        clients_max: 20_000,
        startup_timeout: Duration::from_secs(60),
        ..pooled(4, ClientAuth::Trust)
    };
    let proxy = Proxy::start_with(settings, view(1, 1, Some(postgres.as_node("n1")))).await;
    let served = proxy.client().await;
    let before = resident_bytes();
    let mut silent = Vec::new();
    for _ in 0..count {
        silent.push(RawClient::connect(proxy.address).await);
    }
    let packet = b"\0\0\0\x29\0\x03\0\0user\0postgres\0";
    let mut longest = Duration::ZERO;
    for sent in 0..packet.len() {
        for client in silent.iter_mut().step_by(2) {
            client.stream.write_all(&packet[sent..=sent]).await.unwrap();
        }
        let begun = Instant::now();
        served.batch_execute("select 1").await.unwrap();
        proxy.client().await.batch_execute("select 1").await.unwrap();
        longest = longest.max(begun.elapsed());
    }
    let each = resident_bytes().saturating_sub(before) / count;
    println!(
        "{count} silent connections: {each} bytes for each, both ends; the others waited at most {longest:?}"
    );
    // Generous: it is the order of magnitude that counts.
    assert!(each < 64 * 1024, "{each} bytes for each");
    drop(silent);
    proxy.stop().await;
}

fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

/// As many as are allowed; how many that is.
fn raise_file_limit(wanted: u64) -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let most = maximum.map_or(wanted, |maximum| maximum.min(wanted));
    match setrlimit(Resource::Nofile, Rlimit { current: Some(most.max(current.unwrap_or(most))), maximum }) {
        Ok(()) => most,
        Err(_) => current.unwrap_or(most),
    }
}
