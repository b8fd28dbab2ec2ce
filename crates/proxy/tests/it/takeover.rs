//! A new proxy takes the listening sockets over from one that runs, while clients come and go.

use crate::pooled::pooled;
use crate::postgres::Postgres;
use crate::setup::{Proxy, settings, view};
use proxy::{ClientAuth, ProxyError, Settings};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio_postgres::NoTls;

pub fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("pgkeel-it-takeover-{name}-{}", std::process::id()))
}

/// Starts one, and waits until the next one can ask it.
pub async fn start(postgres: &Postgres, settings: &Settings) -> Proxy {
    let place = settings.takeover.as_ref().unwrap();
    let inode = || std::fs::metadata(place).ok().map(|facts| facts.ino());
    let before = inode();
    let proxy = Proxy::start_with(settings.clone(), view(1, 1, Some(postgres.as_node("n1")))).await;
    let in_place = async {
        while inode().is_none_or(|now| before == Some(now)) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), in_place).await.expect("another socket in its place");
    proxy
}

/// Clients that come and go; no connection may fail.
struct Coming {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Coming {
    fn start(port: u16) -> Coming {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (over, counted) = (Arc::clone(&stop), Arc::clone(&count));
        let task = tokio::spawn(async move {
            let config = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres");
            while !over.load(Ordering::Relaxed) {
                let (client, connection) = tokio_postgres::connect(&config, NoTls).await.unwrap();
                tokio::spawn(connection);
                client.batch_execute("select 1").await.unwrap();
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Coming { stop, count, task }
    }

    async fn some_more(&self) {
        let before = self.count.load(Ordering::Relaxed);
        while self.count.load(Ordering::Relaxed) < before + 20 {
            assert!(!self.task.is_finished(), "a client was turned away");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
    }
}

async fn nobody_is_turned_away(postgres: &Postgres, settings: Settings) {
    let first = start(postgres, &settings).await;
    let stays = first.client().await;
    stays.batch_execute("begin; create temp table kept as select 7 as seven").await.unwrap();
    let coming = Coming::start(first.address.port());
    coming.some_more().await;
    let second = start(postgres, &settings).await;
    coming.some_more().await;
    let third = start(postgres, &settings).await;
    second.ended().await;
    coming.some_more().await;
    let kept = stays.query_one("select seven from kept", &[]).await.unwrap();
    assert_eq!(kept.get::<_, i32>(0), 7);
    stays.batch_execute("commit").await.unwrap();
    drop(stays);
    first.ended().await;
    coming.some_more().await;
    coming.stop().await;
    third.stop().await;
    assert!(!settings.takeover.unwrap().exists(), "the last one leaves nothing behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_turned_away_in_the_pooled_mode() {
    let postgres = Postgres::started();
    let settings = pooled(4, ClientAuth::Trust);
    let settings = Settings { takeover: Some(path("pooled")), workers: 2, ..settings };
    nobody_is_turned_away(&postgres, settings).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_turned_away_in_the_session_mode() {
    let postgres = Postgres::started();
    nobody_is_turned_away(&postgres, Settings { takeover: Some(path("session")), ..settings() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stays_too_long_is_ended_and_the_number_of_workers_may_change() {
    let postgres = Postgres::started();
    let drain = Duration::from_millis(300);
    let old = Settings { takeover: Some(path("drain")), workers: 3, drain, ..pooled(4, ClientAuth::Trust) };
    let first = start(&postgres, &old).await;
    let stays = first.client().await;
    stays.batch_execute("begin").await.unwrap();
    let second = start(&postgres, &Settings { workers: 1, ..old }).await;
    let coming = Coming::start(second.address.port());
    coming.some_more().await;
    first.ended().await;
    let error = stays.batch_execute("select 1").await.unwrap_err();
    assert!(error.is_closed() || error.code().is_some_and(|code| code.code() == "57P01"), "{error}");
    coming.some_more().await;
    coming.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_come_to_accept_changes_nothing() {
    let postgres = Postgres::started();
    let settings = Settings { takeover: Some(path("fails")), ..pooled(4, ClientAuth::Trust) };
    let place = settings.takeover.clone().unwrap();
    let first = start(&postgres, &settings).await;
    let coming = Coming::start(first.address.port());
    let mut asks = std::os::unix::net::UnixStream::connect(&place).unwrap();
    asks.read_exact(&mut [0]).unwrap();
    drop(asks);
    coming.some_more().await;
    let occupied = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut more = settings.clone();
    more.listen.push(occupied.local_addr().unwrap());
    assert!(matches!(cannot_start(more).await, ProxyError::PortTaken { .. }));
    let elsewhere = Settings { listen: vec!["127.0.0.1:0".parse().unwrap()], ..settings.clone() };
    assert!(matches!(cannot_start(elsewhere).await, ProxyError::Takeover { .. }));
    coming.some_more().await;
    let second = start(&postgres, &settings).await;
    first.ended().await;
    coming.some_more().await;
    coming.stop().await;
    second.stop().await;
    let dir = std::fs::read_dir(place.parent().unwrap()).unwrap();
    let name = place.file_name().unwrap().to_str().unwrap();
    let left = dir.filter(|file| file.as_ref().unwrap().file_name().to_str().unwrap().starts_with(name));
    assert_eq!(left.count(), 0);
}

async fn cannot_start(mut settings: Settings) -> ProxyError {
    settings.agents.push("127.0.0.1:1".to_owned());
    let (_stop, stopped) = watch::channel(false);
    proxy::run(settings, Default::default(), stopped).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_place_of_the_socket_is_left_alone() {
    let file = path("file");
    std::fs::write(&file, "mine").unwrap();
    let error = cannot_start(Settings { takeover: Some(file.clone()), ..settings() }).await;
    assert!(matches!(error, ProxyError::Takeover { .. }), "{error}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
    std::fs::remove_file(&file).unwrap();
}
