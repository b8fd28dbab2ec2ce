//! What the clients of a pool that have the same application name have in common from the beginning: it is kept once.

use crate::logical::{Reported, Settings};
use std::cell::RefCell;
use std::collections::HashMap;

/// Most names of a pool that are remembered; of others, each client has its own.
const NAMES_MAX: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub struct Greetings(RefCell<HashMap<Box<[u8]>, Greeting>>);

#[derive(Clone, Debug)]
struct Greeting {
    /// What the servers report, from which it was made.
    of: Reported,
    settings: Settings,
    told: Reported,
}

impl Greetings {
    /// The settings of a client of this name, and what it is told, where servers report `of`.
    pub fn get(&self, name: &[u8], of: &Reported) -> (Settings, Reported) {
        let mut known = self.0.borrow_mut();
        if let Some(greeting) = known.get(name).filter(|greeting| greeting.of.is_same_as(of)) {
            return (greeting.settings.clone(), greeting.told.clone());
        }
        let mut told = of.clone();
        if !name.is_empty() {
            told.note(b"application_name", name);
        }
        let greeting = Greeting { of: of.clone(), settings: Settings::with_application_name(name), told };
        let (settings, told) = (greeting.settings.clone(), greeting.told.clone());
        if known.len() < NAMES_MAX || known.contains_key(name) {
            known.insert(name.into(), greeting);
        }
        (settings, told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_of_one_name_share_it_and_of_too_many_none() {
        let greetings = Greetings::default();
        let mut of = Reported::default();
        of.note(b"TimeZone", b"UTC");
        let (_, first) = greetings.get(b"psql", &of);
        let (settings, second) = greetings.get(b"psql", &of);
        assert!(first.is_same_as(&second));
        assert_eq!(second.get(b"application_name"), Some(&b"psql"[..]));
        assert_eq!(settings, Settings::with_application_name(b"psql"));
        assert!(greetings.get(b"", &of).1.is_same_as(&of));
        for number in 0..1_000_u32 {
            greetings.get(&number.to_be_bytes(), &of);
        }
        assert_eq!(greetings.0.borrow().len(), NAMES_MAX);
        of.note(b"TimeZone", b"CET");
        let (_, third) = greetings.get(b"psql", &of);
        assert_eq!(third.get(b"TimeZone"), Some(&b"CET"[..]));
    }
}
