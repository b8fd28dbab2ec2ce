//! Pools that are paused, and servers that are to be replaced.

use super::pool::Stage;
use super::{Lending, PoolId, ServerId, Why};
use std::time::Instant;

impl Lending {
    /// Nothing of this pool is lent any more, and no server opened for it: who wants one waits. What is idle is closed,
    /// what is lent when it comes back.
    pub fn pause(&mut self, pool: PoolId) {
        let Some(found) = self.pools.get_mut(pool.0 as usize) else { return };
        found.paused = true;
        for server in found.idle.clone() {
            self.close(server, Why::Paused);
        }
    }

    /// The pool lends again.
    pub fn resume(&mut self, pool: PoolId, now: Instant) {
        let Some(found) = self.pools.get_mut(pool.0 as usize) else { return };
        found.paused = false;
        self.serve(pool, now);
    }

    /// No server of this pool that is open or being opened now is lent again.
    pub fn renew_pool(&mut self, pool: PoolId) {
        self.renew_those(|of| of == pool);
    }

    pub(super) fn renew_those(&mut self, is_meant: impl Fn(PoolId) -> bool) {
        for id in 0..self.servers.len() {
            let id = ServerId(u32::try_from(id).unwrap_or(u32::MAX));
            let Some(server) = self.server_mut(id).filter(|server| is_meant(server.pool)) else { continue };
            server.outdated = true;
            if server.stage == Stage::Idle {
                self.close(id, Why::Outdated);
            }
        }
    }
}
