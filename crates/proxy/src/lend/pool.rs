//! One pool: its idle servers, its queue, and the rules that concern both.

use super::facts::Lendings;
use super::{Bounds, Claim, ClientId, Deed, Lending, PoolId, ServerId, Why};
use std::collections::VecDeque;
use std::time::Instant;

/// A client in the queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) client: ClientId,
    pub(super) since: Instant,
    /// It was told that it waits.
    pub(super) told: bool,
}

/// What a server is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It is being opened.
    Opening,
    /// Nobody has it.
    Idle,
    /// A client has it.
    Lent,
    /// It is lent no more: it listens for many clients.
    Apart,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Server {
    pub(super) pool: PoolId,
    pub(super) stage: Stage,
    /// When it was opened.
    pub(super) opened: Instant,
    /// Since when it does what it does.
    pub(super) since: Instant,
    pub(super) outdated: bool,
}

#[derive(Debug)]
pub(super) struct Pool {
    pub(super) bounds: Bounds,
    /// Its places, of all workers.
    pub(super) claim: Claim,
    pub(super) queue: VecDeque<Waiting>,
    /// The one that was returned last is at the end.
    pub(super) idle: Vec<ServerId>,
    /// Open or being opened.
    pub(super) open: usize,
    pub(super) opening: usize,
    /// The last attempt failed: the next one is made then.
    pub(super) retry_at: Option<Instant>,
    /// Nothing is lent until it is resumed.
    pub(super) paused: bool,
    /// What was lent so far.
    pub(super) lendings: Lendings,
}

impl Pool {
    pub(super) fn new(bounds: Bounds, claim: Claim) -> Pool {
        Pool {
            bounds,
            claim,
            queue: VecDeque::new(),
            idle: Vec::new(),
            open: 0,
            opening: 0,
            retry_at: None,
            paused: false,
            lendings: Lendings::default(),
        }
    }

    /// How many servers it may have now, in all workers.
    pub(super) fn room(&self, now: Instant) -> usize {
        let long = |w: &Waiting| now.saturating_duration_since(w.since) >= self.bounds.reserve_after;
        let reserve = if self.queue.front().is_some_and(long) { self.bounds.reserve } else { 0 };
        // With less than before, one is left to be lent.
        (self.bounds.servers_max + reserve).max(self.claim.apart() + 1)
    }

    /// Since when the client has waited for whom one more server is to be opened, if there is a place.
    pub(super) fn lacks(&self, now: Instant) -> Option<Instant> {
        let first = self.queue.front()?;
        let may = !self.paused && self.retry_at.is_none_or(|at| at <= now);
        (may && self.queue.len() > self.opening).then_some(first.since)
    }
}

impl Lending {
    /// Gives idle servers to those who wait, and opens more where that is allowed.
    pub(super) fn serve(&mut self, id: PoolId, now: Instant) {
        let Some(pool) = self.pools.get_mut(id.0 as usize) else { return };
        while let (Some(waiting), Some(server)) = (pool.queue.front().copied(), pool.idle.last().copied()) {
            pool.queue.pop_front();
            pool.idle.pop();
            let Some(Some(state)) = self.servers.get_mut(server.0 as usize) else { continue };
            (state.stage, state.since) = (Stage::Lent, now);
            pool.lendings.count += 1;
            pool.lendings.waited += now.saturating_duration_since(waiting.since);
            self.deeds.push(Deed::Lend { client: waiting.client, server });
        }
        while self.open_one(id, now) {}
    }

    /// The client that has waited longest gets the place that has become free.
    pub(super) fn serve_longest_waiting(&mut self, now: Instant) {
        let waits = |pool: &Pool| pool.lacks(now).filter(|_| pool.claim.is_free(pool.room(now)));
        while self.all.is_free(self.open_limit()) {
            let longest = self.pools.iter().enumerate().filter_map(|(id, p)| Some((waits(p)?, id))).min();
            let Some((_, id)) = longest else { return };
            if !self.open_one(PoolId(u32::try_from(id).unwrap_or(u32::MAX)), now) {
                return;
            }
        }
    }

    /// Opens one more server for those who wait, if there are places of the pool and of all; the idle one of another pool
    /// that was used least recently may have to go.
    fn open_one(&mut self, id: PoolId, now: Instant) -> bool {
        let open_limit = self.open_limit();
        let pool = &self.pools[id.0 as usize];
        let (room, lacks) = (pool.room(now), pool.lacks(now));
        let Some(since) = lacks.filter(|_| pool.claim.is_free(room)) else { return false };
        let gives_way = match self.all.take(open_limit, since) {
            true => None,
            false => match self.least_needed(id) {
                Some(server) => Some(server),
                None => return false,
            },
        };
        if !self.pools[id.0 as usize].claim.take(room, since) {
            if gives_way.is_none() {
                self.deeds.extend(self.all.put_back().map(|worker| Deed::Call { worker }));
            }
            return false;
        }
        if let Some(server) = gives_way {
            self.all.take_in_exchange();
            self.close(server, Why::Displaced);
        }
        self.begin_opening(id, now);
        true
    }

