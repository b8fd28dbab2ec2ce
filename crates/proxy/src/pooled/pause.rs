//! Databases that are paused from the console: their clients wait as if there were no primary, and their servers are closed.

use super::pools::{Login, Pools, do_deeds};
use crate::lend::PoolId;
use crate::who::Who;
use crate::worker::Worker;
use std::collections::HashSet;
use std::rc::Rc;
use std::time::Instant;

/// Most databases that can be paused by name.
const DATABASES_MAX: usize = 1_000;

/// Which databases are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// All.
    All,
    /// The one of this name.
    One(Box<[u8]>),
}

/// The databases that are paused, of which the proxy need not have heard yet.
#[derive(Debug, Default)]
pub struct Paused {
    all: bool,
    databases: HashSet<Box<[u8]>>,
}

impl Chosen {
    /// Whether it is meant.
    pub fn is(&self, database: &[u8]) -> bool {
        match self {
            Chosen::All => true,
            Chosen::One(name) => **name == *database,
        }
    }
}

impl Login {
    /// The pool in which the proxy looks up verifiers: no client is lent its servers. Packets of clients have no name of
    /// an application.
    pub fn is_own(&self) -> bool {
        !Who::of_packet(&self.packet).application_name.is_empty()
    }
}

impl Paused {
    /// Whether this pool is to lend nothing.
    pub fn concerns(&self, login: &Login) -> bool {
        let is_paused = self.all || self.databases.contains(&Who::of_packet(&login.packet).database);
        is_paused && !login.is_own()
    }

    /// Whether this database is paused.
    pub fn has(&self, database: &[u8]) -> bool {
        self.all || self.databases.contains(database)
    }

    /// Whether they are paused now and were not before; `None` if there are too many.
    fn add(&mut self, chosen: &Chosen) -> Option<bool> {
        match chosen {
            Chosen::All => Some(!std::mem::replace(&mut self.all, true)),
            Chosen::One(name) if self.databases.contains(name) => Some(false),
            Chosen::One(_) if self.databases.len() >= DATABASES_MAX => None,
            Chosen::One(name) => Some(self.databases.insert(name.clone())),
        }
    }

    fn remove(&mut self, chosen: &Chosen) {
        match chosen {
            Chosen::All => *self = Paused::default(),
            Chosen::One(name) => drop(self.databases.remove(name)),
        }
    }
}

impl Pools {
    /// The pools that clients use of these databases.
    fn of_clients(&self, chosen: &Chosen) -> Vec<PoolId> {
        let is_meant = |login: &Login| !login.is_own() && chosen.is(&Who::of_packet(&login.packet).database);
        self.logins().filter(|(_, login)| is_meant(login)).map(|(id, _)| id).collect()
    }

    /// Whether this pool lends nothing.
    pub fn is_paused(&self, pool: PoolId) -> bool {
        self.lending.facts(pool).is_some_and(|facts| facts.paused)
    }

    /// Paused pools of which clients still have servers.
    pub(super) fn paused_and_lent(&self) -> Vec<PoolId> {
        if !self.paused.all && self.paused.databases.is_empty() {
            return Vec::new();
        }
        let waited_for = |pool: &PoolId| self.lending.facts(*pool).is_some_and(|f| f.paused && f.lent > 0);
        self.logins().map(|(id, _)| id).filter(waited_for).collect()
    }

    /// Whether this database is paused.
    pub fn has_paused(&self, database: &[u8]) -> bool {
        self.paused.has(database)
    }

    /// How many servers of these databases are lent, or being opened.
    pub fn lent_of(&self, chosen: &Chosen) -> usize {
        let facts = self.of_clients(chosen).into_iter().filter_map(|pool| self.lending.facts(pool));
        facts.map(|facts| facts.lent + facts.opening).sum()
    }

    /// No server of these databases that is open now is lent again; those of the proxy's own are meant by [`Chosen::All`].
    /// How many pools there are.
    fn renew_chosen(&mut self, chosen: &Chosen) -> usize {
        let pools = self.of_clients(chosen);
        pools.iter().for_each(|pool| self.lending.renew_pool(*pool));
        if *chosen == Chosen::All {
            self.renew();
        }
        pools.len()
    }
}

/// Pauses these databases; whether they were not paused before. `None` if there are too many.
pub fn pause(worker: &Rc<Worker>, chosen: &Chosen) -> Option<bool> {
    {
        let mut pools = worker.pools.borrow_mut();
        let is_news = pools.paused.add(chosen)?;
        if !is_news {
            return Some(false);
        }
        for pool in pools.of_clients(chosen) {
            pools.lending.pause(pool);
        }
        if *chosen == Chosen::All {
            // What the proxy itself has open would keep a server from shutting down, too.
            pools.renew();
        }
    }
    do_deeds(worker);
    Some(true)
}

/// Lends again. Whether these databases are no longer paused: they may still be, together with all others.
pub fn resume(worker: &Rc<Worker>, chosen: &Chosen) -> bool {
    {
        let mut pools = worker.pools.borrow_mut();
        let pools = &mut *pools;
        pools.paused.remove(chosen);
        let now = Instant::now();
        for (id, login) in (0..).map(PoolId).zip(&pools.logins) {
            if !pools.paused.concerns(login) {
                pools.lending.resume(id, now);
            }
        }
    }
    do_deeds(worker);
    !worker.pools.borrow().paused.all
}

/// Has the servers of these databases replaced as soon as nobody has them. How many pools there are.
pub fn reconnect(worker: &Rc<Worker>, chosen: &Chosen) -> usize {
    let pools = worker.pools.borrow_mut().renew_chosen(chosen);
    do_deeds(worker);
    pools
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_and_one_are_paused_apart() {
        let one = |name: &[u8]| Chosen::One(name.into());
        let mut paused = Paused::default();
        assert_eq!(paused.add(&one(b"shop")), Some(true));
        assert_eq!(paused.add(&one(b"shop")), Some(false));
        assert!(paused.has(b"shop") && !paused.has(b"other"));
        assert_eq!(paused.add(&Chosen::All), Some(true));
        paused.remove(&one(b"shop"));
        assert!(paused.has(b"shop"), "with all others");
        paused.remove(&Chosen::All);
        assert!(!paused.has(b"shop"));
        for number in 0..DATABASES_MAX {
            assert_eq!(paused.add(&one(format!("{number}").as_bytes())), Some(true));
        }
        assert_eq!(paused.add(&one(b"shop")), None);
    }
}
