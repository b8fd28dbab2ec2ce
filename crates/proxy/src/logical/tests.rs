//! Whole conversations: a client, and servers that it is lent.

mod begin;

mod changes;
mod channels;

mod described;

mod lost;

mod pipelines;

mod random;

mod unnamed;

use super::*;
use pgwire::message::{put, put_query};

/// A client, and the server that it is lent at the moment.
struct Stage {
    logical: Logical,
    holding: Holding,
    texts: Texts,
}

fn reported() -> Reported {
    let mut reported = Reported::default();
    reported.note(b"client_encoding", b"UTF8");
    reported.note(b"standard_conforming_strings", b"on");
    reported
}

/// Of a database in which nothing runs unnamed.
fn holding() -> Holding {
    let mut holding = Holding::new(reported());
    (holding.code, holding.code_round) = (code::Code::Harmless, Some(0));
    holding
}

impl Stage {
    fn new() -> Stage {
        let logical = Logical::new(Owner(1), Settings::default(), reported());
        Stage { logical, holding: holding(), texts: Texts::new(0) }
    }

    /// Another server; what it is sent first, and what the client is told.
    fn lend(&mut self, holding: Holding) -> (Vec<u8>, Vec<u8>) {
        self.holding = holding;
        let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
        self.logical.place((&mut self.holding, Heard::JustNow), 0, &mut to_server, &mut to_client);
        (to_server, to_client)
    }

    fn fresh(&mut self) {
        let (to_server, to_client) = self.lend(holding());
        assert_eq!((to_server, to_client), (vec![], vec![]));
    }

    /// What the server gets. A BEGIN is answered at once, and begins the transaction with what is said next.
    fn client(&mut self, bytes: &[u8]) -> Vec<u8> {
        let kept = self.logical.begin.clone();
        let (mut out, told) = self.says(bytes);
        if self.logical.keeps_begin() {
            assert_eq!((&*out, &*told), (&b""[..], &*[done("BEGIN"), ready("T")].concat()));
        } else {
            assert_eq!(told, Vec::<u8>::new());
        }
        if let Some(text) = kept.filter(|_| !self.logical.keeps_begin()) {
            let sent_first = begin(std::str::from_utf8(&text[..text.len() - 1]).unwrap());
            assert_eq!(out.drain(..sent_first.len()).collect::<Vec<u8>>(), sent_first);
            assert_eq!(self.server(&begun()), Vec::<u8>::new());
        }
        out
    }

    /// What the server gets, and what the client is told at once.
    fn says(&mut self, bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let (mut out, mut told) = (Vec::new(), Vec::new());
        let both = (&mut out, &mut told);
        let taken = self.logical.client_sent(bytes, &mut self.holding, &mut self.texts, both).unwrap();
        assert_eq!(taken, (bytes.len(), Progress::All));
        (out, told)
    }

    /// What the client gets.
    fn server(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        self.logical.server_sent(bytes, &mut self.holding, &mut out).unwrap();
        out
    }

    fn query(&mut self, sql: &str, tag: &str, status: &str) {
        let sent = query(sql);
        let to_server = self.client(&sent);
        if self.logical.keeps_begin() {
            return;
        }
        assert_eq!(to_server, sent);
        let answer = [done(tag), ready(status)].concat();
        assert_eq!(self.server(&answer), answer);
    }

    fn may_leave(&self) -> bool {
        self.logical.may_leave(&self.holding) && self.holding.is_clean()
    }
}

fn query(sql: &str) -> Vec<u8> {
    let mut out = Vec::new();
    put_query(sql.as_bytes(), &mut out);
    out
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put(kind, &[body], &mut out);
    out
}

fn parse(name: &str, sql: &str) -> Vec<u8> {
    message(b'P', format!("{name}\0{sql}\0\0\0").as_bytes())
}

fn bind(name: &str) -> Vec<u8> {
    message(b'B', format!("\0{name}\0\0\0\0\0\0\0").as_bytes())
}

fn describe(name: &str) -> Vec<u8> {
    message(b'D', format!("S{name}\0").as_bytes())
}

fn close(name: &str) -> Vec<u8> {
    message(b'C', format!("S{name}\0").as_bytes())
}

