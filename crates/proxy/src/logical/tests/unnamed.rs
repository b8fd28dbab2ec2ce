//! Code that runs without being named.

use super::*;

/// A server that has not been asked; it is asked before anything else.
fn lend_unasked(stage: &mut Stage) {
    let (to_server, to_client) = stage.lend(Holding::new(reported()));
    assert!(
        to_server.starts_with(b"Q") && to_server[5..].starts_with(b"(SELECT 'code' FROM pg_catalog.pg_proc")
    );
    assert_eq!(to_client, Vec::<u8>::new());
}

const ROW: &[u8] = b"D\0\0\0\x0e\0\x01\0\0\0\x04code";

#[test]
fn a_server_is_asked_once_and_the_client_hears_nothing_of_it() {
    let mut stage = Stage::new();
    lend_unasked(&mut stage);
    let sent = query("select a from t");
    assert_eq!(stage.client(&sent), sent);
    assert!(!stage.may_leave());
    assert_eq!(stage.server(&[done("SELECT 0"), ready("I")].concat()), Vec::<u8>::new());
    let answer = [done("SELECT 1"), ready("I")].concat();
    assert_eq!(stage.server(&answer), answer);
    assert!(stage.may_leave());
    let asked = std::mem::replace(&mut stage.holding, holding());
    assert_eq!(stage.lend(asked), (vec![], vec![]));
}

#[test]
fn with_suspect_code_each_statement_keeps_the_server() {
    for answer in [[ROW, &done("SELECT 1")].concat(), error()] {
        let mut stage = Stage::new();
        lend_unasked(&mut stage);
        stage.client(&query("insert into t values (1)"));
        assert_eq!(stage.server(&[answer, ready("I")].concat()), Vec::<u8>::new());
        stage.server(&[done("INSERT 0 1"), ready("I")].concat());
        assert!(!stage.may_leave());
        assert!(stage.logical.pins().has(Pin::Function));
    }
}

#[test]
fn a_function_that_is_named_keeps_the_server_all_the_same() {
    let mut stage = Stage::new();
    lend_unasked(&mut stage);
    stage.client(&[query("select a from t"), query("select f()")].concat());
    stage.server(&[done("SELECT 0"), ready("I")].concat());
    stage.server(&[done("SELECT 1"), ready("I"), done("SELECT 1"), ready("I")].concat());
    assert!(!stage.may_leave());
}

#[test]
fn who_defines_code_has_servers_asked_again() {
    let mut stage = Stage::new();
    stage.query("select a from t; begin", "X", "I");
    assert_eq!(stage.logical.take_changes(), Changes::default());
    stage.query(
        "create or replace function f() returns int language sql as 'select 1'",
        "CREATE FUNCTION",
        "I",
    );
    assert_eq!(stage.logical.take_changes(), Changes { code: true, relations: true, databases: false });
    stage.query("alter table t add b int", "ALTER TABLE", "I");
    assert_eq!(stage.logical.take_changes(), Changes { code: false, relations: true, databases: false });
}

#[test]
fn a_function_that_is_called_by_its_number_keeps_the_server_all_the_same() {
    for (number, pin) in [(952_u32, Pin::Function), (2078, Pin::UnseenSetting), (1599, Pin::Seed)] {
        let mut stage = Stage::new();
        lend_unasked(&mut stage);
        stage.client(&query("select a from t"));
        stage.client(&message(b'F', &[&number.to_be_bytes()[..], b"\0\0\0\0\0\0"].concat()));
        stage.server(&[done("SELECT 0"), ready("I"), done("SELECT 1"), ready("I")].concat());
        stage.server(&[message(b'V', b"\0\0\0\0"), ready("I")].concat());
        assert!(!stage.may_leave());
        assert!(stage.logical.pins().has(Pin::Function) && stage.logical.pins().has(pin));
    }
}

/// A server of a database without sequences, on which client 1 has written.
fn written_on() -> Stage {
    let mut stage = Stage::new();
    lend_unasked(&mut stage);
    stage.client(&query("insert into t values (1)"));
    let answer = [done("INSERT 0 1"), ready("I")].concat();
    assert_eq!(stage.server(&[done("SELECT 0"), ready("I"), answer.clone()].concat()), answer);
    assert!(stage.may_leave());
    stage
}

