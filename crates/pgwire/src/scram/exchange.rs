//! What both sides of an exchange share: its names, its errors, its attributes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

/// The only kind of channel binding that PostgreSQL knows.
pub(super) const BINDING: &str = "tls-server-end-point";

/// Shortest nonce that is handed in; `SCRAM_RAW_NONCE_LEN` is 18 bytes before base64. Characters.
pub const NONCE_LEN_MIN: usize = 24;

/// The mechanism that a client has chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// `SCRAM-SHA-256`
    Plain,
    /// `SCRAM-SHA-256-PLUS`: bound to the TLS connection.
    Plus,
}

impl Mechanism {
    /// Its name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::Plain => "SCRAM-SHA-256",
            Mechanism::Plus => "SCRAM-SHA-256-PLUS",
        }
    }

    /// By its name on the wire.
    #[must_use]
    pub fn of_name(name: &[u8]) -> Option<Mechanism> {
        [Mechanism::Plain, Mechanism::Plus].into_iter().find(|m| m.name().as_bytes() == name)
    }
}

/// Why an exchange ends.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ScramError {
    /// A message that RFC 5802 does not allow here.
    #[error("malformed SCRAM message: {0}")]
    Malformed(&'static str),
    /// The client could bind to the channel and was led to believe that the server cannot: a man in the middle, perhaps.
    #[error("the client supports SCRAM channel binding but thinks the server does not")]
    Downgraded,
    /// The client is bound to another channel: it speaks to somebody in between.
    #[error("SCRAM channel binding check failed")]
    OtherChannel,
    /// The proof is not that of the password.
    #[error("the password does not fit")]
    WrongProof,
    /// The server's signature does not fit: it does not know the verifier.
    #[error("the server could not prove that it knows the password's verifier")]
    WrongServer,
    /// The other side ended it.
    #[error("the server refused: {0}")]
    Refused(String),
}

/// The attributes of a message, in their order.
pub(super) struct Attributes<'a>(&'a str);

impl<'a> Attributes<'a> {
    pub(super) fn of(message: &'a [u8]) -> Result<Attributes<'a>, ScramError> {
        let text = std::str::from_utf8(message).map_err(|_| ScramError::Malformed("not UTF-8"))?;
        match text.contains('\0') {
            true => Err(ScramError::Malformed("a zero byte")),
            false => Ok(Attributes(text)),
        }
    }

    /// The value of the next attribute, which must have this name.
    pub(super) fn next(&mut self, name: char) -> Result<&'a str, ScramError> {
        let (attribute, rest) = self.0.split_once(',').unwrap_or((self.0, ""));
        let value = attribute.strip_prefix(name).and_then(|v| v.strip_prefix('='));
        let value = value.ok_or(ScramError::Malformed("an attribute is missing or out of place"))?;
        self.0 = rest;
        Ok(value)
    }

    pub(super) fn rest(&self) -> &'a str {
        self.0
    }
}

/// Whether it is made of what RFC 5802 calls printable.
pub(super) fn is_nonce(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| (0x21..=0x7e).contains(&b) && b != b',')
}

pub(super) fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

pub(super) fn decode(text: &str) -> Result<Vec<u8>, ScramError> {
    STANDARD.decode(text).map_err(|_| ScramError::Malformed("not base64"))
}
