//! The pooled mode against real servers: what is a client's stays the client's, on whichever server it is lent.

use crate::leaks::long;
use crate::postgres::Postgres;
use crate::setup::{Proxy, settings, view};
use proxy::{ClientAuth, ClientLimits, Io, Lookup, PoolSettings, Settings, Verifiers, WholeSessions};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

pub fn pooled(servers_max: usize, auth: ClientAuth) -> Settings {
    let pool = PoolSettings {
        servers_max,
        reserve: 0,
        reserve_after: Duration::from_secs(5),
        servers_min: 0,
        open_max: 20,
        query_wait: Duration::from_secs(20),
        notice_after: Duration::from_secs(5),
        idle_max: Duration::from_secs(60),
        age_max: Duration::from_secs(600),
        auth,
        limits: ClientLimits::default(),
        whole_sessions: WholeSessions::default(),
        // Both are tested: the one where it can be had, the other when told so.
        io: if std::env::var_os("PGKEEL_TEST_EPOLL").is_some() { Io::Epoll } else { Io::Auto },
    };
    Settings { pool: Some(pool), workers: 1, ..settings() }
}

async fn proxy_of(postgres: &Postgres, servers_max: usize) -> Proxy {
    let settings = pooled(servers_max, ClientAuth::Trust);
    Proxy::start_with(settings, view(1, 1, Some(postgres.as_node("n1")))).await
}

