//! SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677) as PostgreSQL speaks them
//! (src/backend/libpq/auth-scram.c, src/interfaces/libpq/fe-auth-scram.c).
//!
//! Pure: nonces are handed in. [`Server`] checks a client against its [`Verifier`] and learns the client's key, with which
//! [`Client`] logs in at a server that holds the same verifier: no password is known anywhere.

mod client;
mod exchange;
mod server;
#[cfg(test)]
mod tests;
mod verifier;

pub use client::{Client, ClientChannel, Proving, Secret};
pub use exchange::{Mechanism, NONCE_LEN_MIN, ScramError};
pub use server::{Begun, Server, ServerChannel};
pub use verifier::{BadVerifier, ITERATIONS, Verifier};

use aws_lc_rs::{digest, hmac};

/// Bytes of every key and signature.
pub const KEY_LEN: usize = 32;

/// A key or a signature.
pub type Key = [u8; KEY_LEN];

/// A client's key: who has it can log in wherever the same verifier is held.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientKey(Key);

impl ClientKey {
    /// As [`ClientKey::to_bytes`] gives it.
    #[must_use]
    pub fn of_bytes(bytes: Key) -> ClientKey {
        ClientKey(bytes)
    }

    /// The secret itself.
    #[must_use]
    pub fn to_bytes(&self) -> Key {
        self.0
    }

    /// Whether it is the key of the password that this is the verifier of.
    #[must_use]
    pub fn fits(&self, verifier: &Verifier) -> bool {
        self.stored_key() == verifier.stored_key
    }

    /// The verifier's part that can be checked against it.
    fn stored_key(&self) -> Key {
        hash(&self.0)
    }
}

impl std::fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientKey(secret)")
    }
}

fn hmac(key: &[u8], message: &[u8]) -> Key {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message);
    let mut out = [0; KEY_LEN];
    out.copy_from_slice(tag.as_ref());
    out
}

fn hash(bytes: &[u8]) -> Key {
    let mut out = [0; KEY_LEN];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

fn xor(a: &Key, b: &Key) -> Key {
    std::array::from_fn(|i| a[i] ^ b[i])
}
