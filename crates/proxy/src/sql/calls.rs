//! Which functions a statement calls by name, and whether one of them may leave something in the session.
//!
//! What a statement calls without naming it (in views, triggers, defaults, operators, casts) is not seen here.

use super::keyword::Keyword;
use super::lex::{Placed, Token};
use super::pin::{Pin, Pins};
use std::collections::HashSet;
use std::sync::OnceLock;

/// Names of PostgreSQL 15's own functions (pg_proc, schema pg_catalog) that leave nothing in the session: all but those
/// of [`stateful`], those that run SQL given to them as text, those for replication slots, base backups and upgrades,
/// and those that no statement can call.
const HARMLESS: &str = include_str!("functions.txt");

/// What is written before a parenthesis without being a function: keywords of expressions and clauses, and names of
/// types (src/backend/parser/gram.y).
const KEYWORDS: &str = "all analyze and any array as asc between bigint bit boolean both buffers by case cast char \
    character check coalesce collate columns conflict constraint cost costs cross cube current_time \
    current_timestamp dec decimal default deferrable delete desc distinct do double else encoding end escape except \
    exclude exists explain extract filter float following for force foreign format from full generated greatest \
    group grouping having identity ilike in include inner insert int integer intersect interval into is isnull join \
    json_object key lateral leading least left like limit list local localtime localtimestamp materialized merge modulus national \
    natural nchar none normalize not notnull nothing null nullif nulls numeric of off offset on only or order \
    ordinality out outer over overlaps overlay partition passing placing position preceding precision primary range \
    real recursive references returning right rollup row rows schema select session set setof sets settings similar \
    smallint some storage substring summary symmetric table tables then ties time timestamp timing to trailing treat \
    trim truncate true type union unique unknown update user using value values varchar variadic varying verbose \
    wal when where window with within without xmlattributes xmlconcat xmlelement xmlexists xmlforest xmlparse xmlpi \
    xmlroot xmlserialize xmltable zone";

/// What a name directly behind these words, or an alias, is: a relation with a list of columns.
const BEFORE_RELATIONS: [&str; 8] =
    ["into", "table", "copy", "references", "as", "exists", "with", "recursive"];

/// What a statement's names say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// Why the server is to be kept after it.
    pub pins: Pins,
    /// It asks for the last value of a sequence.
    pub asks_sequences: bool,
    /// It may have changed the last value of a sequence.
    pub moves_sequences: bool,
    /// It may set what changes the meaning of other statements, be it for its transaction.
    pub sets: bool,
}

/// Reads one statement's tokens for what is stateful wherever it is named: in a definition as well, because nobody can
/// say when that is evaluated.
#[must_use]
pub fn mentions(tokens: &[Placed<'_>]) -> Calls {
    let (mut calls, mut names_settings) = (Calls::default(), false);
    for (at, placed) in tokens.iter().enumerate() {
        let name = match placed.token {
            Token::Word(name) | Token::Quoted(name) => name,
            Token::Text(_) | Token::Number | Token::Parameter | Token::Symbol(_) | Token::Strange => continue,
        };
        // All of these begin so; most names need no closer look.
        let [first, second, ..] = *name else { continue };
        if !matches!(first | 0x20, b'c' | b'l' | b'n' | b'p' | b's' | b't')
            || !matches!(second | 0x20, b'a' | b'e' | b'g' | b'u')
        {
            continue;
        }
        let name = Keyword::of(name);
        match name.as_slice() {
            b"set_config" => set_config(&tokens[at + 1..], &mut calls),
            b"pg_settings" => names_settings = true,
            name => stateful(name, &mut calls),
        }
    }
    // A rule makes a call of set_config of it, for settings that it shows (src/backend/catalog/system_views.sql).
    if names_settings && tokens.iter().any(|placed| placed.token.is("update")) {
        calls.pins.add(Pin::Setting);
        calls.sets = true;
    }
    calls
}

/// The function is told by its last argument whether the setting outlives the transaction. `rest` is behind its name.
fn set_config(rest: &[Placed<'_>], calls: &mut Calls) {
    let (mut depth, mut end) = (0_usize, None);
    for (at, placed) in rest.iter().enumerate() {
        match placed.token {
            Token::Symbol(b'(') => depth += 1,
            Token::Symbol(b')') if depth == 1 => {
                end = Some(at);
                break;
            }
            Token::Symbol(b')') => depth = depth.saturating_sub(1),
            _ if depth == 0 => break,
            _ => {}
        }
    }
    let name = literal_argument(rest);
    calls.sets |= name.is_none_or(|name| !name.contains(&b'.'));
    let last = end.and_then(|end| rest.get(end.checked_sub(2)?..end));
    if matches!(last, Some([comma, word]) if comma.token.is_symbol(b',') && word.token.is("true")) {
        return;
    }
    match name {
        Some(name) if name.eq_ignore_ascii_case(b"seed") => calls.pins.add(Pin::Seed),
        Some(name) if !name.contains(&b'.') => calls.pins.add(Pin::Setting),
        _ => calls.pins.add(Pin::UnseenSetting),
    }
}

/// The first argument of a call, if it is nothing but a string in which no character is escaped. `rest` is behind the
/// function's name.
fn literal_argument<'a>(rest: &[Placed<'a>]) -> Option<&'a [u8]> {
    match rest {
        [open, argument, behind, ..] if open.token.is_symbol(b'(') && behind.token.is_symbol(b',') => {
            let Token::Text(text) = argument.token else { return None };
            // `E'..'` and `U&'..'` are longer than their text and two quotes.
            (argument.end - argument.start == text.len() + 2).then_some(text)
        }
        _ => None,
    }
}

