//! The console, looked at with psql: who may use it, and what it tells of clients in every state.

use crate::pooled::{direct, pooled};
use crate::postgres::{Postgres, psql_as};
use crate::raw_client::RawClient;
use crate::setup::{Proxy, settings, view};
use proxy::{ClientAuth, ConsoleSettings, Lookup, PoolSettings, Settings, Verifiers};
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio_postgres::{Client, NoTls};

pub type Row = HashMap<String, String>;

/// The console for whoever is named: may do all, may look.
pub fn with_console(settings: Settings) -> Settings {
    let console =
        ConsoleSettings { users: vec!["postgres".into()], viewers: vec!["viewer".into()], verifiers: None };
    Settings { console, ..settings }
}

pub async fn start(postgres: &Postgres, settings: Settings) -> Proxy {
    Proxy::start_with(with_console(settings), view(1, 1, Some(postgres.as_node("n1")))).await
}

/// What the console answers to `postgres`.
pub fn say(proxy: &Proxy, sql: &str) -> Result<String, String> {
    psql_as(proxy.address.port(), ("postgres", ""), "pgkeel", sql)
}

/// A table, row by row.
pub fn show(proxy: &Proxy, what: &str) -> Vec<Row> {
    rows(&say(proxy, &format!("SHOW {what}")).unwrap())
}

fn rows(told: &str) -> Vec<Row> {
    let mut lines = told.lines();
    let names: Vec<&str> = lines.next().unwrap().split('|').collect();
    let row =
        |line: &str| names.iter().map(|n| n.to_string()).zip(line.split('|').map(str::to_owned)).collect();
    lines.map(row).collect()
}

