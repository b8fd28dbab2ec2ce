//! What texts leave behind.

use super::*;

fn pins(text: &str) -> Vec<Pin> {
    read(text.as_bytes()).pins.iter().collect()
}

#[test]
fn ordinary_statements_pin_nothing() {
    for text in [
        "",
        ";;",
        "select abalance from pgbench_accounts where aid = 42;",
        "begin; update t set a = a + 1 where b = 'x'; insert into t (a) values (1) returning a; end",
        "(select 1) union (values (2)) order by 1",
        "with x as (select 1) delete from t using x",
        "create table t (a int default 1, check (a > 0)); create index on t (lower(a)); drop table t",
        "create function f() returns int language sql as $$ select set_config('a', 'b', false); select 1 $$",
        "copy t (a, b) from stdin with (format csv)",
        "explain (analyze, costs off) select count(*) from t",
        "declare c cursor without hold for select 1; fetch all from c",
        "set local local.a = 'b'; set local search_path = a; set transaction read only; set constraints all deferred",
        "prepare transaction 'x'; commit prepared 'x'",
        "vacuum (analyze) t; notify a, 'b'; show all; discard plans",
        "deallocate all",
    ] {
        assert_eq!(pins(text), [], "{text}");
    }
}

#[test]
fn what_needs_a_database_without_sessions() {
    for text in
        ["DROP DATABASE a", "create database b template a", "select 1; alter /* */ database a rename to b"]
    {
        assert!(read(text.as_bytes()).needs_nobody, "{text}");
    }
    for text in ["drop table database", "comment on database a is 'b'", "create table t (database int)"] {
        assert!(!read(text.as_bytes()).needs_nobody, "{text}");
    }
}

#[test]
fn what_stays_in_the_session_pins() {
    for (text, pin) in [
        ("create temp table t (a int)", Pin::Temporary),
        ("select 1 into temporary t", Pin::Temporary),
        ("create view pg_temp.v as select 1", Pin::Temporary),
        ("declare c cursor with hold for select 1", Pin::Cursor),
        ("declare c cursor with hold for select at::timestamp without time zone from t", Pin::Cursor),
        ("select pg_advisory_lock(1)", Pin::Lock),
        ("LISTEN a", Pin::Listening),
        ("load 'auto_explain'", Pin::Library),
        ("create extension hstore", Pin::Library),
        ("select set_config('a', 'b', false)", Pin::Setting),
        ("set session authorization joe", Pin::Setting),
        ("set session characteristics as transaction read only", Pin::Setting),
        ("set a.b = 'c'", Pin::UnseenSetting),
        ("set local.b = 'c'", Pin::UnseenSetting),
        ("set session local.b = 'c'", Pin::UnseenSetting),
        ("set session.b = 'c'", Pin::UnseenSetting),
        ("set transaction.b = 'c'", Pin::UnseenSetting),
        ("set session constraints /* x */ . b to 'c'", Pin::UnseenSetting),
        ("set names.b = 'c'", Pin::UnseenSetting),
        ("set seed.b = 'c'", Pin::UnseenSetting),
        ("set schema.tenant = 'a'", Pin::UnseenSetting),
        ("set time.zone = 'a'", Pin::UnseenSetting),
        ("reset transaction.b", Pin::UnseenSetting),
        ("reset session.b", Pin::UnseenSetting),
        ("set search_path = public, \"pg_temp\"", Pin::UnseenSetting),
        ("set search_path = 'public, PG_TEMP'", Pin::UnseenSetting),
        ("set schema 'pg_temp'", Pin::UnseenSetting),
        ("set seed = 0.5", Pin::Seed),
        ("set seed to default", Pin::Seed),
        ("update pg_settings set setting = 'b' where name = 'a'", Pin::Setting),
        ("set search_path = a, pg_catalog", Pin::Setting),
        ("set search_path = 'a, PG_catalog'", Pin::Setting),
        ("do $$ begin set a.b = 'c'; end $$", Pin::UnseenSetting),
        ("set client_encoding = 'sjis'", Pin::Setting),
        ("set standard_conforming_strings to off", Pin::Setting),
        ("set search_path = a; select 1", Pin::Setting),
        ("select 1; reset all", Pin::Setting),
        ("prepare p as select 1", Pin::Prepared),
        ("select * from pg_prepared_statements", Pin::Prepared),
        ("do $$ begin end $$", Pin::Function),
        ("call p()", Pin::Function),
        ("select f()", Pin::Function),
        (
            "select query_to_xml('select set_config(''a.b'', ''c'', false)', true, true, '')",
            Pin::UnseenSetting,
        ),
        ("select f(' SET a.b = 1')", Pin::UnseenSetting),
        ("select 1; select 'a", Pin::Unreadable),
        ("create function f() returns int begin atomic select 1; end", Pin::Unreadable),
        ("frobnicate", Pin::Unreadable),
        ("execute p; select 1", Pin::Prepared),
    ] {
        assert!(pins(text).contains(&pin), "{text}: {:?}", pins(text));
    }
}

