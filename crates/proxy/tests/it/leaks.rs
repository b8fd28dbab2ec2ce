//! Nothing of one client is ever seen by another: many clients with random state on few servers.

use crate::pooled::{pooled, text};
use crate::postgres::Postgres;
use crate::setup::{Proxy, view};
use proxy::{ClientAuth, Settings};
use std::net::SocketAddr;
use tokio_postgres::{Client, NoTls, Statement};

const CLIENTS: u64 = 12;
const STEPS: usize = 120;

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
            (select count(*) from pg_listening_channels()), \
            (select count(*) from pg_cursors where is_holdable), \
            (select count(*) from pg_locks where pid = pg_backend_pid() and locktype = 'advisory'), \
            current_setting('role'))";
        let expected = format!("0 {} 0 0 none", u8::from(self.listens));
        assert_eq!(text(&self.client, foreign).await, expected, "client {}", self.number);
        if let Some((value, statement)) = &self.statement {
            let seen: String = self.client.query_one(statement, &[&"x"]).await.unwrap().get(0);
            assert_eq!(seen, format!("{value}x"));
        }
    }

    async fn step(&mut self, proxy: SocketAddr) {
        let value = self.random.below(1_000);
        match self.random.below(12) {
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
            _ => self.check().await,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_one_client_is_seen_by_another() {
    let postgres = Postgres::started();
    let settings = Settings { clients_max: 1_000, ..pooled(3, ClientAuth::Trust) };
    let proxy = Proxy::start_with(settings, view(1, 1, Some(postgres.as_node("n1")))).await;
    let address = proxy.address;
    let mut players = Vec::new();
    for number in 0..CLIENTS {
        players.push(tokio::spawn(async move {
            let mut player = Player::new(number, number + 1, address).await;
            for _ in 0..STEPS {
                player.step(address).await;
                // Who listens keeps its server: not for ever, or the others wait.
                if player.listens {
                    player.run("unlisten *").await;
                    player.listens = false;
                }
            }
            player.check().await;
        }));
    }
    for player in players {
        player.await.unwrap();
    }
    proxy.stop().await;
}
