//! What a text of one or more statements may leave in a session.

use super::calls::{calls_unknown, mentions};
use super::channels::{ChannelChange, channel_change, end_of_transaction};
use super::ends::{Ends, and, begins_as, ends};
use super::keyword::Keyword;
use super::lex::{Placed, Token, tokens};
use super::pin::{Pin, Pins};
use super::setting::{Left, changes_meaning, reset, set};
use std::ops::Range;

/// Room for the tokens of most statements.
const TOKENS_USUAL: usize = 24;

/// Something that a statement leaves and that the proxy can put in place on another server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A setting of the session.
    Set {
        /// Its name, in lower case.
        name: Box<str>,
        /// The whole statement, to be repeated.
        text: Box<[u8]>,
    },
    /// A setting has its value of the session's beginning again.
    Reset {
        /// Its name, in lower case.
        name: Box<str>,
    },
    /// All settings have.
    ResetAll,
    /// A statement that was prepared by the protocol may be gone; its name as the server folds it.
    Deallocate {
        /// Name.
        name: Box<[u8]>,
    },
}

/// What is known of a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Why the server is to be kept once the text has been sent.
    pub pins: Pins,
    /// What it leaves if it succeeds.
    pub effect: Option<Effect>,
    /// Its LISTEN and UNLISTEN, in their order, and what makes them count or undoes them.
    pub channels: Vec<ChannelChange>,
    /// Where it names a prepared statement by SQL. Bytes of the text, quotes included.
    pub names_prepared: Option<Range<usize>>,
    /// What it does to the transaction that it is in.
    pub ends: Ends,
    /// It begins a transaction, and says nothing of how; the tag of the answer.
    pub begins_as: Option<&'static str>,
    /// It may run code that it does not name.
    pub runs_code: bool,
    /// It defines functions or sequences, or brings some along.
    pub defines_code: bool,
    /// It may change what a prepared statement of others gives.
    pub changes_relations: bool,
    /// It wants a database without sessions, as DROP DATABASE does, or changes what sessions on one begin with.
    pub needs_nobody: bool,
    /// It asks for the last value of a sequence.
    pub asks_sequences: bool,
    /// It may have changed the last value of a sequence.
    pub moves_sequences: bool,
    /// It may set what changes the meaning of other statements, be it for its transaction.
    pub sets: bool,
    /// It may make a table or a view, in the first schema of the search_path.
    pub creates: bool,
    /// It drops all prepared statements, or all last values of sequences.
    pub drops_all: bool,
    /// It does so by name, so that it may ask for it later.
    pub names_sequences: bool,
}

/// Reads a text.
#[must_use]
pub fn read(text: &[u8]) -> Reading {
    let mut reading = Reading::default();
    let (mut statement, mut depth, mut statements) = (Vec::with_capacity(TOKENS_USUAL), 0_usize, 0);
    for placed in tokens(text) {
        match placed.token {
            Token::Symbol(b';') if depth == 0 => {
                statements += usize::from(!statement.is_empty());
                one(&statement, text, statements, &mut reading);
                statement.clear();
                continue;
            }
            Token::Symbol(b'(') => depth += 1,
            Token::Symbol(b')') => depth = depth.saturating_sub(1),
            // The body of a function may have semicolons then (since PostgreSQL 14).
            Token::Word(word) if word.eq_ignore_ascii_case(b"atomic") => reading.pins.add(Pin::Unreadable),
            Token::Strange => reading.pins.add(Pin::Unreadable),
            _ => {}
        }
        statement.push(placed);
    }
    statements += usize::from(!statement.is_empty());
    one(&statement, text, statements, &mut reading);
    if statements > 1 {
        reading.begins_as = None;
        // They are one transaction: whether the setting outlives it depends on the others.
        match reading.effect.take() {
            Some(Effect::Set { .. } | Effect::Reset { .. } | Effect::ResetAll) => {
                reading.pins.add(Pin::Setting)
            }
            Some(Effect::Deallocate { .. }) | None => {}
        }
        if reading.names_prepared.take().is_some() {
            reading.pins.add(Pin::Prepared);
        }
    }
    reading
}

