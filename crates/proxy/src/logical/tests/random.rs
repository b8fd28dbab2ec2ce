//! Clients and servers that say anything, in any pieces: nothing panics, and no more is kept than the bounds allow.

use super::*;
use crate::logical::expected::Expected;
use pgwire::random::{Random, rounds};

/// What statements are made of.
const TEXTS: [&str; 28] = [
    "select 1",
    "begin",
    "commit",
    "rollback",
    "rollback to a",
    "savepoint a",
    "set work_mem = '1MB'",
    "reset all",
    "set local x.y = 'z'",
    "create temp table t ()",
    "listen a",
    "discard all",
    "deallocate s1",
    "deallocate all",
    "discard sequences",
    "set local timezone = 'UTC'",
    "update pg_settings set setting = '1MB' where name = 'work_mem'",
    "execute s1(1)",
    "prepare s1 as select 1",
    "select set_config('a.b', 'c', false)",
    "copy t from stdin",
    "select f()",
    "insert into t values (nextval('s'))",
    "select lastval()",
    "create function f() returns int language sql as 'select 1'",
    "declare c cursor with hold for select 1",
    "set datestyle = ymd",
    "load 'x'",
];

const NAMES: [&str; 4] = ["", "s1", "s2", "S \"x"];

/// Messages of servers that have a meaning here.
const SERVER_KINDS: &[u8] = b"123CCCCDEEGHINSTTZZZZZZAVWKcdntsv";

const TAGS: [&str; 11] = [
    "DEALLOCATE ALL",
    "DISCARD SEQUENCES",
    "SELECT 1",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "SET",
    "RESET",
    "DISCARD ALL",
    "DEALLOCATE",
    "SAVEPOINT",
];

fn text(random: &mut Random) -> String {
    let mut all = String::new();
    for _ in 0..=random.below(3) / 2 {
        if !all.is_empty() {
            all += "; ";
        }
        all += TEXTS[random.below(TEXTS.len())];
    }
    all
}

fn name(random: &mut Random) -> &'static str {
    NAMES[random.below(NAMES.len())]
}

fn of_client(random: &mut Random) -> Vec<u8> {
    match random.below(20) {
        0..=4 => query(&text(random)),
        5..=7 => parse(name(random), &text(random)),
        8..=10 => bind(name(random)),
        11 => describe(name(random)),
        12 => close(name(random)),
        13 | 14 => execute(),
        15..=17 => sync(),
        18 => {
            let kind = b"HFdcfX?\0"[random.below(8)];
            let len = random.below(40);
            message(kind, &random.bytes(len))
        }
        _ => {
            // A message with anything in it.
            let len = random.below(30);
            let kind = b"QPBDCE"[random.below(6)];
            message(kind, &random.bytes(len))
        }
    }
}

fn of_server(random: &mut Random) -> Vec<u8> {
    match SERVER_KINDS[random.below(SERVER_KINDS.len())] {
        b'Z' => ready(["I", "I", "T", "E", "?"][random.below(5)]),
        b'C' => done(TAGS[random.below(TAGS.len())]),
        b'E' if random.below(8) == 0 => message(b'E', b"SFATAL\0VFATAL\0C57P01\0Mgone\0\0"),
        b'E' => error(),
        b'S' => message(b'S', b"DateStyle\0ISO, YMD\0"),
        kind => {
            let len = if random.below(50) == 0 { random.below(70_000) } else { random.below(20) };
            message(kind, &random.bytes(len))
        }
    }
}

/// A piece of what is left to be said.
fn piece(left: &mut Vec<u8>, random: &mut Random) -> Vec<u8> {
    let limit = if random.below(3) == 0 { 7 } else { 100_000 };
    let len = left.len().min(1 + random.below(limit));
    left.drain(..len).collect()
}

struct Talk {
    stage: Stage,
    random: Random,
    from_client: Vec<u8>,
    from_server: Vec<u8>,
    said: usize,
    sent: usize,
}

