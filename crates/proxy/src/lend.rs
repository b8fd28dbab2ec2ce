//! Which client is lent which server, and who waits. Pure: it is told what happened and when, and says what to do
//! ([`Deed`]); the shell does it.
//!
//! Clients are lent a server for a transaction. Those of one pool (a database and a user) wait in one queue, first come,
//! first served; the server that was returned last is lent first, so that the others become idle and can be closed. Where
//! all servers together are at their limit, the client that has waited longest has the least recently used idle server of
//! another pool closed for it.
//!
//! The limits are those of all workers together ([`Quota`]), and so is the order, roughly: a worker in which a client has
//! waited longer gets the place of a server that another one does not need, or needs less ([`Deed::Ask`]).
//!
//! A pool that is paused ([`Lending::pause`]) lends nothing; its servers are closed as soon as nobody has them.

mod apart;
mod elsewhere;
mod facts;
mod pause;
mod pool;
mod quota;
#[cfg(test)]
mod tests;

pub use facts::{Lendings, PoolFacts};
pub use pool::Stage;
pub use quota::{Claim, Quota};

use pool::{Pool, Server};
use std::time::{Duration, Instant};

/// A client, as the shell knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u32);

/// A server connection, as the shell knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerId(pub u32);

/// A pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolId(pub u32);

/// Bounds of one pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Most server connections.
    pub servers_max: usize,
    /// So many more, once a client has waited for `reserve_after`.
    pub reserve: usize,
    /// See `reserve`.
    pub reserve_after: Duration,
    /// Server connections that are kept open though nobody needs them.
    pub servers_min: usize,
    /// A client that has waited so long is given up.
    pub query_wait: Duration,
    /// A client that has waited so long is told, once.
    pub notice_after: Duration,
    /// A server that was idle so long is closed.
    pub idle_max: Duration,
    /// A server that is older is closed as soon as it is idle.
    pub age_max: Duration,
    /// Pause after a failed attempt to connect.
    pub retry_after: Duration,
}

/// What the shell is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Give this server to this client.
    Lend {
        /// To whom.
        client: ClientId,
        /// What.
        server: ServerId,
    },
    /// Connect; tell the outcome by [`Lending::opened`] or [`Lending::failed`].
    Open {
        /// For this pool.
        pool: PoolId,
        /// By this name from now on.
        server: ServerId,
    },
    /// End this connection. It is forgotten already.
    Close {
        /// Which.
        server: ServerId,
        /// Why.
        why: Why,
    },
    /// Tell this client that it waits.
    Notice {
        /// Whom.
        client: ClientId,
    },
    /// Tell this client that there is no server for it. It is forgotten already.
    GiveUp {
        /// Whom.
        client: ClientId,
        /// How long it has waited.
        waited: Duration,
    },
    /// Have all other workers call [`Lending::tick`]: one of them may give up a place.
    Ask,
    /// Have this worker call [`Lending::tick`]: there is a place for it.
    Call {
        /// Its number.
        worker: usize,
    },
}

/// Why a server connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Nobody needed it for long.
    Idle,
    /// It has been open for long.
    Old,
    /// It is not to be used any more: its primary was replaced, or somebody said so.
    Outdated,
    /// Its last client left something behind.
    Unclean,
    /// Another pool needs its place.
    Displaced,
    /// Another worker needs its place.
    Elsewhere,
    /// Its pool is paused.
    Paused,
}

/// How a server comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Returned {
    /// Nothing of its client is left in it.
    Clean,
    /// As [`Returned::Clean`], but its client would rather have this one again than another: it is lent last.
    Liked,
    /// Something is left, or may be.
    Unclean,
}

/// See the module.
#[derive(Debug)]
pub struct Lending {
    pools: Vec<Pool>,
    servers: Vec<Option<Server>>,
    free: Vec<u32>,
    /// Places of all pools.
    all: Claim,
    open_max: usize,
    deeds: Vec<Deed>,
}

