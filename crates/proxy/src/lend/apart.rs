//! A server that is lent to no single client any more: it listens for many. It counts as open, and is closed when it comes
//! back.

use super::pool::Stage;
use super::{Lending, ServerId};
use std::time::Instant;

impl Lending {
    /// Sets a server apart that is lent, if another one of its pool is left to be lent, and another one of all. Whether it
    /// was.
    pub fn set_apart(&mut self, server: ServerId, now: Instant) -> bool {
        let (of_all, open_max) = (self.apart(), self.open_max);
        let Some(state) = self.server_mut(server).filter(|s| s.stage == Stage::Lent && !s.outdated) else {
            return false;
        };
        let pool = state.pool.0 as usize;
        let of_pool = &self.pools[pool];
        if of_pool.apart + 1 >= of_pool.bounds.servers_max || of_all + 1 >= open_max {
            return false;
        }
        self.pools[pool].apart += 1;
        if let Some(state) = self.server_mut(server) {
            (state.stage, state.since) = (Stage::Apart, now);
        }
        true
    }

    /// Servers that are set apart.
    pub(super) fn apart(&self) -> usize {
        self.pools.iter().map(|pool| pool.apart).sum()
    }
}
