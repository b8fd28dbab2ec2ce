//! What a server keeps of a password: `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey` in pg_authid.rolpassword.

use super::{ClientKey, KEY_LEN, Key, hash, hmac};
use aws_lc_rs::pbkdf2;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::num::NonZeroU32;
use thiserror::Error;

/// `SCRAM_SHA_256_DEFAULT_ITERATIONS`, src/include/common/scram-common.h.
pub const ITERATIONS: NonZeroU32 = NonZeroU32::new(4096).unwrap();

/// Longest salt that is taken. Bytes.
const SALT_LEN_MAX: usize = 256;
/// Salt of a user that does not exist; `SCRAM_DEFAULT_SALT_LEN`. Bytes.
const SALT_LEN: usize = 16;
/// Most iterations that are taken; a client computes them.
const ITERATIONS_MAX: u32 = 100_000_000;

/// A text that is no verifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not a SCRAM-SHA-256 verifier")]
pub struct BadVerifier;

/// See the module.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    pub(super) iterations: NonZeroU32,
    pub(super) salt: Vec<u8>,
    pub(super) stored_key: Key,
    pub(super) server_key: Key,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

impl Verifier {
    /// Reads rolpassword.
    ///
    /// # Errors
    /// [`BadVerifier`]: another kind of password, or none.
    pub fn parse(text: &str) -> Result<Verifier, BadVerifier> {
        let rest = text.strip_prefix("SCRAM-SHA-256$").ok_or(BadVerifier)?;
        let (parameters, keys) = rest.split_once('$').ok_or(BadVerifier)?;
        let (iterations, salt) = parameters.split_once(':').ok_or(BadVerifier)?;
        let (stored_key, server_key) = keys.split_once(':').ok_or(BadVerifier)?;
        let iterations: NonZeroU32 = iterations.parse().map_err(|_| BadVerifier)?;
        let salt = STANDARD.decode(salt).map_err(|_| BadVerifier)?;
        if salt.is_empty() || salt.len() > SALT_LEN_MAX || iterations.get() > ITERATIONS_MAX {
            return Err(BadVerifier);
        }
        Ok(Verifier { iterations, salt, stored_key: key(stored_key)?, server_key: key(server_key)? })
    }

    /// As [`Verifier::parse`] reads it.
    #[must_use]
    pub fn to_text(&self) -> String {
        let encode = |bytes: &[u8]| STANDARD.encode(bytes);
        let Verifier { iterations, salt, stored_key, server_key } = self;
        format!("SCRAM-SHA-256${iterations}:{}${}:{}", encode(salt), encode(stored_key), encode(server_key))
    }

    /// Of a password, prepared by SASLprep before (or as it is, where that is impossible; as PostgreSQL does).
    #[must_use]
    pub fn of_password(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Verifier {
        let salted = salted_password(password, salt, iterations);
        let (client_key, server_key) = keys(&salted);
        Verifier { iterations, salt: salt.to_vec(), stored_key: client_key.stored_key(), server_key }
    }

    /// For a user that has none: the same salt each time, and no password fits. `secret` is the proxy's own.
    #[must_use]
    pub fn mock(user: &[u8], secret: &Key) -> Verifier {
        let salt = hmac(secret, user)[..SALT_LEN].to_vec();
        let nobody = hash(&hmac(secret, &[b"nobody", user].concat()));
        Verifier { iterations: ITERATIONS, salt, stored_key: nobody, server_key: nobody }
    }
}

fn key(text: &str) -> Result<Key, BadVerifier> {
    let bytes = STANDARD.decode(text).map_err(|_| BadVerifier)?;
    <[u8; KEY_LEN]>::try_from(bytes).map_err(|_| BadVerifier)
}

/// `Hi` of RFC 5802. Thousands of rounds: half a millisecond and more.
pub(super) fn salted_password(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Key {
    let mut salted = [0; KEY_LEN];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, password, &mut salted);
    salted
}

/// The client's key and the server's.
pub(super) fn keys(salted: &Key) -> (ClientKey, Key) {
    (ClientKey(hmac(salted, b"Client Key")), hmac(salted, b"Server Key"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_postgresql_writes_it() {
        let made = Verifier::of_password(b"pencil", &[7; 16], ITERATIONS);
        let encode = |bytes: &[u8]| STANDARD.encode(bytes);
        let text = format!(
            "SCRAM-SHA-256$4096:{}${}:{}",
            encode(&made.salt),
            encode(&made.stored_key),
            encode(&made.server_key)
        );
        assert_eq!(made.to_text(), text);
        let (key, _) = keys(&salted_password(b"pencil", &[7; 16], ITERATIONS));
        assert!(
            ClientKey::of_bytes(key.to_bytes()).fits(&made) && !ClientKey::of_bytes([1; KEY_LEN]).fits(&made)
        );
        assert_eq!(Verifier::parse(&text), Ok(made));
        for cut in 0..text.len() {
            assert_eq!(Verifier::parse(&text[..cut]), Err(BadVerifier), "{}", &text[..cut]);
        }
        for other in ["", "md5a3556571e93b0d20722ba62be61e8c2d", "SCRAM-SHA-256$0:AA==$AA==:AA=="] {
            assert_eq!(Verifier::parse(other), Err(BadVerifier), "{other}");
        }
    }

    #[test]
    fn nobody_has_the_same_salt_each_time_and_not_that_of_somebody_else() {
        let secret = [3; KEY_LEN];
        assert_eq!(Verifier::mock(b"eve", &secret), Verifier::mock(b"eve", &secret));
        assert_ne!(Verifier::mock(b"eve", &secret).salt, Verifier::mock(b"ann", &secret).salt);
        assert_ne!(Verifier::mock(b"eve", &secret).salt, Verifier::mock(b"eve", &[4; KEY_LEN]).salt);
    }
}
