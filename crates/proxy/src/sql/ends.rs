//! What a text does to the transaction that it is in.

use super::keyword::Keyword;
use super::lex::{Placed, Token};

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ends {
    /// It neither begins nor ends one.
    #[default]
    Nothing,
    /// It is one statement, and begins one.
    Begins,
    /// It is one statement, and commits.
    Commits,
    /// It is one statement, and rolls back.
    RollsBack,
    /// Several of these, or another of them.
    Unclear,
}

/// Of one statement.
#[must_use]
pub fn ends(statement: &[Placed<'_>]) -> Ends {
    let Some(Placed { token: Token::Word(word), .. }) = statement.first() else { return Ends::Nothing };
    let has = |keyword: &str| statement.iter().any(|placed| placed.token.is(keyword));
    let second = |keyword: &str| statement.get(1).is_some_and(|placed| placed.token.is(keyword));
    let begins_next = || has("chain") && !has("no");
    match Keyword::of(word).as_slice() {
        b"begin" => Ends::Begins,
        b"start" if second("transaction") => Ends::Begins,
        // Of a savepoint.
        b"rollback" if has("to") => Ends::Nothing,
        b"commit" | b"end" | b"rollback" | b"abort" if second("prepared") || begins_next() => Ends::Unclear,
        b"commit" | b"end" => Ends::Commits,
        b"rollback" | b"abort" => Ends::RollsBack,
        b"prepare" if second("transaction") => Ends::Unclear,
        _ => Ends::Nothing,
    }
}

/// The tag of the answer, if a statement begins a transaction and says nothing of how: there is nothing in it to be refused.
#[must_use]
pub fn begins_as(statement: &[Placed<'_>]) -> Option<&'static str> {
    let is = |at: usize, keyword: &str| statement.get(at).is_some_and(|placed| placed.token.is(keyword));
    match statement.len() {
        1 if is(0, "begin") => Some("BEGIN"),
        2 if is(0, "begin") && (is(1, "work") || is(1, "transaction")) => Some("BEGIN"),
        2 if is(0, "start") && is(1, "transaction") => Some("START TRANSACTION"),
        _ => None,
    }
}

/// Of a text, after one more statement of it.
#[must_use]
pub fn and(before: Ends, next: Ends, is_first: bool) -> Ends {
    match (before, next) {
        (_, next) if is_first => next,
        (Ends::Nothing, Ends::Nothing) => Ends::Nothing,
        _ => Ends::Unclear,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::read;

    #[test]
    fn each_kind_is_told() {
        for (text, expected) in [
            ("", Ends::Nothing),
            ("select 'commit'", Ends::Nothing),
            ("/* x */ BEGIN isolation level serializable;", Ends::Begins),
            ("start transaction read only", Ends::Begins),
            ("commit", Ends::Commits),
            (";; END work ;", Ends::Commits),
            ("commit and no chain", Ends::Commits),
            ("rollback", Ends::RollsBack),
            ("Abort", Ends::RollsBack),
            ("rollback and chain", Ends::Unclear),
            ("rollback work to savepoint a", Ends::Nothing),
            ("commit prepared 'x'", Ends::Unclear),
            ("prepare transaction 'x'", Ends::Unclear),
            ("prepare x as select 1", Ends::Nothing),
            ("select 1; select 2", Ends::Nothing),
            ("commit; select 1", Ends::Unclear),
            ("select 1; commit", Ends::Unclear),
            ("begin; select 1", Ends::Unclear),
            ("begin; commit", Ends::Unclear),
        ] {
            assert_eq!(read(text.as_bytes()).ends, expected, "{text}");
        }
    }
}
