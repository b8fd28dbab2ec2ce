//! Cancel requests for clients of another proxy. What stands before the proxies of a cluster (an address that moves, a balancer)
//! may lead a client's cancel request to another proxy than its session; that one knows no such key, and asks the others.
//!
//! A request goes on once at most: a key that is passed on has the highest bit of its process id set, which no process id has.
//! Whoever sets it without being a proxy is only not helped any further. The list may name the proxy itself, so that all of them
//! can have the same one.

use crate::ring::Ring;
use crate::worker::Worker;
use pgwire::{CancelKey, encode_cancel_request};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Requests that one worker passes on to one proxy at the same time: a flood of wrong ones must not become a larger flood
/// elsewhere. A proxy that is silent has only its own places taken.
pub const AT_ONCE_MAX: usize = 16;

/// Places for requests that are passed on, of each proxy.
#[derive(Debug, Default)]
pub struct PassingOn(HashMap<String, Arc<Semaphore>>);

impl PassingOn {
    /// A place for a request to each of `peers` that has one free.
    fn places(&mut self, peers: &[String]) -> Vec<(String, OwnedSemaphorePermit)> {
        self.0.retain(|known, _| peers.contains(known));
        let place = |peer: &String| {
            let places = self.0.entry(peer.clone()).or_insert_with(|| Arc::new(Semaphore::new(AT_ONCE_MAX)));
            match Arc::clone(places).try_acquire_owned() {
                Ok(place) => Some((peer.clone(), place)),
                Err(_) => {
                    tracing::debug!(
                        "a cancel request is not passed on to {peer}: {AT_ONCE_MAX} others are on their way"
                    );
                    None
                }
            }
        };
        peers.iter().filter_map(place).collect()
    }
}

/// Set in the process id of a key that is passed on.
const PASSED_ON: u8 = 0x80;

/// A key as its client has it, and whether another proxy has passed it on.
pub fn read(key: &CancelKey) -> (CancelKey, bool) {
    let mut bytes = key.to_bytes();
    let was_passed_on = bytes[0] & PASSED_ON != 0;
    bytes[0] &= !PASSED_ON;
    (CancelKey::parse(&bytes).unwrap_or_else(|| key.clone()), was_passed_on)
}

fn marked(key: &CancelKey) -> CancelKey {
    let mut bytes = key.to_bytes();
    bytes[0] |= PASSED_ON;
    CancelKey::parse(&bytes).unwrap_or_else(|| key.clone())
}

/// Asks all other proxies to cancel what has this key; returns when each has done so, or does not answer in time.
pub async fn ask(key: &CancelKey, worker: &Worker) {
    let settings = &worker.shared.settings();
    if settings.peers.is_empty() {
        return;
    }
    let places = worker.passing_on.borrow_mut().places(&settings.peers);
    let packet = encode_cancel_request(&marked(key));
    let mut asked = JoinSet::new();
    for (peer, place) in places {
        let (packet, limit) = (packet.clone(), settings.connect_timeout);
        asked.spawn(async move {
            let _place = place;
            let told = timeout(limit, tell(&peer, &packet)).await;
            let told = told.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)));
            if let Err(error) = told {
                tracing::debug!("the proxy at {peer} cannot be asked to cancel a statement: {error}");
            }
        });
    }
    let all = async { while asked.join_next().await.is_some() {} };
    Ring::beside(worker.ring.as_ref(), all).await;
}

/// It closes the connection when it has done what it can.
async fn tell(peer: &str, packet: &[u8]) -> io::Result<()> {
    let mut stream = TcpStream::connect(peer).await?;
    stream.write_all(packet).await?;
    stream.read(&mut [0]).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_proxy_takes_only_its_own_places() {
        let mut passing_on = PassingOn::default();
        let peers = ["silent:1".to_owned(), "quick:1".to_owned()];
        let mut waiting = Vec::new();
        for _ in 0..AT_ONCE_MAX {
            let places = passing_on.places(&peers);
            assert_eq!(places.len(), 2);
            waiting.extend(places.into_iter().filter(|(peer, _)| peer == "silent:1"));
        }
        for _ in 0..2 * AT_ONCE_MAX {
            let places = passing_on.places(&peers);
            assert_eq!(places.iter().map(|(peer, _)| peer.as_str()).collect::<Vec<_>>(), ["quick:1"]);
        }
        waiting.pop();
        assert_eq!(passing_on.places(&peers).len(), 2);
        assert_eq!(passing_on.places(&peers[1..]).len(), 1);
        assert_eq!(passing_on.0.len(), 1, "who is not named any more is forgotten");
    }

    #[test]
    fn a_key_that_is_passed_on_reads_back_as_its_client_s() {
        for secret_len in [4, 32] {
            let mut bytes = vec![9; 4 + secret_len];
            bytes[0] = 0x7f;
            let key = CancelKey::parse(&bytes).unwrap();
            assert_eq!(read(&key), (key.clone(), false));
            assert_ne!(marked(&key), key);
            assert_eq!(read(&marked(&key)), (key.clone(), true));
            assert_eq!(marked(&marked(&key)), marked(&key));
        }
    }
}
