//! SET and RESET: which setting, and whether the statement can be repeated on another server.

use super::lex::{Placed, Token};
use super::pin::Pin;
use super::read::Effect;

/// What a SET or RESET leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Left {
    /// Nothing once the transaction has ended.
    Nothing,
    /// Something that can be repeated.
    Effect(Effect),
    /// Something that cannot.
    Pinned(Pin),
}

/// Encodings of a client in which every byte of a longer character has its highest bit set, so that texts can be read
/// byte by byte (src/include/mb/pg_wchar.h, `PG_ENCODING_BE_LAST` and before).
const PLAIN_ENCODINGS: [&str; 6] = ["utf8", "unicode", "utf-8", "sql_ascii", "latin1", "latin9"];

/// Settings that change when a statement is given up, how surely it is kept and what is told of it, but never what a text
/// means, and no plan: clients that differ in these alone can share prepared statements.
pub const WITHOUT_MEANING: [&str; 13] = [
    "application_name",
    "client_min_messages",
    "deadlock_timeout",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "lock_timeout",
    "log_duration",
    "log_min_duration_statement",
    "log_min_error_statement",
    "log_min_messages",
    "statement_timeout",
    "synchronous_commit",
    "transaction_timeout",
];

/// Reads a SET, whose tokens are `statement`; `text` is what they were read from.
#[must_use]
pub fn set(statement: &[Placed<'_>], text: &[u8]) -> Left {
    let mut rest = &statement[1..];
    let is = |rest: &[Placed<'_>], at: usize, word: &str| rest.get(at).is_some_and(|p| p.token.is(word));
    if has_dot(rest) {
        return Left::Pinned(Pin::UnseenSetting);
    }
    if is(rest, 0, "local") {
        return Left::Nothing;
    }
    if is(rest, 0, "session") {
        if is(rest, 1, "characteristics") || is(rest, 1, "authorization") {
            return Left::Pinned(Pin::Setting);
        }
        rest = &rest[1..];
        if has_dot(rest) {
            return Left::Pinned(Pin::UnseenSetting);
        }
    }
    if is(rest, 0, "transaction") || is(rest, 0, "constraints") {
        return Left::Nothing;
    }
    let Some((name, value)) = name_and_value(rest) else { return Left::Pinned(Pin::Setting) };
    if value.len() == 1 && value[0].token.is("default") {
        return reset_of(&name);
    }
    let can_be_repeated = match name.as_str() {
        "transaction_isolation" | "transaction_read_only" | "transaction_deferrable" => return Left::Nothing,
        "client_encoding" => matches!(value, [one] if is_one_of(one.token, &PLAIN_ENCODINGS)),
        "standard_conforming_strings" => {
            matches!(value, [one] if is_one_of(one.token, &["on", "true", "yes", "1"]))
        }
        // It depends on the role.
        "session_authorization" => false,
        "seed" => return Left::Pinned(Pin::Seed),
        name if name.contains('.') => return Left::Pinned(Pin::UnseenSetting),
        // Each CREATE TABLE makes a temporary table then, without saying so.
        "search_path" if value.iter().any(|part| mentions(part.token, b"pg_temp")) => {
            return Left::Pinned(Pin::UnseenSetting);
        }
        // Functions of PostgreSQL's own would no longer be those that come first.
        "search_path" => !value.iter().any(|part| mentions(part.token, b"pg_catalog")),
        _ => !value.is_empty(),
    };
    let (Some(first), Some(last)) = (statement.first(), statement.last()) else { return Left::Nothing };
    if !can_be_repeated {
        return Left::Pinned(Pin::Setting);
    }
    Left::Effect(Effect::Set { name: name.into(), text: text[first.start..last.end].into() })
}

/// Reads a RESET.
#[must_use]
pub fn reset(statement: &[Placed<'_>]) -> Left {
    match &statement[1..] {
        rest if has_dot(rest) => Left::Pinned(Pin::UnseenSetting),
        [all] if all.token.is("all") => Left::Effect(Effect::ResetAll),
        [time, zone] if time.token.is("time") && zone.token.is("zone") => reset_of("timezone"),
        [session, ..] if session.token.is("session") => Left::Pinned(Pin::Setting),
        [transaction, ..] if transaction.token.is("transaction") => Left::Nothing,
        [name] => identifier(name.token).map_or(Left::Pinned(Pin::Setting), |name| reset_of(&name)),
        _ => Left::Pinned(Pin::Setting),
    }
}

fn reset_of(name: &str) -> Left {
    match name {
        "transaction_isolation" | "transaction_read_only" | "transaction_deferrable" => Left::Nothing,
        "session_authorization" => Left::Pinned(Pin::Setting),
        "seed" => Left::Pinned(Pin::Seed),
        name => Left::Effect(Effect::Reset { name: name.into() }),
    }
}

/// Whether the setting's name has a dot. Its first part may be any word that means something of its own elsewhere:
/// `local.a`, `session.a`, `transaction.a` (src/backend/parser/gram.y, `var_name`).
fn has_dot(rest: &[Placed<'_>]) -> bool {
    rest.get(1).is_some_and(|placed| placed.token.is_symbol(b'.'))
}

/// Whether a SET, whose tokens are `statement`, may change what other statements mean, be it for its transaction.
#[must_use]
pub fn changes_meaning(statement: &[Placed<'_>]) -> bool {
    let is = |at: usize, words: &[&str]| {
        statement.get(at).is_some_and(|placed| words.iter().any(|word| placed.token.is(word)))
    };
    let at = 1 + usize::from(is(1, &["local", "session"]) && !has_dot(&statement[1..]));
    let of_extension = statement.get(at..).is_some_and(has_dot);
    let of_transaction = is(at, &["transaction", "constraints", "characteristics"]);
    !of_extension && !of_transaction && !is(at, &WITHOUT_MEANING)
}

/// The setting's name in lower case, and the tokens of its value.
fn name_and_value<'a, 'b>(rest: &'b [Placed<'a>]) -> Option<(String, &'b [Placed<'a>])> {
    let word = |at: usize, word: &str| rest.get(at).is_some_and(|p| p.token.is(word));
    let short = match rest.len() {
        _ if word(0, "time") && word(1, "zone") => ("timezone", 2),
        _ if word(0, "xml") && word(1, "option") => ("xmloption", 2),
        _ if word(0, "names") => ("client_encoding", 1),
        _ if word(0, "schema") => ("search_path", 1),
        _ if word(0, "seed") => ("seed", 1),
        2 if word(0, "role") => ("role", 1),
        _ => ("", 0),
    };
    if short.1 > 0 {
        return Some((short.0.to_owned(), &rest[short.1..]));
    }
    let mut name = identifier(rest.first()?.token)?;
    let mut at = 1;
    while rest.get(at).is_some_and(|p| p.token.is_symbol(b'.')) {
        name = format!("{name}.{}", identifier(rest.get(at + 1)?.token)?);
        at += 2;
    }
    let assigns = rest.get(at).is_some_and(|p| p.token.is_symbol(b'=') || p.token.is("to"));
    assigns.then(|| (name, &rest[at + 1..]))
}

/// Names of settings are compared without regard to case, quoted or not (src/backend/utils/misc/guc.c,
/// `guc_name_compare`).
fn identifier(token: Token<'_>) -> Option<String> {
    match token {
        Token::Word(name) | Token::Quoted(name) => Some(std::str::from_utf8(name).ok()?.to_ascii_lowercase()),
        Token::Text(_) | Token::Number | Token::Parameter | Token::Symbol(_) | Token::Strange => None,
    }
}

fn is_one_of(token: Token<'_>, values: &[&str]) -> bool {
    match token {
        Token::Word(value) | Token::Quoted(value) | Token::Text(value) => {
            values.iter().any(|known| value.eq_ignore_ascii_case(known.as_bytes()))
        }
        Token::Number | Token::Parameter | Token::Symbol(_) | Token::Strange => false,
    }
}

/// Whether a name, or a string that may hold several, has this in it.
fn mentions(token: Token<'_>, name: &[u8]) -> bool {
    match token {
        Token::Word(text) | Token::Quoted(text) | Token::Text(text) => {
            text.windows(name.len()).any(|part| part.eq_ignore_ascii_case(name))
        }
        Token::Number | Token::Parameter | Token::Symbol(_) | Token::Strange => false,
    }
}
