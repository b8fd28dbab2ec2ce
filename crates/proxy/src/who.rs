//! Who clients say they are. Many say the same: it is kept once.

use pgwire::startup::parse_body;
use pgwire::{Startup, StartupMessage};
use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;

/// Who a client says it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Who {
    pub user: Box<[u8]>,
    pub database: Box<[u8]>,
    pub application_name: Box<[u8]>,
    pub replication: bool,
}

impl Who {
    /// What a start-up packet says; nothing, if it is none.
    pub fn of_packet(packet: &[u8]) -> Who {
        match packet.get(4..).map(parse_body) {
            Some(Ok(Startup::Session(message))) => Who::of(&message),
            _ => Who::default(),
        }
    }

    /// What a start-up message says.
    pub fn of(message: &StartupMessage<'_>) -> Who {
        let get = |name| message.get(name).filter(|value| !value.is_empty());
        let user = get("user").unwrap_or_default();
        Who {
            user: user.into(),
            database: get("database").unwrap_or(user).into(),
            application_name: get("application_name").unwrap_or_default().into(),
            replication: get("replication").is_some(),
        }
    }
}

/// All who are here, each once.
#[derive(Debug, Default)]
pub struct Known(RefCell<HashSet<Rc<Who>>>);

impl Known {
    /// The one that all have who say so.
    pub fn the(&self, who: Who) -> Rc<Who> {
        let mut known = self.0.borrow_mut();
        if let Some(known) = known.get(&who) {
            return Rc::clone(known);
        }
        let who = Rc::new(who);
        known.insert(Rc::clone(&who));
        who
    }

    /// One client less has it, which has it still.
    pub fn leaves(&self, who: &Rc<Who>) {
        // The other one is here.
        if Rc::strong_count(who) <= 2 {
            self.0.borrow_mut().remove(who);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_kept_once_and_as_long_as_somebody_says_so() {
        let known = Known::default();
        let ann = || Who { user: Box::from(&b"ann"[..]), ..Who::default() };
        let (one, other) = (known.the(ann()), known.the(ann()));
        let bob = known.the(Who::default());
        assert!(Rc::ptr_eq(&one, &other) && *bob != *one);
        known.leaves(&one);
        drop(one);
        assert_eq!(known.0.borrow().len(), 2);
        known.leaves(&other);
        known.leaves(&bob);
        assert!(known.0.borrow().is_empty());
    }
}
