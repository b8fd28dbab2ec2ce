//! Limits of clients: how many, and how long they may sit and say nothing.

use crate::console::named;
use crate::pooled::{direct, pooled, servers};
use crate::postgres::Postgres;
use crate::setup::{Proxy, view};
use proxy::{ClientAuth, ClientLimits, PoolSettings, Settings, WholeSessions};
use std::time::{Duration, Instant};
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;

async fn start(postgres: &Postgres, change: impl Fn(PoolSettings) -> PoolSettings) -> Proxy {
    let settings = pooled(4, ClientAuth::Trust);
    let settings = Settings { pool: settings.pool.map(change), ..settings };
    Proxy::start_with(settings, view(1, 1, Some(postgres.as_node("n1")))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sits_in_a_transaction_is_ended_and_its_server_closed() {
    let postgres = Postgres::started();
    let limits =
        ClientLimits { idle_in_transaction_max: Some(Duration::from_secs(1)), ..ClientLimits::default() };
    let proxy = start(&postgres, |pool| PoolSettings { limits: limits.clone(), ..pool }).await;
    let direct = direct(&postgres).await;
    let (sits, works, idle) =
        (named(&proxy, "sits").await, named(&proxy, "works").await, named(&proxy, "idle").await);
    sits.batch_execute("begin").await.unwrap();
    works.batch_execute("begin").await.unwrap();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        works.batch_execute("select pg_sleep(0.3)").await.unwrap();
    }
    works.batch_execute("select pg_sleep(2); commit").await.unwrap();
    idle.batch_execute("select 1").await.unwrap();
    let error = sits.batch_execute("select 1").await.unwrap_err();
    let is_told = error.code() == Some(&SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT);
    assert!(is_told || error.is_closed(), "{error}");
    assert!(servers(&direct).await <= 2, "its server was closed");
    let open = "select count(*) from pg_stat_activity where state like 'idle in transaction%'";
    assert_eq!(direct.query_one(open, &[]).await.unwrap().get::<_, i64>(0), 0);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_for_long_is_ended() {
    let postgres = Postgres::started();
    let limits = ClientLimits { idle_max: Some(Duration::from_secs(1)), ..ClientLimits::default() };
    let proxy = start(&postgres, |pool| PoolSettings { limits: limits.clone(), ..pool }).await;
    let (quiet, speaks) = (named(&proxy, "quiet").await, named(&proxy, "speaks").await);
    let sits = named(&proxy, "sits").await;
    sits.batch_execute("begin").await.unwrap();
    quiet.batch_execute("select 1").await.unwrap();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        speaks.batch_execute("select 1").await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(quiet.is_closed(), "the driver has read that it is ended");
    assert!(!speaks.is_closed());
    sits.batch_execute("commit").await.unwrap();
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_and_a_database_have_their_number_of_clients() {
    let postgres = Postgres::started();
    let admin = direct(&postgres).await;
    admin.batch_execute("create role ann login").await.unwrap();
    admin.batch_execute("create database other").await.unwrap();
    let limits = ClientLimits { per_user_max: Some(2), per_database_max: Some(3), ..ClientLimits::default() };
    let proxy = start(&postgres, |pool| PoolSettings { limits: limits.clone(), ..pool }).await;
    let connect = |user: &str, database: &str| {
        let config = format!("host=127.0.0.1 port={} user={user} dbname={database}", proxy.address.port());
        async move {
            let (client, connection) = tokio_postgres::connect(&config, NoTls).await?;
            tokio::spawn(connection);
            Ok::<_, tokio_postgres::Error>(client)
        }
    };
    let one = connect("postgres", "postgres").await.unwrap();
    let two = connect("postgres", "postgres").await.unwrap();
    let error = connect("postgres", "other").await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::TOO_MANY_CONNECTIONS));
    assert!(error.as_db_error().unwrap().message().contains("user \"postgres\""), "{error:?}");
    let three = connect("ann", "postgres").await.unwrap();
    let error = connect("ann", "postgres").await.unwrap_err();
    assert!(error.as_db_error().unwrap().message().contains("database \"postgres\""), "{error:?}");
    drop(one);
    let begun = Instant::now();
    while connect("ann", "postgres").await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(10), "who goes makes room");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop((two, three));
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minimum_of_servers_is_kept_open_and_the_reserve_is_for_those_who_wait() {
    let postgres = Postgres::started();
    let change = |pool| PoolSettings {
        servers_max: 2,
        servers_min: 2,
        reserve: 1,
        reserve_after: Duration::from_millis(500),
        idle_max: Duration::from_secs(1),
        ..pool
    };
    let proxy = start(&postgres, change).await;
    let direct = direct(&postgres).await;
    let first = named(&proxy, "first").await;
    first.batch_execute("select 1").await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(servers(&direct).await, 2, "opened though nobody needs them, and not closed");
    let second = named(&proxy, "second").await;
    first.batch_execute("begin").await.unwrap();
    second.batch_execute("begin").await.unwrap();
    let third = named(&proxy, "third").await;
    let begun = Instant::now();
    third.batch_execute("select 1").await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(400), "the reserve is not for everybody");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_databases_can_be_left_their_servers() {
    let postgres = Postgres::started();
    let whole_sessions = WholeSessions { users: Vec::new(), databases: vec!["whole".to_owned()] };
    let proxy =
        start(&postgres, |pool| PoolSettings { whole_sessions: whole_sessions.clone(), ..pool }).await;
    let direct = direct(&postgres).await;
    direct.batch_execute("create database whole").await.unwrap();
    let open = async |database: &str| {
        let address = format!("host=127.0.0.1 port={} user=postgres dbname={database}", proxy.address.port());
        let (client, connection) = tokio_postgres::connect(&address, NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    };
    let pid = "select pg_backend_pid()";
    let (one, two) = (open("whole").await, open("whole").await);
    let mut pids = Vec::new();
    for client in [&one, &two, &one, &two] {
        pids.push(client.query_one(pid, &[]).await.unwrap().get::<_, i32>(0));
    }
    assert!(pids[0] == pids[2] && pids[1] == pids[3] && pids[0] != pids[1], "each keeps its own: {pids:?}");
    one.batch_execute("discard all").await.unwrap();
    assert_eq!(one.query_one(pid, &[]).await.unwrap().get::<_, i32>(0), pids[0]);
    let (three, four) = (open("postgres").await, open("postgres").await);
    let shared = [
        three.query_one(pid, &[]).await.unwrap().get::<_, i32>(0),
        four.query_one(pid, &[]).await.unwrap().get::<_, i32>(0),
    ];
    assert_eq!(shared[0], shared[1], "others are lent theirs");
    drop(one);
    let begun = Instant::now();
    let left = "select count(*) from pg_stat_activity where datname = 'whole'";
    while direct.query_one(left, &[]).await.unwrap().get::<_, i64>(0) != 1 {
        assert!(begun.elapsed() < Duration::from_secs(10), "its server is closed after it");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    proxy.stop().await;
}
