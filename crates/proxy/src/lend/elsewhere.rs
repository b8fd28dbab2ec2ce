//! What a worker does about the other ones: it wishes for a place when they have all, and gives one up when a client of
//! theirs has waited for longer than its own.
//!
//! A place goes from one worker to another by closing a server and opening one there, which costs the server some
//! milliseconds; so it goes only where that is little beside the time that a client waits.

use super::pool::Pool;
use super::{Deed, Lending, PoolId, ServerId, Why};
use std::time::{Duration, Instant};

/// A worker that has servers of the pool wishes for a further one when a client has waited so long: one of its own is
/// likely to come back before.
const WISH_AFTER: Duration = Duration::from_millis(50);

/// A place goes to another worker if the client there has waited for so much longer, or a server was idle so long here.
const AHEAD: Duration = Duration::from_millis(100);

impl Lending {
    /// Whether a server of this pool that comes back now is to make room for another worker's.
    pub(super) fn is_owed(&self, id: PoolId, now: Instant) -> bool {
        let pool = &self.pools[id.0 as usize];
        if !pool.claim.is_asked() && !self.all.is_asked() {
            return false;
        }
        let own = pool.queue.front().map_or(now, |waiting| waiting.since);
        let is_ahead = |asked: Option<Instant>| asked.is_some_and(|since| since + AHEAD <= own);
        is_ahead(self.asked_of_pool(pool)) || is_ahead(self.asked_of_all())
    }

    /// Pools of which another worker needs a server that it cannot open, for a client that has waited since before then.
    pub fn asked_since(&self, then: Instant) -> impl Iterator<Item = PoolId> {
        let is_asked = move |pool: &Pool| self.asked_of_pool(pool).is_some_and(|since| since <= then);
        (0..).map(PoolId).zip(&self.pools).filter(move |(_, pool)| is_asked(pool)).map(|(id, _)| id)
    }

    fn asked_of_pool(&self, pool: &Pool) -> Option<Instant> {
        pool.claim.asked_since().filter(|_| !pool.claim.is_free(pool.bounds.servers_max))
    }

    fn asked_of_all(&self) -> Option<Instant> {
        self.all.asked_since().filter(|_| !self.all.is_free(self.open_limit()))
    }

    /// Gives up idle servers that others need more. One for each wish at a time: the next is asked for again.
    pub(super) fn give_up_idle(&mut self, now: Instant) {
        for number in 0..self.pools.len() {
            let asked = self.asked_of_pool(&self.pools[number]);
            self.give_up(asked, number..number + 1, now);
        }
        self.give_up(self.asked_of_all(), 0..self.pools.len(), now);
    }

    fn give_up(&mut self, asked: Option<Instant>, pools: std::ops::Range<usize>, now: Instant) {
        let Some(asked) = asked else { return };
        let idle = self.pools[pools].iter().flat_map(|pool| &pool.idle);
        let since = |id: &ServerId| Some((self.servers.get(id.0 as usize)?.as_ref()?.since, *id));
        if let Some((idle_since, server)) = idle.filter_map(since).min()
            && (asked + AHEAD <= now || idle_since + AHEAD <= now)
        {
            self.close(server, Why::Elsewhere);
        }
    }

    /// Wishes for what is lacking, and for nothing else.
    pub(super) fn mind_wishes(&mut self, now: Instant) {
        let mut lacking_of_all = None;
        for number in 0..self.pools.len() {
            if let Some(since) = self.wish_of_pool(number, now) {
                lacking_of_all = lacking_of_all.into_iter().chain([since]).min();
            }
        }
        match lacking_of_all {
            Some(since) if self.all.wish(since) => self.deeds.push(Deed::Ask),
            Some(_) => {}
            None => self.all.withdraw(),
        }
    }

    /// As [`Lending::mind_wishes`], at once, of a pool without any server.
    pub(super) fn mind_first_wish(&mut self, id: PoolId, now: Instant) {
        if self.pools[id.0 as usize].open == 0
            && let Some(since) = self.wish_of_pool(id.0 as usize, now)
            && self.all.wish(since)
        {
            self.deeds.push(Deed::Ask);
        }
    }

    /// Since when a client waits that could have a place of its pool, but there is none of all.
    fn wish_of_pool(&mut self, number: usize, now: Instant) -> Option<Instant> {
        let all_are_taken = !self.all.is_free(self.open_limit());
        let pool = &mut self.pools[number];
        let is_long = |since: &Instant| pool.open == 0 || now.saturating_duration_since(*since) >= WISH_AFTER;
        let since = pool.lacks(now).filter(is_long);
        let is_free = pool.claim.is_free(pool.room(now));
        match since {
            Some(since) if !is_free => {
                if pool.claim.wish(since) {
                    self.deeds.push(Deed::Ask);
                }
                None
            }
            _ => {
                pool.claim.withdraw();
                since.filter(|_| all_are_taken)
            }
        }
    }

    /// A place of this pool can be had elsewhere.
    pub(super) fn put_back(&mut self, id: PoolId) {
        let workers = [self.pools[id.0 as usize].claim.put_back(), self.all.put_back()];
        self.deeds.extend(workers.into_iter().flatten().map(|worker| Deed::Call { worker }));
    }
}