pub async fn direct(postgres: &Postgres) -> Client {
    let config = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", postgres.port);
    let (client, connection) = tokio_postgres::connect(&config, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

pub async fn text(client: &Client, sql: &str) -> String {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

pub async fn servers(direct: &Client) -> i64 {
    let sql = "select count(*) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()";
    direct.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_on_two_servers_keep_their_settings_and_statements() {
    let postgres = Postgres::started();
    let proxy = proxy_of(&postgres, 2).await;
    let direct = direct(&postgres).await;
    let mut clients = Vec::new();
    for number in 0..10 {
        let client = proxy.client().await;
        client.batch_execute(&format!("set work_mem = '{}MB'", number + 1)).await.unwrap();
        let statement = client.prepare(&format!("select {number} + $1::int4")).await.unwrap();
        clients.push((number, client, statement));
    }
    let mut tasks = Vec::new();
    for (number, client, statement) in clients {
        tasks.push(tokio::spawn(async move {
            for round in 0..20_i32 {
                assert_eq!(text(&client, "show work_mem").await, format!("{}MB", number + 1));
                let sum: i32 = client.query_one(&statement, &[&round]).await.unwrap().get(0);
                assert_eq!(sum, number + round);
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert!(servers(&direct).await <= 2);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_moved_keeps_its_server_and_nobody_else_sees_it() {
    let postgres = Postgres::started();
    let proxy = proxy_of(&postgres, 2).await;
    let (one, other) = (proxy.client().await, proxy.client().await);
    one.batch_execute("create temp table mine as select 7 as a").await.unwrap();
    one.batch_execute("select pg_advisory_lock(5)").await.unwrap();
    for _ in 0..5 {
        assert_eq!(text(&one, "select a::text from mine").await, "7");
        let gone = other.batch_execute("select * from mine").await.unwrap_err();
        assert_eq!(gone.code(), Some(&SqlState::UNDEFINED_TABLE));
        assert_eq!(text(&other, "select pg_try_advisory_xact_lock(5)::text").await, "false");
    }
    drop(one);
    let begun = Instant::now();
    while text(&other, "select pg_try_advisory_xact_lock(5)::text").await == "false" {
        assert!(begun.elapsed() < Duration::from_secs(10), "its server was not closed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reason_that_is_gone_does_not_keep_the_server() {
    let postgres = Postgres::started();
    let mut settings = pooled(1, ClientAuth::Trust);
    settings.pool = settings.pool.map(|pool| PoolSettings { query_wait: Duration::from_secs(3), ..pool });
    let proxy = Proxy::start_with(settings, view(1, 1, Some(postgres.as_node("n1")))).await;
    let (one, other) = (proxy.client().await, proxy.client().await);
    one.batch_execute("create function f() returns int language sql as 'select 1'").await.unwrap();
    one.batch_execute("set work_mem = '3MB'").await.unwrap();
    let statement = one.prepare("select current_setting('work_mem')").await.unwrap();
    for leaves in ["select f()", "create temp table t (a int); drop table t", "listen a; unlisten a"] {
        one.batch_execute(leaves).await.unwrap();
        assert_eq!(text(&other, "show work_mem").await, "4MB", "{leaves}");
        assert_eq!(one.query_one(&statement, &[]).await.unwrap().get::<_, String>(0), "3MB", "{leaves}");
    }
    one.batch_execute("create temp table t (a int)").await.unwrap();
    let error = other.batch_execute("select 1").await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::TOO_MANY_CONNECTIONS));
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_checked_by_the_server_s_verifiers_and_logged_in_without_their_password() {
    let postgres = Postgres::started();
    let admin = direct(&postgres).await;
    admin.batch_execute("create role ann login password 'pen cil'").await.unwrap();
    postgres.ask_passwords_of("ann");
    admin.batch_execute("select pg_reload_conf()").await.unwrap();
    let lookup = Lookup { user: "postgres".into(), password: None, database: "postgres".into() };
    let settings = pooled(2, ClientAuth::Scram(Verifiers::Role(lookup)));
    let proxy = Proxy::start_with(settings, view(1, 1, Some(postgres.as_node("n1")))).await;
    let log_in = |user: &str, password: &str| {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(proxy.address.port()).dbname("postgres").user(user).password(password);
        async move { config.connect(NoTls).await }
    };
    let (client, connection) = log_in("ann", "pen cil").await.unwrap();
    tokio::spawn(connection);
    assert_eq!(text(&client, "select session_user::text").await, "ann");
    let mut refusals = Vec::new();
    for (user, password) in [("ann", "pencil"), ("nobody", "pen cil"), ("postgres", "")] {
        let Err(error) = log_in(user, password).await else { panic!("{user} was let in") };
        let error = error.as_db_error().unwrap().clone();
        refusals.push((error.code().clone(), error.message().replace(user, "?")));
    }
    assert!(refusals.iter().all(|refusal| *refusal == refusals[0]), "{refusals:?}");
    assert_eq!(refusals[0].0, SqlState::INVALID_PASSWORD);
    // The wrong password has made it look again.
    admin.batch_execute("alter role ann password 'new'").await.unwrap();
    assert!(log_in("ann", "new").await.is_ok());
    assert!(log_in("ann", "pen cil").await.is_err(), "the old one");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_request_hits_its_own_statement_only() {
    let postgres = Postgres::started();
    let proxy = proxy_of(&postgres, 2).await;
    let (sleeper, other) = (proxy.client().await, proxy.client().await);
    let cancel = sleeper.cancel_token();
    let stranger = other.cancel_token();
    let sleeping = tokio::spawn(async move {
        let begun = Instant::now();
        let error = sleeper.batch_execute("select pg_sleep(15)").await.unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED));
        assert!(begun.elapsed() < Duration::from_secs(10));
        sleeper
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    stranger.cancel_query(NoTls).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!sleeping.is_finished(), "another client's key");
    cancel.cancel_query(NoTls).await.unwrap();
    let sleeper = sleeping.await.unwrap();
    // Around the ends of statements, on servers that the other one is lent in between.
    let requests = if long().is_some() { 10_000 } else { 200 };
    let others = tokio::spawn(async move {
        let mut done = 0;
        loop {
            other.batch_execute("select 1").await.expect("nobody wants to cancel that");
            done += 1;
            if done % 16 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    });
    let (mut hit, mut missed) = (0, 0);
    for round in 0..requests {
        let (cancel, address) = (cancel.clone(), proxy.address);
        let request = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(round % 4)).await;
            // As libpq does it: until it is closed nobody knows whether the request was dealt with.
            let mut asked = TcpStream::connect(address).await.unwrap();
            cancel.cancel_query_raw(&mut asked, NoTls).await.unwrap();
            assert_eq!(asked.read(&mut [0; 1]).await.unwrap(), 0);
        });
        // 1.5 to 3.4 ms.
        let statement = format!("select pg_sleep(0.00{})", 15 + round % 20);
        match sleeper.batch_execute(&statement).await {
            Ok(()) => missed += 1,
            Err(error) => {
                assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED));
                hit += 1;
            }
        }
        request.await.unwrap();
        sleeper.batch_execute("select 1").await.expect("what was meant has ended");
    }
    assert!(hit > 0 && missed > 0, "{hit} were cancelled, {missed} were not");
    assert!(!others.is_finished(), "a statement of the other client was cancelled");
    others.abort();
    println!(
        "{requests} requests: {hit} statements were cancelled, {missed} had ended, none of the other client's was hit"
    );
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_sessions_go_on_after_a_failover_with_their_state() {
    let (old, new) = (Postgres::started(), Postgres::started());
    let proxy = proxy_of(&old, 2).await;
    let (idle, busy) = (proxy.client().await, proxy.client().await);
    idle.batch_execute("set work_mem = '3MB'").await.unwrap();
    let statement = idle.prepare("select inet_server_port() + $1::int4").await.unwrap();
    busy.batch_execute("begin; select 1").await.unwrap();
    old.stop_immediately();
    proxy.agent.publish(view(2, 2, None));
    let held = tokio::spawn(async move {
        let port: i32 = idle.query_one(&statement, &[&0]).await.unwrap().get(0);
        (idle, port)
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!held.is_finished(), "it is held");
    proxy.agent.publish(view(2, 3, Some(new.as_node("n2"))));
    let (idle, port) = held.await.unwrap();
    assert_eq!(port, i32::from(new.port));
    assert_eq!(text(&idle, "show work_mem").await, "3MB");
    let error = busy.batch_execute("select 1").await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE), "its transaction is gone");
    busy.batch_execute("rollback").await.unwrap();
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_finds_no_server_free_is_told_in_the_end() {
    let postgres = Postgres::started();
    let mut settings = pooled(1, ClientAuth::Trust);
    settings.pool = settings.pool.map(|pool| PoolSettings { query_wait: Duration::from_millis(500), ..pool });
    let proxy = Proxy::start_with(settings, view(1, 1, Some(postgres.as_node("n1")))).await;
    let (one, other) = (proxy.client().await, proxy.client().await);
    one.batch_execute("begin").await.unwrap();
    let error = other.batch_execute("select 1").await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::TOO_MANY_CONNECTIONS));
    one.batch_execute("end").await.unwrap();
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_trigger_leaves_behind_is_not_seen_by_others() {
    let postgres = Postgres::started();
    let proxy = proxy_of(&postgres, 2).await;
    let (one, other) = (proxy.client().await, proxy.client().await);
    one.batch_execute(
        "create table t (a int); create function leaves() returns trigger language plpgsql as $$
           begin if new.a > 0 then set work_mem = '9MB'; end if; return new; end $$;
         create trigger x before insert on t for each row execute function leaves()",
    )
    .await
    .unwrap();
    for _ in 0..3 {
        one.batch_execute("insert into t values (1)").await.unwrap();
        assert_eq!(text(&other, "show work_mem").await, "4MB");
        assert_eq!(text(&one, "show work_mem").await, "9MB");
    }
    proxy.stop().await;
}

/// Asked in one message: drivers close a prepared statement some time later, with a server that they are lent for that.
async fn server_of(client: &Client) -> String {
    let answer = client.simple_query("select pg_backend_pid()").await.unwrap();
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    row.unwrap().to_owned()
}

/// Which functions keep servers: each is defined, asked about, and dropped.
#[tokio::test(flavor = "multi_thread")]
async fn functions_are_told_apart_by_their_text() {
    let postgres = Postgres::started();
    let proxy = proxy_of(&postgres, 2).await;
    let (one, other) = (proxy.client().await, proxy.client().await);
    let (plain, sql) = ("returns void language plpgsql as", "returns text language sql");
    for (suspect, rest) in [
        (false, format!("{plain} $$ begin update t set a = 1; end $$")),
        (false, format!("{plain} $$ begin perform set_config('x.y', lower('A'), true); end $$")),
        (
            false,
            format!("{plain} $$ begin set local work_mem = '1MB'; perform pg_advisory_xact_lock(1); end $$"),
        ),
        (false, format!("{plain} 'begin null; end' set work_mem = '1MB'")),
        (true, format!("{plain} $$ begin set work_mem = '1MB'; end $$")),
        (true, format!("{plain} $$ begin perform set_config('work_mem', '1MB', false); end $$")),
        (true, format!("{plain} $$ begin if true then\n  reset all; end if; end $$")),
        (true, format!("{plain} $$ begin perform pg_try_advisory_lock(1); end $$")),
        (true, format!("{plain} $$ begin create temp table x (a int); end $$")),
        (true, format!("{plain} $$ begin execute 'set work_mem = 1000'; end $$")),
        (true, format!("{sql} as $$ select set_config('work_mem', '1MB', false) $$")),
        (true, format!("{sql} begin atomic select set_config('work_mem', '1MB', false); end")),
        (false, format!("{sql} begin atomic select lower('A'); end")),
    ] {
        let direct = direct(&postgres).await;
        direct.batch_execute(&format!("create function probe() {rest}")).await.unwrap();
        // A definition through the proxy has it asked anew.
        one.batch_execute("create or replace function nothing() returns int language sql as 'select 1'")
            .await
            .unwrap();
        one.batch_execute("discard all").await.unwrap();
        // The server that was returned last is lent first, unless it is kept.
        let is_kept = server_of(&one).await != server_of(&other).await;
        assert_eq!(is_kept, suspect, "{rest}");
        direct.batch_execute("drop function probe()").await.unwrap();
        one.batch_execute("discard all").await.unwrap();
        other.batch_execute("discard all").await.unwrap();
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_prepared_after_its_table_was_changed_is_a_new_one() {
    let postgres = Postgres::started();
    let proxy = proxy_of(&postgres, 1).await;
    let (one, other) = (proxy.client().await, proxy.client().await);
    one.batch_execute("create table t (a int)").await.unwrap();
    let before = one.prepare("select * from t").await.unwrap();
    assert_eq!(before.columns().len(), 1);
    one.query(&before, &[]).await.unwrap();
    one.batch_execute("alter table t add b text").await.unwrap();
    let after = other.prepare("select * from t").await.unwrap();
    assert_eq!(after.columns().len(), 2);
    assert!(other.query(&after, &[]).await.unwrap().is_empty());
    proxy.stop().await;
}
