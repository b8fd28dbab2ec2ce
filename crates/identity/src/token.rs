//! What a user of the API shows who has no certificate: one word of 256 random bits, `pgkeeluser1-<64 digits>`. Whoever has it is that
//! user, so it is in no log, and goes over TLS only.

use crate::authority::CannotSign;
use crate::invitation::{random, sha256};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// Says what the word is, and in which form.
const BEGINS: &str = "pgkeeluser1-";
/// 256 bits, in hexadecimal.
const DIGITS: usize = 64;

/// A token as it is carried. See the module.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    digits: String,
}

/// A text that is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("this is no user's token: one is {BEGINS} and {DIGITS} digits, as `pgkeel user add` has printed it")]
pub struct NoToken;

impl Token {
    /// A new one.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn make() -> Result<Token, CannotSign> {
        Ok(Token { digits: random(DIGITS)? })
    }

    /// What the cluster remembers instead.
    #[must_use]
    pub fn hash(&self) -> String {
        sha256(self.digits.as_bytes())
    }

    /// Whether it has this hash. How long that takes does not tell how much of it fits.
    #[must_use]
    pub fn has_hash(&self, hash: &str) -> bool {
        verify_slices_are_equal(self.hash().as_bytes(), hash.as_bytes()).is_ok()
    }

    /// The whole word, for the one whom it is for and nobody else.
    #[must_use]
    pub fn word(&self) -> String {
        format!("{BEGINS}{}", self.digits)
    }
}

/// Without the secret: this may come into a log.
impl fmt::Debug for Token {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Token")
    }
}

impl FromStr for Token {
    type Err = NoToken;

    fn from_str(text: &str) -> Result<Token, NoToken> {
        let digits = text.trim().strip_prefix(BEGINS).ok_or(NoToken)?;
        let fits = digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        if fits { Ok(Token { digits: digits.to_ascii_lowercase() }) } else { Err(NoToken) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_read_and_nothing_else() {
        let token = Token::make().unwrap();
        assert_eq!(token.word().parse(), Ok(token.clone()));
        assert_eq!(format!(" {}\n", token.word()).parse(), Ok(token.clone()));
        let word = token.word();
        for wrong in [
            "",
            "pgkeeluser1-",
            &word[..word.len() - 1],
            &format!("{word}0"),
            &word.replace("user1", "user2"),
        ] {
            assert_eq!(wrong.parse::<Token>(), Err(NoToken), "{wrong:?}");
        }
        assert!(word.replace('-', "-é").parse::<Token>().is_err());
        assert_ne!(token, Token::make().unwrap());
    }

    #[test]
    fn only_the_hash_of_a_token_fits_it() {
        let (token, other) = (Token::make().unwrap(), Token::make().unwrap());
        assert!(token.has_hash(&token.hash()));
        for hash in ["", &other.hash(), &token.hash()[1..], &token.word()] {
            assert!(!token.has_hash(hash), "{hash}");
        }
        assert!(!format!("{token:?}").contains(&token.word()[12..]));
    }
}
