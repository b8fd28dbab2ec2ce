//! Clients that listen for notifications share servers, and hear each notification once and in order.

use crate::pooled::{direct, pooled, servers, text};
use crate::postgres::Postgres;
use crate::setup::{Proxy, view};
use proxy::{ClientAuth, PoolSettings};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Client, NoTls, Notification};

/// A client that collects its notifications.
pub struct Hearer {
    pub client: Client,
    heard: Arc<Mutex<Vec<Notification>>>,
    connection: JoinHandle<Option<tokio_postgres::Error>>,
}

impl Hearer {
    pub async fn connect(proxy: SocketAddr, database: &str) -> Hearer {
        let config = format!("host=127.0.0.1 port={} user=postgres dbname={database}", proxy.port());
        let (client, mut connection) = tokio_postgres::connect(&config, NoTls).await.unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&heard);
        let connection = tokio::spawn(async move {
            loop {
                match std::future::poll_fn(|cx| connection.poll_message(cx)).await {
                    Some(Ok(AsyncMessage::Notification(one))) => into.lock().unwrap().push(one),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Some(error),
                    None => return None,
                }
            }
        });
        Hearer { client, heard, connection }
    }

    async fn run(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap();
    }

    /// Payloads so far.
    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().iter().map(|one| one.payload().to_owned()).collect()
    }

    /// Waits until so many have come.
    async fn hear(&self, count: usize) -> Vec<String> {
        let begun = Instant::now();
        loop {
            let heard = self.heard();
            if heard.len() >= count {
                return heard;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "heard {} of {count}", heard.len());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Why its connection has ended.
    async fn ended(self) -> SqlState {
        let ended = tokio::time::timeout(Duration::from_secs(20), self.connection).await;
        let error = ended.expect("its connection goes on").unwrap().expect("it was told why");
        error.code().unwrap().clone()
    }
}

async fn proxy_of(postgres: &Postgres, servers_max: usize) -> Proxy {
    Proxy::start_with(pooled(servers_max, ClientAuth::Trust), view(1, 1, Some(postgres.as_node("n1")))).await
}

/// As many clients as there are servers listen; another one's statement has them moved.
async fn moved(proxy: &Proxy, channels: &[&str]) -> Vec<Hearer> {
    let mut hearers = Vec::new();
    for channel in channels {
        let hearer = Hearer::connect(proxy.address, "postgres").await;
        hearer.run(&format!("listen {channel}")).await;
        hearers.push(hearer);
    }
    proxy.client().await.batch_execute("select 1").await.unwrap();
    // Those that were not needed are moved when the last server is.
    let (one, other) = (proxy.client().await, proxy.client().await);
    one.batch_execute("begin").await.unwrap();
    let waits = tokio::spawn(async move { other.batch_execute("select 1").await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    one.batch_execute("commit").await.unwrap();
    waits.await.unwrap().unwrap();
    hearers
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_clients_listen_on_two_servers_and_each_hears_all_once_and_in_order() {
    const NUMBERS: usize = 1_500;
    let postgres = Postgres::started();
    let proxy = proxy_of(&postgres, 2).await;
    let admin = direct(&postgres).await;
    let (begin, mut begun) = tokio::sync::watch::channel(0_usize);
    let sender = direct(&postgres).await;
    let sending = tokio::spawn(async move {
        for number in 1..=NUMBERS {
            sender.batch_execute(&format!("notify a, '{number}'; notify b, '{number}'")).await.unwrap();
            begin.send_replace(number);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    begun.wait_for(|number| *number > 10).await.unwrap();
    let address = proxy.address;
    let mut hearers = Vec::new();
    for number in 0..20 {
        hearers.push(tokio::spawn(async move {
            let hearer = Hearer::connect(address, "postgres").await;
            hearer.run(&format!("set work_mem = '{}MB'", number + 1)).await;
            let statement = hearer.client.prepare("select $1::int4 + 1").await.unwrap();
            hearer.run(if number % 2 == 0 { "listen a" } else { "begin; listen b; commit" }).await;
            for round in 0..10_i32 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                let next: i32 = hearer.client.query_one(&statement, &[&round]).await.unwrap().get(0);
                assert_eq!(next, round + 1);
                assert_eq!(text(&hearer.client, "show work_mem").await, format!("{}MB", number + 1));
            }
            hearer
        }));
    }
    let mut listening = Vec::new();
    for hearer in hearers {
        listening.push(hearer.await.unwrap());
    }
    assert!(servers(&admin).await <= 2 + 1, "with the one that sends");
    sending.await.unwrap();
    for hearer in listening {
        let begun = Instant::now();
        while hearer.heard().last().map(String::as_str) != Some("1500") {
            assert!(begun.elapsed() < Duration::from_secs(20), "it has not heard the last");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let heard: Vec<usize> = hearer.heard().iter().map(|number| number.parse().unwrap()).collect();
        let first = heard[0];
        assert_eq!(heard, (first..=NUMBERS).collect::<Vec<_>>());
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_listens_no_more_hears_nothing_once_that_is_committed() {
    let postgres = Postgres::started();
    let proxy = proxy_of(&postgres, 2).await;
    let admin = direct(&postgres).await;
    let hearers = moved(&proxy, &["a; listen b; listen \"C c\"", "a"]).await;
    let hearer = &hearers[0];
    let notify = "notify a, 'a'; notify b, 'b'; notify \"C c\", 'c'";
    admin.batch_execute(notify).await.unwrap();
    assert_eq!(hearer.hear(3).await, ["a", "b", "c"]);
    hearer.run("begin; unlisten a; rollback").await;
    hearer.run("begin; savepoint s; unlisten b; rollback to s; commit").await;
    admin.batch_execute(notify).await.unwrap();
    assert_eq!(hearer.hear(6).await[3..], ["a", "b", "c"]);
    hearer.run("begin; unlisten b; savepoint s; select 1; rollback to s").await;
    hearer.run("commit").await;
    admin.batch_execute(notify).await.unwrap();
    assert_eq!(hearer.hear(8).await[6..], ["a", "c"]);
    hearer.run("unlisten \"C c\"; listen b").await;
    admin.batch_execute(notify).await.unwrap();
    assert_eq!(sorted(&hearer.hear(10).await[8..]), ["a", "b"]);
    // On its own server, and by the one that listens for all: once.
    hearer.run("listen a").await;
    admin.batch_execute(notify).await.unwrap();
    assert_eq!(sorted(&hearer.hear(12).await[10..]), ["a", "b"]);
    hearer.run("discard all").await;
    admin.batch_execute(notify).await.unwrap();
    // The other one has heard all of the time.
    assert_eq!(hearers[1].hear(6).await, ["a"; 6]);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(hearer.heard().len(), 12);
    assert_eq!(servers(&admin).await, 2);
    drop(hearers);
    let begun = Instant::now();
    while servers(&admin).await > 1 {
        assert!(begun.elapsed() < Duration::from_secs(10), "the server that listened was not closed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    proxy.stop().await;
}

fn sorted(payloads: &[String]) -> Vec<String> {
    let mut sorted = payloads.to_vec();
    sorted.sort();
    sorted
}

#[tokio::test(flavor = "multi_thread")]
async fn another_database_hears_nothing_and_a_transaction_nothing_before_its_end() {
    let postgres = Postgres::started();
    let proxy = proxy_of(&postgres, 2).await;
    let admin = direct(&postgres).await;
    admin.batch_execute("create database other").await.unwrap();
    let hearers = moved(&proxy, &["a", "a"]).await;
    let stranger = Hearer::connect(proxy.address, "other").await;
    stranger.run("listen a").await;
    let hearer = &hearers[0];
    hearer.run("begin; select 1").await;
    admin.batch_execute("notify a, '1'").await.unwrap();
    assert_eq!(hearers[1].hear(1).await, ["1"]);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(hearer.heard().is_empty(), "it is in a transaction");
    hearer.run("notify a, '2'; commit").await;
    assert_eq!(hearer.hear(2).await, ["1", "2"]);
    assert_eq!(hearers[1].hear(2).await, ["1", "2"]);
    // What is rolled back was never there.
    hearer.run("begin; listen b; rollback").await;
    admin.batch_execute("notify b, 'b'; notify a, '3'").await.unwrap();
    assert_eq!(hearer.hear(3).await, ["1", "2", "3"]);
    assert!(stranger.heard().is_empty());
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_have_missed_something_is_told() {
    let (old, new) = (Postgres::started(), Postgres::started());
    let proxy = proxy_of(&old, 2).await;
    let hearers = moved(&proxy, &["a", "a"]).await;
    // The one that listens is ended by hand.
    let admin = direct(&old).await;
    let sql =
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'pgkeel listener'";
    assert!(admin.query_one(sql, &[]).await.unwrap().get::<_, bool>(0));
    for hearer in hearers {
        assert_eq!(hearer.ended().await, SqlState::ADMIN_SHUTDOWN);
    }
    let hearers = moved(&proxy, &["a", "a"]).await;
    let idle = proxy.client().await;
    proxy.agent.publish(view(2, 2, None));
    proxy.agent.publish(view(2, 3, Some(new.as_node("n2"))));
    for hearer in hearers {
        assert_eq!(hearer.ended().await, SqlState::ADMIN_SHUTDOWN);
    }
    idle.batch_execute("select 1").await.unwrap();
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_nothing_for_too_long_is_ended_and_the_others_go_on() {
    let postgres = Postgres::started();
    let proxy = proxy_of(&postgres, 2).await;
    let admin = direct(&postgres).await;
    let mut hearers = moved(&proxy, &["a", "a"]).await;
    let busy = hearers.remove(0);
    busy.run("begin").await;
    let payload = "x".repeat(7_000);
    for _ in 0..200 {
        admin.batch_execute(&format!("notify a, '{payload}'")).await.unwrap();
    }
    assert_eq!(hearers[0].hear(200).await.len(), 200);
    assert!(busy.heard().is_empty());
    let _ = busy.client.batch_execute("commit").await;
    assert_eq!(busy.ended().await, SqlState::ADMIN_SHUTDOWN);
    admin.batch_execute("notify a, 'last'").await.unwrap();
    assert_eq!(hearers[0].hear(201).await[200], "last");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_server_is_not_set_apart() {
    let postgres = Postgres::started();
    let mut settings = pooled(1, ClientAuth::Trust);
    settings.pool = settings.pool.map(|pool| PoolSettings { query_wait: Duration::from_secs(1), ..pool });
    let proxy = Proxy::start_with(settings, view(1, 1, Some(postgres.as_node("n1")))).await;
    let hearer = Hearer::connect(proxy.address, "postgres").await;
    hearer.run("listen a").await;
    let error = proxy.client().await.batch_execute("select 1").await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::TOO_MANY_CONNECTIONS));
    hearer.run("notify a, '1'").await;
    assert_eq!(hearer.hear(1).await, ["1"]);
    proxy.stop().await;
}