fn one(statement: &[Placed<'_>], text: &[u8], number: usize, reading: &mut Reading) {
    let Some(first) = statement.first() else { return };
    reading.ends = and(reading.ends, ends(statement), number == 1);
    let named = mentions(statement);
    reading.pins.add_all(named.pins);
    reading.asks_sequences |= named.asks_sequences;
    reading.moves_sequences |= named.moves_sequences;
    reading.names_sequences |= named.moves_sequences;
    reading.sets |= named.sets;
    let word = match first.token {
        Token::Word(word) => Keyword::of(word),
        Token::Symbol(b'(') => Keyword::of(b"select"),
        _ => return reading.pins.add(Pin::Unreadable),
    };
    let word = word.as_slice();
    reading.runs_code |= !is_plain(word);
    match word {
        b"select" | b"values" | b"table" | b"explain" | b"declare" => {
            let is_held = |pair: &[Placed<'_>]| pair[0].token.is("with") && pair[1].token.is("hold");
            if word == b"declare" && statement.windows(2).any(is_held) {
                reading.pins.add(Pin::Cursor);
            }
            let is = |keyword: &str| statement.iter().any(|p| p.token.is(keyword));
            // EXPLAIN may run what it explains; behind a parenthesis there may be a WITH.
            let may_write = word == b"explain" || first.token.is_symbol(b'(');
            reading.moves_sequences |=
                may_write && ["insert", "update", "delete", "merge", "create"].into_iter().any(is);
            reading.creates |= is("into") || is("create");
            query(statement, reading);
        }
        b"with" | b"insert" | b"update" | b"delete" | b"merge" | b"copy" => {
            reading.moves_sequences = true;
            reading.creates |= word == b"with" && statement.iter().any(|p| p.token.is("into"));
            query(statement, reading);
        }
        b"begin" | b"start" => reading.begins_as = begins_as(statement),
        b"commit" | b"end" | b"rollback" | b"abort" => reading.channels.extend(end_of_transaction(statement)),
        b"savepoint" | b"release" | b"fetch" | b"move" | b"close" | b"show" | b"notify" | b"checkpoint" => {}
        b"discard" => {
            reading.drops_all |=
                statement.get(1).is_some_and(|p| p.token.is("all") || p.token.is("sequences"));
        }
        b"set" => {
            reading.sets |= changes_meaning(statement);
            left(set(statement, text), reading);
        }
        b"reset" => {
            reading.sets = true;
            left(reset(statement), reading);
        }
        b"listen" => {
            reading.pins.add(Pin::Listening);
            reading.channels.push(channel_change(statement));
        }
        b"unlisten" => reading.channels.push(channel_change(statement)),
        b"load" => reading.pins.add(Pin::Library),
        b"do" | b"call" => {
            reading.moves_sequences = true;
            reading.pins.add(Pin::Function);
            if statement.iter().any(|p| matches!(p.token, Token::Text(body) if mentions_set(body))) {
                reading.pins.add(Pin::UnseenSetting);
            }
        }
        b"prepare" if statement.get(1).is_some_and(|p| p.token.is("transaction")) => {}
        b"prepare" => reading.pins.add(Pin::Prepared),
        b"execute" | b"deallocate" => of_prepared(statement, word, reading),
        _ => definition(word, statement, reading),
    }
}

/// Whether a statement that begins so runs no code of the database.
fn is_plain(word: &[u8]) -> bool {
    matches!(
        word,
        b"begin"
            | b"start"
            | b"commit"
            | b"end"
            | b"rollback"
            | b"abort"
            | b"savepoint"
            | b"release"
            | b"set"
            | b"reset"
            | b"show"
            | b"listen"
            | b"unlisten"
            | b"notify"
            | b"discard"
            | b"deallocate"
            | b"checkpoint"
    )
}

fn query(statement: &[Placed<'_>], reading: &mut Reading) {
    if calls_unknown(statement) {
        reading.moves_sequences = true;
        reading.pins.add(Pin::Function);
        // The function may run what it is given (query_to_xml does); no catalog shows settings whose name has a dot.
        if statement.iter().any(|p| matches!(p.token, Token::Text(text) if is_set(text))) {
            reading.pins.add(Pin::UnseenSetting);
        }
    }
}

/// Whether a string reads as a statement that sets something.
fn is_set(text: &[u8]) -> bool {
    let begins = tokens(text).next().is_some_and(|first| first.token.is("set") && text.len() > first.end);
    begins || text.windows(10).any(|part| part.eq_ignore_ascii_case(b"set_config"))
}

fn left(left: Left, reading: &mut Reading) {
    match left {
        Left::Nothing => {}
        Left::Effect(effect) => {
            if reading.effect.replace(effect).is_some() {
                reading.pins.add(Pin::Setting);
            }
        }
        Left::Pinned(pin) => reading.pins.add(pin),
    }
}

/// EXECUTE and DEALLOCATE.
fn of_prepared(statement: &[Placed<'_>], word: &[u8], reading: &mut Reading) {
    let at =
        1 + usize::from(word == b"deallocate" && statement.get(1).is_some_and(|p| p.token.is("prepare")));
    let Some(name) = statement.get(at) else { return };
    if word == b"deallocate" && name.token.is("all") {
        reading.drops_all = true;
        return;
    }
    let folded = match name.token {
        Token::Word(name) => name.to_ascii_lowercase(),
        Token::Quoted(quoted) if !quoted.contains(&b'"') => quoted.to_vec(),
        _ => return reading.pins.add(Pin::Unreadable),
    };
    reading.names_prepared = Some(name.start..name.end);
    if word == b"deallocate" {
        reading.effect = Some(Effect::Deallocate { name: folded.into() });
    } else {
        reading.moves_sequences = true;
        query(&statement[at + 1..], reading);
    }
}

/// What makes a sequence when it is in a CREATE or ALTER (src/backend/parser/parse_utilcmd.c, `transformColumnDefinition`).
const SEQUENCES: [&str; 8] =
    ["sequence", "identity", "serial", "bigserial", "smallserial", "serial2", "serial4", "serial8"];

/// Statements that define or maintain something in the database.
fn definition(word: &[u8], statement: &[Placed<'_>], reading: &mut Reading) {
    let has = |keyword: &str| statement.iter().any(|p| p.token.is(keyword));
    let begins = |keyword: &str| statement.iter().take(5).any(|p| p.token.is(keyword));
    let in_c = statement.windows(2).any(|pair| pair[0].token.is("language") && is_c(pair[1].token));
    reading.moves_sequences = true;
    reading.creates |= word == b"create";
    reading.changes_relations |= matches!(word, b"create" | b"alter" | b"drop");
    reading.needs_nobody |=
        reading.changes_relations && statement.get(1).is_some_and(|p| p.token.is("database"));
    reading.defines_code |=
        ["function", "procedure", "routine", "extension", "language"].into_iter().any(begins);
    reading.defines_code |=
        matches!(word, b"create" | b"alter") && SEQUENCES.iter().any(|keyword| has(keyword));
    match word {
        b"create" | b"alter" if begins("extension") || begins("language") || in_c => {
            reading.pins.add(Pin::Library);
        }
        // It runs a query.
        b"create" if (has("table") || has("view")) && has("as") => query(statement, reading),
        b"create" | b"alter" | b"drop" | b"truncate" | b"comment" | b"grant" | b"revoke" | b"analyze"
        | b"vacuum" | b"reindex" | b"cluster" | b"refresh" | b"lock" | b"security" | b"reassign" => {}
        _ => reading.pins.add(Pin::Unreadable),
    }
}

/// A block of code that may set something.
fn mentions_set(body: &[u8]) -> bool {
    body.windows(3).any(|part| part.eq_ignore_ascii_case(b"set"))
}

/// Functions of this language are in libraries, which are loaded when the function is defined.
fn is_c(language: Token<'_>) -> bool {
    matches!(language, Token::Word(name) | Token::Quoted(name) | Token::Text(name) if name.eq_ignore_ascii_case(b"c"))
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
