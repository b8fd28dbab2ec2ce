//! What a client leaves on its server must not meet the next one, however it was left there.

use crate::named::{ask, proxy_of};
use crate::postgres::Postgres;
use crate::raw_client::RawClient;
use crate::setup::Proxy;

/// Two clients of one server.
async fn two(postgres: &Postgres) -> (Proxy, RawClient, RawClient) {
    let proxy = proxy_of(postgres).await;
    let (one, other) = (RawClient::logged_in(proxy.address).await, RawClient::logged_in(proxy.address).await);
    (proxy, one, other)
}

/// The value of an expression, as a client sees it.
async fn value(client: &mut RawClient, expression: &str) -> String {
    let told = ask(client, &format!("select '<' || ({expression}) || '>'")).await;
    told.split(['<', '>']).nth(1).unwrap_or(&told).to_owned()
}

/// The client that keeps the server goes, and the other one gets another.
async fn leaves(one: RawClient, other: &mut RawClient, expression: &str) -> String {
    let asked = value(other, expression);
    tokio::pin!(asked);
    let early = tokio::time::timeout(std::time::Duration::from_millis(700), &mut asked).await;
    assert!(early.is_err(), "the server is kept: {early:?}");
    drop(one);
    asked.await
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_with_any_first_part_keep_the_server() {
    let postgres = Postgres::started();
    let proxy = proxy_of(&postgres).await;
    let mut other = RawClient::logged_in(proxy.address).await;
    for (set, name) in [
        ("set local.a = '42'", "local.a"),
        ("set session transaction.a to '42'", "transaction.a"),
        ("set schema.a = '42'", "schema.a"),
        ("select set_config('app' || '.a', '42', false)", "app.a"),
        (r"select set_config(E'app\x2ea', '42', false)", "app.a"),
    ] {
        let mut one = RawClient::logged_in(proxy.address).await;
        let expression = format!("coalesce(current_setting('{name}', true), 'none')");
        let told = ask(&mut one, set).await;
        assert_eq!(value(&mut one, &expression).await, "42", "{set}: {told}");
        assert_eq!(leaves(one, &mut other, &expression).await, "none", "{set}");
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_by_way_of_pg_settings_keep_the_server() {
    let postgres = Postgres::started();
    let (proxy, mut one, mut other) = two(&postgres).await;
    let before = value(&mut other, "current_setting('work_mem')").await;
    ask(&mut one, "update pg_settings set setting = '3072' where name = 'work_mem'").await;
    assert_eq!(value(&mut one, "current_setting('work_mem')").await, "3MB");
    assert_eq!(leaves(one, &mut other, "current_setting('work_mem')").await, before);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_that_is_known_and_changed_in_passing_is_not_lost() {
    let postgres = Postgres::started();
    let (proxy, mut one, mut other) = two(&postgres).await;
    ask(&mut one, "set work_mem = '3MB'").await;
    ask(&mut one, "set work_mem = '5MB'; select 1").await;
    let asked = value(&mut other, "1");
    tokio::pin!(asked);
    let early = tokio::time::timeout(std::time::Duration::from_millis(700), &mut asked).await;
    assert!(early.is_err(), "the server is kept: {early:?}");
    assert_eq!(value(&mut one, "current_setting('work_mem')").await, "5MB");
    // Once it has its first value, nothing is left to keep the server for.
    ask(&mut one, "reset work_mem").await;
    assert_eq!(asked.await, "1");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cursors_and_temporary_tables_are_seen_however_they_are_written() {
    let postgres = Postgres::started();
    let proxy = proxy_of(&postgres).await;
    let mut other = RawClient::logged_in(proxy.address).await;
    let left = "(select count(*) from pg_cursors where is_holdable) + (select count(*) from pg_class where relname = 't' \
        and pg_table_is_visible(oid))";
    for texts in [
        &["declare c cursor with hold for select now()::timestamp without time zone"][..],
        &["set search_path = 'pg_temp'", "create table t ()"],
    ] {
        let mut one = RawClient::logged_in(proxy.address).await;
        for text in texts {
            let told = ask(&mut one, text).await;
            assert!(!told.contains("ERROR"), "{text}: {told}");
        }
        assert_eq!(value(&mut one, left).await, "1", "{texts:?}");
        assert_eq!(leaves(one, &mut other, left).await, "0", "{texts:?}");
    }
    proxy.stop().await;
}
