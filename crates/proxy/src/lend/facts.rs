//! What can be told of the pools and their servers, for people.

use super::pool::Stage;
use super::{ClientId, Lending, PoolId, ServerId};
use std::time::{Duration, Instant};

/// What a pool has lent so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lendings {
    /// How often a server was lent.
    pub count: u64,
    /// For how long, of those that were given back.
    pub time: Duration,
    /// How long clients have waited that were lent one in the end.
    pub waited: Duration,
    /// Clients that waited in vain.
    pub given_up: u64,
}

/// A pool at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolFacts {
    /// Servers that nobody has.
    pub idle: usize,
    /// Servers that are lent.
    pub lent: usize,
    /// Servers that are being opened.
    pub opening: usize,
    /// Clients in the queue.
    pub waiting: usize,
    /// It lends nothing.
    pub paused: bool,
    /// So far.
    pub lendings: Lendings,
}

/// A server at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerFacts {
    /// Which.
    pub id: ServerId,
    /// Whose.
    pub pool: PoolId,
    /// What it is doing.
    pub stage: Stage,
    /// Since when.
    pub since: Instant,
    /// It is closed as soon as nobody has it.
    pub outdated: bool,
}

impl Lending {
    /// A pool, if there is one of this name.
    #[must_use]
    pub fn facts(&self, pool: PoolId) -> Option<PoolFacts> {
        let pool = self.pools.get(pool.0 as usize)?;
        let idle = pool.idle.len();
        Some(PoolFacts {
            idle,
            lent: pool.open.saturating_sub(idle + pool.opening),
            opening: pool.opening,
            waiting: pool.queue.len(),
            paused: pool.paused,
            lendings: pool.lendings,
        })
    }

    /// Every server.
    pub fn server_facts(&self) -> impl Iterator<Item = ServerFacts> {
        self.servers.iter().enumerate().filter_map(|(id, server)| {
            let server = server.as_ref()?;
            Some(ServerFacts {
                id: ServerId(u32::try_from(id).ok()?),
                pool: server.pool,
                stage: server.stage,
                since: server.since,
                outdated: server.outdated,
            })
        })
    }

    /// Everybody who waits, and since when.
    pub fn waiting(&self) -> impl Iterator<Item = (ClientId, Instant)> {
        self.pools.iter().flat_map(|pool| pool.queue.iter().map(|waiting| (waiting.client, waiting.since)))
    }
}