impl Lending {
    /// Lends at most `open_max` servers of all pools and all workers together, which is what `all` counts.
    #[must_use]
    pub fn new(open_max: usize, all: Claim) -> Lending {
        Lending { pools: Vec::new(), servers: Vec::new(), free: Vec::new(), all, open_max, deeds: Vec::new() }
    }

    /// Other limits from now on. What is open beyond them is not closed for that: it goes as it becomes idle for long.
    pub fn set_limits(&mut self, open_max: usize, bounds: &Bounds, now: Instant) {
        self.open_max = open_max;
        self.pools.iter_mut().for_each(|pool| pool.bounds = bounds.clone());
        for pool in 0..self.pools.len() {
            self.serve(PoolId(u32::try_from(pool).unwrap_or(u32::MAX)), now);
        }
        self.serve_longest_waiting(now);
    }

    /// A new pool, without any server. Its places are counted by `claim`.
    pub fn add_pool(&mut self, bounds: Bounds, claim: Claim) -> PoolId {
        self.pools.push(Pool::new(bounds, claim));
        PoolId(u32::try_from(self.pools.len() - 1).unwrap_or(u32::MAX))
    }

    /// What is to be done, in this order; nothing of it is said again.
    pub fn take_deeds(&mut self, into: &mut Vec<Deed>) {
        into.append(&mut self.deeds);
    }

    /// A client needs a server. It must not have one, nor wait for one.
    pub fn want(&mut self, pool: PoolId, client: ClientId, now: Instant) {
        if let Some(found) = self.pools.get_mut(pool.0 as usize) {
            found.queue.push_back(pool::Waiting { client, since: now, told: false });
            self.serve(pool, now);
            self.mind_first_wish(pool, now);
        }
    }

    /// A client needs a server: one that is idle, if nobody waits before it. It is lent with that; no deed says so.
    pub fn lend_at_once(&mut self, pool: PoolId, liked: Option<ServerId>, now: Instant) -> Option<ServerId> {
        let found = self.pools.get_mut(pool.0 as usize)?;
        if found.paused || !found.queue.is_empty() {
            return None;
        }
        let at = liked.and_then(|liked| found.idle.iter().position(|idle| *idle == liked));
        let server = match at {
            Some(at) => found.idle.remove(at),
            None => found.idle.pop()?,
        };
        found.lendings.count += 1;
        if let Some(state) = self.server_mut(server) {
            (state.stage, state.since) = (Stage::Lent, now);
        }
        Some(server)
    }

    /// A client that waits needs nothing any more.
    pub fn forget(&mut self, pool: PoolId, client: ClientId) {
        if let Some(pool) = self.pools.get_mut(pool.0 as usize) {
            pool.queue.retain(|waiting| waiting.client != client);
        }
    }

    /// A server that was to be opened is ready.
    pub fn opened(&mut self, server: ServerId, now: Instant) {
        let Some(state) = self.server_mut(server).filter(|s| s.stage == Stage::Opening) else { return };
        (state.stage, state.since, state.opened) = (Stage::Idle, now, now);
        let (pool, outdated) = (state.pool, state.outdated);
        let of = &mut self.pools[pool.0 as usize];
        of.opening -= 1;
        of.retry_at = None;
        match (outdated, of.paused) {
            (true, _) => self.close(server, Why::Outdated),
            (false, true) => self.close(server, Why::Paused),
            (false, false) => of.idle.push(server),
        }
        self.serve(pool, now);
    }

    /// A server could not be opened.
    pub fn failed(&mut self, server: ServerId, now: Instant) {
        if let Some(id) = self.remove(server) {
            let pool = &mut self.pools[id.0 as usize];
            pool.retry_at = Some(now + pool.bounds.retry_after);
            pool.claim.withdraw();
            self.put_back(id);
        }
    }

