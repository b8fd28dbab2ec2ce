//! Reads what is said at the console. Pure.

use crate::pooled::Chosen;
use crate::sql::lex::{Placed, Token, tokens};

/// What can be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    Help,
    Pools,
    Clients,
    Servers,
    Stats,
    StatsTotals,
    Databases,
    Users,
    Config,
    Version,
    Prepared,
    Hold,
    Lists,
}

/// Their names, in the order of the help.
pub const SHOWS: [(&str, Show); 13] = [
    ("help", Show::Help),
    ("pools", Show::Pools),
    ("clients", Show::Clients),
    ("servers", Show::Servers),
    ("stats", Show::Stats),
    ("stats_totals", Show::StatsTotals),
    ("databases", Show::Databases),
    ("users", Show::Users),
    ("config", Show::Config),
    ("version", Show::Version),
    ("prepared", Show::Prepared),
    ("hold", Show::Hold),
    ("lists", Show::Lists),
];

/// Settings that drivers ask for, or change, without anybody's wish; and their values here.
pub const PARAMETERS: [(&str, &str); 7] = [
    ("client_encoding", "UTF8"),
    ("server_encoding", "UTF8"),
    ("standard_conforming_strings", "on"),
    ("datestyle", "ISO, MDY"),
    ("timezone", "UTC"),
    ("integer_datetimes", "on"),
    ("application_name", ""),
];

/// Settings that may be set, to no effect.
const HARMLESS: [&str; 7] = [
    "client_encoding",
    "datestyle",
    "timezone",
    "application_name",
    "extra_float_digits",
    "statement_timeout",
    "standard_conforming_strings",
];

/// A command that cannot be done here, and what does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elsewhere {
    Shutdown,
}

/// One statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    Show(Show),
    /// One of [`PARAMETERS`].
    ShowParameter(&'static str, &'static str),
    /// SET of something that has no effect here.
    SetIgnored,
    Pause(Chosen),
    Resume(Chosen),
    Reconnect(Chosen),
    /// The client of this number is ended.
    KillClient(u64),
    /// All clients of this database are ended, and it is paused.
    Kill(Box<[u8]>),
    /// The settings are read again.
    Reload,
    Elsewhere(Elsewhere),
}

/// What is wrong with a text, for people.
pub type Wrong = String;

/// The statements of a text, none of which is to be done if one is wrong.
///
/// # Errors
/// What is wrong.
pub fn read(text: &[u8]) -> Result<Vec<Statement>, Wrong> {
    let all: Vec<Placed<'_>> = tokens(text).collect();
    let statements = all.split(|placed| placed.token.is_symbol(b';'));
    statements.filter(|parts| !parts.is_empty()).map(|parts| statement(text, parts)).collect()
}

