//! The primary is replaced in order: sessions go on on the new one, or are told why not.

use crate::postgres::Postgres;
use crate::raw_client::{RawClient, startup_packet};
use crate::setup::{Proxy, handing_over, server_port, settings, view};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

/// Long enough for a view to arrive and for quiet sessions to leave.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(500)).await;
}

/// What the cluster does between the view with `hold` and the new primary.
async fn switch(proxy: &Proxy, old: &Postgres, new: &Postgres) {
    settle().await;
    old.stop_in_order();
    proxy.agent.publish(view(2, 3, None));
    settle().await;
    proxy.agent.publish(view(2, 4, Some(new.as_node("n2"))));
}

async fn simple(client: &Client, sql: &str) -> String {
    let rows = client.simple_query(sql).await.unwrap();
    let row = rows.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_string),
        _ => None,
    });
    row.unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_session_goes_on_on_the_new_primary() {
    let (old, new) = (Postgres::started(), Postgres::started());
    let proxy = Proxy::start(view(1, 1, Some(old.as_node("n1")))).await;
    let clients = [proxy.client().await, proxy.client().await, proxy.client().await];
    for client in &clients {
        assert_eq!(server_port(client).await, old.port);
    }
    // The driver closes its prepared statements a moment after this.
    proxy.agent.publish(handing_over(1, 2, old.as_node("n1")));
    settle().await;
    // One is idle all the time, one asks while nobody is primary, and one is new.
    let asks = tokio::spawn(async move {
        let [idle, asking, other] = clients;
        let port = server_port(&asking).await;
        (idle, asking, other, port)
    });
    let (arrived, ()) = tokio::join!(proxy.client(), switch(&proxy, &old, &new));
    let (idle, asking, other, port) = asks.await.unwrap();
    assert_eq!(port, new.port);
    for client in [&idle, &asking, &other, &arrived] {
        assert_eq!(server_port(client).await, new.port);
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_ends_on_the_old_primary_first() {
    let (old, new) = (Postgres::started(), Postgres::started());
    let proxy = Proxy::start(view(1, 1, Some(old.as_node("n1")))).await;
    let client = proxy.client().await;
    client.batch_execute("create table kept (a int); begin; insert into kept values (1)").await.unwrap();
    proxy.agent.publish(handing_over(1, 2, old.as_node("n1")));
    settle().await;
    assert_eq!(server_port(&client).await, old.port);
    client.batch_execute("insert into kept values (2); commit").await.unwrap();
    let direct = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", old.port);
    let (direct, connection) = tokio_postgres::connect(&direct, NoTls).await.unwrap();
    tokio::spawn(connection);
    assert_eq!(simple(&direct, "select count(*) from kept").await, "2");
    let (port, ()) = tokio::join!(server_port(&client), switch(&proxy, &old, &new));
    assert_eq!(port, new.port);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_with_a_state_of_its_own_gets_the_error_and_is_not_moved() {
    let (old, new) = (Postgres::started(), Postgres::started());
    let proxy = Proxy::start(view(1, 1, Some(old.as_node("n1")))).await;
    proxy.client().await.batch_execute("create role other").await.unwrap();
    let states = [
        "set work_mem = '5MB'",
        "select set_config('work_mem', '5MB', false)",
        "set app.tenant = '7'",
        "select set_config('app.tenant', '7', false)",
        "do $$ begin set app.tenant = '7'; end $$",
        "set role other",
        "set session authorization other",
        "prepare one as select 1",
        "create temp table t (a int)",
        "listen news",
        "select pg_advisory_lock(7)",
        "declare c cursor with hold for select 1",
        "set search_path = public, pg_catalog",
    ];
    let mut sessions = Vec::new();
    for state in states {
        let (client, connection) = proxy.login().await.unwrap();
        let connection = tokio::spawn(connection);
        client.batch_execute(state).await.unwrap();
        sessions.push((state, client, connection));
    }
    let moving = proxy.client().await;
    proxy.agent.publish(handing_over(1, 2, old.as_node("n1")));
    switch(&proxy, &old, &new).await;
    for (state, client, connection) in sessions {
        let error = connection.await.unwrap().unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::ADMIN_SHUTDOWN), "{state}: {error}");
        assert!(client.is_closed());
    }
    assert_eq!(server_port(&moving).await, new.port);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_kept_without_a_name_survives_the_question() {
    let (old, new) = (Postgres::started(), Postgres::started());
    let proxy = Proxy::start(view(1, 1, Some(old.as_node("n1")))).await;
    let mut client = RawClient::logged_in(proxy.address).await;
    let parse_and_run = b"P\0\0\0\x10\0select 1\0\0\0\
        B\0\0\0\x0c\0\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04";
    client.stream.write_all(parse_and_run).await.unwrap();
    client.hear_until_ready().await;
    proxy.agent.publish(handing_over(1, 2, old.as_node("n1")));
    settle().await;
    proxy.agent.publish(view(1, 3, Some(old.as_node("n1"))));
    settle().await;
    client.query("select inet_server_port()").await;
    assert!(client.hear_until_ready().await.text().contains(&old.port.to_string()));
    drop(new);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switchover_that_is_given_up_leaves_every_session_where_it_was() {
    let old = Postgres::started();
    let proxy = Proxy::start(view(1, 1, Some(old.as_node("n1")))).await;
    let (plain, with_state) = (proxy.client().await, proxy.client().await);
    with_state.batch_execute("create temp table t (a int); insert into t values (7)").await.unwrap();
    proxy.agent.publish(handing_over(1, 2, old.as_node("n1")));
    settle().await;
    let give_up = async {
        settle().await;
        proxy.agent.publish(view(1, 3, Some(old.as_node("n1"))));
        Instant::now()
    };
    let answers = async {
        let answers = tokio::join!(server_port(&plain), simple(&with_state, "select a from t"));
        (answers, Instant::now())
    };
    let (given_up, ((port, row), answered)) = tokio::join!(give_up, answers);
    assert_eq!((port, row.as_str()), (old.port, "7"));
    assert!(answered > given_up, "something began during the hold");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_after_the_move_stops_the_right_statement() {
    let (old, new) = (Postgres::started(), Postgres::started());
    let proxy = Proxy::start(view(1, 1, Some(old.as_node("n1")))).await;
    let (client, bystander) = (proxy.client().await, proxy.client().await);
    let cancel = client.cancel_token();
    proxy.agent.publish(handing_over(1, 2, old.as_node("n1")));
    switch(&proxy, &old, &new).await;
    assert_eq!((server_port(&client).await, server_port(&bystander).await), (new.port, new.port));
    let sleep = tokio::spawn(async move { client.batch_execute("select pg_sleep(60)").await });
    let undisturbed = tokio::spawn(async move { bystander.batch_execute("select pg_sleep(1)").await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    cancel.cancel_query(NoTls).await.unwrap();
    let error = sleep.await.unwrap().unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED));
    undisturbed.await.unwrap().unwrap();
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_found_no_new_primary_is_told_after_the_hold() {
    let old = Postgres::started();
    let mut short = settings();
    short.hold = Duration::from_millis(1_500);
    let proxy = Proxy::start_with(short, view(1, 1, Some(old.as_node("n1")))).await;
    let (client, connection) = proxy.login().await.unwrap();
    let connection = tokio::spawn(connection);
    proxy.agent.publish(handing_over(1, 2, old.as_node("n1")));
    settle().await;
    proxy.agent.publish(view(2, 3, None));
    let error = connection.await.unwrap().unwrap_err();
    let told = error.as_db_error().unwrap();
    assert_eq!(told.code(), &SqlState::CANNOT_CONNECT_NOW);
    assert_eq!(told.detail(), Some("Waiting for the seal of n3."));
    assert!(client.is_closed());
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_stays_goes_on_when_the_hold_lasts_too_long() {
    let old = Postgres::started();
    let mut short = settings();
    short.hold = Duration::from_millis(1_000);
    let proxy = Proxy::start_with(short, view(1, 1, Some(old.as_node("n1")))).await;
    let client = proxy.client().await;
    client.batch_execute("listen news").await.unwrap();
    proxy.agent.publish(handing_over(1, 2, old.as_node("n1")));
    settle().await;
    assert_eq!(simple(&client, "select 'answered'").await, "answered");
    proxy.stop().await;
}

async fn guarded_client(proxy: SocketAddr, password: &str) -> Result<Client, tokio_postgres::Error> {
    let config =
        format!("host=127.0.0.1 port={} user=guarded password={password} dbname=postgres", proxy.port());
    let (client, connection) = tokio_postgres::connect(&config, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_needed_a_secret_is_not_moved() {
    let (old, new) = (Postgres::started(), Postgres::started());
    let proxy = Proxy::start(view(1, 1, Some(old.as_node("n1")))).await;
    let setup = proxy.client().await;
    setup.batch_execute("create role guarded login password 'x'").await.unwrap();
    old.ask_passwords_of("guarded");
    setup.batch_execute("select pg_reload_conf()").await.unwrap();
    settle().await;
    let guarded = guarded_client(proxy.address, "x").await.unwrap();
    assert!(guarded_client(proxy.address, "wrong").await.is_err());
    proxy.agent.publish(handing_over(1, 2, old.as_node("n1")));
    switch(&proxy, &old, &new).await;
    settle().await;
    assert!(guarded.is_closed());
    assert_eq!(server_port(&setup).await, new.port);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_hears_of_settings_that_differ_on_the_new_server_and_of_nothing_else() {
    let (old, new) = (Postgres::started(), Postgres::create());
    new.set("timezone = 'Asia/Tokyo'");
    new.start();
    let proxy = Proxy::start(view(1, 1, Some(old.as_node("n1")))).await;
    let mut client = RawClient::connect(proxy.address).await;
    client.stream.write_all(&startup_packet()).await.unwrap();
    client.hear_until_ready().await;
    proxy.agent.publish(handing_over(1, 2, old.as_node("n1")));
    switch(&proxy, &old, &new).await;
    client.query("select inet_server_port()").await;
    let heard = client.hear_until_ready().await;
    let text = heard.text();
    assert!(text.contains("TimeZone\0Asia/Tokyo") && text.contains(&new.port.to_string()), "{text}");
    assert!(!text.contains("server_version") && !text.contains("client_encoding"), "{text}");
    // Parameter, row description, row, completion, ready.
    assert_eq!(heard.messages.len(), 5, "{text}");
    proxy.stop().await;
}
