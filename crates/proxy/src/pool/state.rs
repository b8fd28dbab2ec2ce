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
    keys: Option<Keys>,
}

/// The two differ once a session has moved to another server.
#[derive(Debug)]
struct Keys {
    of_client: CancelKey,
    of_server: CancelKey,
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
        self.open.insert(id, Connection { server, epoch, keys: None });
        *self.by_epoch.entry(epoch).or_insert(0) += 1;
        Some(id)
    }

    /// Records by which key the client cancels and which one the server knows, in place of earlier ones.
    pub fn set_keys(&mut self, id: ConnectionId, of_client: CancelKey, of_server: CancelKey) {
        let Some(connection) = self.open.get_mut(&id) else { return };
        if let Some(old) = connection.keys.replace(Keys { of_client: of_client.clone(), of_server }) {
            self.by_key.remove(&old.of_client);
        }
        self.by_key.insert(of_client, id);
    }

    /// The key by which the connection's client cancels.
    pub fn key_of_client(&self, id: ConnectionId) -> Option<CancelKey> {
        self.open.get(&id)?.keys.as_ref().map(|keys| keys.of_client.clone())
    }

    /// Takes a connection out.
    pub fn closed(&mut self, id: ConnectionId) {
        let Some(connection) = self.open.remove(&id) else { return };
        // Two servers may give out the same key; then it belongs to the later connection.
        if let Some(Keys { of_client, .. }) = connection.keys
            && self.by_key.get(&of_client) == Some(&id)
        {
            self.by_key.remove(&of_client);
        }
        if let Some(count) = self.by_epoch.get_mut(&connection.epoch) {
            *count -= 1;
            if *count == 0 {
                self.by_epoch.remove(&connection.epoch);
            }
        }
    }

    /// The server on which the client that was given `key` has its session, and the key that this server knows.
    pub fn cancels(&self, key: &CancelKey) -> Option<(Arc<Server>, CancelKey)> {
        let connection = self.by_key.get(key).and_then(|id| self.open.get(id))?;
        let keys = connection.keys.as_ref()?;
        Some((Arc::clone(&connection.server), keys.of_server.clone()))
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
        pool.set_keys(a, key(1), key(1));
        pool.set_keys(b, key(2), key(2));
        assert_eq!(pool.cancels(&key(1)).unwrap().0.node, "n1");
        assert_eq!(pool.cancels(&key(2)).unwrap().0.node, "n2");
        pool.closed(a);
        assert_eq!(pool.cancels(&key(1)), None);
        pool.set_keys(a, key(3), key(3));
        assert_eq!(pool.cancels(&key(3)), None, "a closed connection gets no key");
    }

    #[test]
    fn a_key_given_twice_stays_with_the_later_connection() {
        let mut pool = PoolState::new(10);
        let (a, b) = (pool.opened(server("n1"), 1).unwrap(), pool.opened(server("n2"), 2).unwrap());
        pool.set_keys(a, key(1), key(1));
        pool.set_keys(b, key(1), key(1));
        pool.closed(a);
        assert_eq!(pool.cancels(&key(1)).unwrap().0.node, "n2");
        pool.set_keys(b, key(9), key(9));
        assert_eq!(pool.cancels(&key(1)), None);
    }

    #[test]
    fn a_moved_session_is_cancelled_by_the_key_that_its_client_was_given() {
        let mut pool = PoolState::new(10);
        let old = pool.opened(server("n1"), 1).unwrap();
        pool.set_keys(old, key(1), key(1));
        assert_eq!(pool.key_of_client(old), Some(key(1)));
        pool.closed(old);
        assert_eq!((pool.cancels(&key(1)), pool.key_of_client(old)), (None, None));
        let new = pool.opened(server("n2"), 2).unwrap();
        pool.set_keys(new, key(1), key(7));
        let (server, of_server) = pool.cancels(&key(1)).unwrap();
        assert_eq!((server.node.as_str(), of_server), ("n2", key(7)));
        assert_eq!(pool.cancels(&key(7)), None);
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
