//! Statements that clients have prepared, each text once for a worker.

use crate::sql::{Reading, read};
use std::collections::HashMap;
use std::rc::Rc;

/// Most texts that are remembered beyond the clients' own use.
const TEXTS_MAX: usize = 4_096;

/// A statement as a client prepares it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Prepared {
    pub(super) number: u64,
    /// Its name on servers, with the closing zero byte.
    pub(super) server_name: Box<[u8]>,
    /// The body of its Parse after the name: text, zero byte, parameter types.
    pub(super) body: Box<[u8]>,
    pub(super) reading: Reading,
    /// Other clients may be given it.
    pub(super) is_shared: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Texts {
    prefix: Box<str>,
    next: u64,
    known: HashMap<Box<[u8]>, Rc<Prepared>>,
    round: u64,
}

impl Texts {
    /// Without any text. `secret` makes the names of statements on servers, so that no client can guess them.
    #[must_use]
    pub fn new(secret: u64) -> Texts {
        Texts { prefix: format!("pgkeel:{secret:016x}:").into(), next: 0, known: HashMap::new(), round: 0 }
    }

    /// In a new round, what clients prepare is prepared anew: relations may have been changed.
    pub fn begin_round(&mut self, round: u64) {
        if self.round != round {
            self.round = round;
            self.known.clear();
        }
    }

    /// Every text that is remembered: its name on servers, the body of its Parse after the name, and how often it is held
    /// by a client or as a server's unnamed statement.
    pub fn list(&self) -> impl Iterator<Item = (&[u8], &[u8], usize)> {
        self.known.values().map(|prepared| {
            let name = prepared.server_name.strip_suffix(b"\0").unwrap_or(&prepared.server_name);
            (name, &*prepared.body, Rc::strong_count(prepared) - 1)
        })
    }

    /// The statement of a Parse's body after the name.
    pub(super) fn intern(&mut self, body: &[u8]) -> Rc<Prepared> {
        if let Some(known) = self.known.get(body) {
            return Rc::clone(known);
        }
        if self.known.len() >= TEXTS_MAX {
            self.known.retain(|_, prepared| Rc::strong_count(prepared) > 1);
            if self.known.len() >= TEXTS_MAX {
                self.known.clear();
            }
        }
        let prepared = self.make(body, read(body), true);
        self.known.insert(body.into(), Rc::clone(&prepared));
        prepared
    }

    /// The statement of one client, whose settings may give it a meaning that it does not have for others.
    pub(super) fn of_one_client(&mut self, body: &[u8]) -> Rc<Prepared> {
        self.make(body, read(body), false)
    }

    /// The same text for one client.
    pub(super) fn copy_for_one_client(&mut self, prepared: &Prepared) -> Rc<Prepared> {
        self.make(&prepared.body, prepared.reading.clone(), false)
    }

    fn make(&mut self, body: &[u8], reading: Reading, is_shared: bool) -> Rc<Prepared> {
        self.next += 1;
        let server_name = format!("{}{}\0", self.prefix, self.next).into_bytes().into();
        Rc::new(Prepared { number: self.next, server_name, body: body.into(), reading, is_shared })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_kept_once_and_forgotten_when_there_are_too_many() {
        let mut texts = Texts::new(7);
        let one = texts.intern(b"select 1\0\0\0");
        assert!(Rc::ptr_eq(&one, &texts.intern(b"select 1\0\0\0")));
        assert_ne!(one, texts.intern(b"select 1\0\0\x01\0\0\0\x17"));
        assert_eq!(&*one.server_name, b"pgkeel:0000000000000007:1\0");
        for n in 0..2 * TEXTS_MAX {
            texts.intern(format!("select {n}").as_bytes());
            assert!(texts.known.len() <= TEXTS_MAX);
        }
        assert!(Rc::ptr_eq(&one, &texts.intern(b"select 1\0\0\0")), "it is in use");
        texts.begin_round(1);
        let anew = texts.intern(b"select 1\0\0\0");
        assert_ne!(anew.server_name, one.server_name);
        texts.begin_round(1);
        assert!(Rc::ptr_eq(&anew, &texts.intern(b"select 1\0\0\0")));
    }
}
