//! A server that is lent to no single client any more: it listens for many. It counts as open, and is closed when it comes
//! back.

use super::pool::Stage;
use super::{Lending, PoolId, ServerId};
use std::time::Instant;

impl Lending {
    /// Sets a server apart that is lent, if another one of its pool is left to be lent, and another one of all. Whether it
    /// was.
    pub fn set_apart(&mut self, server: ServerId, now: Instant) -> bool {
        let of_all = self.open_max.saturating_sub(1);
        let Some(Some(state)) = self.servers.get_mut(server.0 as usize) else { return false };
        let pool = &self.pools[state.pool.0 as usize];
        if state.stage != Stage::Lent
            || state.outdated
            || !pool.claim.set_apart(pool.bounds.servers_max.saturating_sub(1))
        {
            return false;
        }
        if !self.all.set_apart(of_all) {
            pool.claim.end_apart();
            return false;
        }
        (state.stage, state.since) = (Stage::Apart, now);
        true
    }

    /// A server of this pool is not apart any more.
    pub(super) fn end_apart(&self, pool: PoolId) {
        self.pools[pool.0 as usize].claim.end_apart();
        self.all.end_apart();
    }

    /// Most servers of all pools: with less than before, one is left to be lent.
    pub(super) fn open_limit(&self) -> usize {
        self.open_max.max(self.all.apart() + 1)
    }
}
