//! Channels are moved to somebody else who listens.

use super::*;

fn notification(channel: &str, payload: &str) -> Vec<u8> {
    message(b'A', format!("\0\0\0\x07{channel}\0{payload}\0").as_bytes())
}

fn row(text: &str) -> Vec<u8> {
    let head = [b"\0\x01\0\0\0", &[u8::try_from(text.len()).unwrap()][..]].concat();
    message(b'D', &[&head[..], text.as_bytes()].concat())
}

fn examined(stage: &mut Stage, rows: &[&str]) {
    assert!(stage.logical.can_examine(&stage.holding));
    let mut question = Vec::new();
    stage.logical.examine(&mut stage.holding, &mut question);
    assert!(!question.is_empty());
    let rows: Vec<Vec<u8>> = rows.iter().map(|text| row(text)).collect();
    let answer = [message(b'T', b"\0\0"), rows.concat(), done("SELECT 1"), ready("I")].concat();
    // However it is cut.
    let told: Vec<u8> = answer.chunks(7).flat_map(|chunk| stage.server(chunk)).collect();
    assert_eq!(told, b"");
}

/// A client that listens on `a` and `b`, which could be moved.
fn offered() -> Stage {
    let mut stage = Stage::new();
    stage.query("listen a; listen b", "LISTEN", "I");
    examined(&mut stage, &["listening:a", "listening:b"]);
    assert_eq!(stage.logical.offered_channels(), Some(&[Box::from(&b"a"[..]), Box::from(&b"b"[..])][..]));
    stage
}

fn marked() -> (Stage, Vec<u8>) {
    let mut stage = offered();
    let mut sent = Vec::new();
    stage.logical.mark_channels("m", "1_0", &mut stage.holding, &mut sent);
    assert_eq!(sent, query("SET LOCAL synchronous_commit = off; LISTEN \"m\"; NOTIFY \"m\", '1_0'"));
    (stage, [done("LISTEN"), done("NOTIFY")].concat())
}

/// `a` and `b` are heard from somebody else.
fn moved() -> Stage {
    let (mut stage, tags) = marked();
    assert_eq!(stage.server(&[tags, notification("m", "1_0"), ready("I")].concat()), b"");
    let mut sent = Vec::new();
    assert!(stage.logical.stop_listening(&mut sent));
    assert_eq!(sent, query("UNLISTEN *"));
    assert_eq!(stage.server(&[done("UNLISTEN"), ready("I")].concat()), b"");
    assert!(stage.may_leave() && stage.logical.shares_channels());
    stage
}

fn given_up(stage: &mut Stage) -> Vec<String> {
    let channels = stage.logical.take_given_up();
    let mut names: Vec<String> = channels.iter().map(|c| String::from_utf8_lossy(c).into_owned()).collect();
    names.sort();
    names
}

#[test]
fn what_stands_before_the_marker_is_told_and_what_stands_behind_it_is_not() {
    let (mut stage, tags) = marked();
    assert!(stage.logical.is_moving_channels());
    let before = notification("a", "1");
    let answer =
        [tags, before.clone(), notification("m", "9_9"), notification("m", "1_0"), notification("b", "2")];
    assert_eq!(stage.server(&answer.concat()), before);
    // What the client says waits.
    let said = query("select 1");
    let Stage { logical, holding, texts } = &mut stage;
    let mut sent = Vec::new();
    assert_eq!(
        logical.client_sent(&said, holding, texts, (&mut sent, &mut Vec::new())),
        Ok((0, Progress::Waits))
    );
    assert!(!logical.stop_listening(&mut sent) && sent.is_empty(), "it is not answered");
    assert_eq!(stage.server(&ready("I")), b"");
    assert!(stage.logical.stop_listening(&mut sent) && !stage.may_leave());
    assert_eq!(stage.server(&[notification("a", "3"), done("UNLISTEN"), ready("I")].concat()), b"");
    assert!(stage.may_leave() && !stage.logical.is_moving_channels());
    stage.query("select 1", "SELECT 1", "I");
}

