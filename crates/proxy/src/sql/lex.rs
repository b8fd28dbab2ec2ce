//! Cuts the text of statements into tokens, as PostgreSQL's scanner does with `standard_conforming_strings` on
//! (src/backend/parser/scan.l). Only what a reader of whole statements needs is told apart.
//!
//! It gives up ([`Token::Strange`]) rather than guess: escaped identifiers, and escape strings that go on in a second
//! literal.

use std::ffi::CStr;

/// One token. Texts are the bytes as written, without their quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token<'a> {
    /// A keyword or an identifier without quotes.
    Word(&'a [u8]),
    /// An identifier in double quotes; quotes inside are still doubled.
    Quoted(&'a [u8]),
    /// A string constant of any kind.
    Text(&'a [u8]),
    /// A number.
    Number,
    /// `$1`
    Parameter,
    /// One character of anything else.
    Symbol(u8),
    /// What follows cannot be told for sure. It is the last token.
    Strange,
}

impl Token<'_> {
    /// Whether it is this keyword, given in lower case.
    #[must_use]
    pub fn is(&self, keyword: &str) -> bool {
        matches!(self, Token::Word(word) if word.eq_ignore_ascii_case(keyword.as_bytes()))
    }

    /// Whether it is this symbol.
    #[must_use]
    pub fn is_symbol(&self, symbol: u8) -> bool {
        *self == Token::Symbol(symbol)
    }
}

/// A token, and where in the text it begins and ends. Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed<'a> {
    /// The token.
    pub token: Token<'a>,
    /// Its first byte.
    pub start: usize,
    /// The byte behind it.
    pub end: usize,
}

/// The tokens of a text.
#[derive(Clone, Debug)]
pub struct Tokens<'a> {
    text: &'a [u8],
    at: usize,
}

/// Reads `text`, which ends at its first zero byte as it does for the server.
#[must_use]
pub fn tokens(text: &[u8]) -> Tokens<'_> {
    Tokens { text: CStr::from_bytes_until_nul(text).map_or(text, CStr::to_bytes), at: 0 }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Placed<'a>;

    fn next(&mut self) -> Option<Placed<'a>> {
        let first = loop {
            let first = self.peek(0)?;
            match KINDS[usize::from(first)] {
                Kind::Blank => self.at += 1,
                Kind::OfMore if !self.skip_blank() => return Some(self.strange(self.at)),
                Kind::OfMore => break self.peek(0)?,
                Kind::Word | Kind::Digit | Kind::Alone => break first,
            }
        };
        let start = self.at;
        let token = match KINDS[usize::from(first)] {
            Kind::Word => self.word(first),
            Kind::Digit => self.number(),
            Kind::Alone | Kind::Blank => self.symbol(first),
            Kind::OfMore => match first {
                b'\'' => self.literal(Escapes::Doubled),
                b'"' => self.quoted(),
                b'$' => self.dollar(),
                b'.' if self.peek(1).is_some_and(|b| b.is_ascii_digit()) => self.number(),
                symbol => self.symbol(symbol),
            },
        };
        match token {
            Token::Strange => Some(self.strange(start)),
            token => Some(Placed { token, start, end: self.at }),
        }
    }
}

/// How a quote is written inside a string constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escapes {
    Doubled,
    Backslash,
}

