//! The second login of a session, of which its client shall notice nothing. Pure: the server's answer in, what the client
//! must know out.

use pgwire::{CancelKey, FrameError, WholeMessages};
use thiserror::Error;

/// Most settings that are remembered; servers report about fifteen.
const TOLD_MAX: usize = 64;

/// The settings of which a client was told (ParameterStatus), with the values that it knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    values: Vec<(Bytes, Bytes)>,
}

/// As short as can be kept: every session has these.
type Bytes = Box<[u8]>;

impl Told {
    /// Takes note of what the client is told; without a value, nothing is known any more.
    pub fn note(&mut self, name: &[u8], value: Option<&[u8]>) {
        let known = self.values.iter().position(|(n, _)| **n == *name);
        match (known, value) {
            (Some(at), Some(value)) => self.values[at].1 = value.into(),
            (Some(at), None) => drop(self.values.swap_remove(at)),
            (None, Some(value)) if self.values.len() < TOLD_MAX => {
                self.values.push((name.into(), value.into()));
            }
            (None, _) => {}
        }
    }

    fn knows(&self, parameter_status: &[u8]) -> bool {
        let mut parts = parameter_status.splitn(3, |&b| b == 0);
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else { return false };
        self.values.iter().any(|(n, v)| **n == *name && **v == *value)
    }
}

/// A session that has been repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repeated {
    /// Settings that differ, notices, and whatever the server sent behind the login.
    pub to_client: Vec<u8>,
    /// The new server's key, in the client's place.
    pub key: Option<CancelKey>,
}

/// Why it could not be repeated.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotRepeated {
    /// The new server wants a secret, which the proxy does not have.
    #[error("it asks for a secret")]
    NeedsSecret,
    /// The new server refuses; its whole message, which the client is to have.
    #[error("it refuses the login")]
    Refused(Vec<u8>),
    /// Not a login's answer.
    #[error("its answer to the login is not PostgreSQL's: {0}")]
    Garbled(FrameError),
    /// A message that a login does not have, or no ReadyForQuery.
    #[error("its answer to the login is not one")]
    Strange,
}

/// Reads the answer to a repeated start-up packet, up to ReadyForQuery or an error.
///
/// # Errors
/// [`NotRepeated`]
pub fn read(answer: &[u8], told: &Told) -> Result<Repeated, NotRepeated> {
    let mut messages = WholeMessages::default();
    messages.push(answer);
    let (mut to_client, mut key) = (Vec::new(), None);
    while let Some(message) = messages.take().map_err(NotRepeated::Garbled)? {
        match (message.kind(), message.body()) {
            (b'R', [0, 0, 0, 0]) | (b'v', _) => {}
            (b'R', _) => return Err(NotRepeated::NeedsSecret),
            (b'S', body) if told.knows(body) => {}
            (b'S' | b'N', _) => to_client.extend_from_slice(&message.raw),
            (b'K', body) => key = CancelKey::parse(body),
            (b'E', _) => return Err(NotRepeated::Refused(message.raw)),
            (b'Z', b"I") => {
                to_client.append(&mut messages.rest());
                return Ok(Repeated { to_client, key });
            }
            (_, _) => return Err(NotRepeated::Strange),
        }
    }
    Err(NotRepeated::Strange)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGIN: &[u8] = b"R\0\0\0\x08\0\0\0\0S\0\0\0\x0bTZ\0CET\0K\0\0\0\x0c\0\0\0\x07abcdZ\0\0\0\x05I";

    #[test]
    fn a_client_hears_of_settings_that_differ_and_of_nothing_else() {
        let mut told = Told::default();
        told.note(b"TZ", Some(b"UTC"));
        let repeated = read(&[LOGIN, b"N\0"].concat(), &told).unwrap();
        assert_eq!(repeated.to_client, b"S\0\0\0\x0bTZ\0CET\0N\0");
        assert_eq!(repeated.key.unwrap().pid(), 7);
        told.note(b"TZ", Some(b"CET"));
        assert_eq!(read(LOGIN, &told).unwrap().to_client, b"");
        told.note(b"TZ", None);
        assert_eq!(read(LOGIN, &told).unwrap().to_client, b"S\0\0\0\x0bTZ\0CET\0");
    }

    #[test]
    fn other_answers_are_told_apart() {
        let told = Told::default();
        assert_eq!(read(b"R\0\0\0\x08\0\0\0\x03", &told), Err(NotRepeated::NeedsSecret));
        let fatal = b"E\0\0\0\x0cVFATAL\0\0";
        assert_eq!(read(fatal, &told), Err(NotRepeated::Refused(fatal.to_vec())));
        assert_eq!(read(&LOGIN[..LOGIN.len() - 1], &told), Err(NotRepeated::Strange));
        assert_eq!(read(b"D\0\0\0\x04", &told), Err(NotRepeated::Strange));
        assert!(matches!(read(&[0; 5], &told), Err(NotRepeated::Garbled(_))));
    }

    #[test]
    fn random_answers_never_panic() {
        let mut random = pgwire::random::Random::new(31);
        let mut told = Told::default();
        told.note(b"TZ", Some(b"UTC"));
        for _ in pgwire::random::rounds(20_000) {
            let mut answer = LOGIN.to_vec();
            for _ in 0..=random.below(4) {
                let at = random.below(answer.len());
                answer[at] = random.bytes(1)[0];
            }
            answer.truncate(random.below(answer.len() + 1));
            if let Ok(repeated) = read(&answer, &told) {
                assert!(repeated.to_client.len() <= answer.len());
            }
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut told = Told::default();
        (0..1_000_u32).for_each(|n| told.note(&n.to_be_bytes(), Some(b"x")));
        assert_eq!(told.values.len(), TOLD_MAX);
    }
}
