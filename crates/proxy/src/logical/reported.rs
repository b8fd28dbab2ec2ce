//! The settings that a server reports (ParameterStatus), and what a client was told of them.

use pgwire::message::{put, split_string};
use std::cell::OnceCell;
use std::rc::Rc;

/// Most settings that are remembered; servers report about fifteen.
const REPORTED_MAX: usize = 64;

/// A name and a value.
pub type Pair = (Box<[u8]>, Box<[u8]>);

/// Encodings in which no byte of a longer character can be taken for another one.
const PLAIN_ENCODINGS: [&[u8]; 5] = [b"UTF8", b"SQL_ASCII", b"LATIN1", b"LATIN9", b"WIN1252"];

/// Names and values. Cheap to clone and, mostly, to compare.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reported(Rc<Known>);

#[derive(Clone, Debug, Default)]
struct Known {
    pairs: Vec<Pair>,
    /// Derived from the pairs: see [`Reported::makes_texts_plain`].
    plain: bool,
    /// Derived from the pairs, when it is wanted for the first time: see [`Reported::tell_all`].
    telling: OnceCell<Box<[u8]>>,
}

impl PartialEq for Known {
    fn eq(&self, other: &Known) -> bool {
        self.pairs == other.pairs
    }
}

impl Eq for Known {}

impl Reported {
    /// Takes note of a ParameterStatus.
    pub fn note(&mut self, name: &[u8], value: &[u8]) {
        if self.get(name) == Some(value) {
            return;
        }
        let known = Rc::make_mut(&mut self.0);
        known.telling.take();
        let pairs = &mut known.pairs;
        match pairs.iter().position(|(known, _)| **known == *name) {
            Some(at) => pairs[at].1 = value.into(),
            None if pairs.len() < REPORTED_MAX => pairs.push((name.into(), value.into())),
            None => {}
        }
        let plain = self.get(b"standard_conforming_strings") == Some(b"on")
            && self.get(b"client_encoding").is_some_and(|encoding| PLAIN_ENCODINGS.contains(&encoding));
        Rc::make_mut(&mut self.0).plain = plain;
    }

    /// Whether a statement's text means what [`crate::sql`] takes it for.
    #[must_use]
    pub fn makes_texts_plain(&self) -> bool {
        self.0.plain
    }

    /// Takes note of the body of a ParameterStatus.
    pub fn note_body(&mut self, body: &[u8]) {
        if let Some((name, rest)) = split_string(body)
            && let Some((value, _)) = split_string(rest)
        {
            self.note(name, value);
        }
    }

    /// The value of a setting.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.0.pairs.iter().find(|(known, _)| **known == *name).map(|(_, value)| &**value)
    }

    /// All names and values.
    pub(super) fn to_pairs(&self) -> Vec<Pair> {
        self.0.pairs.clone()
    }

    /// As [`Reported::to_pairs`] gave them.
    pub(super) fn of_pairs(pairs: &[Pair]) -> Reported {
        let mut reported = Reported::default();
        pairs.iter().for_each(|(name, value)| reported.note(name, value));
        reported
    }

    /// Whether it is the very same.
    #[must_use]
    pub fn is_same_as(&self, other: &Reported) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    /// Shares the memory of `other` if both are the same.
    #[must_use]
    pub fn shared_with(self, other: &Reported) -> Reported {
        if self == *other { other.clone() } else { self }
    }

    /// Appends a ParameterStatus for each setting.
    pub fn tell_all(&self, to_client: &mut Vec<u8>) {
        to_client.extend_from_slice(self.0.telling.get_or_init(|| {
            let mut telling = Vec::new();
            for (name, value) in self.0.pairs.iter() {
                put(b'S', &[name, b"\0", value, b"\0"], &mut telling);
            }
            telling.into()
        }));
    }

    /// Tells a client what differs from what it was told, which is the very same as `self` afterwards.
    pub fn tell_news(&mut self, told: &mut Reported, to_client: &mut Vec<u8>) {
        if Rc::ptr_eq(&self.0, &told.0) {
            return;
        }
        if self.0 == told.0 {
            return share(&mut self.0, &mut told.0);
        }
        for (name, value) in self.0.pairs.iter().filter(|(name, value)| told.get(name) != Some(value)) {
            put(b'S', &[name, b"\0", value, b"\0"], to_client);
        }
        *told = self.clone();
    }
}

/// Of two that are equal one is kept, of any two the same: in the end all clients and servers have one, and comparing costs
/// nothing.
pub(super) fn share<T>(a: &mut Rc<T>, b: &mut Rc<T>) {
    if Rc::as_ptr(a) < Rc::as_ptr(b) {
        b.clone_from(a);
    } else {
        a.clone_from(b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_told_what_differs() {
        let mut server = Reported::default();
        server.note_body(b"TimeZone\0UTC\0");
        server.note_body(b"DateStyle\0ISO, MDY\0");
        server.note_body(b"broken");
        let (mut told, mut out) = (Reported::default(), Vec::new());
        server.tell_news(&mut told, &mut out);
        let mut all = Vec::new();
        server.tell_all(&mut all);
        assert_eq!(out, all);
        out.clear();
        server.tell_news(&mut told, &mut out);
        assert_eq!(out, b"");
        server.note(b"TimeZone", b"CET");
        server.tell_news(&mut told, &mut out);
        assert_eq!(out, b"S\0\0\0\x11TimeZone\0CET\0");
        assert_eq!(told.get(b"TimeZone"), Some(&b"CET"[..]));
        // What was told once before is told as it is now.
        all.clear();
        server.tell_all(&mut all);
        assert_eq!(all, b"S\0\0\0\x11TimeZone\0CET\0S\0\0\0\x17DateStyle\0ISO, MDY\0");
    }

    #[test]
    fn equals_become_one() {
        let make = || {
            let mut reported = Reported::default();
            reported.note(b"TimeZone", b"UTC");
            reported
        };
        let (mut server, mut other, mut client, mut out) = (make(), make(), make(), Vec::new());
        for _ in 0..2 {
            for server in [&mut server, &mut other] {
                server.tell_news(&mut client, &mut out);
                assert!(server.is_same_as(&client));
            }
        }
        assert!(server.is_same_as(&other));
        assert_eq!(out, b"");
    }

    #[test]
    fn whether_texts_are_plain_is_known() {
        let mut reported = Reported::default();
        assert!(!reported.makes_texts_plain());
        reported.note(b"standard_conforming_strings", b"on");
        reported.note(b"client_encoding", b"UTF8");
        assert!(reported.makes_texts_plain());
        reported.note(b"client_encoding", b"SJIS");
        assert!(!reported.makes_texts_plain());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut reported = Reported::default();
        (0..1_000_u32).for_each(|n| reported.note(&n.to_be_bytes(), b"x"));
        assert_eq!(reported.0.pairs.len(), REPORTED_MAX);
    }
}