    /// The idle server of another pool that was used least recently.
    fn least_needed(&self, id: PoolId) -> Option<ServerId> {
        let of_other = |(number, pool): (usize, &Pool)| {
            let server = *pool.idle.first().filter(|_| number != id.0 as usize && pool.queue.is_empty())?;
            let since = self.servers.get(server.0 as usize)?.as_ref()?.since;
            Some((since, server))
        };
        self.pools.iter().enumerate().filter_map(of_other).min().map(|(_, server)| server)
    }

    /// Its places are taken.
    fn begin_opening(&mut self, id: PoolId, now: Instant) {
        let number = self.free.pop().unwrap_or_else(|| {
            self.servers.push(None);
            u32::try_from(self.servers.len() - 1).unwrap_or(u32::MAX)
        });
        let server = Server { pool: id, stage: Stage::Opening, opened: now, since: now, outdated: false };
        self.servers[number as usize] = Some(server);
        let pool = &mut self.pools[id.0 as usize];
        pool.open += 1;
        pool.opening += 1;
        self.deeds.push(Deed::Open { pool: id, server: ServerId(number) });
    }

    /// Those who wait for long are told, or given up.
    pub(super) fn mind_queue(&mut self, id: PoolId, now: Instant) {
        let pool = &mut self.pools[id.0 as usize];
        let waited = |w: &Waiting| now.saturating_duration_since(w.since);
        while let Some(first) = pool.queue.front().filter(|w| waited(w) >= pool.bounds.query_wait) {
            self.deeds.push(Deed::GiveUp { client: first.client, waited: waited(first) });
            pool.lendings.given_up += 1;
            pool.queue.pop_front();
        }
        if pool.paused {
            return;
        }
        let notice_after = pool.bounds.notice_after;
        for waiting in pool.queue.iter_mut().take_while(|w| waited(w) >= notice_after).filter(|w| !w.told) {
            waiting.told = true;
            self.deeds.push(Deed::Notice { client: waiting.client });
        }
    }

    /// Idle servers that are not needed, or old, are closed.
    pub(super) fn mind_idle(&mut self, id: PoolId, now: Instant) {
        let (bounds, idle) = {
            let pool = &self.pools[id.0 as usize];
            (pool.bounds.clone(), pool.idle.clone())
        };
        for server in idle {
            let Some(state) = self.server_mut(server) else { continue };
            let (idle_for, age) =
                (now.saturating_duration_since(state.since), now.saturating_duration_since(state.opened));
            if age >= bounds.age_max {
                self.close(server, Why::Old);
            } else if idle_for >= bounds.idle_max
                && self.pools[id.0 as usize].claim.taken() > bounds.servers_min
            {
                self.close(server, Why::Idle);
            }
        }
    }

    /// Servers that are to be open though nobody needs them, one at a time, so that each worker has some of them. Where the
    /// last attempt failed, a client has to come first: its login may be no good any more.
    pub(super) fn keep_minimum(&mut self, id: PoolId, now: Instant) {
        let open_limit = self.open_limit();
        let pool = &mut self.pools[id.0 as usize];
        let minimum = pool.bounds.servers_min.min(pool.bounds.servers_max);
        if pool.paused || pool.retry_at.is_some() || !pool.claim.take(minimum, now) {
            return;
        }
        match self.all.take(open_limit, now) {
            true => self.begin_opening(id, now),
            false => self.deeds.extend(pool.claim.put_back().map(|worker| Deed::Call { worker })),
        }
    }

    /// When time alone brings something next.
    pub(super) fn next_tick(&self, now: Instant) -> Option<Instant> {
        let of_pool = |pool: &Pool| {
            let first = pool.queue.front();
            let untold = pool.queue.iter().find(|w| !w.told);
            let idle = pool.idle.iter().filter_map(|id| self.servers.get(id.0 as usize)?.as_ref());
            let bounds = pool.bounds.clone();
            let closes = idle.map(move |s| (s.since + bounds.idle_max).min(s.opened + bounds.age_max));
            let times = [
                first.map(|w| w.since + pool.bounds.query_wait),
                first.map(|w| w.since + pool.bounds.reserve_after),
                untold.map(|w| w.since + pool.bounds.notice_after),
                pool.retry_at,
            ];
            times.into_iter().flatten().chain(closes).filter(|at| *at > now).min()
        };
        self.pools.iter().filter_map(of_pool).min()
    }
}
