//! The server is lost in the middle of something.

use super::*;

/// What a client is told of a loss.
fn word(lost: Lost) -> Vec<u8> {
    message(b'E', format!("SERROR\0VERROR\0C00000\0M{lost:?}\0\0").as_bytes())
}

impl Stage {
    /// A transaction is open on the server.
    fn begins(&mut self) {
        self.query("begin", "BEGIN", "T");
        self.query("select 1", "SELECT 1", "T");
    }

    /// The server is lost: whether the session goes on, and what the client gets.
    fn lose(&mut self) -> (AfterLoss, Vec<u8>) {
        let mut told = Vec::new();
        let after = self.logical.lose_server(&mut self.holding, &word, &mut told);
        (after, told)
    }

    /// On the next server, the client is in a transaction that has failed.
    fn fails_anew(&mut self) {
        let (to_server, _) = self.lend(holding());
        assert!(to_server.starts_with(b"Q") && to_server[5..].starts_with(b"BEGIN; SELECT 1/0"));
        assert_eq!(self.server(&[done("BEGIN"), error(), ready("E")].concat()), Vec::<u8>::new());
        assert!(!self.may_leave());
    }
}

const ROLLED_BACK: &str = "current transaction is aborted";

#[test]
fn an_open_transaction_is_lost_and_told_with_the_next_statement() {
    for next in ["commit", "select 1"] {
        let mut stage = Stage::new();
        stage.begins();
        assert_eq!(stage.lose(), (AfterLoss::GoesOn, vec![]));
        stage.fails_anew();
        // A COMMIT would be answered by ROLLBACK, which drivers take for success.
        assert_eq!(stage.client(&query(next)), query("SELECT 1"));
        assert_eq!(
            stage.server(&[error(), ready("E")].concat()),
            [word(Lost::Transaction), ready("E")].concat()
        );
        // After that, the server itself refuses everything.
        stage.client(&query("insert into t values (1)"));
        let refused = [error(), ready("E")].concat();
        assert_eq!(stage.server(&refused), refused, "{ROLLED_BACK}");
        stage.query("commit", "ROLLBACK", "I");
        assert!(stage.may_leave());
    }
}

#[test]
fn a_rollback_of_a_lost_transaction_is_no_error() {
    let mut stage = Stage::new();
    stage.begins();
    assert_eq!(stage.lose(), (AfterLoss::GoesOn, vec![]));
    stage.fails_anew();
    stage.query("rollback", "ROLLBACK", "I");
    stage.query("select 1", "SELECT 1", "I");
    assert!(stage.may_leave());
}

#[test]
fn a_lost_transaction_is_told_to_a_pipeline() {
    let mut stage = Stage::new();
    stage.begins();
    stage.lose();
    stage.fails_anew();
    let sent = stage.client(&[parse("", "commit"), bind(""), execute(), sync()].concat());
    assert!(sent.starts_with(&parse("", "SELECT 1")));
    assert_eq!(stage.server(&[error(), ready("E")].concat()), [word(Lost::Transaction), ready("E")].concat());
    // The unnamed statement was not prepared.
    stage.client(&[parse("", "rollback"), bind(""), execute(), sync()].concat());
    let answer = [message(b'1', b""), message(b'2', b""), done("ROLLBACK"), ready("I")].concat();
    assert_eq!(stage.server(&answer), answer);
    assert!(stage.may_leave());
}

#[test]
fn what_runs_is_told_at_once() {
    for (begin, sql, lost, status) in [
        (false, "insert into t values (1)", Lost::Outcome, "I"),
        (true, "insert into t values (1)", Lost::Transaction, "E"),
        (true, "commit", Lost::Outcome, "I"),
        (true, "rollback", Lost::Transaction, "I"),
        (false, "begin read only", Lost::Transaction, "E"),
    ] {
        for pipeline in [false, true] {
            let mut stage = Stage::new();
            if begin {
                stage.begins();
            }
            let sent = match pipeline {
                true => [parse("", sql), bind(""), execute(), sync()].concat(),
                false => query(sql),
            };
            stage.client(&sent);
            let expected = (AfterLoss::GoesOn, [word(lost), ready(status)].concat());
            assert_eq!(stage.lose(), expected, "{sql} {pipeline}");
            if status == "E" {
                stage.fails_anew();
                stage.query("rollback", "ROLLBACK", "I");
            } else {
                stage.fresh();
            }
            stage.query("select 1", "SELECT 1", "I");
            assert!(stage.may_leave());
        }
    }
}

#[test]
fn an_error_that_was_told_is_not_told_twice() {
    let mut stage = Stage::new();
    stage.begins();
    stage.client(&[parse("", "select 1/0"), bind(""), execute(), sync()].concat());
    stage.server(&[message(b'1', b""), message(b'2', b""), error()].concat());
    assert_eq!(stage.lose(), (AfterLoss::GoesOn, ready("E")));
    stage.fails_anew();
    stage.query("rollback", "ROLLBACK", "I");
    // Nor one of a transaction that had failed before.
    stage.begins();
    stage.client(&query("select 1/0"));
    stage.server(&[error(), ready("E")].concat());
    assert_eq!(stage.lose(), (AfterLoss::GoesOn, vec![]));
    stage.fails_anew();
    stage.query("rollback", "ROLLBACK", "I");
}

#[test]
fn what_cannot_be_told_for_sure_ends_the_session() {
    let ends = |before: &[&str], sent: &[u8], heard: &[u8]| {
        let mut stage = Stage::new();
        for sql in before {
            stage.query(sql, "X", "I");
        }
        stage.client(sent);
        stage.server(heard);
        assert_eq!(stage.lose(), (AfterLoss::Ends, vec![]), "{before:?} {sent:?}");
    };
    ends(&["create temp table t ()"], b"", b"");
    ends(&[], &query("begin; insert into t values (1); commit"), b"");
    ends(&[], &[query("select 1"), query("select 2")].concat(), b"");
    ends(&[], &[parse("", "select 1"), bind(""), execute()].concat(), b"");
    // It was told of its COMMIT already.
    ends(&[], &query("commit"), &done("COMMIT"));
    // In the middle of a row.
    ends(&[], &query("select 1"), b"D\0\x01\0\0ab");
}

#[test]
fn settings_and_statements_outlive_the_server() {
    let mut stage = Stage::new();
    stage.query("set search_path = a", "SET", "I");
    stage.client(&[parse("s", "select 1"), sync()].concat());
    stage.server(&[message(b'1', b""), ready("I")].concat());
    stage.begins();
    stage.client(&query("set search_path = b"));
    stage.server(&[done("SET"), ready("T")].concat());
    stage.lose();
    let (to_server, _) = stage.lend(holding());
    let text = String::from_utf8_lossy(&to_server).into_owned();
    assert!(text.contains("set search_path = a") && !text.contains("= b"), "{text}");
}