/// What a server is sent when it is lent to somebody else, in this round of questions.
fn lent_to_other(left: Holding, round: u64) -> (Stage, Vec<u8>) {
    let mut other = Stage::new();
    other.logical.owner = Owner(2);
    other.holding = left;
    let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
    other.logical.place((&mut other.holding, Heard::JustNow), round, &mut to_server, &mut to_client);
    (other, to_server)
}

#[test]
fn without_sequences_there_are_no_last_values_to_discard() {
    let (mut other, sent) = lent_to_other(written_on().holding, 0);
    assert_eq!(sent, b"");
    other.client(&query("insert into t values (2)"));
    other.server(&[done("INSERT 0 1"), ready("I")].concat());
    // Somebody has made a sequence since, and both clients may have last values of it.
    let (_, sent) = lent_to_other(other.holding, 1);
    assert!(sent.starts_with(&query("DISCARD SEQUENCES;")));
}

#[test]
fn who_asks_for_them_is_shown_none_of_others_even_if_a_sequence_is_new() {
    let discarded = query("DISCARD SEQUENCES");
    let pipeline = [parse("s", "select currval('s')"), bind("s"), execute(), sync()].concat();
    let call = message(b'F', &[&2559_u32.to_be_bytes()[..], &[0; 6]].concat());
    for asks in [query("select lastval()"), query("select f()"), query("do $$ x $$"), pipeline, call] {
        let (mut other, _) = lent_to_other(written_on().holding, 0);
        let sent = other.client(&asks);
        assert!(sent.starts_with(&discarded), "{asks:?}");
        assert!(!other.holding.last_values.are_of_others(Owner(2)), "once is enough");
    }
    // Prepared on an earlier server, and in a transaction that begins with it.
    for name in ["s", ""] {
        let (mut other, _) = lent_to_other(holding(), 0);
        other.client(&[parse(name, "select currval('s')"), sync()].concat());
        other.server(&[message(b'1', b""), ready("I")].concat());
        other.holding = written_on().holding;
        let sent = other.says(&[bind(name), execute(), sync()].concat()).0;
        assert!(sent.starts_with(&discarded), "{name}");
    }
    let (mut other, _) = lent_to_other(written_on().holding, 0);
    other.query("begin", "BEGIN", "T");
    let asks = query("select lastval()");
    assert_eq!(other.says(&asks).0, [begin("begin"), discarded.clone(), asks.clone()].concat());
    // Behind questions of the proxy.
    let (mut other, _) = lent_to_other(written_on().holding, 0);
    let mut sent = Vec::new();
    other.logical.ask_for_code(&mut other.holding, 1, &mut sent);
    assert!(other.client(&asks).starts_with(&discarded));
    // Of its own it keeps them, also those that it has made since.
    let (mut other, _) = lent_to_other(written_on().holding, 0);
    other.query("create table t (a serial)", "CREATE TABLE", "I");
    other.query("insert into t default values", "INSERT 0 1", "I");
    assert_eq!(other.client(&asks), asks);
    assert_eq!(written_on().client(&asks), asks);
}

#[test]
fn with_sequences_or_without_an_answer_they_are_discarded() {
    let row = message(b'D', b"\0\x01\0\0\0\x08sequence");
    for answer in [[row, done("SELECT 1")].concat(), error()] {
        let mut stage = written_on();
        let (_, sent) = lent_to_other(stage.holding, 1);
        assert!(sent.starts_with(&query("DISCARD SEQUENCES;")), "it is not known any more");
        stage.holding = Holding::new(reported());
        lend_unasked(&mut stage);
        stage.client(&query("insert into t values (1)"));
        // In pieces.
        let answer = [answer, ready("I"), done("INSERT 0 1"), ready("I")].concat();
        answer.iter().for_each(|byte| drop(stage.server(&[*byte])));
        let (_, sent) = lent_to_other(stage.holding, 0);
        assert_eq!(sent, query("DISCARD SEQUENCES;"));
    }
}

#[test]
fn who_makes_a_sequence_has_servers_asked_again() {
    for (sql, is_one) in [
        ("create sequence s", true),
        ("create table t (a bigserial primary key)", true),
        ("create table t (a int generated always as identity)", true),
        ("alter table t alter a add generated by default as identity", true),
        ("create table t (a int, b text)", false),
        ("drop sequence s", false),
    ] {
        let mut stage = Stage::new();
        stage.query(sql, "X", "I");
        assert_eq!(stage.logical.take_changes().code, is_one, "{sql}");
    }
}
