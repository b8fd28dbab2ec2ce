//! Connections that are kept open for votes. The library asks for each vote over a new link, and an election does not have the
//! time for a handshake on a busy host.

use super::embedded::Embedded;
use crate::http::{BODY_MAX, Connection, HttpError};
use futures::future::join_all;
use identity::Caller;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::time::Instant;

/// How often it is seen to that they are open. An open one costs nothing.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Longest time to open one.
const OPEN_LIMIT: Duration = Duration::from_secs(1);

/// A connection that one call at a time may use.
type Kept = Arc<tokio::sync::Mutex<Connection>>;

/// One connection to each member.
pub(super) struct Ballots {
    caller: Caller,
    open: Mutex<BTreeMap<u64, (String, Kept)>>,
}

impl Ballots {
    pub(super) fn new(caller: &Caller) -> Ballots {
        Ballots { caller: caller.clone(), open: Mutex::default() }
    }

    fn to(&self, member: u64, address: &str) -> Kept {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, connection)) = open.get(&member)
            && known == address
        {
            return connection.clone();
        }
        let new = Arc::new(tokio::sync::Mutex::new(Connection::new(&self.caller, address, BODY_MAX)));
        open.insert(member, (address.to_owned(), new.clone()));
        new
    }

    /// Asks a member for its vote: asking twice does no harm. So what an old connection to a host that was started anew does
    /// not bring is asked over a new one.
    pub(super) async fn ask<B: Serialize + Sync, R: DeserializeOwned>(
        &self,
        (member, address): (u64, &str),
        path: &str,
        body: &B,
        limit: Duration,
    ) -> Result<R, HttpError> {
        let until = Instant::now() + limit;
        let kept = self.to(member, address);
        // Else an earlier election still waits for its answer.
        if let Ok(mut connection) = kept.try_lock() {
            match connection.post_json(path, body, limit).await {
                Err(HttpError::Broken { .. }) => {}
                answered => return answered,
            }
        }
        let left = until.saturating_duration_since(Instant::now());
        Connection::new(&self.caller, address, BODY_MAX).post_json(path, body, left).await
    }
}

/// Keeps them open, as long as the store is there.
pub(super) async fn keep_open(store: Weak<Embedded>) {
    loop {
        let Some(here) = store.upgrade() else { return };
        let members = here.members();
        here.ballots
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|id, _| members.contains_key(id));
        let others = members.iter().filter(|(id, _)| **id != here.owner.id);
        let kept: Vec<_> = others.map(|(id, peer)| here.ballots.to(*id, &peer.address)).collect();
        drop(here);
        let opening = kept.iter().map(|connection| async {
            if let Ok(mut connection) = connection.try_lock() {
                // What hinders it is told when the member is asked for something.
                let _ = connection.keep_open(OPEN_LIMIT).await;
            }
        });
        join_all(opening).await;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