impl<'a> Tokens<'a> {
    #[inline]
    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.get(self.at + ahead).copied()
    }

    fn symbol(&mut self, symbol: u8) -> Token<'a> {
        self.at += 1;
        Token::Symbol(symbol)
    }

    fn strange(&mut self, start: usize) -> Placed<'a> {
        self.at = self.text.len();
        Placed { token: Token::Strange, start, end: self.at }
    }

    /// Skips white space and comments; `false` if a comment does not end.
    fn skip_blank(&mut self) -> bool {
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some(byte), _) if KINDS[usize::from(byte)] == Kind::Blank => self.at += 1,
                (Some(b'-'), Some(b'-')) => {
                    while self.peek(0).is_some_and(|b| b != b'\n' && b != b'\r') {
                        self.at += 1;
                    }
                }
                (Some(b'/'), Some(b'*')) if !self.skip_comment() => return false,
                (Some(b'/'), Some(b'*')) => {}
                _ => return true,
            }
        }
    }

    /// Skips a comment, in which others may be nested.
    fn skip_comment(&mut self) -> bool {
        let mut depth = 0_usize;
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some(b'/'), Some(b'*')) => (depth, self.at) = (depth + 1, self.at + 2),
                (Some(b'*'), Some(b'/')) => (depth, self.at) = (depth - 1, self.at + 2),
                (Some(_), _) => self.at += 1,
                (None, _) => return false,
            }
            if depth == 0 {
                return true;
            }
        }
    }

    /// A string constant; the quote comes next.
    fn literal(&mut self, escapes: Escapes) -> Token<'a> {
        self.at += 1;
        let start = self.at;
        loop {
            match (self.peek(0), self.peek(1)) {
                (None, _) => return Token::Strange,
                (Some(b'\\'), _) if escapes == Escapes::Backslash => self.at += 2,
                (Some(b'\''), Some(b'\'')) => self.at += 2,
                (Some(b'\''), _) => break,
                (Some(_), _) => self.at += 1,
            }
        }
        let text = &self.text[start..self.at];
        self.at += 1;
        if escapes == Escapes::Backslash && self.a_quote_follows() {
            // On a new line it is the same string constant, where a backslash escapes, too.
            return Token::Strange;
        }
        Token::Text(text)
    }

    fn a_quote_follows(&self) -> bool {
        let mut ahead = Tokens { text: self.text, at: self.at };
        !ahead.skip_blank() || ahead.peek(0) == Some(b'\'')
    }

    fn quoted(&mut self) -> Token<'a> {
        self.at += 1;
        let start = self.at;
        loop {
            match (self.peek(0), self.peek(1)) {
                (None, _) => return Token::Strange,
                (Some(b'"'), Some(b'"')) => self.at += 2,
                (Some(b'"'), _) => break,
                (Some(_), _) => self.at += 1,
            }
        }
        let name = &self.text[start..self.at];
        self.at += 1;
        Token::Quoted(name)
    }

    /// `$1`, `$$text$$`, `$tag$text$tag$`, or a lonely `$`.
    fn dollar(&mut self) -> Token<'a> {
        let mut len = 1;
        if self.peek(1).is_some_and(|b| b.is_ascii_digit()) {
            while self.peek(len).is_some_and(|b| b.is_ascii_digit()) {
                len += 1;
            }
            self.at += len;
            return Token::Parameter;
        }
        if self.peek(1).is_some_and(begins_word) {
            while self.peek(len).is_some_and(|b| b != b'$' && continues_word(b)) {
                len += 1;
            }
        }
        if self.peek(len) != Some(b'$') {
            self.at += 1;
            return Token::Symbol(b'$');
        }
        let tag = &self.text[self.at..=self.at + len];
        let start = self.at + tag.len();
        let Some(len) = self.text[start..].windows(tag.len()).position(|window| window == tag) else {
            return Token::Strange;
        };
        self.at = start + len + tag.len();
        Token::Text(&self.text[start..start + len])
    }

    fn number(&mut self) -> Token<'a> {
        while self.peek(0).is_some_and(|b| b.is_ascii_digit() || b == b'.') {
            // `1..2` is two numbers and two dots.
            if self.peek(0) == Some(b'.') && self.peek(1) == Some(b'.') {
                break;
            }
            self.at += 1;
        }
        if matches!(self.peek(0), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(self.peek(1), Some(b'+' | b'-')));
            if self.peek(1 + sign).is_some_and(|b| b.is_ascii_digit()) {
                self.at += 1 + sign;
                while self.peek(0).is_some_and(|b| b.is_ascii_digit()) {
                    self.at += 1;
                }
            }
        }
        Token::Number
    }

    fn word(&mut self, first: u8) -> Token<'a> {
        match (first, self.peek(1), self.peek(2)) {
            (b'e' | b'E', Some(b'\''), _) => {
                self.at += 1;
                return self.literal(Escapes::Backslash);
            }
            (b'b' | b'B' | b'x' | b'X' | b'n' | b'N', Some(b'\''), _) => {
                self.at += 1;
                return self.literal(Escapes::Doubled);
            }
            (b'u' | b'U', Some(b'&'), Some(b'\'')) => {
                self.at += 2;
                return self.literal(Escapes::Doubled);
            }
            // Any name can be written so.
            (b'u' | b'U', Some(b'&'), Some(b'"')) => return Token::Strange,
            _ => {}
        }
        let start = self.at;
        self.at += 1;
        while self.peek(0).is_some_and(continues_word) {
            self.at += 1;
        }
        Token::Word(&self.text[start..self.at])
    }
}

