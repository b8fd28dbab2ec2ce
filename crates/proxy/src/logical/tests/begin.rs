//! BEGIN is answered before it is sent.

use super::*;

fn kept(sql: &str) -> Stage {
    let mut stage = Stage::new();
    stage.query(sql, "BEGIN", "T");
    assert!(stage.logical.keeps_begin() && stage.logical.in_transaction() && !stage.may_leave());
    stage
}

#[test]
fn it_goes_along_with_what_is_said_next() {
    for next in [
        query("select 1"),
        [parse("", "select 1"), bind(""), execute(), sync()].concat(),
        sync(),
        message(b'F', &[0; 10]),
    ] {
        let mut stage = kept("begin");
        assert_eq!(stage.says(&next), ([begin("begin"), next.clone()].concat(), vec![]));
        assert_eq!(stage.server(&begun()), Vec::<u8>::new());
        assert!(!stage.logical.keeps_begin() && stage.logical.awaits_answer());
    }
    let mut stage = kept("begin");
    assert_eq!(stage.client(&query("select 1")), query("select 1"));
    let answer = [done("SELECT 1"), ready("T")].concat();
    assert_eq!(stage.server(&answer), answer);
    stage.query("commit", "COMMIT", "I");
    assert!(stage.may_leave());
}

#[test]
fn it_is_sent_alone_if_nothing_is_said() {
    let mut stage = kept("Begin Work;");
    let mut out = Vec::new();
    stage.logical.send_begin_alone(&mut stage.holding, &mut out);
    assert_eq!(out, [begin("Begin Work;"), sync()].concat());
    assert_eq!(stage.server(&[begun(), ready("T")].concat()), Vec::<u8>::new());
    out.clear();
    stage.logical.send_begin_alone(&mut stage.holding, &mut out);
    assert_eq!(out, Vec::<u8>::new());
    stage.query("commit", "COMMIT", "I");
    assert!(stage.may_leave());
}

#[test]
fn only_what_cannot_be_refused_is_answered() {
    for sql in ["begin", "BEGIN;", "begin work", "begin transaction", "/* of a page */ begin ; -- x"] {
        kept(sql);
    }
    let mut stage = Stage::new();
    let told = [done("START TRANSACTION"), ready("T")].concat();
    assert_eq!(stage.says(&query("start transaction")), (vec![], told));
    for sql in [
        "begin isolation level serializable",
        "begin read write",
        "begin; select 1",
        "select 1; begin",
        "begin; begin",
        "start",
        "begin transaction work",
        "begin 1",
    ] {
        let sent = query(sql);
        assert_eq!(Stage::new().says(&sent), (sent.clone(), vec![]), "{sql}");
    }
    for body in [&b"begin\0x\0"[..], b"begin\0\0", b"begin"] {
        let sent = message(b'Q', body);
        assert_eq!(Stage::new().says(&sent), (sent.clone(), vec![]), "{body:?}");
    }
}

#[test]
fn not_while_something_is_under_way_nor_of_who_keeps_its_server() {
    let mut stage = Stage::new();
    stage.client(&query("select 1"));
    let sent = query("begin");
    assert_eq!(stage.says(&sent), (sent.clone(), vec![]));
    let mut stage = Stage::new();
    stage.query("create temp table x (a int)", "CREATE TABLE", "I");
    assert_eq!(stage.says(&sent), (sent.clone(), vec![]));
    // The server warns of it.
    let mut stage = kept("begin");
    assert_eq!(stage.client(&sent), sent);
}

#[test]
fn the_unnamed_statement_is_gone_as_after_any_query() {
    let mut stage = Stage::new();
    stage.client(&[parse("", "select 1"), sync()].concat());
    stage.server(&[message(b'1', b""), ready("I")].concat());
    stage.query("begin", "BEGIN", "T");
    // The server is to refuse it, and not to run the BEGIN that is its unnamed statement now.
    let sent = stage.client(&[bind(""), execute(), sync()].concat());
    assert_eq!(sent, [close(""), bind(""), execute(), sync()].concat());
}

#[test]
fn if_it_fails_nothing_runs_outside_of_a_transaction() {
    let refused = message(b'E', b"SERROR\0VERROR\0C57014\0Mcancelled\0\0");
    for (next, status) in [(query("insert into t values (1)"), "E"), (query("commit"), "I")] {
        let mut stage = kept("begin");
        stage.says(&next);
        let mut told = Vec::new();
        let broken = stage.logical.server_sent(&refused, &mut stage.holding, &mut told).unwrap_err();
        assert_eq!((broken, &*told), (Broken::Ahead(refused[5..].into()), &b""[..]));
        let words = |_: Lost| refused.clone();
        let after = stage.logical.lose_server(&mut stage.holding, &words, &mut told);
        assert_eq!((after, told), (AfterLoss::GoesOn, [refused.clone(), ready(status)].concat()));
        assert_eq!(stage.logical.in_transaction(), status == "E");
    }
}

#[test]
fn a_server_that_is_lost_before_takes_nothing_along() {
    let mut stage = kept("begin");
    let mut told = Vec::new();
    let after = stage.logical.lose_server(&mut stage.holding, &|_| error(), &mut told);
    assert_eq!((after, told), (AfterLoss::GoesOn, vec![]));
    assert!(stage.logical.in_transaction() && stage.logical.described().is_none());
    stage.fresh();
    assert_eq!(stage.client(&query("select 1")), query("select 1"));
    let answer = [done("SELECT 1"), ready("T")].concat();
    assert_eq!(stage.server(&answer), answer);
}