/// How a BEGIN is sent, and what answers that.
fn begin(sql: &str) -> Vec<u8> {
    [parse("", sql), bind(""), execute()].concat()
}

fn begun() -> Vec<u8> {
    [message(b'1', b""), message(b'2', b""), done("BEGIN")].concat()
}

fn execute() -> Vec<u8> {
    message(b'E', b"\0\0\0\0\0")
}

fn sync() -> Vec<u8> {
    message(b'S', b"")
}

fn done(tag: &str) -> Vec<u8> {
    message(b'C', format!("{tag}\0").as_bytes())
}

fn ready(status: &str) -> Vec<u8> {
    message(b'Z', status.as_bytes())
}

fn error() -> Vec<u8> {
    message(b'E', b"SERROR\0VERROR\0C42601\0Mno\0\0")
}

const ONE: &str = "pgkeel:0000000000000000:1";

#[test]
fn a_server_leaves_after_the_transaction() {
    let mut stage = Stage::new();
    stage.query("select 1", "SELECT 1", "I");
    assert!(stage.may_leave());
    stage.query("begin", "BEGIN", "T");
    assert!(!stage.may_leave());
    stage.client(&query("x"));
    stage.server(&[error(), ready("E")].concat());
    assert!(!stage.may_leave());
    stage.query("rollback", "ROLLBACK", "I");
    assert!(!stage.may_leave(), "nobody can read what x is");
    assert!(stage.logical.pins().has(Pin::Unreadable));
}

#[test]
fn statements_have_another_name_on_servers_and_go_along() {
    let mut stage = Stage::new();
    let sent = stage.client(&[parse("s", "select 1"), describe("s"), sync()].concat());
    assert_eq!(sent, [parse(ONE, "select 1"), describe(ONE), sync()].concat());
    let answer = [message(b'1', b""), message(b't', b"\0\0"), message(b'T', b"\0\0"), ready("I")].concat();
    assert_eq!(stage.server(&answer), answer);
    assert!(stage.may_leave());
    for again in [true, false] {
        if again {
            stage.fresh();
        }
        let sent = stage.client(&[bind("s"), execute(), sync()].concat());
        let prepared = if again { parse(ONE, "select 1") } else { vec![] };
        assert_eq!(sent, [prepared, bind(ONE), execute(), sync()].concat());
        let own = if again { message(b'1', b"") } else { vec![] };
        let answer = [message(b'2', b""), message(b'D', b"\0\0"), done("SELECT 1"), ready("I")].concat();
        assert_eq!(stage.server(&[own, answer.clone()].concat()), answer);
        assert!(stage.may_leave());
    }
}

#[test]
fn a_statement_that_the_server_has_already_is_not_prepared_twice() {
    let mut stage = Stage::new();
    stage.client(&[parse("s", "select 1"), sync()].concat());
    stage.server(&[message(b'1', b""), ready("I")].concat());
    let sent = stage.client(&[parse("other", "select 1"), bind("other"), sync()].concat());
    assert_eq!(sent, [close("pgkeel: nothing"), bind(ONE), sync()].concat());
    let told = stage.server(&[message(b'3', b""), message(b'2', b""), ready("I")].concat());
    assert_eq!(told, [message(b'1', b""), message(b'2', b""), ready("I")].concat());
    // Closing is the client's affair only.
    assert_eq!(stage.client(&[close("s"), sync()].concat()), [close("s"), sync()].concat());
    stage.server(&[message(b'3', b""), ready("I")].concat());
    assert_eq!(stage.client(&bind("s")), bind("s"), "which the server does not know");
}

#[test]
fn what_failed_or_was_skipped_is_not_taken_for_done() {
    let mut stage = Stage::new();
    stage.client(
        &[parse("a", "bad"), parse("b", "select 2"), sync(), parse("c", "select 3"), sync()].concat(),
    );
    let answer = [error(), ready("I"), message(b'1', b""), ready("I")].concat();
    assert_eq!(stage.server(&answer), answer);
    assert!(stage.may_leave());
    let sent = stage.client(&[bind("a"), bind("b"), bind("c")].concat());
    assert_eq!(sent, [bind("a"), bind("b"), bind("pgkeel:0000000000000000:3")].concat());
    // Behind an error, and before Sync, everything is ignored.
    stage.server(&error());
    let ignored = [parse("d", "select 4"), query("begin"), message(b'H', b"")].concat();
    assert_eq!(stage.client(&ignored), ignored);
    assert!(!stage.may_leave());
    stage.client(&sync());
    stage.server(&ready("I"));
    assert!(stage.may_leave());
    assert_eq!(stage.client(&bind("d")), bind("d"));
}

