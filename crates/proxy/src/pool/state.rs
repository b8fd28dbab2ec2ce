//! Which server connections are open, in which epoch, and by which key each can be cancelled. Pure.
//!
//! Bounded: at most `connections_max` connections, and one key for each.

use cluster::view::Server;
use pgwire::CancelKey;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Names one open connection; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionId(u64);

#[derive(Debug)]
struct Connection {
    server: Arc<Server>,
    epoch: u64,
    key: Option<CancelKey>,
}

/// See the module.
#[derive(Debug)]
pub struct PoolState {
    connections_max: usize,
    next: u64,
    open: BTreeMap<ConnectionId, Connection>,
    by_key: HashMap<CancelKey, ConnectionId>,
    by_epoch: BTreeMap<u64, usize>,
}

impl PoolState {
    /// An empty pool.
    pub fn new(connections_max: usize) -> PoolState {
        let (open, by_key, by_epoch) = (BTreeMap::new(), HashMap::new(), BTreeMap::new());
        PoolState { connections_max, next: 0, open, by_key, by_epoch }
    }

    /// Registers a connection; `None` if the pool is full.
    pub fn opened(&mut self, server: Arc<Server>, epoch: u64) -> Option<ConnectionId> {
        if self.open.len() >= self.connections_max {
            return None;
        }
        let id = ConnectionId(self.next);
        self.next += 1;
        self.open.insert(id, Connection { server, epoch, key: None });
        *self.by_epoch.entry(epoch).or_insert(0) += 1;
        Some(id)
    }

    /// Records the connection's cancel key, in place of an earlier one.
    pub fn set_key(&mut self, id: ConnectionId, key: CancelKey) {
        let Some(connection) = self.open.get_mut(&id) else { return };
        if let Some(old) = connection.key.replace(key.clone()) {
            self.by_key.remove(&old);
        }
        self.by_key.insert(key, id);
    }

    /// Takes a connection out.
    pub fn closed(&mut self, id: ConnectionId) {
        let Some(connection) = self.open.remove(&id) else { return };
        // Two servers may give out the same key; then it belongs to the later connection.
        if let Some(key) = connection.key
            && self.by_key.get(&key) == Some(&id)
        {
            self.by_key.remove(&key);
        }
        if let Some(count) = self.by_epoch.get_mut(&connection.epoch) {
            *count -= 1;
            if *count == 0 {
                self.by_epoch.remove(&connection.epoch);
            }
        }
    }

    /// The server that gave out `key`.
    pub fn server_of(&self, key: &CancelKey) -> Option<Arc<Server>> {
        self.by_key.get(key).and_then(|id| self.open.get(id)).map(|c| Arc::clone(&c.server))
    }

    /// Number of open connections of epochs before `epoch`.
    pub fn older_than(&self, epoch: u64) -> usize {
        self.by_epoch.range(..epoch).map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(node: &str) -> Arc<Server> {
        Arc::new(Server { node: node.into(), host: "127.0.0.1".into(), port: 5432 })
    }

    fn key(pid: u32) -> CancelKey {
        CancelKey::parse(&[&pid.to_be_bytes()[..], b"abcd"].concat()).unwrap()
    }

    #[test]
    fn keys_lead_to_their_server_while_it_is_open() {
        let mut pool = PoolState::new(10);
        let (a, b) = (pool.opened(server("n1"), 1).unwrap(), pool.opened(server("n2"), 2).unwrap());
        pool.set_key(a, key(1));
        pool.set_key(b, key(2));
        assert_eq!(pool.server_of(&key(1)).unwrap().node, "n1");
        assert_eq!(pool.server_of(&key(2)).unwrap().node, "n2");
        pool.closed(a);
        assert_eq!(pool.server_of(&key(1)), None);
        pool.set_key(a, key(3));
        assert_eq!(pool.server_of(&key(3)), None, "a closed connection gets no key");
    }

    #[test]
    fn a_key_given_twice_stays_with_the_later_connection() {
        let mut pool = PoolState::new(10);
        let (a, b) = (pool.opened(server("n1"), 1).unwrap(), pool.opened(server("n2"), 2).unwrap());
        pool.set_key(a, key(1));
        pool.set_key(b, key(1));
        pool.closed(a);
        assert_eq!(pool.server_of(&key(1)).unwrap().node, "n2");
        pool.set_key(b, key(9));
        assert_eq!(pool.server_of(&key(1)), None);
    }

    #[test]
    fn counts_by_epoch_and_is_bounded() {
        let mut pool = PoolState::new(3);
        let ids: Vec<_> = [1, 1, 2].iter().map(|&e| pool.opened(server("n1"), e).unwrap()).collect();
        assert_eq!(pool.opened(server("n1"), 2), None);
        assert_eq!((pool.older_than(1), pool.older_than(2), pool.older_than(3)), (0, 2, 3));
        for id in ids {
            pool.closed(id);
            pool.closed(id);
        }
        assert_eq!(pool.older_than(u64::MAX), 0);
        assert!(pool.by_epoch.is_empty() && pool.by_key.is_empty());
    }
}