#[test]
fn settings_that_can_be_repeated() {
    let effect = |text: &str| {
        let reading = read(text.as_bytes());
        assert!(reading.pins.is_empty(), "{text}: {}", reading.pins);
        reading.effect
    };
    let set = |name: &str, text: &str| Some(Effect::Set { name: name.into(), text: text.as_bytes().into() });
    let reset = |name: &str| Some(Effect::Reset { name: name.into() });
    let path = " /* a */ SET \"Search_Path\" = a, \"B\" ; -- b";
    assert_eq!(effect(path), set("search_path", "SET \"Search_Path\" = a, \"B\""));
    assert_eq!(effect("set session work_mem to '1MB'"), set("work_mem", "set session work_mem to '1MB'"));
    assert_eq!(effect("set time zone 'UTC'"), set("timezone", "set time zone 'UTC'"));
    assert_eq!(effect("set names 'UTF8'"), set("client_encoding", "set names 'UTF8'"));
    assert_eq!(effect("set role joe"), set("role", "set role joe"));
    assert_eq!(effect("set role to joe"), set("role", "set role to joe"));
    assert_eq!(effect("set time zone default"), reset("timezone"));
    assert_eq!(effect("set Work_Mem = default"), reset("work_mem"));
    assert_eq!(effect("reset time zone"), reset("timezone"));
    assert_eq!(effect("reset role"), reset("role"));
    assert_eq!(effect("reset all"), Some(Effect::ResetAll));
    assert_eq!(effect("set transaction_isolation = 'serializable'"), None);
}

#[test]
fn statements_prepared_elsewhere_are_found_by_name() {
    let text = "execute \"P 1\" (lower('a'))";
    let reading = read(text.as_bytes());
    assert_eq!(&text[reading.names_prepared.clone().unwrap()], "\"P 1\"");
    assert!(reading.pins.is_empty());
    assert!(read(b"execute p (f(1))").pins.has(Pin::Function));
    let reading = read(b"deallocate prepare Q");
    assert_eq!(reading.effect, Some(Effect::Deallocate { name: b"q".as_slice().into() }));
    let all = Reading { drops_all: true, ..Reading::default() };
    for text in ["deallocate all", "DEALLOCATE prepare ALL", "discard all", "discard sequences"] {
        assert_eq!(read(text.as_bytes()), all, "{text}");
    }
    assert_eq!(read(b"discard plans"), Reading::default());
}

#[test]
fn sequences() {
    assert!(read(b"select currval('s')").asks_sequences);
    assert!(read(b"insert into t values (1)").moves_sequences);
    assert!(read(b"select nextval('s')").moves_sequences);
    assert!(read(b"explain analyze insert into t values (1)").moves_sequences);
    assert!(read(b"(with i as (insert into t values (1) returning a) select a from i)").moves_sequences);
    assert!(!read(b"select 1").moves_sequences);
    assert!(!read(b"explain select 1").moves_sequences);
}

#[test]
fn what_changes_the_meaning_of_others() {
    for text in [
        "set timezone = 'UTC'",
        "SET LOCAL timezone = 'UTC'",
        "set session time zone 'UTC'",
        "set local statement_timeout.a = 1; set local work_mem = '1GB'",
        "reset all",
        "select set_config('timezone', $1, true)",
        "update pg_settings set setting = 'x' where name = 'timezone'",
    ] {
        assert!(read(text.as_bytes()).sets, "{text}");
    }
    for text in [
        "select 1",
        "set transaction isolation level serializable",
        "set session characteristics as transaction read only",
        "set constraints all deferred",
        "set local application_name = 'x'",
        "SET LOCAL statement_timeout = '5s'",
        "set session lock_timeout to default",
        "set synchronous_commit = off",
        "set local app.tenant = '1'",
        "set local.tenant = '1'",
        "select set_config('app.tenant', $1, true)",
    ] {
        assert!(!read(text.as_bytes()).sets, "{text}");
    }
}

#[test]
fn strings_that_are_no_statements() {
    for text in ["select f('all set. a.b')", "select f('set')", "select f('settle a.b')"] {
        assert_eq!(pins(text), [Pin::Function], "{text}");
    }
    assert_eq!(pins("insert into t values ('set a.b = 1')"), []);
}

#[test]
fn what_makes_tables() {
    for text in ["create table t ()", "select 1 into t", "with a as (select 1) select * into t from a"] {
        assert!(read(text.as_bytes()).creates, "{text}");
    }
    assert!(!read(b"insert into t values (1)").creates);
}
