//! The server's side: knows a verifier, learns the client's key.

use super::exchange::{Attributes, BINDING, Mechanism, ScramError, decode, encode, is_nonce};
use super::{ClientKey, KEY_LEN, Verifier, hmac, xor};
use aws_lc_rs::constant_time::verify_slices_are_equal;

/// Longest message of a client that is read. Bytes.
const MESSAGE_LEN_MAX: usize = 4096;

/// The connection as the server sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerChannel {
    /// Without TLS: nothing to bind to, and `SCRAM-SHA-256-PLUS` was not offered.
    Open,
    /// With TLS; the hash of the server's certificate (RFC 5929). `SCRAM-SHA-256-PLUS` was offered.
    Tls(Vec<u8>),
}

/// A server that waits for the client's proof.
#[derive(Debug)]
pub struct Server {
    verifier: Verifier,
    /// What the client must say of the channel.
    binding: String,
    nonce: String,
    /// The part of the authentication message that is known.
    auth_message: String,
}

/// The exchange after the client's first message.
#[derive(Debug)]
pub struct Begun {
    /// For the client's next message.
    pub server: Server,
    /// To be sent.
    pub answer: Vec<u8>,
}

impl Server {
    /// Reads the client's first message. `nonce` are random printable characters, [`super::NONCE_LEN_MIN`] at least.
    ///
    /// # Errors
    /// [`ScramError`]: the client cannot be let in.
    pub fn begin(
        message: &[u8],
        mechanism: Mechanism,
        channel: &ServerChannel,
        verifier: Verifier,
        nonce: &str,
    ) -> Result<Begun, ScramError> {
        if message.len() > MESSAGE_LEN_MAX {
            return Err(ScramError::Malformed("too long"));
        }
        let text = Attributes::of(message)?.rest();
        let mut parts = text.splitn(3, ',');
        let (Some(flag), Some(authzid), Some(bare)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(ScramError::Malformed("no header"));
        };
        if !authzid.is_empty() {
            return Err(ScramError::Malformed("an authorization identity is not supported"));
        }
        let header = format!("{flag},,");
        let binding = match (mechanism, flag, channel) {
            (Mechanism::Plain, "n", _) | (Mechanism::Plain, "y", ServerChannel::Open) => {
                encode(header.as_bytes())
            }
            (Mechanism::Plain, "y", ServerChannel::Tls(_)) => return Err(ScramError::Downgraded),
            (Mechanism::Plus, flag, ServerChannel::Tls(hash)) if flag.strip_prefix("p=") == Some(BINDING) => {
                encode(&[header.as_bytes(), hash].concat())
            }
            (Mechanism::Plus, ..) => return Err(ScramError::Malformed("channel binding is not used")),
            (Mechanism::Plain, ..) => {
                return Err(ScramError::Malformed("channel binding needs SCRAM-SHA-256-PLUS"));
            }
        };
        let mut attributes = Attributes::of(bare.as_bytes())?;
        // The name is that of the start-up packet, whatever it says here (as PostgreSQL).
        attributes.next('n')?;
        let of_client = attributes.next('r')?;
        if !is_nonce(of_client) {
            return Err(ScramError::Malformed("the nonce is not printable"));
        }
        let nonce = format!("{of_client}{nonce}");
        let answer = format!("r={nonce},s={},i={}", encode(&verifier.salt), verifier.iterations);
        let auth_message = format!("{bare},{answer},");
        Ok(Begun { server: Server { verifier, binding, nonce, auth_message }, answer: answer.into_bytes() })
    }

    /// Reads the client's last message; its key, and the answer that proves that this side knows the verifier.
    ///
    /// # Errors
    /// [`ScramError`]: the client cannot be let in.
    pub fn finish(self, message: &[u8]) -> Result<(ClientKey, Vec<u8>), ScramError> {
        if message.len() > MESSAGE_LEN_MAX {
            return Err(ScramError::Malformed("too long"));
        }
        let text = Attributes::of(message)?.rest();
        let (unproven, proof) = text.rsplit_once(",p=").ok_or(ScramError::Malformed("there is no proof"))?;
        let mut attributes = Attributes::of(unproven.as_bytes())?;
        let binding = attributes.next('c')?;
        if verify_slices_are_equal(binding.as_bytes(), self.binding.as_bytes()).is_err() {
            return Err(ScramError::OtherChannel);
        }
        if attributes.next('r')? != self.nonce {
            return Err(ScramError::Malformed("another nonce"));
        }
        let proof: [u8; KEY_LEN] =
            decode(proof)?.try_into().map_err(|_| ScramError::Malformed("a proof has 32 bytes"))?;
        let auth_message = self.auth_message + unproven;
        let signature = hmac(&self.verifier.stored_key, auth_message.as_bytes());
        let key = ClientKey(xor(&proof, &signature));
        if verify_slices_are_equal(&key.stored_key(), &self.verifier.stored_key).is_err() {
            return Err(ScramError::WrongProof);
        }
        let own = hmac(&self.verifier.server_key, auth_message.as_bytes());
        Ok((key, format!("v={}", encode(&own)).into_bytes()))
    }
}