fn statement(text: &[u8], parts: &[Placed<'_>]) -> Result<Statement, Wrong> {
    let Some((first, rest)) = parts.split_first() else { return Err("an empty statement".to_owned()) };
    let is = |keyword| first.token.is(keyword);
    if is("show") {
        return show(text, rest);
    }
    if is("set") {
        return set(text, rest);
    }
    if is("kill") || is("kill_client") {
        return kill(text, is("kill_client"), rest);
    }
    if is("reload") && rest.is_empty() {
        return Ok(Statement::Reload);
    }
    if is("shutdown") {
        return Ok(Statement::Elsewhere(Elsewhere::Shutdown));
    }
    let of_databases: fn(Chosen) -> Statement = if is("pause") {
        Statement::Pause
    } else if is("resume") {
        Statement::Resume
    } else if is("reconnect") {
        Statement::Reconnect
    } else {
        return Err(format!("unknown command {}", quoted(text, parts)));
    };
    match rest {
        [] => Ok(of_databases(Chosen::All)),
        [one] => match name(one) {
            Some(database) => Ok(of_databases(Chosen::One(database))),
            None => Err(format!("{} is not the name of a database", quoted(text, rest))),
        },
        [_, more @ ..] => Err(format!("{} is too much: at most one database", quoted(text, more))),
    }
}

fn show(text: &[u8], rest: &[Placed<'_>]) -> Result<Statement, Wrong> {
    let [what] = rest else {
        return Err(format!("SHOW takes one word, not {}", quoted(text, rest)));
    };
    let known = SHOWS.iter().find(|(name, _)| what.token.is(name));
    if let Some((_, show)) = known {
        return Ok(Statement::Show(*show));
    }
    let parameter = PARAMETERS.iter().find(|(name, _)| what.token.is(name));
    let &(name, value) = parameter.ok_or_else(|| format!("there is no SHOW {}", quoted(text, rest)))?;
    Ok(Statement::ShowParameter(name, value))
}

fn set(text: &[u8], rest: &[Placed<'_>]) -> Result<Statement, Wrong> {
    let rest = match rest {
        [scope, rest @ ..] if scope.token.is("session") => rest,
        rest => rest,
    };
    match rest {
        [name, sign, _, ..]
            if HARMLESS.iter().any(|harmless| name.token.is(harmless))
                && (sign.token.is_symbol(b'=') || sign.token.is("to")) =>
        {
            Ok(Statement::SetIgnored)
        }
        rest => Err(format!("nothing can be set here: {}", quoted(text, rest))),
    }
}

fn kill(text: &[u8], names_client: bool, rest: &[Placed<'_>]) -> Result<Statement, Wrong> {
    let client = |number: &Placed<'_>| {
        let digits = std::str::from_utf8(&text[number.start..number.end]).ok();
        digits.and_then(|digits| digits.parse().ok()).ok_or_else(|| {
            let shown = quoted(text, &[*number]);
            format!("{shown} is not the id of a client, which SHOW CLIENTS tells")
        })
    };
    match rest {
        [number] if names_client => Ok(Statement::KillClient(client(number)?)),
        [word, number] if !names_client && word.token.is("client") => {
            Ok(Statement::KillClient(client(number)?))
        }
        [one] if !one.token.is("client") => match name(one) {
            Some(database) => Ok(Statement::Kill(database)),
            None => Err(format!("{} is not the name of a database", quoted(text, rest))),
        },
        _ => {
            Err("write KILL CLIENT and an id of SHOW CLIENTS, or KILL and the name of a database".to_owned())
        }
    }
}

/// An identifier, as the server reads it.
fn name(placed: &Placed<'_>) -> Option<Box<[u8]>> {
    match placed.token {
        Token::Word(word) => Some(word.to_ascii_lowercase().into()),
        Token::Quoted(inner) => {
            let mut name = Vec::with_capacity(inner.len());
            let mut bytes = inner.iter();
            while let Some(byte) = bytes.next() {
                name.push(*byte);
                if *byte == b'"' {
                    // It is doubled.
                    bytes.next();
                }
            }
            (!name.is_empty()).then(|| name.into())
        }
        Token::Text(_) | Token::Number | Token::Parameter | Token::Symbol(_) | Token::Strange => None,
    }
}

/// A part of the text, for messages.
fn quoted(text: &[u8], parts: &[Placed<'_>]) -> String {
    let (Some(first), Some(last)) = (parts.first(), parts.last()) else { return "nothing".to_owned() };
    let part = String::from_utf8_lossy(&text[first.start..last.end]);
    let short: String = part.chars().take(60).collect();
    let more = if short.len() < part.len() { "..." } else { "" };
    format!("\"{short}{more}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str) -> Chosen {
        Chosen::One(name.as_bytes().into())
    }

    #[test]
    fn every_command_in_any_case_with_or_without_a_semicolon() {
        for (name, show) in SHOWS {
            for text in [format!("SHOW {name}"), format!(" show {} ;", name.to_uppercase())] {
                assert_eq!(read(text.as_bytes()), Ok(vec![Statement::Show(show)]), "{text}");
            }
        }
        let cases = [
            ("pause", Statement::Pause(Chosen::All)),
            ("Pause Shop", Statement::Pause(one("shop"))),
            ("RESUME \"Sh\"\"op\";", Statement::Resume(one("Sh\"op"))),
            ("reconnect shop -- now", Statement::Reconnect(one("shop"))),
            ("kill client 17", Statement::KillClient(17)),
            ("KILL_CLIENT 17", Statement::KillClient(17)),
            ("kill shop", Statement::Kill(b"shop"[..].into())),
            ("kill \"client\"", Statement::Kill(b"client"[..].into())),
            ("reload", Statement::Reload),
            ("shutdown wait_for_clients", Statement::Elsewhere(Elsewhere::Shutdown)),
            ("set application_name = 'x'", Statement::SetIgnored),
            ("SET session DateStyle TO iso, mdy", Statement::SetIgnored),
            ("show client_encoding", Statement::ShowParameter("client_encoding", "UTF8")),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text.as_bytes()), Ok(vec![expected]), "{text}");
        }
    }

    #[test]
    fn several_statements_and_none() {
        let both = vec![Statement::Show(Show::Pools), Statement::Resume(Chosen::All)];
        assert_eq!(read(b"show pools; resume;; /* and */ ;"), Ok(both));
        for nothing in [&b""[..], b" ", b";", b"-- nothing"] {
            assert_eq!(read(nothing), Ok(vec![]));
        }
    }

    #[test]
    fn what_is_wrong_is_said_and_nothing_else_is_done() {
        let cases = [
            ("select 1", "unknown command \"select 1\""),
            ("show pools; selec", "unknown command \"selec\""),
            ("show", "SHOW takes one word, not nothing"),
            ("show tables", "there is no SHOW \"tables\""),
            ("show pools clients", "SHOW takes one word, not \"pools clients\""),
            ("pause 'shop'", "\"'shop'\" is not the name of a database"),
            ("pause a b", "\"b\" is too much: at most one database"),
            ("pause \"\"", "\"\"\"\" is not the name of a database"),
            ("set work_mem = 1", "nothing can be set here: \"work_mem = 1\""),
            ("set", "nothing can be set here: nothing"),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text.as_bytes()), Err(expected.to_owned()));
        }
        for text in ["kill", "kill client", "kill client shop", "kill client -1", "kill a b", "kill_client"] {
            assert!(read(text.as_bytes()).is_err(), "{text}");
        }
        assert!(read(b"kill client 99999999999999999999").is_err());
        assert!(read(b"show 'pools").is_err() && read(b"show /* pools").is_err());
        let long = read("x".repeat(60_000).as_bytes()).unwrap_err();
        assert!(long.len() < 100 && long.ends_with("...\""));
    }

    #[test]
    fn random_texts_never_panic() {
        let mut random = pgwire::random::Random::new(11);
        let mut below = |limit: usize| random.below(limit);
        let words: [&[u8]; 14] = [
            b"show", b"pools", b"kill", b"client", b"1", b"set", b"=", b";", b"\"", b"'", b"\xc3", b" ",
            b"pause", b"\0",
        ];
        for _ in pgwire::random::rounds(20_000) {
            let text: Vec<u8> = (0..below(8)).flat_map(|_| [words[below(14)], b" "].concat()).collect();
            let _ = read(&text);
        }
    }
}
