//! Nothing of one client is ever seen by another: many clients with random state on few servers.
//!
//! With `PGKEEL_PROXY_LONG`, a number of seconds: 64 clients on four servers for so long (`make proxy-long`).

use crate::pooled::{pooled, text};
use crate::postgres::Postgres;
use crate::raw_client::RawClient;
use crate::setup::{Proxy, view};
use proxy::{ClientAuth, Settings};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio_postgres::{Client, CopyInSink, NoTls, Statement};

const CLIENTS: u64 = 12;
const SERVERS: usize = 3;
const STEPS: usize = 120;

const CLIENTS_LONG: u64 = 64;
const SERVERS_LONG: usize = 4;

/// For how long the long tests go on, if they are wanted.
pub fn long() -> Option<Duration> {
    let seconds = std::env::var("PGKEEL_PROXY_LONG").ok()?;
    Some(Duration::from_secs(seconds.parse().expect("PGKEEL_PROXY_LONG is a number of seconds")))
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// A client, and the state that it should see.
struct Player {
    number: u64,
    random: Random,
    client: Client,
    work_mem: String,
    statement: Option<(u64, Statement)>,
    listens: bool,
}

async fn connect(proxy: SocketAddr) -> Client {
    let config = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", proxy.port());
    let (client, connection) = tokio_postgres::connect(&config, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

impl Player {
    async fn new(number: u64, seed: u64, proxy: SocketAddr) -> Player {
        let client = connect(proxy).await;
        Player {
            number,
            random: Random(seed),
            client,
            work_mem: "4MB".into(),
            statement: None,
            listens: false,
        }
    }

    async fn run(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap();
    }

    /// What is seen must be what this client has done, and nothing else.
    async fn check(&self) {
        assert_eq!(text(&self.client, "show work_mem").await, self.work_mem, "client {}", self.number);
        let foreign = "select concat_ws(' ', \
            (select count(*) from pg_class where relpersistence = 't' and pg_table_is_visible(oid)), \
            (select count(*) from pg_cursors where is_holdable), \
            (select count(*) from pg_locks where pid = pg_backend_pid() and locktype = 'advisory'), \
            current_setting('role'))";
        assert_eq!(text(&self.client, foreign).await, "0 0 0 none", "client {}", self.number);
        // What somebody else listens on for it, its server does not.
        let channels = "select concat(array(select pg_listening_channels()))";
        let channels = text(&self.client, channels).await;
        assert!(channels == "{}" || self.listens && channels == "{a}", "client {}: {channels}", self.number);
        if let Some((value, statement)) = &self.statement {
            let seen: String = self.client.query_one(statement, &[&"x"]).await.unwrap().get(0);
            assert_eq!(seen, format!("{value}x"));
        }
    }

    async fn step(&mut self, proxy: SocketAddr) {
        let value = self.random.below(1_000);
        match self.random.below(14) {
            0 | 1 => {
                self.work_mem = format!("{}MB", value + 1);
                self.run(&format!("set work_mem = '{}'", self.work_mem)).await;
            }
            2 => {
                self.run("reset work_mem").await;
                self.work_mem = "4MB".into();
            }
            3 => {
                self.run("begin").await;
                self.run("set work_mem = '77kB'").await;
                self.run("rollback").await;
            }
            4 => {
                let sql = format!("select '{value}' || $1::text");
                self.statement = Some((value, self.client.prepare(&sql).await.unwrap()));
            }
            5 => assert!(self.client.batch_execute("select 1 / 0").await.is_err()),
            6 => {
                self.run("create temp table t as select 1 as a").await;
                assert_eq!(text(&self.client, "select a::text from t").await, "1");
                self.run("drop table t").await;
            }
            7 => {
                self.run("select pg_advisory_lock(1000 + pg_backend_pid())").await;
                self.run("select pg_advisory_unlock_all()").await;
            }
            8 => {
                self.run(if self.listens { "unlisten *" } else { "listen a" }).await;
                self.listens = !self.listens;
            }
            9 => {
                self.run("begin; declare c cursor with hold for select 1; commit").await;
                self.run("close c").await;
            }
            10 => {
                let leaves = [
                    "begin",
                    "create temp table t ()",
                    "set role pg_monitor",
                    "select set_config('work_mem', '9MB', false)",
                ];
                self.run(leaves[usize::try_from(value).unwrap() % leaves.len()]).await;
                *self = Player::new(self.number, self.random.below(u64::MAX >> 33), proxy).await;
            }
            11 => {
                // Dropped before its end, it is aborted.
                let sink: CopyInSink<&[u8]> = self.client.copy_in("copy copied from stdin").await.unwrap();
                drop(sink);
                self.run("select 1").await;
            }
            12 => self.hang_up(proxy).await,
            _ => self.check().await,
        }
    }

    /// Another connection ends in the middle of something.
    async fn hang_up(&mut self, proxy: SocketAddr) {
        let mut raw = RawClient::logged_in(proxy).await;
        let texts = [
            "set work_mem = '123MB'",
            "begin; set local role pg_monitor; select pg_sleep(0.01)",
            "create temp table hung_up as select 1; listen hung_up",
            "copy copied from stdin",
        ];
        raw.query(texts[usize::try_from(self.random.below(4)).unwrap()]).await;
        let half = b"P\0\0\0\x40half a message";
        let len = usize::try_from(self.random.below(half.len() as u64)).unwrap();
        raw.stream.write_all(&half[..len]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(self.random.below(20))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_one_client_is_seen_by_another() {
    let postgres = Postgres::started();
    let (clients, servers) = match long() {
        Some(_) => (CLIENTS_LONG, SERVERS_LONG),
        None => (CLIENTS, SERVERS),
    };
    let settings = Settings { clients_max: 1_000, ..pooled(servers, ClientAuth::Trust) };
    let proxy = Proxy::start_with(settings, view(1, 1, Some(postgres.as_node("n1")))).await;
    proxy.client().await.batch_execute("create table copied (a text)").await.unwrap();
    let address = proxy.address;
    let until = long().map(|length| Instant::now() + length);
    let goes_on = move |step| until.map_or(step < STEPS, |until| Instant::now() < until);
    let mut players = Vec::new();
    for number in 0..clients {
        players.push(tokio::spawn(async move {
            let mut player = Player::new(number, number + 1, address).await;
            let mut step = 0;
            while goes_on(step) {
                player.step(address).await;
                step += 1;
            }
            player.check().await;
            step
        }));
    }
    let mut steps = 0;
    for player in players {
        steps += player.await.unwrap();
    }
    println!("{clients} clients on {servers} servers: {steps} steps");
    proxy.stop().await;
}