#[test]
fn a_marker_that_comes_behind_its_answer_is_waited_for() {
    let (mut stage, tags) = marked();
    stage.server(&[tags, ready("I")].concat());
    assert!(stage.logical.is_moving_channels() && !stage.logical.stop_listening(&mut Vec::new()));
    stage.server(&notification("m", "1_0"));
    assert!(stage.logical.stop_listening(&mut Vec::new()));
}

#[test]
fn a_move_that_fails_leaves_the_client_where_it_is() {
    let (mut stage, _) = marked();
    assert_eq!(stage.server(&[error(), ready("I")].concat()), b"");
    assert!(stage.logical.take_marker_failure() && !stage.logical.take_marker_failure());
    assert!(!stage.logical.is_moving_channels() && !stage.may_leave() && !stage.logical.shares_channels());
    let told = notification("a", "1");
    assert_eq!(stage.server(&told), told);
    // The marker has come, but the server does not stop: from somebody else all the same.
    let (mut stage, tags) = marked();
    stage.server(&[tags, notification("m", "1_0"), ready("I")].concat());
    assert!(stage.logical.stop_listening(&mut Vec::new()));
    assert_eq!(stage.server(&[error(), ready("I"), notification("a", "1")].concat()), b"");
    assert!(!stage.may_leave() && stage.logical.shares_channels());
}

#[test]
fn a_client_that_says_something_or_keeps_more_is_not_moved() {
    let mut stage = offered();
    stage.query("listen c", "LISTEN", "I");
    assert_eq!(stage.logical.offered_channels(), None);
    for rows in [&["listening:a", "lock"][..], &["listening:\u{e9}"], &["listening:a\"b"]] {
        let mut stage = Stage::new();
        stage.query("listen a", "LISTEN", "I");
        examined(&mut stage, rows);
        assert_eq!(stage.logical.offered_channels(), None);
        assert!(stage.logical.pins().has(Pin::Listening));
    }
    let mut stage = Stage::new();
    stage.query("listen a", "LISTEN", "I");
    examined(&mut stage, &[]);
    assert!(stage.may_leave());
}

#[test]
fn the_server_itself_goes_on_listening() {
    let mut stage = offered();
    stage.logical.leave_channels();
    assert!(stage.logical.pins().is_empty() && stage.logical.shares_channels());
    stage.fresh();
    stage.query("unlisten a", "UNLISTEN", "I");
    assert_eq!(given_up(&mut stage), ["a"]);
}

#[test]
fn channels_are_given_up_when_that_is_committed() {
    for (statements, expected) in [
        (&[("unlisten a", "UNLISTEN", "I")][..], &["a"][..]),
        (&[("unlisten *", "UNLISTEN", "I")], &["a", "b"]),
        (&[("discard all", "DISCARD ALL", "I")], &["a", "b"]),
        (&[("unlisten c", "UNLISTEN", "I")], &[]),
        (&[("begin", "BEGIN", "T"), ("unlisten a", "UNLISTEN", "T")], &[]),
        (&[("begin", "BEGIN", "T"), ("unlisten a", "UNLISTEN", "T"), ("end", "COMMIT", "I")], &["a"]),
        (&[("begin", "BEGIN", "T"), ("unlisten a", "UNLISTEN", "T"), ("abort", "ROLLBACK", "I")], &[]),
        (
            &[
                ("begin", "BEGIN", "T"),
                ("unlisten a", "UNLISTEN", "T"),
                ("savepoint s", "SAVEPOINT", "T"),
                ("unlisten b", "UNLISTEN", "T"),
                ("rollback to s", "ROLLBACK", "T"),
                ("end", "COMMIT", "I"),
            ],
            &["a"],
        ),
        (
            &[
                ("begin", "BEGIN", "T"),
                ("unlisten *", "UNLISTEN", "T"),
                ("listen a", "LISTEN", "T"),
                ("end", "COMMIT", "I"),
            ],
            &["b"],
        ),
    ] {
        let mut stage = moved();
        for (sql, tag, status) in statements {
            stage.query(sql, tag, status);
        }
        assert_eq!(given_up(&mut stage), expected, "{statements:?}");
    }
}