impl Talk {
    fn new(seed: u64) -> Talk {
        let (from_client, from_server) = (Vec::new(), Vec::new());
        Talk { stage: Stage::new(), random: Random::new(seed), from_client, from_server, said: 0, sent: 0 }
    }

    /// One thing happens; `false`: the session has ended.
    fn step(&mut self) -> bool {
        let Talk { stage, random, from_client, from_server, .. } = self;
        let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
        match random.below(20) {
            0..=8 => {
                while from_client.len() < 200 {
                    let more = of_client(random);
                    self.said += more.len();
                    from_client.extend(more);
                }
                let bytes = piece(from_client, random);
                let Stage { logical, holding, texts } = stage;
                let Ok((taken, progress)) =
                    logical.client_sent(&bytes, holding, texts, (&mut to_server, &mut to_client))
                else {
                    return false;
                };
                assert!(taken <= bytes.len());
                if progress == Progress::Terminated {
                    return false;
                }
                from_client.splice(..0, bytes[taken..].iter().copied());
            }
            9..=16 => {
                while from_server.len() < 200 {
                    from_server.extend(of_server(random));
                }
                let bytes = piece(from_server, random);
                if stage.logical.server_sent(&bytes, &mut stage.holding, &mut to_client).is_err() {
                    return false;
                }
            }
            17 if stage.logical.can_examine(&stage.holding) => {
                stage.logical.examine(&mut stage.holding, &mut to_server);
            }
            18 if stage.may_leave() => drop(stage.lend(holding())),
            19 => {
                let lost = stage.logical.lose_server(&mut stage.holding, &word_of_loss, &mut to_client);
                if lost == AfterLoss::Ends {
                    return false;
                }
                from_server.clear();
                stage.lend(holding());
            }
            _ => {}
        }
        self.sent += to_server.len();
        true
    }

    fn check(&self, seed: u64) {
        let Stage { logical, holding, .. } = &self.stage;
        assert!(holding.held.len() <= 64 * 1024 + 5, "seed {seed}");
        assert!(logical.expected.len() <= EXPECTED_MAX + 8, "seed {seed}");
        assert!(logical.statements_bytes <= STATEMENTS_BYTES_MAX, "seed {seed}");
        let own = logical.expected.iter().filter(|expected| matches!(expected, Expected::Placing)).count();
        assert!(own <= 1, "seed {seed}");
    }
}

fn word_of_loss(_: Lost) -> Vec<u8> {
    error()
}

#[test]
fn random_conversations_never_panic_and_stay_bounded() {
    for seed in rounds(3_000) {
        let mut talk = Talk::new(seed);
        for _ in 0..200 {
            if !talk.step() {
                break;
            }
            talk.check(seed);
        }
        // A short message may have a statement prepared anew, and the proxy asks questions of its own.
        assert!(talk.sent <= 100 * talk.said + 200 * 8_192, "seed {seed}: {} of {}", talk.sent, talk.said);
    }
}

#[test]
fn random_texts_are_read_without_panic() {
    let words = [
        "select",
        "set",
        "local",
        "session",
        "'",
        "\"",
        "$$",
        "$a$",
        "--",
        "/*",
        "*/",
        ";",
        "(",
        ")",
        ",",
        "=",
        "to",
        "temp",
        "table",
        "prepare",
        "x",
        "as",
        "deallocate",
        "all",
        "begin",
        "commit",
        "e'\\'",
        "u&\"",
        "\0",
        "\u{e9}",
        "set_config",
        "currval",
        "1.5e3",
        "$1",
        "::",
        "with",
        "hold",
        "create",
        "function",
        "atomic",
        "load",
        "do",
        "role",
    ];
    let mut random = Random::new(23);
    for _ in rounds(20_000) {
        let mut text = String::new();
        for _ in 0..random.below(24) {
            text += words[random.below(words.len())];
            text += if random.below(4) == 0 { "" } else { " " };
        }
        let reading = crate::sql::read(text.as_bytes());
        if let Some(name) = &reading.names_prepared {
            assert!(text.as_bytes().get(name.clone()).is_some_and(|name| !name.is_empty()), "{text:?}");
        }
    }
}
