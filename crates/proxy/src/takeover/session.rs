//! A client's session as bytes, for the process that goes on with it. Pure.
//!
//! Every field is a number of fixed length, or bytes behind their length. It is parsed as anything that comes from outside:
//! within bounds, to its last byte, and what does not fit is no session.

use crate::logical::{Described, SetBy, Statement};
use pgwire::CancelKey;
use pgwire::scram::{ClientKey, KEY_LEN, Verifier};

/// The way in which sessions are written here; to be changed with it. Another program is not given any.
pub const FORMAT: &str = concat!(env!("CARGO_PKG_VERSION"), " sessions 1");

/// A client of the pooled mode, between two transactions. Which protocol it speaks shows in its key alone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Session {
    /// Its start-up packet, as far as it matters after the login: it names the pool.
    pub packet: Vec<u8>,
    /// Its cancel key, as the client has it.
    pub key: Vec<u8>,
    /// When it connected. Microseconds since 1970.
    pub connected_us: u64,
    /// With what its pool logs in to servers, if somebody has shown that.
    pub secret: Option<(ClientKey, Verifier)>,
    /// The client itself has.
    pub has_shown: bool,
    /// Bytes that it has sent and nobody has taken.
    pub input: Vec<u8>,
    pub logical: Described,
}

impl Session {
    /// As [`Session::parse`] reads it.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, &self.packet);
        put(&mut out, &self.key);
        out.extend_from_slice(&self.connected_us.to_be_bytes());
        out.push(u8::from(self.secret.is_some()));
        if let Some((key, verifier)) = &self.secret {
            put(&mut out, &key.to_bytes());
            put(&mut out, verifier.to_text().as_bytes());
        }
        out.push(u8::from(self.has_shown));
        put(&mut out, &self.input);
        let Described { first_settings, settings, told, told_pid, statements, likes_server, answers } =
            &self.logical;
        for settings in [first_settings, settings] {
            put_pairs(&mut out, settings.iter().map(|(name, text)| (name.as_bytes(), &**text)));
        }
        put_pairs(&mut out, told.iter().map(|(name, value)| (&**name, &**value)));
        out.extend_from_slice(&told_pid.to_be_bytes());
        put_count(&mut out, statements.len());
        for Statement { name, body, is_shared } in statements {
            put(&mut out, name);
            put(&mut out, body);
            out.push(u8::from(*is_shared));
        }
        out.push(u8::from(*likes_server));
        out.extend_from_slice(&answers.to_be_bytes());
        out
    }

    /// `None` if it is no session.
    pub fn parse(bytes: &[u8]) -> Option<Session> {
        let mut rest = Rest(bytes);
        let session = Session {
            packet: rest.bytes()?.to_vec(),
            key: rest.bytes()?.to_vec(),
            connected_us: rest.u64()?,
            secret: if rest.bool()? { Some(rest.secret()?) } else { None },
            has_shown: rest.bool()?,
            input: rest.bytes()?.to_vec(),
            logical: rest.logical()?,
        };
        rest.0.is_empty().then_some(session)
    }

    /// Its key.
    pub fn cancel_key(&self) -> Option<CancelKey> {
        CancelKey::parse(&self.key)
    }
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes());
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    put_count(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn put_pairs<'a>(out: &mut Vec<u8>, pairs: impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])>) {
    put_count(out, pairs.len());
    for (name, value) in pairs {
        put(out, name);
        put(out, value);
    }
}

/// What is still to be read.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn chunk<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (chunk, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*chunk)
    }

    fn u32(&mut self) -> Option<u32> {
        self.chunk().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.chunk().map(u64::from_be_bytes)
    }

    fn bool(&mut self) -> Option<bool> {
        match self.chunk()? {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()? as usize;
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    /// As many as are said to be there. Nothing is set aside for them before they have come.
    fn list<T>(&mut self, mut next: impl FnMut(&mut Rest<'a>) -> Option<T>) -> Option<Vec<T>> {
        let mut list = Vec::new();
        for _ in 0..self.u32()? {
            list.push(next(self)?);
        }
        Some(list)
    }

    fn settings(&mut self) -> Option<Vec<SetBy>> {
        self.list(|rest| Some((std::str::from_utf8(rest.bytes()?).ok()?.into(), rest.bytes()?.into())))
    }

    fn secret(&mut self) -> Option<(ClientKey, Verifier)> {
        let key = <[u8; KEY_LEN]>::try_from(self.bytes()?).ok().map(ClientKey::of_bytes)?;
        let verifier = Verifier::parse(std::str::from_utf8(self.bytes()?).ok()?).ok()?;
        key.fits(&verifier).then_some((key, verifier))
    }

    fn logical(&mut self) -> Option<Described> {
        Some(Described {
            first_settings: self.settings()?,
            settings: self.settings()?,
            told: self.list(|rest| Some((rest.bytes()?.into(), rest.bytes()?.into())))?,
            told_pid: self.u32()?,
            statements: self.list(|rest| {
                let (name, body) = (rest.bytes()?.into(), rest.bytes()?.into());
                Some(Statement { name, body, is_shared: rest.bool()? })
            })?,
            likes_server: self.bool()?,
            answers: self.u64()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgwire::random::{Random, rounds};

    fn some() -> Session {
        let boxed = |text: &str| Box::from(text.as_bytes());
        // Made by PostgreSQL of the password "pencil" would do as well: here the key is all zeroes.
        let key = ClientKey::of_bytes([0; KEY_LEN]);
        let stored = "Zmh6rfhivXdsj8GLjp+OIAiXFIVu4jOzkCpZHQ1fKSU=";
        let verifier = Verifier::parse(&format!("SCRAM-SHA-256$4096:AAAA${stored}:{stored}")).unwrap();
        Session {
            packet: b"packet".to_vec(),
            key: vec![1; 8],
            connected_us: 7,
            secret: Some((key, verifier)),
            has_shown: true,
            input: b"Q".to_vec(),
            logical: Described {
                first_settings: vec![],
                settings: vec![("work_mem".into(), boxed("SET work_mem = 1"))],
                told: vec![(boxed("TimeZone"), boxed("UTC"))],
                told_pid: 9,
                statements: vec![Statement { name: boxed("s"), body: boxed("x\0\0\0"), is_shared: true }],
                likes_server: true,
                answers: u64::MAX,
            },
        }
    }

    #[test]
    fn a_session_reads_back_as_the_same() {
        assert_eq!(Session::parse(&some().encode()), Some(some()));
        assert_eq!(Session::parse(&Session::default().encode()), Some(Session::default()));
    }

    #[test]
    fn random_bytes_are_no_session_and_never_a_panic() {
        let bytes = some().encode();
        for cut in 0..bytes.len() {
            assert_eq!(Session::parse(&bytes[..cut]), None);
        }
        assert_eq!(Session::parse(&[&bytes[..], b"x"].concat()), None);
        for round in rounds(20_000) {
            let mut random = Random::new(round);
            let mut bytes = bytes.clone();
            for _ in 0..=random.below(4) {
                let at = random.below(bytes.len());
                bytes[at] = u8::try_from(random.below(256)).unwrap();
            }
            let _ = Session::parse(&bytes);
        }
    }

    #[test]
    fn a_key_that_does_not_fit_its_verifier_is_refused() {
        let mut session = some();
        session.secret = session.secret.map(|(_, verifier)| (ClientKey::of_bytes([1; KEY_LEN]), verifier));
        assert_eq!(Session::parse(&session.encode()), None);
    }
}