#[test]
fn what_was_rolled_back_does_not_count_whatever_comes_with_it() {
    for (text, tags) in [
        ("rollback; begin; commit", &["ROLLBACK", "BEGIN", "COMMIT"][..]),
        ("rollback and chain; commit", &["ROLLBACK", "COMMIT"]),
        ("rollback and chain", &["ROLLBACK"]),
        ("rollback to s; commit", &["ROLLBACK", "COMMIT"]),
        ("rollback; commit", &["ROLLBACK", "COMMIT"]),
        // In a transaction that has failed.
        ("commit and chain", &["ROLLBACK"]),
        ("rollback to s; rollback", &["ROLLBACK", "ROLLBACK"]),
    ] {
        let mut stage = moved();
        stage.query("begin", "BEGIN", "T");
        stage.query("unlisten a", "UNLISTEN", "T");
        stage.query("savepoint s", "SAVEPOINT", "T");
        stage.client(&query(text));
        let chains = tags.len() == 1;
        let answers: Vec<u8> = tags.iter().flat_map(|tag| done(tag)).collect();
        stage.server(&[answers, ready(if chains { "T" } else { "I" })].concat());
        if chains {
            stage.query("commit", "COMMIT", "I");
        }
        let expected: &[&str] = if text == "rollback to s; commit" { &["a"] } else { &[] };
        assert_eq!(given_up(&mut stage), expected, "{text}");
    }
    // Behind the end of a transaction nothing is inside its savepoints any more.
    let mut stage = moved();
    for (sql, tag, status) in [
        ("begin", "BEGIN", "T"),
        ("savepoint s", "SAVEPOINT", "T"),
        ("rollback and chain", "ROLLBACK", "T"),
        ("unlisten a", "UNLISTEN", "T"),
        ("savepoint chain", "SAVEPOINT", "T"),
        ("unlisten b", "UNLISTEN", "T"),
        ("rollback to chain", "ROLLBACK", "T"),
        ("end", "COMMIT", "I"),
    ] {
        stage.query(sql, tag, status);
    }
    assert_eq!(given_up(&mut stage), ["a"]);
}

#[test]
fn the_changes_of_one_text_count_together() {
    let mut stage = moved();
    let text = query("unlisten a; listen a; unlisten b");
    stage.client(&text);
    stage.server(&[done("UNLISTEN"), done("LISTEN"), done("UNLISTEN"), ready("I")].concat());
    assert_eq!(given_up(&mut stage), ["b"]);
    stage.client(&query("unlisten a; x"));
    stage.server(&[done("UNLISTEN"), error(), ready("I")].concat());
    assert_eq!(given_up(&mut stage), [""; 0]);
}

#[test]
fn many_changes_of_channels_in_one_transaction_take_bounded_memory() {
    let mut stage = moved();
    stage.query("begin", "BEGIN", "T");
    stage.query("unlisten b", "UNLISTEN", "T");
    for number in 0..5_000 {
        stage.query(&format!("unlisten other{number}"), "UNLISTEN", "T");
        stage.query("listen a", "LISTEN", "T");
        stage.query("unlisten a", "UNLISTEN", "T");
        assert!(stage.logical.pending_channels() <= 4_000);
    }
    stage.query("commit", "COMMIT", "I");
    assert_eq!(given_up(&mut stage), ["a", "b"]);
}

#[test]
fn what_is_heard_elsewhere_is_not_told_twice() {
    let mut stage = moved();
    stage.query("listen a", "LISTEN", "I");
    let told = notification("c", "1");
    assert_eq!(stage.server(&[notification("a", "1"), told.clone()].concat()), told);
    let prepared = [parse("", "unlisten a"), bind(""), execute(), sync()].concat();
    stage.client(&prepared);
    stage.server(&[message(b'1', b""), message(b'2', b""), done("UNLISTEN"), ready("I")].concat());
    assert_eq!(given_up(&mut stage), ["a"]);
}
