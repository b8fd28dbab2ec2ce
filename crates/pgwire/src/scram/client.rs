//! The client's side: knows a client's key, or a password.

use super::exchange::{Attributes, BINDING, Mechanism, ScramError, decode, encode, is_nonce};
use super::verifier::{keys, salted_password};
use super::{ClientKey, Key, Verifier, hmac, xor};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use std::num::NonZeroU32;

/// Most iterations that are computed for a server's asking.
const ITERATIONS_MAX: u32 = 10_000_000;

/// What a client knows of the password.
#[derive(Clone, Debug)]
pub enum Secret {
    /// Itself, prepared by SASLprep.
    Password(Vec<u8>),
    /// The key that its own client has shown, and the verifier against which it was checked.
    Key(ClientKey, Verifier),
}

/// The connection as the client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientChannel<'a> {
    /// Without TLS, or with a certificate that nothing can be bound to.
    Open,
    /// With TLS, and the server did not offer `SCRAM-SHA-256-PLUS`. It is told so, and refuses if it did: then somebody in
    /// between has taken the offer away.
    NotOffered,
    /// With TLS, and the server offered it; the hash of its certificate (RFC 5929).
    Tls(&'a [u8]),
}

/// A client in the middle of an exchange.
#[derive(Debug)]
pub struct Client {
    secret: Secret,
    mechanism: Mechanism,
    header: String,
    /// With the header before it, what the proof says of the channel.
    channel: Vec<u8>,
    bare: String,
    nonce: String,
}

/// A client that waits for the server's signature.
#[derive(Debug)]
pub struct Proving {
    expected: Key,
}

impl Client {
    /// A client that is connected by this channel.
    #[must_use]
    pub fn new(secret: Secret, channel: ClientChannel<'_>, nonce: &str) -> Client {
        let (mechanism, header, channel) = match channel {
            ClientChannel::Open => (Mechanism::Plain, "n,,".to_owned(), Vec::new()),
            ClientChannel::NotOffered => (Mechanism::Plain, "y,,".to_owned(), Vec::new()),
            ClientChannel::Tls(hash) => (Mechanism::Plus, format!("p={BINDING},,"), hash.to_vec()),
        };
        Client { secret, mechanism, header, channel, bare: format!("n=,r={nonce}"), nonce: nonce.to_owned() }
    }

    /// The mechanism that it speaks.
    #[must_use]
    pub fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// Its first message.
    #[must_use]
    pub fn first(&self) -> Vec<u8> {
        format!("{}{}", self.header, self.bare).into_bytes()
    }

    /// Reads the server's first message and proves that it knows the secret.
    ///
    /// # Errors
    /// [`ScramError`]: the server does not speak SCRAM, or holds another verifier than the one the key was checked against.
    pub fn prove(self, message: &[u8]) -> Result<(Proving, Vec<u8>), ScramError> {
        let mut attributes = Attributes::of(message)?;
        let text = attributes.rest();
        let nonce = attributes.next('r')?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() || !is_nonce(nonce) {
            return Err(ScramError::Malformed("another nonce"));
        }
        let salt = decode(attributes.next('s')?)?;
        let iterations: NonZeroU32 =
            attributes.next('i')?.parse().map_err(|_| ScramError::Malformed("no number of iterations"))?;
        let (key, server_key) = match self.secret {
            Secret::Password(_) if iterations.get() > ITERATIONS_MAX => {
                return Err(ScramError::Malformed("too many iterations"));
            }
            Secret::Password(password) => keys(&salted_password(&password, &salt, iterations)),
            Secret::Key(key, verifier) if verifier.salt == salt && verifier.iterations == iterations => {
                (key, verifier.server_key)
            }
            Secret::Key(..) => return Err(ScramError::WrongServer),
        };
        let binding = encode(&[self.header.as_bytes(), &self.channel].concat());
        let unproven = format!("c={binding},r={nonce}");
        let auth_message = format!("{},{text},{unproven}", self.bare);
        let signature = hmac(&key.stored_key(), auth_message.as_bytes());
        let last = format!("{unproven},p={}", encode(&xor(&key.0, &signature)));
        Ok((Proving { expected: hmac(&server_key, auth_message.as_bytes()) }, last.into_bytes()))
    }
}

impl Proving {
    /// Reads the server's last message.
    ///
    /// # Errors
    /// [`ScramError`]: the server refuses, or does not know the verifier either.
    pub fn finish(self, message: &[u8]) -> Result<(), ScramError> {
        let mut attributes = Attributes::of(message)?;
        if let Some(why) = attributes.rest().strip_prefix("e=") {
            return Err(ScramError::Refused(why.chars().take(100).collect()));
        }
        let signature = decode(attributes.next('v')?)?;
        verify_slices_are_equal(&signature, &self.expected).map_err(|_| ScramError::WrongServer)
    }
}