/// Waits until the console tells something, and returns that.
pub async fn until(proxy: &Proxy, what: &str, fits: impl Fn(&Row) -> bool) -> Row {
    let begun = Instant::now();
    loop {
        let table = show(proxy, what);
        if let Some(row) = table.iter().find(|row| fits(row)) {
            return row.clone();
        }
        assert!(begun.elapsed() < Duration::from_secs(15), "SHOW {what}: {table:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A client that names itself.
pub async fn named(proxy: &Proxy, name: &str) -> Client {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(proxy.address.port()).user("postgres").dbname("postgres");
    let (client, connection) = config.application_name(name).connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn state_of(proxy: &Proxy, name: &str, state: &str) -> Row {
    until(proxy, "CLIENTS", |row| row["application_name"] == name && row["state"] == state).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_state_of_a_client_is_told_in_words() {
    let postgres = Postgres::started();
    let proxy = start(&postgres, pooled(2, ClientAuth::Trust)).await;
    let (idle, keeps) = (named(&proxy, "idle").await, named(&proxy, "keeps").await);
    let (sits, waits) = (named(&proxy, "sits").await, named(&proxy, "waits").await);
    idle.batch_execute("select 1").await.unwrap();
    keeps.batch_execute("create temp table t ()").await.unwrap();
    let statement = sits.prepare("select 1").await.unwrap();
    sits.batch_execute("begin").await.unwrap();
    let waiting = tokio::spawn(async move { waits.batch_execute("select 1").await });
    let row = state_of(&proxy, "waits", "waiting").await;
    assert!(row["doing"].starts_with("waits for a server connection since 20"), "{row:?}");
    assert!(row["link"].is_empty() && row["connect_time"].ends_with(" UTC"), "{row:?}");
    let row = state_of(&proxy, "idle", "idle").await;
    assert!(row["doing"].starts_with("idle since 20"), "{row:?}");
    let row = state_of(&proxy, "keeps", "active").await;
    assert!(row["doing"].contains("keeps its server: it may have temporary objects"), "{row:?}");
    let row = state_of(&proxy, "sits", "active").await;
    assert!(row["doing"].starts_with("in a transaction since 20"), "{row:?}");
    assert_eq!((row["prepared_statements"].as_str(), row["addr"].as_str()), ("1", "127.0.0.1"));
    let server = show(&proxy, "SERVERS").into_iter().find(|server| server["ptr"] == row["link"]).unwrap();
    assert_eq!((&server["link"], &server["node"]), (&row["ptr"], &"n1".to_owned()));
    assert_eq!((server["state"].as_str(), server["application_name"].as_str()), ("active", "sits"));
    let pid: i32 = sits.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
    assert_eq!(server["remote_pid"], pid.to_string());

    let pool = &show(&proxy, "POOLS")[0];
    let numbers = ["cl_active", "cl_waiting", "cl_keeping", "sv_active", "sv_idle", "paused"];
    assert_eq!(numbers.map(|name| pool[name].as_str()), ["3", "1", "1", "2", "0", "0"], "{pool:?}");
    assert_eq!((pool["database"].as_str(), pool["pool_mode"].as_str()), ("postgres", "pooled"));
    let lists: HashMap<_, _> =
        show(&proxy, "LISTS").into_iter().map(|mut row| (row.remove("list").unwrap(), row)).collect();
    assert_eq!((lists["used_clients"]["items"].as_str(), lists["consoles"]["items"].as_str()), ("4", "1"));
    assert!(show(&proxy, "PREPARED").iter().any(|row| row["query"] == "select 1" && row["uses"] != "0"));
    assert_eq!(show(&proxy, "DATABASES")[0]["current_client_connections"], "4");
    assert_eq!(show(&proxy, "USERS")[0]["console"], "all");
    drop(statement);

    // Everything, in one text, as it is with several statements.
    let all = "show help; show pools; show clients; show servers; show stats; show stats_totals; show databases; \
        show users; show config; show version; show prepared; show hold; show lists; show client_encoding";
    assert!(say(&proxy, all).unwrap().contains("pgkeel "));
    sits.batch_execute("commit").await.unwrap();
    waiting.await.unwrap().unwrap();
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_counted_is_what_was_done() {
    let postgres = Postgres::started();
    let proxy = start(&postgres, pooled(2, ClientAuth::Trust)).await;
    let client = named(&proxy, "counts").await;
    let numbers = |what: &str, names: [&str; 3]| {
        let row = show(&proxy, what).remove(0);
        names.map(|name| row[name].parse::<i64>().unwrap())
    };
    let counts = || numbers("STATS", ["total_xact_count", "total_query_count", "total_received"]);
    let before = counts();
    for _ in 0..10 {
        client.batch_execute("select 1").await.unwrap();
    }
    client.batch_execute("begin").await.unwrap();
    client.batch_execute("select pg_sleep(0.3)").await.unwrap();
    client.batch_execute("commit").await.unwrap();
    until(&proxy, "CLIENTS", |row| row["state"] == "idle").await;
    let after = counts();
    assert_eq!((after[0] - before[0], after[1] - before[1]), (11, 13));
    assert!(after[2] - before[2] > 10 * 14, "bytes of the client");
    let times = numbers("STATS", ["total_xact_time", "total_lent_time", "total_wait_time"]);
    assert!(times[0] >= 300_000 && times[1] >= times[0], "{times:?}");
    // A server that is kept is lent, but in no transaction.
    client.batch_execute("create temp table t ()").await.unwrap();
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    client.batch_execute("discard all").await.unwrap();
    until(&proxy, "CLIENTS", |row| row["state"] == "idle").await;
    let kept = numbers("STATS", ["total_xact_time", "total_lent_time", "total_wait_time"]);
    let grown = [kept[0] - times[0], kept[1] - times[1]];
    assert!(grown[1] - grown[0] >= 500_000, "it was kept, without a transaction: {grown:?}");
    let totals = numbers("STATS_TOTALS", ["xact_count", "query_count", "server_assignment_count"]);
    assert!(totals[0] >= after[0] && totals[2] >= 11, "{totals:?}");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn held_clients_and_the_reason_of_the_view_are_told() {
    let postgres = Postgres::started();
    let proxy = start(&postgres, pooled(2, ClientAuth::Trust)).await;
    let client = named(&proxy, "held").await;
    assert_eq!(show(&proxy, "HOLD")[0]["state"], "open");
    proxy.agent.publish(view(2, 2, None));
    until(&proxy, "HOLD", |row| row["state"] == "held").await;
    let held = tokio::spawn(async move { client.batch_execute("select 1").await });
    let row = until(&proxy, "CLIENTS", |row| row["doing"].starts_with("held since")).await;
    assert!(row["doing"].ends_with("epoch 2 has no primary: Waiting for the seal of n3."), "{row:?}");
    let row = until(&proxy, "HOLD", |row| row["held"] == "1").await;
    assert_eq!((row["state"].as_str(), row["epoch"].as_str()), ("held", "2"));
    proxy.agent.publish(view(2, 3, Some(postgres.as_node("n2"))));
    held.await.unwrap().unwrap();
    assert_eq!(until(&proxy, "HOLD", |row| row["state"] == "open").await["primary"], "n2");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_console_asks_for_passwords_as_the_databases_do() {
    let postgres = Postgres::started();
    let admin = direct(&postgres).await;
    admin
        .batch_execute("create role viewer login password 'v'; create role eve login password 'e'")
        .await
        .unwrap();
    admin.batch_execute("alter role postgres password 'p'").await.unwrap();
    let lookup = || Lookup { user: "postgres".into(), password: None, database: "postgres".into() };
    let session = Settings {
        console: ConsoleSettings {
            verifiers: Some(Verifiers::Role(lookup())),
            ..with_console(settings()).console
        },
        ..settings()
    };
    let pool = with_console(pooled(2, ClientAuth::Scram(Verifiers::Role(lookup()))));
    for settings in [pool, session] {
        let proxy = Proxy::start_with(settings, view(1, 1, Some(postgres.as_node("n1")))).await;
        let port = proxy.address.port();
        let say = |user, password, sql: &str| psql_as(port, (user, password), "pgkeel", sql);
        assert!(say("postgres", "p", "show version").unwrap().contains("pgkeel "));
        assert!(say("viewer", "v", "show pools; show clients").is_ok());
        let error = say("viewer", "v", "kill client 1").unwrap_err();
        assert!(error.contains("42501: this role may only look"), "{error}");
        for (user, password) in [("postgres", "wrong"), ("nobody", "p"), ("viewer", "")] {
            let error = say(user, password, "show version").unwrap_err();
            let expected = format!("password authentication failed for user \"{user}\"");
            assert!(error.contains(&expected) || error.contains("no password supplied"), "{error}");
        }
        let error = say("eve", "e", "show version").unwrap_err();
        assert!(error.contains("role \"eve\" may not use the console"), "{error}");
        // While no verifier can be looked up, who was known before is let in, and nobody else.
        say("postgres", "p", "show version").unwrap();
        proxy.agent.publish(view(2, 2, None));
        let told = say("postgres", "p", "show hold").unwrap();
        assert_eq!(rows(&told)[0]["cluster"], "shop");
        assert!(say("postgres", "wrong", "show hold").is_err());
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_be_checked_is_told_what_to_do() {
    let postgres = Postgres::started();
    let off = Proxy::start(view(1, 1, Some(postgres.as_node("n1")))).await;
    let error = say(&off, "show version").unwrap_err();
    assert!(error.contains("it is off") && error.contains("console_users"), "{error}");
    assert!(psql_as(off.address.port(), ("postgres", ""), "postgres", "select 1").is_ok());
    off.stop().await;
    let session = start(&postgres, settings()).await;
    let error = say(&session, "show version").unwrap_err();
    assert!(error.contains("cannot check") && error.contains("lookup_user"), "{error}");
    session.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_the_session_mode_are_shown_too() {
    let postgres = Postgres::started();
    let admin = direct(&postgres).await;
    admin.batch_execute("alter role postgres password 'p'").await.unwrap();
    let lookup = Lookup { user: "postgres".into(), password: None, database: "postgres".into() };
    let console =
        ConsoleSettings { verifiers: Some(Verifiers::Role(lookup)), ..with_console(settings()).console };
    let settings = Settings { console, ..settings() };
    let proxy = Proxy::start_with(settings, view(1, 1, Some(postgres.as_node("n1")))).await;
    let client = named(&proxy, "own").await;
    let ask = |sql: &str| psql_as(proxy.address.port(), ("postgres", "p"), "pgkeel", sql);
    let table = rows(&ask("show clients").unwrap());
    let row = table.iter().find(|row| row["application_name"] == "own").unwrap();
    assert!(row["doing"].starts_with("has a connection of its own to n1 (epoch 1) since"), "{row:?}");
    let servers = rows(&ask("show servers").unwrap());
    assert!(servers.iter().any(|server| server["link"] == row["ptr"] && server["node"] == "n1"));
    let pools = rows(&ask("show pools").unwrap());
    let has_session = pools.iter().any(|pool| pool["sv_active"] == "1" && pool["cl_active"] == "1");
    assert!(has_session, "{pools:?}");
    let error = ask("pause").unwrap_err();
    assert!(error.contains("0A000") && error.contains("pool_mode"), "{error}");
    ask(&format!("kill client {}", row["id"])).unwrap();
    assert!(client.batch_execute("select 1").await.is_err());
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_and_the_console_goes_on() {
    let postgres = Postgres::started();
    let settings = pooled(2, ClientAuth::Trust);
    let settings =
        Settings { pool: settings.pool.map(|pool| PoolSettings { servers_min: 1, ..pool }), ..settings };
    let proxy = start(&postgres, settings).await;
    let error = say(&proxy, "select 1").unwrap_err();
    assert!(error.contains("42601: unknown command \"select 1\"") && error.contains("SHOW HELP"), "{error}");
    for (order, hint) in [("reload", "pgkeel config check"), ("shutdown", "SIGTERM")] {
        let error = say(&proxy, order).unwrap_err();
        assert!(error.contains("0A000") && error.contains(hint), "{error}");
    }
    let config = format!("host=127.0.0.1 port={} user=postgres dbname=pgkeel", proxy.address.port());
    let (client, connection) = tokio_postgres::connect(&config, NoTls).await.unwrap();
    tokio::spawn(connection);
    let error = client.query("show version", &[]).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "0A000");
    assert_eq!(
        client.simple_query("; show version;").await.unwrap().len(),
        3,
        "a description, a row, an end"
    );
    client.simple_query("set application_name = 'x'").await.unwrap();
    assert!(client.simple_query("").await.is_ok());

    let startup = b"\0\0\0\x27\0\x03\0\0user\0postgres\0database\0pgkeel\0\0";
    for message in [&b"Q\x7f\xff\xff\xff"[..], b"Q\0\x02\0\0", b"Z\0\0\0\x05I", b"\0\0\0\0\0", b"Q\0\0\0\x03"]
    {
        let mut raw = RawClient::connect(proxy.address).await;
        raw.stream.write_all(startup).await.unwrap();
        raw.hear_until_ready().await;
        raw.stream.write_all(message).await.unwrap();
        let heard = raw.hear_all().await;
        assert!(heard.text().contains("08P01") && heard.at_boundary, "{message:?}: {}", heard.text());
    }
    let mut unfinished = RawClient::connect(proxy.address).await;
    unfinished.stream.write_all(startup).await.unwrap();
    unfinished.hear_until_ready().await;
    unfinished.stream.write_all(b"Q\0\0\xff\0show").await.unwrap();
    assert!(say(&proxy, "show version").is_ok(), "others are served");
    proxy.stop().await;
}