#[test]
fn a_server_whose_statement_is_outdated_is_not_used_again() {
    let mut stage = Stage::new();
    stage.client(&[parse("s", "select * from t"), sync()].concat());
    stage.server(&[message(b'1', b""), ready("I")].concat());
    stage.client(&[bind("s"), sync()].concat());
    let changed = message(b'E', b"VERROR\0C0A000\0Mcached plan must not change result type\0\0");
    stage.server(&[changed, ready("I")].concat());
    assert!(stage.logical.may_leave(&stage.holding) && !stage.holding.is_clean());
}

#[test]
fn a_close_that_was_skipped_is_undone() {
    let mut stage = Stage::new();
    stage.client(&[parse("s", "select 1"), sync()].concat());
    stage.server(&[message(b'1', b""), ready("I")].concat());
    stage.client(&[bind("x"), close("s"), sync()].concat());
    stage.server(&[error(), ready("I")].concat());
    assert_eq!(stage.client(&bind("s")), bind(ONE));
}

#[test]
fn the_unnamed_statement_goes_along_and_is_nobody_else_s() {
    let mut stage = Stage::new();
    stage.client(&[parse("", "select 1"), sync()].concat());
    stage.server(&[message(b'1', b""), ready("I")].concat());
    let left = std::mem::replace(&mut stage.holding, holding());
    assert_eq!(
        stage.client(&[bind(""), sync()].concat()),
        [parse("", "select 1"), bind(""), sync()].concat()
    );
    assert_eq!(stage.server(&[message(b'1', b""), message(b'2', b""), ready("I")].concat()).len(), 11);
    // A client that has none does not get at the one that is there.
    let mut other = Stage::new();
    other.lend(left);
    assert_eq!(other.client(&[bind(""), sync()].concat()), [close(""), bind(""), sync()].concat());
    assert_eq!(
        other.server(&[message(b'3', b""), error(), ready("I")].concat()),
        [error(), ready("I")].concat()
    );
    // A simple query destroys it.
    stage.query("select 2", "SELECT 1", "I");
    assert_eq!(stage.client(&bind("")), bind(""));
}

#[test]
fn settings_go_along_once_they_are_committed() {
    let mut stage = Stage::new();
    stage.query("set work_mem = '1MB'", "SET", "I");
    assert!(stage.may_leave());
    stage.query("begin", "BEGIN", "T");
    stage.query("set search_path = a", "SET", "T");
    stage.query("rollback", "ROLLBACK", "I");
    stage.query("begin", "BEGIN", "T");
    stage.query("reset extra_float_digits; ", "RESET", "T");
    stage.query("set intervalstyle = 'sql_standard'", "SET", "T");
    stage.query("commit", "COMMIT", "I");
    let (sent, _) = stage.lend(holding());
    assert_eq!(sent, query("set work_mem = '1MB';set intervalstyle = 'sql_standard';"));
    // Until that is done, nothing of the client's is sent.
    let mut out = Vec::new();
    let waits = stage.logical.client_sent(
        &query("x"),
        &mut stage.holding,
        &mut stage.texts,
        (&mut out, &mut Vec::new()),
    );
    assert_eq!((waits, &out), (Ok((0, Progress::Waits)), &vec![]));
    let style = message(b'S', b"IntervalStyle\0sql_standard\0");
    let told = stage.server(&[style.clone(), done("SET"), done("SET"), ready("I")].concat());
    assert_eq!(told, style, "the client is told what it was not told yet");
    // The next one has its own settings there.
    let left = std::mem::replace(&mut stage.holding, holding());
    let mut other = Stage::new();
    let (sent, _) = other.lend(left);
    assert_eq!(sent, query("RESET \"work_mem\";RESET \"intervalstyle\";"));
}