    /// A client's transaction has ended, and nothing keeps its server. One that was set apart is closed.
    pub fn returned(&mut self, server: ServerId, how: Returned, now: Instant) {
        let is_out = |server: &&mut Server| matches!(server.stage, Stage::Lent | Stage::Apart);
        let Some(state) = self.server_mut(server).filter(is_out) else { return };
        let was_apart = state.stage == Stage::Apart;
        let how = if was_apart { Returned::Unclean } else { how };
        let lent_for = now.saturating_duration_since(state.since);
        (state.stage, state.since) = (Stage::Idle, now);
        let (pool, outdated, opened) = (state.pool, state.outdated, state.opened);
        if was_apart {
            self.end_apart(pool);
        }
        let is_owed = self.is_owed(pool, now);
        let of = &mut self.pools[pool.0 as usize];
        of.lendings.time += lent_for;
        let old = now.saturating_duration_since(opened) > of.bounds.age_max;
        let closes = match (how, outdated, old, of.paused) {
            (Returned::Unclean, ..) => Some(Why::Unclean),
            (_, true, ..) => Some(Why::Outdated),
            (_, _, true, _) => Some(Why::Old),
            (.., true) => Some(Why::Paused),
            _ if is_owed => Some(Why::Elsewhere),
            (Returned::Clean | Returned::Liked, false, false, false) => None,
        };
        match (closes, how) {
            (Some(why), _) => self.close(server, why),
            (None, Returned::Liked) => of.idle.insert(0, server),
            (None, Returned::Clean | Returned::Unclean) => of.idle.push(server),
        }
        self.serve(pool, now);
        self.serve_longest_waiting(now);
    }

    /// A server is gone, whatever it was doing.
    pub fn lost(&mut self, server: ServerId, now: Instant) {
        if let Some(pool) = self.remove(server) {
            self.put_back(pool);
            self.serve(pool, now);
            self.serve_longest_waiting(now);
        }
    }

    /// No server that is open or being opened now is lent again.
    pub fn renew(&mut self) {
        self.renew_those(|_| true);
    }

    /// Since when the client has waited that has waited longest in this pool.
    #[must_use]
    pub fn waits_since(&self, pool: PoolId) -> Option<Instant> {
        self.pools.get(pool.0 as usize)?.queue.front().map(|waiting| waiting.since)
    }

    /// What time alone brings: notices, clients given up, idle and old servers closed, further attempts. Returns when to
    /// call again at the latest.
    pub fn tick(&mut self, now: Instant) -> Option<Instant> {
        for pool in 0..self.pools.len() {
            let pool = PoolId(u32::try_from(pool).unwrap_or(u32::MAX));
            self.mind_queue(pool, now);
            self.mind_idle(pool, now);
            self.serve(pool, now);
            self.keep_minimum(pool, now);
        }
        self.serve_longest_waiting(now);
        self.give_up_idle(now);
        self.mind_wishes(now);
        self.next_tick(now)
    }

    /// Server connections that are open or being opened.
    #[cfg(test)]
    fn open(&self) -> usize {
        self.servers.iter().flatten().count()
    }

    fn server_mut(&mut self, id: ServerId) -> Option<&mut Server> {
        self.servers.get_mut(id.0 as usize)?.as_mut()
    }

    /// Takes a server off the books; its pool, whose place is still to be put back.
    fn remove(&mut self, id: ServerId) -> Option<PoolId> {
        let server = self.servers.get_mut(id.0 as usize)?.take()?;
        self.free.push(id.0);
        if server.stage == Stage::Apart {
            self.end_apart(server.pool);
        }
        let pool = &mut self.pools[server.pool.0 as usize];
        pool.open -= 1;
        if server.stage == Stage::Opening {
            pool.opening -= 1;
        }
        pool.idle.retain(|idle| *idle != id);
        Some(server.pool)
    }

    fn close(&mut self, id: ServerId, why: Why) {
        if let Some(pool) = self.remove(id) {
            self.deeds.push(Deed::Close { server: id, why });
            self.put_back(pool);
        }
    }
}
