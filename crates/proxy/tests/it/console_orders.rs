//! Orders at the console, while clients are at work: PAUSE, RESUME, RECONNECT, KILL.

use crate::console::{named, say, show, start, until};
use crate::pooled::{direct, pooled, servers, text};
use crate::postgres::Postgres;
use crate::setup::Proxy;
use proxy::{ClientAuth, Settings};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;

/// A client that asks all the time; no question may fail.
struct Busy {
    asked: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Busy {
    async fn start(proxy: &Proxy) -> Busy {
        let client = named(proxy, "busy").await;
        let (asked, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, over) = (Arc::clone(&asked), Arc::clone(&stop));
        let task = tokio::spawn(async move {
            while !over.load(Ordering::Relaxed) {
                client.batch_execute("begin; select 1; commit").await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Busy { asked, stop, task }
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    async fn advances(&self) {
        let (before, begun) = (self.asked(), Instant::now());
        while self.asked() < before + 5 {
            assert!(
                begun.elapsed() < Duration::from_secs(10) && !self.task.is_finished(),
                "it does not go on"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
    }
}

fn two_workers() -> Settings {
    Settings { workers: 2, ..pooled(4, ClientAuth::Trust) }
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_clients_wait_and_go_on_without_an_error() {
    let postgres = Postgres::started();
    let proxy = start(&postgres, two_workers()).await;
    let direct = direct(&postgres).await;
    let busy = [Busy::start(&proxy).await, Busy::start(&proxy).await, Busy::start(&proxy).await];
    for one in &busy {
        one.advances().await;
    }
    say(&proxy, "PAUSE").unwrap();
    let begun = Instant::now();
    while servers(&direct).await > 0 {
        assert!(begun.elapsed() < Duration::from_secs(10), "somebody is still connected to the server");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let counts = || busy.iter().map(Busy::asked).collect::<Vec<_>>();
    // An answer may have been on its way to its client.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let before = counts();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(counts(), before);
    let row = until(&proxy, "CLIENTS", |row| row["state"] == "waiting").await;
    assert!(row["doing"].ends_with("the database is paused"), "{row:?}");
    assert_eq!(show(&proxy, "DATABASES")[0]["paused"], "1");
    // The whole server may be restarted meanwhile.
    postgres.stop_in_order();
    postgres.start();
    let told = say(&proxy, "RESUME postgres").unwrap();
    assert!(told.contains("RESUME without a name"), "{told}");
    assert_eq!(counts(), before);
    say(&proxy, "RESUME").unwrap();
    for one in busy {
        one.advances().await;
        one.stop().await;
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_waits_for_transactions_and_for_what_clients_keep() {
    let postgres = Postgres::started();
    let proxy = Arc::new(start(&postgres, two_workers()).await);
    let (sits, kept) = (named(&proxy, "sits").await, named(&proxy, "kept").await);
    sits.batch_execute("begin; select 1").await.unwrap();
    kept.batch_execute("create temp table t ()").await.unwrap();
    kept.batch_execute("drop table t").await.unwrap();
    let pausing = tokio::task::spawn_blocking({
        let proxy = Arc::clone(&proxy);
        move || say(&proxy, "PAUSE postgres")
    });
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(!pausing.is_finished(), "a transaction is open");
    sits.batch_execute("commit").await.unwrap();
    pausing.await.unwrap().unwrap();
    assert!(show(&proxy, "SERVERS").is_empty(), "the other one was asked what it keeps: nothing");
    say(&proxy, "RESUME postgres").unwrap();
    kept.batch_execute("select 1").await.unwrap();
    Arc::into_inner(proxy).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_that_is_not_waited_for_is_taken_back() {
    let postgres = Postgres::started();
    let proxy = start(&postgres, two_workers()).await;
    let (sits, other) = (named(&proxy, "sits").await, named(&proxy, "other").await);
    sits.batch_execute("begin").await.unwrap();
    let config = format!("host=127.0.0.1 port={} user=postgres dbname=pgkeel", proxy.address.port());
    let console = || async {
        let (client, connection) = tokio_postgres::connect(&config, NoTls).await.unwrap();
        (client, tokio::spawn(connection))
    };
    let (cancelled, _connection) = console().await;
    let cancel = cancelled.cancel_token();
    let pausing = tokio::spawn(async move { (cancelled.simple_query("PAUSE").await.map(drop), cancelled) });
    until(&proxy, "POOLS", |row| row["paused"] == "1").await;
    cancel.cancel_query(NoTls).await.unwrap();
    let (outcome, cancelled) = pausing.await.unwrap();
    assert_eq!(outcome.unwrap_err().code(), Some(&SqlState::QUERY_CANCELED));
    other.batch_execute("select 1").await.unwrap();
    assert!(cancelled.simple_query("show version").await.is_ok(), "the console goes on");

    let (gone, connection) = console().await;
    let pausing = tokio::spawn(async move { gone.simple_query("PAUSE").await.map(drop) });
    until(&proxy, "POOLS", |row| row["paused"] == "1").await;
    connection.abort();
    assert!(pausing.await.unwrap().is_err());
    other.batch_execute("select 1").await.unwrap();
    until(&proxy, "POOLS", |row| row["paused"] == "0").await;

    // What was paused before stays so.
    let (waits, _connection) = console().await;
    let cancel = waits.cancel_token();
    let first = tokio::spawn(async move { waits.simple_query("PAUSE").await.map(drop) });
    until(&proxy, "POOLS", |row| row["paused"] == "1").await;
    let (second, connection) = console().await;
    let second = tokio::spawn(async move { second.simple_query("PAUSE").await.map(drop) });
    tokio::time::sleep(Duration::from_millis(300)).await;
    connection.abort();
    assert!(second.await.unwrap().is_err());
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(show(&proxy, "POOLS")[0]["paused"], "1");
    cancel.cancel_query(NoTls).await.unwrap();
    assert!(first.await.unwrap().is_err());
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_is_ended_and_no_other() {
    let postgres = Postgres::started();
    let proxy = start(&postgres, two_workers()).await;
    let mut clients = Vec::new();
    for number in 0..6 {
        clients.push(named(&proxy, &format!("c{number}")).await);
    }
    let id_of = |name: &str| {
        let table = show(&proxy, "CLIENTS");
        table.into_iter().find(|row| row["application_name"] == name).unwrap().remove("id").unwrap()
    };
    clients[1].batch_execute("begin").await.unwrap();
    let sleeping = clients.remove(2);
    let sleeping = tokio::spawn(async move { sleeping.batch_execute("select pg_sleep(30)").await });
    until(&proxy, "CLIENTS", |row| row["doing"].starts_with("a statement runs")).await;
    for name in ["c0", "c1", "c2"] {
        say(&proxy, &format!("KILL CLIENT {}", id_of(name))).unwrap();
    }
    let begun = Instant::now();
    let error = sleeping.await.unwrap().unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(20), "its statement is not waited for");
    assert!(error.code() == Some(&SqlState::ADMIN_SHUTDOWN) || error.is_closed(), "{error}");
    for killed in &clients[..2] {
        assert!(killed.batch_execute("select 1").await.is_err());
    }
    for other in &clients[2..] {
        other.batch_execute("select 1").await.unwrap();
    }
    let error = say(&proxy, "KILL CLIENT 4000000000").unwrap_err();
    assert!(error.contains("42704: there is no client 4000000000"), "{error}");
    until(&proxy, "LISTS", |row| row["list"] == "used_clients" && row["items"] == "3").await;
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_cleared_and_stays_so_until_it_is_resumed() {
    let postgres = Postgres::started();
    let admin = direct(&postgres).await;
    admin.batch_execute("create database other").await.unwrap();
    let proxy = start(&postgres, two_workers()).await;
    let here = named(&proxy, "here").await;
    let config = format!("host=127.0.0.1 port={} user=postgres dbname=other", proxy.address.port());
    let (there, connection) = tokio_postgres::connect(&config, NoTls).await.unwrap();
    tokio::spawn(connection);
    there.batch_execute("begin").await.unwrap();
    let told = say(&proxy, "KILL other").unwrap();
    assert!(told.contains("clients ended: 1"), "{told}");
    assert!(there.batch_execute("select 1").await.is_err());
    here.batch_execute("select 1").await.unwrap();
    // Nobody is there any more, and nobody comes.
    let begun = Instant::now();
    while admin.batch_execute("drop database other").await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(10), "somebody is connected");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let waiting = tokio::spawn({
        let config = config.clone();
        async move {
            let (client, connection) = tokio_postgres::connect(&config, NoTls).await.unwrap();
            tokio::spawn(connection);
            client.batch_execute("select 1").await.unwrap();
        }
    });
    until(&proxy, "CLIENTS", |row| row["database"] == "other" && row["state"] != "active").await;
    assert!(!waiting.is_finished());
    admin.batch_execute("create database other").await.unwrap();
    say(&proxy, "RESUME other").unwrap();
    waiting.await.unwrap();
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_are_replaced_when_they_are_given_back() {
    let postgres = Postgres::started();
    let proxy = start(&postgres, pooled(1, ClientAuth::Trust)).await;
    let client = named(&proxy, "pid").await;
    let pid = "select pg_backend_pid()::text";
    let first = text(&client, pid).await;
    assert_eq!(text(&client, pid).await, first);
    client.batch_execute("begin").await.unwrap();
    say(&proxy, "RECONNECT postgres").unwrap();
    assert_eq!(show(&proxy, "SERVERS")[0]["close_needed"], "1");
    assert_eq!(text(&client, pid).await, first, "not inside a transaction");
    client.batch_execute("commit").await.unwrap();
    assert_ne!(text(&client, pid).await, first);
    let told = say(&proxy, "RECONNECT nowhere").unwrap();
    assert!(told.contains("no client has used the database"), "{told}");
    proxy.stop().await;
}