#[test]
fn a_date_style_goes_along_as_a_whole() {
    let mut stage = Stage::new();
    let style = message(b'S', b"DateStyle\0ISO, YMD\0");
    stage.client(&query("set datestyle = ymd"));
    let answer = [done("SET"), style, ready("I")].concat();
    assert_eq!(stage.server(&answer), answer);
    assert_eq!(stage.lend(holding()).0, query("SET DateStyle = 'ISO, YMD';"));
}

#[test]
fn settings_inside_savepoints_pin() {
    let mut stage = Stage::new();
    stage.query("begin", "BEGIN", "T");
    stage.query("savepoint s", "SAVEPOINT", "T");
    stage.query("set work_mem = '1MB'", "SET", "T");
    stage.query("rollback to s", "ROLLBACK", "T");
    stage.query("commit", "COMMIT", "I");
    assert!(stage.logical.pins().has(Pin::Setting));
}

#[test]
fn settings_that_cannot_be_put_in_place_end_the_session() {
    let mut stage = Stage::new();
    stage.query("set role joe", "SET", "I");
    stage.lend(holding());
    let broken = stage.logical.server_sent(&error(), &mut stage.holding, &mut Vec::new());
    assert_eq!(broken, Err(Broken::Settings("no".into())));
}

#[test]
fn an_extended_set_goes_along_as_well() {
    let mut stage = Stage::new();
    stage.client(&[parse("", "set work_mem = '1MB'"), bind(""), execute(), sync()].concat());
    stage.server(&[message(b'1', b""), message(b'2', b""), done("SET"), ready("I")].concat());
    assert!(stage.may_leave());
    assert_eq!(stage.lend(holding()).0, query("set work_mem = '1MB';"));
}

#[test]
fn a_copy_holds_the_server_and_what_comes_after_it_is_thrown_away() {
    let mut stage = Stage::new();
    stage.client(&query("copy t from stdin"));
    stage.server(&message(b'G', b"\0\0\0"));
    assert!(!stage.may_leave());
    let data = [message(b'd', b"1\n"), message(b'c', b"")].concat();
    assert_eq!(stage.client(&data), data);
    stage.server(&[done("COPY 1"), ready("I")].concat());
    assert!(stage.may_leave());
    // The server has ended it before the client knew.
    assert_eq!(stage.client(&data), b"");
    assert!(stage.may_leave());
}

#[test]
fn a_flush_behind_a_sync_keeps_no_server() {
    let mut stage = Stage::new();
    let flush = message(b'H', b"");
    let sent = [parse("", "select 1"), bind(""), execute(), sync(), flush.clone()].concat();
    assert_eq!(stage.client(&sent), sent);
    assert!(!stage.may_leave());
    let answer = [message(b'1', b""), message(b'2', b""), done("SELECT 1"), ready("I")].concat();
    assert_eq!(stage.server(&answer), answer);
    assert!(stage.may_leave());
    assert_eq!(stage.client(&flush), flush);
    assert!(stage.may_leave(), "nor one alone");
    stage.client(&[parse("", "select 1"), flush].concat());
    assert!(!stage.may_leave(), "a Sync is still to come");
}

#[test]
fn a_copy_by_execute_ignores_the_sync_before_it() {
    let mut stage = Stage::new();
    stage.client(&[parse("", "copy t from stdin"), bind(""), execute(), sync()].concat());
    stage.server(&[message(b'1', b""), message(b'2', b""), message(b'G', b"\0\0\0")].concat());
    stage.client(&[message(b'd', b"1\n"), message(b'c', b""), sync()].concat());
    stage.server(&[done("COPY 1"), ready("I")].concat());
    assert!(stage.may_leave());
    // It fails: everything is skipped up to the Sync behind it.
    stage.client(&[bind(""), execute(), sync()].concat());
    stage.server(&[message(b'2', b""), message(b'G', b"\0\0\0"), error()].concat());
    stage.client(&[message(b'd', b"1\n"), message(b'c', b""), sync()].concat());
    stage.server(&ready("I"));
    assert!(stage.may_leave());
}