/// What a token that begins with a byte can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// White space. Vertical tab is since PostgreSQL 16, and an error before.
    Blank,
    /// A keyword or a name, or a string with a letter before it.
    Word,
    Digit,
    /// Nothing longer than itself.
    Alone,
    /// What follows decides.
    OfMore,
}

/// For each byte; every query's text is read.
const KINDS: [Kind; 256] = {
    let (mut kinds, mut byte) = ([Kind::Alone; 256], 0);
    while byte < 256 {
        #[allow(clippy::cast_possible_truncation, reason = "it is less than 256")]
        let b = byte as u8;
        kinds[byte] = match b {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => Kind::Blank,
            b'0'..=b'9' => Kind::Digit,
            b'-' | b'/' | b'\'' | b'"' | b'$' | b'.' => Kind::OfMore,
            b if begins_word(b) => Kind::Word,
            _ => Kind::Alone,
        };
        byte += 1;
    }
    kinds
};

const fn begins_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn continues_word(byte: u8) -> bool {
    const CONTINUES: [bool; 256] = {
        let (mut continues, mut byte) = ([false; 256], 0);
        while byte < 256 {
            continues[byte] = matches!(KINDS[byte], Kind::Word | Kind::Digit);
            byte += 1;
        }
        continues[b'$' as usize] = true;
        continues
    };
    CONTINUES[usize::from(byte)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<Token<'_>> {
        tokens(text.as_bytes()).map(|placed| placed.token).collect()
    }

    #[test]
    fn ordinary_statements() {
        let seen = all("SELECT a.\"B\"\"c\", 'it''s', $1::int4, 1.5e-3 FROM t; -- end");
        let word = |text: &'static str| Token::Word(text.as_bytes());
        let expected = [
            word("SELECT"),
            word("a"),
            Token::Symbol(b'.'),
            Token::Quoted(b"B\"\"c"),
            Token::Symbol(b','),
            Token::Text(b"it''s"),
            Token::Symbol(b','),
            Token::Parameter,
            Token::Symbol(b':'),
            Token::Symbol(b':'),
            word("int4"),
            Token::Symbol(b','),
            Token::Number,
            word("FROM"),
            word("t"),
            Token::Symbol(b';'),
        ];
        assert_eq!(seen, expected);
        assert!(seen[0].is("select") && !seen[1].is("select") && seen[2].is_symbol(b'.'));
    }

    #[test]
    fn strings_hide_what_is_in_them() {
        assert_eq!(all("E'a\\'; x' y"), [Token::Text(b"a\\'; x"), Token::Word(b"y")]);
        assert_eq!(all("'a\\' y"), [Token::Text(b"a\\"), Token::Word(b"y")]);
        assert_eq!(all("$$a;'$$ $f$b $$ c$f$"), [Token::Text(b"a;'"), Token::Text(b"b $$ c")]);
        assert_eq!(all("U&'d\\0061t' N'x' B'1'").len(), 3);
        assert_eq!(all("a$b$ $1"), [Token::Word(b"a$b$"), Token::Parameter]);
        assert_eq!(all("/* a /* ' */ ; */ b"), [Token::Word(b"b")]);
        assert_eq!(all("1--2\r3"), [Token::Number, Token::Number]);
    }

    #[test]
    fn what_does_not_end_or_could_be_anything_is_strange() {
        for text in
            ["'a", "\"a", "/* a", "/* /* */", "$$a", "E'a\\'", "U&\"x\"", "E'a'\n'b\\''", "E'a' --c\n'b'"]
        {
            assert_eq!(all(text).last(), Some(&Token::Strange), "{text}");
        }
        assert_eq!(all("'a'\n'b'").len(), 2);
    }

    #[test]
    fn the_text_ends_at_a_zero_byte() {
        assert_eq!(tokens(b"a\0b").count(), 1);
    }

    #[test]
    fn random_texts_never_panic_and_tokens_follow_each_other() {
        let mut random = pgwire::random::Random::new(7);
        let mut below = |limit: usize| random.below(limit);
        let alphabet = b"'\"$$\\/*--eEuU&a1.;()\n \xc3\xa9";
        for _ in pgwire::random::rounds(20_000) {
            let text: Vec<u8> = (0..below(24)).map(|_| alphabet[below(alphabet.len())]).collect();
            let mut end = 0;
            for placed in tokens(&text) {
                assert!(placed.start >= end && placed.end > placed.start || placed.token == Token::Strange);
                end = placed.end;
            }
            assert!(end <= text.len());
        }
    }
}
