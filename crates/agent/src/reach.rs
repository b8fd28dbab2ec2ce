//! Asks the primary's agent, a few times per `detect`, whether it is there: every node gathers its own evidence.

use crate::clock::boottime_ms;
use crate::http::{BODY_MAX, Connection};
use crate::messages::Pong;
use cluster::{Epoch, Lsn, NodeName};
use identity::Caller;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Whom to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// In this epoch.
    pub epoch: Epoch,
    /// The node.
    pub node: NodeName,
    /// `host:port` of its agent.
    pub agent: String,
}

/// What is known of the primary's agent.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// Since when, on CLOCK_BOOTTIME, nothing newer was heard of `target`.
    pub at_ms: u64,
    /// Who it is about.
    pub target: Option<Target>,
    /// The furthest position heard of, of any primary.
    pub lsn: Option<Lsn>,
    /// When `target` was asked for that, on CLOCK_BOOTTIME; `None`: it is of an earlier one.
    pub lsn_asked_ms: Option<u64>,
    /// What the primary's standbys have flushed.
    pub flushed: BTreeMap<NodeName, Lsn>,
}

/// Shared with the loop.
pub type Shared = Arc<Mutex<Heard>>;

/// What was heard.
#[must_use]
pub fn heard(shared: &Shared) -> Heard {
    shared.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Runs until the other end of `targets` is dropped.
pub async fn ask(
    caller: Caller,
    mut targets: watch::Receiver<Option<Target>>,
    shared: Shared,
    every: Duration,
    limit: Duration,
) {
    loop {
        let target = targets.borrow_and_update().clone();
        {
            let mut heard = shared.lock().unwrap_or_else(PoisonError::into_inner);
            if heard.target != target {
                heard.at_ms = boottime_ms();
                heard.lsn_asked_ms = None;
                heard.target.clone_from(&target);
            }
        }
        match target {
            None => {
                if targets.changed().await.is_err() {
                    return;
                }
            }
            Some(target) => tokio::select! {
                () = ask_one(&caller, &target, &shared, every, limit) => {}
                changed = targets.changed() => if changed.is_err() { return },
            },
        }
    }
}

async fn ask_one(caller: &Caller, target: &Target, shared: &Shared, every: Duration, limit: Duration) {
    let mut connection = Connection::new(caller, &target.agent, BODY_MAX);
    loop {
        let asked_at_ms = boottime_ms();
        if let Ok(pong) = connection.get::<Pong>("/v1/ping", limit).await
            && pong.node == target.node
        {
            let mut heard = shared.lock().unwrap_or_else(PoisonError::into_inner);
            heard.at_ms = asked_at_ms;
            if let Some(lsn) = pong.lsn {
                heard.lsn = Some(lsn);
                heard.lsn_asked_ms = Some(asked_at_ms);
                heard.flushed = pong.flushed;
            }
        }
        tokio::time::sleep(every).await;
    }
}