#[test]
fn discard_all_takes_the_reasons_away() {
    let mut stage = Stage::new();
    stage.query("create temp table t ()", "CREATE TABLE", "I");
    assert!(!stage.may_leave());
    stage.query("discard all", "DISCARD ALL", "I");
    assert!(stage.may_leave());
    stage.query("load 'x'", "LOAD", "I");
    stage.query("discard all", "DISCARD ALL", "I");
    assert!(!stage.may_leave(), "a library stays");
}

#[test]
fn reasons_that_are_gone_are_found_out() {
    let mut stage = Stage::new();
    stage.query("set work_mem = '1MB'", "SET", "I");
    stage.query("select f()", "SELECT 1", "I");
    for row in [message(b'D', b"\0\x01\0\0\0\x01x"), vec![]] {
        assert!(!stage.may_leave() && stage.logical.can_examine(&stage.holding));
        let mut out = Vec::new();
        stage.logical.examine(&mut stage.holding, &mut out);
        assert!(
            out.windows(10).any(|part| part == b"'work_mem'") && !stage.logical.can_examine(&stage.holding)
        );
        let answer = [message(b'T', b"\0\0"), row, done("SELECT"), ready("I")].concat();
        assert_eq!(stage.server(&answer), b"");
        if !stage.may_leave() {
            stage.query("select 1", "SELECT 1", "I");
        }
    }
    assert!(stage.may_leave());
    // The function may have changed what is known.
    let left = std::mem::replace(&mut stage.holding, holding());
    assert_eq!(stage.lend(left).0, query("RESET \"work_mem\";set work_mem = '1MB';"));
    // A role that is not found has gone with the session authorization.
    let mut role = Stage::new();
    role.query("set role joe", "SET", "I");
    role.query("reset session authorization", "RESET", "I");
    role.logical.examine(&mut role.holding, &mut Vec::new());
    role.server(&[message(b'T', b"\0\0"), done("SELECT"), ready("I")].concat());
    assert!(role.may_leave());
    role.fresh();
    let mut library = Stage::new();
    library.query("load 'x'", "LOAD", "I");
    assert!(!library.logical.can_examine(&library.holding));
}

#[test]
fn sql_names_of_prepared_statements_are_exchanged() {
    let mut stage = Stage::new();
    stage.client(&[parse("S", "select 1"), sync()].concat());
    stage.server(&[message(b'1', b""), ready("I")].concat());
    assert_eq!(stage.client(&query("execute \"S\"")), query(&format!("execute \"{ONE}\"")));
    stage.server(&[done("SELECT 1"), ready("I")].concat());
    stage.fresh();
    let sent = stage.client(&query("deallocate \"S\""));
    assert_eq!(sent, [parse(ONE, "select 1"), sync(), query(&format!("deallocate \"{ONE}\""))].concat());
    let answer = [done("DEALLOCATE"), ready("I")].concat();
    assert_eq!(stage.server(&[message(b'1', b""), ready("I"), answer.clone()].concat()), answer);
    assert!(stage.may_leave());
    assert_eq!(stage.client(&bind("S")), bind("S"));
}

#[test]
fn last_values_of_sequences_are_not_seen_by_others() {
    let mut stage = Stage::new();
    stage.query("insert into t values (1)", "INSERT 0 1", "I");
    assert!(stage.may_leave());
    let left = std::mem::replace(&mut stage.holding, holding());
    let mut other = Stage::new();
    other.logical.owner = Owner(2);
    let (sent, _) = other.lend(left);
    assert_eq!(sent, query("DISCARD SEQUENCES;"));
    other.client(&query("select lastval()"));
    let answer = [error(), ready("I")].concat();
    assert_eq!(other.server(&[done("DISCARD SEQUENCES"), ready("I"), answer.clone()].concat()), answer);
    assert!(other.logical.pins().has(Pin::Sequence));
}

#[test]
fn notifications_for_others_are_not_passed_on() {
    let mut stage = Stage::new();
    assert_eq!(stage.server(&message(b'A', b"\0\0\0\x01a\0\0")), b"");
    assert!(!stage.may_leave(), "the server is closed");
    let mut stage = Stage::new();
    stage.query("listen a", "LISTEN", "I");
    assert_eq!(stage.server(&message(b'A', b"\0\0\0\x01a\0\0")), message(b'A', b"\0\0\0\x01a\0\0"));
}

