//! What a client leaves on its server must not meet the next one, however it was left there.

use crate::named::{ask, proxy_of, say};
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
        &["begin", "set local search_path = pg_temp", "create table t ()", "commit"],
        &["begin", "select set_config('search_path', 'pg' || '_temp', true)", "select 1 into t", "commit"],
        &["set local search_path = 'pg_temp'; create table t ()"],
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

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_behind_discard_all_is_not_discarded() {
    let postgres = Postgres::started();
    let (proxy, mut one, mut other) = two(&postgres).await;
    ask(&mut one, "create table numbered (a serial)").await;
    say(&mut other, &["P theirs=select 41", "S"]).await;
    // As Npgsql does with a connection that comes from its pool.
    let (kinds, text) = say(&mut one, &["Q discard all", "P s=select 7", "DS s", "P k=select 41", "S"]).await;
    assert!(kinds.ends_with("CZ1tT1Z"), "{kinds}: {text}");
    for name in ["B =s", "B =k"] {
        let (kinds, text) = say(&mut one, &[name, "E ", "S"]).await;
        assert_eq!(kinds, "2DCZ", "{text}");
    }
    let (kinds, text) =
        say(&mut other, &["P seven=select 7", "B =seven", "E ", "B =theirs", "E ", "S"]).await;
    assert_eq!(kinds, "12DC2DCZ", "{text}");
    // By the extended protocol, in one pipeline.
    let (kinds, text) = say(
        &mut one,
        &["P =deallocate all", "B =", "E ", "P k=select 41", "B =k", "E ", "P s=select 7", "B =s", "E ", "S"],
    )
    .await;
    assert_eq!(kinds, "12C12DC12DCZ", "{text}");
    let (kinds, text) = say(&mut other, &["P x=select 41", "B =x", "E ", "B =seven", "E ", "S"]).await;
    assert_eq!(kinds, "12DC2DCZ", "{text}");
    // Last values of sequences.
    say(&mut one, &["Q discard sequences", "Q insert into numbered default values"]).await;
    assert!(ask(&mut other, "select lastval()").await.contains("C55000"));
    ask(&mut other, "discard all").await;
    // What only DISCARD ALL ends, it ends by this protocol as well.
    ask(&mut one, "set a.b = 'c'").await;
    say(&mut one, &["P =discard all", "B =", "E ", "S"]).await;
    assert_eq!(value(&mut other, "coalesce(current_setting('a.b', true), '')").await, "");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn last_values_of_the_first_sequence_are_not_seen_by_others() {
    let postgres = Postgres::started();
    let (proxy, mut one, mut other) = two(&postgres).await;
    ask(&mut one, "create table plain (a int)").await;
    for client in [&mut one, &mut other] {
        ask(client, "insert into plain values (1)").await;
    }
    ask(&mut one, "create table numbered (a serial)").await;
    for (writer, reader) in [(0, 1), (1, 0)] {
        let both = [&mut one, &mut other];
        ask(both[writer], "insert into numbered default values").await;
        assert!(ask(both[reader], "select lastval()").await.contains("C55000"));
        ask(both[reader], "discard all").await;
    }
    proxy.stop().await;
}

const WHERE: &str = "select case when timestamptz '2020-01-01' = timestamptz '2020-01-01 00:00+09' then 'tokyo' else 'here' end";

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_was_prepared_under_settings_of_one_client_is_not_shared() {
    let postgres = Postgres::started();
    let (proxy, mut one, mut other) = two(&postgres).await;
    let prepare = format!("P s={WHERE}");
    let prepare_again = format!("P t={WHERE}");
    // For a transaction.
    ask(&mut one, "begin; set local timezone = 'Asia/Tokyo'").await;
    let (_, text) = say(&mut one, &[&prepare, "B =s", "E ", "S"]).await;
    assert!(text.contains("tokyo"), "{text}");
    ask(&mut one, "commit").await;
    let (_, text) = say(&mut other, &[&prepare, "B =s", "E ", "S"]).await;
    assert!(text.contains("here"), "{text}");
    // In the same pipeline.
    ask(&mut other, "deallocate all").await;
    let (_, text) =
        say(&mut one, &["P =set timezone = 'Asia/Tokyo'", "B =", "E ", &prepare_again, "B =t", "E ", "S"])
            .await;
    assert!(text.contains("tokyo"), "{text}");
    let (_, text) = say(&mut other, &[&prepare, "B =s", "E ", "S"]).await;
    assert!(text.contains("here"), "{text}");
    // Prepared before, and again when the server has lost it.
    ask(&mut one, "discard all").await;
    say(&mut one, &[&prepare, "S"]).await;
    ask(&mut one, "set timezone = 'Asia/Tokyo'").await;
    ask(&mut other, "deallocate all").await;
    say(&mut one, &["B =s", "E ", "S"]).await;
    let (_, text) = say(&mut other, &[&prepare, "B =s", "E ", "S"]).await;
    assert!(text.contains("here"), "{text}");
    // Without such settings it is.
    let mut third = RawClient::logged_in(proxy.address).await;
    ask(&mut other, "discard all").await;
    say(&mut other, &[&prepare, "S"]).await;
    say(&mut third, &[&prepare, "S"]).await;
    let count =
        "P n=select '<' || count(*) || '>' from pg_prepared_statements where statement like 'select case%'";
    let (_, text) = say(&mut third, &[count, "B =n", "E ", "S"]).await;
    assert!(text.contains("<1>"), "{text}");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_prepared_by_sql_are_not_dropped_by_the_next_one() {
    let postgres = Postgres::started();
    let (proxy, mut one, _other) = two(&postgres).await;
    ask(&mut one, "prepare p as select 1").await;
    say(&mut one, &["P s=select 3", "S"]).await;
    ask(&mut one, "prepare q as select 2").await;
    for name in ["p", "q"] {
        let told = ask(&mut one, &format!("execute {name}")).await;
        assert!(told.contains("SELECT 1"), "{told}");
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_skips_is_as_before() {
    let postgres = Postgres::started();
    let (proxy, mut one, mut other) = two(&postgres).await;
    // Closed, and prepared anew.
    say(&mut one, &["P s=select 'old'", "S"]).await;
    say(&mut one, &["P =selct", "CS s", "P s=select 'new'", "S"]).await;
    let (_, text) = say(&mut one, &["B =s", "E ", "S"]).await;
    assert!(text.contains("old"), "{text}");
    // Prepared again in front of something that is skipped.
    ask(&mut other, "deallocate all").await;
    let (kinds, text) = say(&mut one, &["P =selct", "B =s", "E ", "S", "B =s", "E ", "S"]).await;
    assert_eq!(kinds, "EZ2DCZ", "{text}");
    // The same name once more, while nobody knows yet that it was skipped.
    let (kinds, text) =
        say(&mut one, &["P =selct", "P p=select 1", "S", "P p=select 1", "B =p", "E ", "S"]).await;
    assert_eq!(kinds, "EZ12DCZ", "{text}");
    // The unnamed statement.
    say(&mut one, &["P =select 'unnamed'", "S"]).await;
    say(&mut one, &["B =nobody", "P =select 2", "S"]).await;
    let (_, text) = say(&mut one, &["B =", "E ", "S"]).await;
    assert!(text.contains("unnamed"), "{text}");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_without_a_begin_undoes_a_setting_of_its_pipeline() {
    let postgres = Postgres::started();
    let (proxy, mut one, mut other) = two(&postgres).await;
    let before = value(&mut one, "current_setting('work_mem')").await;
    say(&mut one, &["P =set work_mem = '3MB'", "B =", "E ", "P =rollback", "B =", "E ", "S"]).await;
    assert_eq!(value(&mut one, "current_setting('work_mem')").await, before);
    assert_eq!(value(&mut other, "current_setting('work_mem')").await, before);
    assert_eq!(value(&mut one, "current_setting('work_mem')").await, before);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_ends_a_pipeline_and_its_server_is_free() {
    let postgres = Postgres::started();
    let (proxy, mut one, mut other) = two(&postgres).await;
    let (kinds, _) = say(&mut one, &["P =select 1", "B =", "E ", "Q select 2"]).await;
    assert_eq!(kinds, "12DCTDCZ");
    ask(&mut other, "create table numbered (a serial)").await;
    ask(&mut one, "explain analyze insert into numbered default values").await;
    assert!(ask(&mut other, "select lastval()").await.contains("C55000"));
    proxy.stop().await;
}
