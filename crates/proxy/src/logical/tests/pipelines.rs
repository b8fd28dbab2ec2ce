//! What is sent before the answers to what was sent before it.

use super::*;

/// What was taken of the client's bytes, and what the server gets.
fn take(stage: &mut Stage, bytes: &[u8]) -> (usize, Progress, Vec<u8>) {
    let mut out = Vec::new();
    let Stage { logical, holding, texts } = stage;
    let (taken, progress) = logical.client_sent(bytes, holding, texts, (&mut out, &mut Vec::new())).unwrap();
    (taken, progress, out)
}

#[test]
fn nothing_is_sent_behind_what_drops_all_statements() {
    for text in ["discard all", "deallocate all", "deallocate prepare all", "discard sequences"] {
        let mut stage = Stage::new();
        let (first, rest) = (query(text), [parse("s", "select 1"), sync()].concat());
        let said = [first.clone(), rest.clone()].concat();
        assert_eq!(take(&mut stage, &said), (first.len(), Progress::Waits, first), "{text}");
        assert_eq!(take(&mut stage, &rest), (0, Progress::Waits, vec![]));
        stage.server(&[done(&text.to_uppercase().replace(" PREPARE", "")), ready("I")].concat());
        assert_eq!(stage.client(&rest), [parse(ONE, "select 1"), sync()].concat());
        stage.server(&[message(b'1', b""), ready("I")].concat());
        assert_eq!(stage.client(&bind("s")), bind(ONE));
    }
    // Not in a COPY, for which the server waits itself.
    let mut stage = Stage::new();
    let copy = [parse("c", "copy t from stdin"), bind("c"), execute()].concat();
    let all = [parse("", "deallocate all"), bind(""), execute()].concat();
    let data = message(b'd', b"1");
    assert_eq!(take(&mut stage, &[copy, all, data.clone()].concat()).1, Progress::Waits);
    stage.server(&[message(b'1', b""), message(b'2', b""), message(b'G', b"\0\0\0")].concat());
    assert_eq!(take(&mut stage, &data), (data.len(), Progress::All, data.clone()));
}

#[test]
fn an_execute_that_drops_all_statements_is_answered_without_a_sync() {
    let mut stage = Stage::new();
    let first = [parse("", "discard all"), bind(""), execute()].concat();
    let (taken, progress, sent) = take(&mut stage, &[first.clone(), sync()].concat());
    assert_eq!((taken, progress), (first.len(), Progress::Waits));
    assert_eq!(sent, [first.clone(), message(b'H', b"")].concat());
    stage.server(&[message(b'1', b""), message(b'2', b""), done("DISCARD ALL")].concat());
    assert_eq!(take(&mut stage, &sync()), (5, Progress::All, sync()));
    stage.server(&ready("I"));
    assert!(stage.may_leave());
    // It fails: the Sync goes on.
    take(&mut stage, &first);
    stage.server(&error());
    assert_eq!(take(&mut stage, &sync()), (5, Progress::All, sync()));
}

#[test]
fn a_server_with_other_statements_than_it_is_known_to_have_is_not_used_again() {
    let mut stage = Stage::new();
    stage.client(&[parse("s", "select 1"), sync()].concat());
    let exists = message(b'E', b"SERROR\0VERROR\0C42P05\0Mprepared statement exists\0\0");
    stage.server(&[exists, ready("I")].concat());
    assert!(!stage.holding.is_clean());
    let mut stage = Stage::new();
    stage.client(&[parse("s", "select 1"), sync()].concat());
    stage.server(&[message(b'1', b""), ready("I")].concat());
    stage.client(&[bind("s"), sync()].concat());
    let missing = format!("SERROR\0VERROR\0C26000\0Mprepared statement \"{ONE}\" does not exist\0\0");
    stage.server(&[message(b'E', missing.as_bytes()), ready("I")].concat());
    assert!(!stage.holding.is_clean());
    // The client's own mistake is none of the server's.
    let mut stage = Stage::new();
    stage.client(&[bind("s"), sync()].concat());
    let missing = message(b'E', b"SERROR\0VERROR\0C26000\0Mprepared statement \"s\" does not exist\0\0");
    stage.server(&[missing, ready("I")].concat());
    assert!(stage.holding.is_clean());
}

#[test]
fn a_statement_of_one_client_is_dropped_when_it_is_closed() {
    let mut stage = Stage::new();
    stage.query("set timezone = 'UTC'", "SET", "I");
    stage.client(&[parse("s", "select 1"), sync()].concat());
    stage.server(&[message(b'1', b""), ready("I")].concat());
    // Skipped, it is still there.
    let sent = stage.client(&[bind("x"), close("s"), sync()].concat());
    assert_eq!(sent, [bind("x"), close(ONE), sync()].concat());
    stage.server(&[error(), ready("I")].concat());
    assert_eq!(stage.client(&[bind("s"), sync()].concat()), [bind(ONE), sync()].concat());
    stage.server(&[message(b'2', b""), ready("I")].concat());
    assert_eq!(stage.client(&[close("s"), sync()].concat()), [close(ONE), sync()].concat());
    stage.server(&[message(b'3', b""), ready("I")].concat());
    assert!(stage.holding.statements.is_empty() && stage.may_leave());
}

#[test]
fn a_setting_of_the_transaction_makes_its_statements_its_own() {
    let mut stage = Stage::new();
    stage.query("begin", "BEGIN", "T");
    stage.query("set local timezone = 'UTC'", "SET", "T");
    stage.client(&[parse("s", "select 1"), sync()].concat());
    stage.server(&[message(b'1', b""), ready("T")].concat());
    stage.query("commit", "COMMIT", "I");
    assert!(!stage.logical.statements[&b"s"[..]].is_shared);
    stage.client(&[parse("t", "select 1"), sync()].concat());
    stage.server(&[message(b'1', b""), ready("I")].concat());
    assert!(stage.logical.statements[&b"t"[..]].is_shared);
    // Prepared again under such a setting, it is not what the others have.
    stage.fresh();
    stage.query("begin", "BEGIN", "T");
    stage.query("set local timezone = 'UTC'", "SET", "T");
    stage.client(&[bind("t"), sync()].concat());
    assert!(!stage.logical.statements[&b"t"[..]].is_shared);
}

#[test]
fn an_examination_that_fails_keeps_the_reasons_and_no_more() {
    let mut stage = Stage::new();
    stage.query("create temp table t ()", "CREATE TABLE", "I");
    stage.logical.examine(&mut stage.holding, &mut Vec::new());
    assert_eq!(stage.server(&[error(), ready("I")].concat()), b"");
    assert!(stage.logical.pins().has(Pin::Temporary) && !stage.logical.pins().has(Pin::Astray));
    stage.query("drop table t", "DROP TABLE", "I");
    assert!(stage.logical.can_examine(&stage.holding));
}
