//! Cancel requests: what a client sends on a second connection to stop the statement of a first one.

use crate::startup::CANCEL_REQUEST_CODE;

/// Shortest secret key, the only length of protocol 3.0. Bytes.
pub const KEY_LEN_MIN: usize = 4;

/// Longest secret key that protocol 3.2 allows (`BackendKeyData` in the protocol's description). Bytes.
pub const KEY_LEN_MAX: usize = 256;

/// What a server gives to each session so that its client may cancel: process id and secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CancelKey {
    pid: u32,
    secret: Vec<u8>,
}

impl CancelKey {
    /// Reads process id and secret as both `BackendKeyData` and `CancelRequest` carry them: four bytes of process id,
    /// then 4 to 256 bytes of secret. `None` if the length is outside that.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<CancelKey> {
        let (pid, secret) = bytes.split_first_chunk::<4>()?;
        if !(KEY_LEN_MIN..=KEY_LEN_MAX).contains(&secret.len()) {
            return None;
        }
        Some(CancelKey { pid: u32::from_be_bytes(*pid), secret: secret.to_vec() })
    }

    /// As [`CancelKey::parse`] reads it.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        [&self.pid.to_be_bytes()[..], &self.secret].concat()
    }

    /// Process id of the server's session; not a secret, good for logs.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }
}

/// The whole CancelRequest packet, length word included.
#[must_use]
pub fn encode_cancel_request(key: &CancelKey) -> Vec<u8> {
    let len = 4 + 4 + 4 + key.secret.len();
    let mut packet = Vec::with_capacity(len);
    packet.extend_from_slice(&(len as u32).to_be_bytes());
    packet.extend_from_slice(&CANCEL_REQUEST_CODE.to_be_bytes());
    packet.extend_from_slice(&key.pid.to_be_bytes());
    packet.extend_from_slice(&key.secret);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::startup::{Startup, body_len, parse_body};

    #[test]
    fn a_cancel_request_reads_back_as_the_same_key() {
        for secret_len in [4, 32, 256] {
            let mut bytes = 4711_u32.to_be_bytes().to_vec();
            bytes.extend(std::iter::repeat_n(7_u8, secret_len));
            let key = CancelKey::parse(&bytes).unwrap();
            let packet = encode_cancel_request(&key);
            let (length, body) = packet.split_first_chunk::<4>().unwrap();
            assert_eq!(body_len(*length), Ok(body.len()));
            assert_eq!(parse_body(body), Ok(Startup::Cancel(key)));
        }
    }

    #[test]
    fn secrets_of_other_lengths_are_refused() {
        assert_eq!(CancelKey::parse(&[0; 3]), None);
        assert_eq!(CancelKey::parse(&[0; 7]), None);
        assert_eq!(CancelKey::parse(&[0; 4 + 257]), None);
    }
}