#[test]
fn a_client_knows_itself_in_its_own_notifications() {
    let mut stage = Stage::new();
    stage.logical = stage.logical.told_as(7);
    stage.holding = stage.holding.of_process(1);
    stage.query("listen a", "LISTEN", "I");
    assert_eq!(stage.server(&message(b'A', b"\0\0\0\x01a\0b\0")), message(b'A', b"\0\0\0\x07a\0b\0"));
    assert_eq!(stage.server(&message(b'A', b"\0\0\0\x02a\0b\0")), message(b'A', b"\0\0\0\x02a\0b\0"));
}

#[test]
fn long_messages_are_not_held() {
    let mut stage = Stage::new();
    let long = query(&"x".repeat(200_000));
    let mut sent = stage.client(&long[..70_000]);
    assert_eq!(sent.len(), 70_000);
    sent.extend(stage.client(&long[70_000..]));
    assert!(sent == long && stage.logical.pins().has(Pin::Unreadable));
    let row = message(b'D', &vec![1; 100_000]);
    let told = [stage.server(&row[..50_000]), stage.server(&row[50_000..])].concat();
    assert!(told == row && stage.holding.held.is_empty());
}

#[test]
fn the_same_however_the_streams_are_cut() {
    let said = [
        parse("s", "select $1"),
        bind("s"),
        describe("s"),
        execute(),
        sync(),
        query("set work_mem = '1MB'; "),
        query("copy t from stdin"),
    ]
    .concat();
    let answer = [
        message(b'1', b""),
        message(b'2', b""),
        message(b't', b"\0\0"),
        message(b'T', b"\0\0"),
        message(b'D', &[7; 3_000]),
        done("SELECT 1"),
        ready("I"),
        message(b'S', b"a\0b\0"),
        done("SET"),
        ready("I"),
        message(b'G', b"\0\0\0"),
    ]
    .concat();
    let mut whole = Stage::new();
    let expected = (whole.client(&said), whole.server(&answer));
    for size in 1..80 {
        let mut stage = Stage::new();
        let (mut sent, mut pending) = (Vec::new(), Vec::new());
        for chunk in said.chunks(size) {
            pending.extend_from_slice(chunk);
            let Stage { logical, holding, texts } = &mut stage;
            let (taken, _) =
                logical.client_sent(&pending, holding, texts, (&mut sent, &mut Vec::new())).unwrap();
            pending.drain(..taken);
        }
        let told: Vec<u8> = answer.chunks(size).flat_map(|chunk| stage.server(chunk)).collect();
        assert!((sent, told) == expected, "{size}");
        assert_eq!(stage.logical.settings, whole.logical.settings);
    }
}

#[test]
fn hostile_bytes_never_panic_and_are_refused() {
    let mut stage = Stage::new();
    for bytes in [&b"\0\0\0\0\x04"[..], b"Q\0\0\0\x03", b"D\x7f\0\0\0", b"p\0\0\0\x04", b"E\0\0\0\x05x"] {
        let sent = stage.logical.client_sent(
            bytes,
            &mut stage.holding,
            &mut stage.texts,
            (&mut Vec::new(), &mut Vec::new()),
        );
        assert!(sent.is_err(), "{bytes:?}");
    }
    let mut state = 3_u64;
    let mut below = |limit: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % limit
    };
    for _ in 0..2_000 {
        let mut stage = Stage::new();
        for _ in 0..30 {
            let (from_client, kinds) = (below(2) == 0, [&b"QPBDECHSFdcf"[..], b"123CZEDSTGtnINA"]);
            let kinds = kinds[usize::from(!from_client)];
            let body: Vec<u8> = (0..below(12)).map(|_| b"\0ASIT1\xff"[below(7)]).collect();
            let bytes = message(kinds[below(kinds.len())], &body);
            let mut out = Vec::new();
            let Stage { logical, holding, texts } = &mut stage;
            let broken = if from_client {
                logical.client_sent(&bytes, holding, texts, (&mut out, &mut Vec::new())).is_err()
            } else {
                logical.server_sent(&bytes, holding, &mut out).is_err()
            };
            if broken {
                break;
            }
        }
    }
}