/// Names that leave something in the session or ask for it.
fn stateful(name: &[u8], calls: &mut Calls) {
    match name {
        b"setseed" => calls.pins.add(Pin::Seed),
        b"currval" | b"lastval" => calls.asks_sequences = true,
        b"nextval" | b"setval" => calls.moves_sequences = true,
        b"temp" | b"temporary" => calls.pins.add(Pin::Temporary),
        b"pg_prepared_statements" | b"pg_prepared_statement" => calls.pins.add(Pin::Prepared),
        _ if name.starts_with(b"pg_temp") => calls.pins.add(Pin::Temporary),
        _ if name.starts_with(b"pg_advisory_lock") || name.starts_with(b"pg_try_advisory_lock") => {
            calls.pins.add(Pin::Lock);
        }
        _ => {}
    }
}

/// Whether a statement calls a function by name that is not known to leave nothing behind.
#[must_use]
pub fn calls_unknown(tokens: &[Placed<'_>]) -> bool {
    let before_parenthesis = tokens.windows(2).enumerate().filter(|(_, pair)| pair[1].token.is_symbol(b'('));
    before_parenthesis.into_iter().any(|(at, pair)| match pair[0].token {
        Token::Word(name) => is_unknown(&name.to_ascii_lowercase(), at, tokens, Written::Plain),
        Token::Quoted(name) => is_unknown(name, at, tokens, Written::Quoted),
        Token::Text(_) | Token::Number | Token::Parameter | Token::Symbol(_) | Token::Strange => false,
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Written {
    Plain,
    Quoted,
}

fn is_unknown(name: &[u8], at: usize, tokens: &[Placed<'_>], written: Written) -> bool {
    let mut first = at;
    while first >= 2 && tokens[first - 1].token.is_symbol(b'.') {
        first -= 2;
    }
    let is_relation = first > 0 && BEFORE_RELATIONS.iter().any(|word| tokens[first - 1].token.is(word));
    if is_relation {
        return false;
    }
    let known = || tables().harmless.contains(name) || is_dealt_with(name);
    if first == at {
        let is_keyword = written == Written::Plain && tables().keywords.contains(name);
        return !is_keyword && !known();
    }
    let in_catalog = at - first == 2 && tokens[first].token.is("pg_catalog");
    !(in_catalog && known())
}

/// They are dealt with by [`mentions`].
fn is_dealt_with(name: &[u8]) -> bool {
    matches!(name, b"set_config" | b"setseed" | b"currval" | b"lastval" | b"nextval" | b"setval")
}

struct Tables {
    harmless: HashSet<&'static [u8]>,
    keywords: HashSet<&'static [u8]>,
}

fn tables() -> &'static Tables {
    static TABLES: OnceLock<Tables> = OnceLock::new();
    TABLES.get_or_init(|| Tables {
        harmless: HARMLESS.split_ascii_whitespace().map(str::as_bytes).collect(),
        keywords: KEYWORDS.split_ascii_whitespace().map(str::as_bytes).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::lex::tokens;
    use super::*;

    fn unknown(text: &str) -> bool {
        calls_unknown(&tokens(text.as_bytes()).collect::<Vec<_>>())
    }

    #[test]
    fn what_is_known_to_be_harmless() {
        for text in [
            "select lower(a), pg_catalog.upper(b), \"left\"(c, 1) from t where x in (1, 2) and (y or not (z))",
            "insert into s.t (a, b) values (1, now()) on conflict (a) do update set b = excluded.b",
            "select * from generate_series(1, 3) as g(n) join lateral (select 1) x using (n)",
            "select count(*) filter (where a > 1) over (partition by b), cast(a as varchar(3)), extract(year from d)",
            "copy t (a, b) from stdin",
            "create table if not exists s.t (a int references u (b))",
            "select nextval('s'), coalesce(a, nullif(b, c)), array(select 1)",
            "select 'f(1)', \"f\" from t -- g(2)",
        ] {
            assert!(!unknown(text), "{text}");
        }
    }

    #[test]
    fn what_is_not() {
        for text in [
            "select f(1)",
            "select public.lower(1)",
            "select a.pg_catalog.lower(1)",
            "select \"in\"(1)",
            "select * from f  /* x */ (1)",
            "select query_to_xml('select f()', true, true, '')",
            "select pg_advisory_lock(1)",
            "select \"LOWER\"(a)",
        ] {
            assert!(unknown(text), "{text}");
        }
    }

    #[test]
    fn what_is_stateful_is_seen_wherever_it_is() {
        let seen = |text: &str| mentions(&tokens(text.as_bytes()).collect::<Vec<_>>());
        assert!(seen("select \"set_config\"('a', 'b', false)").pins.has(Pin::Setting));
        assert!(seen("select set_config(a, 'b', false)").pins.has(Pin::UnseenSetting));
        assert!(seen("select pg_catalog.set_config('a.b', lower('c'), x)").pins.has(Pin::UnseenSetting));
        assert!(seen("select set_config('a', 'b', true and false)").pins.has(Pin::Setting));
        assert!(seen("select set_config('a.b', lower('c'), true), 1").pins.is_empty());
        for text in [
            "select set_config('app'||'.user', 'b', false)",
            "select set_config('app' '.user', 'b', false)",
            "select set_config(E'app\\x2euser', 'b', false)",
            "select set_config(U&'app\\002euser', 'b', false)",
        ] {
            assert!(seen(text).pins.has(Pin::UnseenSetting), "{text}");
        }
        assert!(seen("select set_config('Seed', '0.5', false)").pins.has(Pin::Seed));
        assert!(seen("select setseed(0.5)").pins.has(Pin::Seed));
        assert!(seen("update pg_catalog.pg_settings set setting = 1").pins.has(Pin::Setting));
        assert!(seen("with x as (update \"pg_settings\" set setting = 1) select 1").pins.has(Pin::Setting));
        assert!(seen("select * from pg_settings").pins.is_empty());
        assert!(seen("select set_config('timezone', 'x', true)").sets);
        assert!(!seen("select set_config('a.b', 'x', true)").sets);
        assert!(seen("create local TEMPORARY table t ()").pins.has(Pin::Temporary));
        assert!(seen("select * from pg_temp_3.t").pins.has(Pin::Temporary));
        assert!(seen("select pg_try_advisory_lock_shared(1)").pins.has(Pin::Lock));
        assert!(seen("select 1 where lastval() > 0").asks_sequences);
        assert!(seen("select nextval('s')").moves_sequences);
        assert_eq!(
            seen("select 'set_config', pg_advisory_xact_lock(1), temperature from t"),
            Calls::default()
        );
    }

    #[test]
    fn no_stateful_name_is_in_the_list() {
        assert!(tables().harmless.len() > 2_000);
        for name in tables().harmless.iter().chain(tables().keywords.iter()) {
            let mut calls = Calls::default();
            stateful(name, &mut calls);
            assert_eq!(calls, Calls::default(), "{}", String::from_utf8_lossy(name));
        }
    }
}
