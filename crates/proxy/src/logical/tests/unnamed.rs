//! Code that runs without being named.

use super::*;

/// A server that has not been asked; it is asked before anything else.
fn lend_unasked(stage: &mut Stage) {
    let (to_server, to_client) = stage.lend(Holding::new(reported()));
    assert!(to_server.starts_with(b"Q") && to_server[5..].starts_with(b"SELECT 1 FROM pg_catalog.pg_proc"));
    assert_eq!(to_client, Vec::<u8>::new());
}

const ROW: &[u8] = b"D\0\0\0\x0b\0\x01\0\0\0\x011";

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
