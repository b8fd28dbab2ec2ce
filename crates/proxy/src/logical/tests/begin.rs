//! BEGIN is answered before it is sent.

use super::*;

fn kept(sql: &str) -> Stage {
    let mut stage = Stage::new();
    stage.query(sql, "BEGIN", "T");
    assert!(stage.logical.keeps_begin() && stage.logical.in_transaction() && !stage.may_leave());
    stage
}

impl Stage {
    /// This is not taken before something is answered.
    fn waits(&mut self, bytes: &[u8]) {
        let mut out = (Vec::new(), Vec::new());
        let both = (&mut out.0, &mut out.1);
        let taken = self.logical.client_sent(bytes, &mut self.holding, &mut self.texts, both);
        assert_eq!((taken, out), (Ok((0, Progress::Waits)), (vec![], vec![])));
    }
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
    stage.waits(&query("select 1"));
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
    for body in [&b"begin\0x\0"[..], b"begin\0\0", b"begin", b"/*\xff*/begin\0"] {
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
    for (next, status) in
        [(query("insert into t values (1)"), "E"), (query("select f()"), "E"), (query("commit"), "I")]
    {
        let mut stage = kept("begin");
        stage.says(&next);
        let mut told = Vec::new();
        let broken = stage.logical.server_sent(&refused, &mut stage.holding, &mut told).unwrap_err();
        assert_eq!((broken, &*told), (Broken::Begin(refused[5..].into()), &b""[..]));
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

#[test]
fn nothing_is_sent_behind_a_sync_before_it_has_begun() {
    let mut stage = kept("begin");
    let first = [parse("", "select 1"), bind(""), execute(), sync()].concat();
    stage.says(&first);
    stage.waits(&query("select 2"));
    let answer = [message(b'1', b""), message(b'2', b""), done("SELECT 1"), ready("T")].concat();
    assert_eq!(stage.server(&[begun(), answer.clone()].concat()), answer);
    stage.query("select 2", "SELECT 2", "T");
    // A statement that has to be prepared again, with a Sync behind that.
    let mut stage = Stage::new();
    stage.client(&[parse("s", "select 1"), sync()].concat());
    stage.server(&[message(b'1', b""), ready("I")].concat());
    stage.fresh();
    stage.query("begin", "BEGIN", "T");
    let (mut out, mut told) = (Vec::new(), Vec::new());
    let execute_it = query("execute s");
    let both = (&mut out, &mut told);
    let taken = stage.logical.client_sent(&execute_it, &mut stage.holding, &mut stage.texts, both).unwrap();
    assert_eq!((taken, out), ((0, Progress::Waits), [begin("begin"), sync()].concat()));
    assert_eq!(stage.server(&[begun(), ready("T")].concat()), Vec::<u8>::new());
    assert!(stage.client(&execute_it).starts_with(b"P"));
}

#[test]
fn it_is_not_sent_before_the_message_behind_it_can_be() {
    let mut stage = kept("begin");
    let sent = bind("statement");
    for len in 0..16 {
        let (mut out, mut told) = (Vec::new(), Vec::new());
        let both = (&mut out, &mut told);
        let taken = stage.logical.client_sent(&sent[..len], &mut stage.holding, &mut stage.texts, both);
        assert_eq!((taken, out), (Ok((0, Progress::All)), vec![]), "{len}");
        assert!(stage.logical.keeps_begin() && !stage.logical.awaits_answer());
    }
    // Of a long one a part is passed on: the server waits for the rest.
    let mut long = message(b'Q', &[b' '; 70_000]);
    long.truncate(69_000);
    stage.says(&long);
    assert!(stage.logical.is_waited_for());
}

#[test]
fn answers_to_the_proxy_before_it_do_not_end_it() {
    let mut stage = kept("begin");
    stage.logical.lose_server(&mut stage.holding, &|_| error(), &mut Vec::new());
    stage.lend(Holding::new(reported()));
    stage.says(&query("insert into t values (1)"));
    // What code the database has; it is lost, too, before the rest is answered.
    stage.server(&[done("SELECT 0"), ready("I")].concat());
    assert!(stage.logical.in_transaction());
    let mut told = Vec::new();
    let after = stage.logical.lose_server(&mut stage.holding, &|_| error(), &mut told);
    assert_eq!((after, told), (AfterLoss::GoesOn, [error(), ready("E")].concat()));
}

#[test]
fn who_goes_without_a_word_leaves_a_clean_server() {
    let mut stage = kept("begin");
    stage.logical.forget_begin();
    assert!(stage.may_leave());
    // What was prepared there without a name is not for the next one.
    let mut stage = Stage::new();
    stage.client(&[parse("", "select 1"), sync()].concat());
    stage.server(&[message(b'1', b""), ready("I")].concat());
    stage.query("begin", "BEGIN", "T");
    stage.logical.forget_begin();
    let left = std::mem::replace(&mut stage.holding, holding());
    let mut other = Stage::new();
    other.logical.owner = Owner(2);
    other.lend(left);
    assert!(other.client(&[bind(""), sync()].concat()).starts_with(&close("")));
    let mut stage = kept("begin");
    stage.client(&query("select 1"));
    stage.logical.forget_begin();
    assert!(stage.logical.in_transaction() && !stage.may_leave());
}

#[test]
fn others_statements_are_not_shown_in_it() {
    let mut stage = kept("begin");
    stage.holding.statements.insert(77);
    let (sent, _) = stage.says(&query("select * from pg_prepared_statements"));
    assert!(sent.starts_with(&[begin("begin"), query("DEALLOCATE ALL")].concat()));
}
