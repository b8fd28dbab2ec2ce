//! The store in an etcd (3.4 or later) that runs beside the agents, asked by its JSON gateway.
//!
//! - The key `state` holds the recorded state. Only the leader changes it: it applies a command to what it knows, and writes
//!   the outcome on condition that nobody has changed `state` meanwhile and that it still leads.
//! - The key `leader` names who leads. It is put on condition that it is as it was seen; its `mod_revision` is the term.
//!   It is bound to a lease of etcd, so it goes some time after its holder.
//! - The keys `members/NAME` say which directory a name belongs to.
//!
//! Every transaction ends with a look at both keys ([`wire`]), [`sight`] says what follows from it. Each agent looks all the
//! time; a watch of etcd does nothing but ring for the next look, so no gap in it, no compaction and no lost connection can
//! make anybody miss anything but time ([`follow`]). [`succession`] says who leads next, [`peers`] is what the agents tell each
//! other about it, [`lead`] is what only a leader does, [`memory`] is the node's own file, [`member`] claims its name, [`client`]
//! asks etcd.
//!
//! # Why no lease of a primary outlives what a later leader waits for
//!
//! A leader's *round* is a transaction of its own that etcd answered and that found the leader's key as this leader put it.
//! Its age counts from the moment it was SENT. A primary's lease ends at the latest one lease after the round was sent from
//! which it was granted (`cluster::lease`).
//!
//! 1. Such a transaction is linearizable. It found the key of term *c* at some point of etcd's history that lies between its
//!    sending and its answer.
//! 2. The key of a later term *d* was put by a transaction at another point. The key was never that of *c* again afterwards:
//!    every put gives it a new revision, and leaders that write do so on condition of theirs.
//! 3. So the round's point lies before that of *d*, and the round was sent before *d* was put, which is before the leader of
//!    *d* knows that it leads. This holds in real time; no clock has been compared with another one.
//! 4. The leader of *d* counts `lease × (1 + 2 × drift)` from when it knows (`Observations::leading_since`) before it relies on
//!    the end of a lease that others gave. All of these were sent before, so all have ended.
//!
//! etcd's own leases do not occur in this. A keep-alive is no round: it says that the lease is there, not that the key is. When
//! etcd ends a lease too early, somebody deletes the key, or another agent takes it over from a leader that is well, the worst
//! is a change of leadership. A leader that is frozen or cut off grants nothing that lasts: its last round gets older, by
//! a clock that goes on while the host sleeps. What it wanted to record fails, because its term is over.
//!
//! What is not covered: an etcd that loses what it confirmed (restored from a backup under running agents). An agent that
//! knows a later state than etcd has takes nothing over and does not lead.

mod begin;
mod client;
mod follow;
mod lead;
mod member;
mod memory;
mod peers;
mod sight;
mod succession;
mod wire;

pub(super) use begin::{leave_mark, look, take_mark};
pub(super) use memory::FILE;

use super::error::StoreError;
use super::moving::Opening;
use super::options::{EtcdKeys, EtcdOptions, StoreOptions};
use super::standing::Standing;
use crate::clock::boottime_ms;
use client::{Caller, EtcdError, Members};
use cluster::NodeName;
use cluster::state::State;
use memory::Memory;
use peers::Peers;
use serde_json::json;
use sight::{Sight, Taken};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use wire::{Claim, TxnAnswer, When, Write};

/// This node's part of the store.
pub(super) struct Etcd {
    /// What the record begins with here, if it comes from another store.
    opening: Option<Opening>,
    /// The directory of that of all stores.
    stores: PathBuf,
    /// Whether it surely has begun.
    begun: AtomicBool,
    cluster: String,
    /// What this agent writes into the leader's key.
    me: Claim,
    address: String,
    /// The members as configured.
    configured: BTreeMap<NodeName, String>,
    detect: Duration,
    /// How the other agents are called.
    agents: identity::Caller,
    keys: EtcdKeys,
    servers: Arc<Members>,
    memory: Arc<Memory>,
    since: u64,
    sight: Mutex<Sight>,
    state: watch::Sender<Arc<State>>,
    standing: watch::Sender<Standing>,
    /// The lease of etcd that this agent keeps.
    lease: Mutex<Option<i64>>,
    /// Why the last transaction had no answer.
    trouble: Mutex<Option<String>>,
    /// What the node waits for before it belongs to the store.
    founding: Mutex<Option<String>>,
    peers: Peers,
    /// One proposal at a time.
    proposing: tokio::sync::Mutex<Caller>,
    bells: Arc<follow::Bells>,
    formed: AtomicBool,
    may_lead: AtomicBool,
    closed: AtomicBool,
}

impl Etcd {
    /// Opens the node's own file and begins to look.
    pub(super) async fn open(options: StoreOptions, etcd: EtcdOptions) -> Result<Arc<Etcd>, StoreError> {
        let StoreOptions {
            dir,
            cluster,
            node,
            address,
            members: configured,
            detect,
            caller: agents,
            opening,
            ..
        } = options;
        let stores = dir.parent().map(Path::to_owned).unwrap_or_default();
        let (of, name) = (cluster.clone(), node.clone());
        let opened = tokio::task::spawn_blocking(move || Memory::open(&dir, &of, &name)).await;
        let memory = Arc::new(opened.map_err(|e| StoreError::Gone(e.to_string()))??);
        let me = Claim { node, run: uuid::Uuid::now_v7().to_string() };
        let keys = EtcdKeys::new(&etcd.prefix);
        let servers = Members::new(etcd);
        // One member that hangs must not use up a leader's lease, nor the patience of the others.
        let limit = (detect / 8).clamp(Duration::from_millis(150), Duration::from_secs(2));
        let begun = opening.as_ref().is_none_or(|opening| opening.begun);
        let known = newest(memory.kept().state, opening.as_ref());
        let store = Arc::new(Etcd {
            opening,
            stores,
            begun: AtomicBool::new(begun),
            cluster,
            sight: Mutex::new(Sight::new(me.clone())),
            me,
            address,
            configured,
            detect,
            agents,
            keys,
            state: watch::Sender::new(Arc::new(known)),
            memory,
            since: boottime_ms(),
            standing: watch::Sender::default(),
            lease: Mutex::default(),
            trouble: Mutex::default(),
            founding: Mutex::default(),
            peers: Peers::new(),
            proposing: tokio::sync::Mutex::new(Caller::new(&servers, 2 * limit)),
            servers,
            bells: Arc::default(),
            formed: AtomicBool::new(false),
            may_lead: AtomicBool::new(true),
            closed: AtomicBool::new(false),
        });
        follow::start(&store, limit);
        Ok(store)
    }

    /// The routes for the other agents.
    pub(super) fn router(self: &Arc<Self>) -> axum::Router {
        peers::router(self.clone())
    }

    pub(super) fn state(&self) -> watch::Receiver<Arc<State>> {
        self.state.subscribe()
    }

    pub(super) fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    pub(super) fn may_lead(&self, may: bool) {
        self.may_lead.store(may, Ordering::Relaxed);
        self.bells.look.notify_one();
    }

    pub(super) fn quorum_age(&self) -> Option<Duration> {
        let sight = self.sight();
        sight.round_age(boottime_ms()).filter(|_| self.able(&sight)).map(Duration::from_millis)
    }

    pub(super) fn silent_peers(&self) -> BTreeMap<NodeName, Duration> {
        let standing = self.standing.borrow().clone();
        let members = self.members();
        let others = members.keys().filter(|node| **node != self.me.node);
        let silence = |node: &NodeName| match self.sight().term() {
            Some(term) if standing.leader.as_ref() == Some(node) => {
                let heard = self.peers.leader_heard_at(term).unwrap_or(self.since);
                Duration::from_millis(boottime_ms().saturating_sub(heard))
            }
            _ => self.peers.silence(node),
        };
        others
            .filter(|node| standing.leading || standing.leader.as_ref().is_none_or(|leader| leader == *node))
            .map(|node| (node.clone(), silence(node)))
            .collect()
    }

    fn sight(&self) -> MutexGuard<'_, Sight> {
        self.sight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lease(&self) -> Option<i64> {
        *self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_lease(&self, lease: Option<i64>) {
        *self.lease.lock().unwrap_or_else(PoisonError::into_inner) = lease;
    }

    /// Whether this agent may lead.
    fn able(&self, sight: &Sight) -> bool {
        let willing = self.may_lead.load(Ordering::Relaxed) && !self.closed.load(Ordering::Relaxed);
        willing && self.formed.load(Ordering::Relaxed) && sight.refused().is_none()
    }

    /// Between two signs of a leader that is well.
    fn every(&self) -> Duration {
        (self.detect / 15).max(Duration::from_millis(20))
    }

    /// After how long a silent leader is replaced.
    fn patience(&self) -> Duration {
        (self.detect / 3).max(Duration::from_millis(100))
    }

    /// One transaction, and what it saw. Returns whether its conditions were met.
    async fn exchange(
        &self,
        caller: &mut Caller,
        when: &[When<'_>],
        writes: &[Write<'_>],
    ) -> Result<bool, EtcdError> {
        let known = self.sight().state_at();
        let body = wire::txn(&self.keys, when, writes, known);
        let answer = caller.call::<TxnAnswer>(wire::TXN, &body).await.and_then(|answer| {
            let succeeded = answer.succeeded;
            // It may have been carried out all the same.
            answer.snapshot().map(|found| (succeeded, found)).map_err(EtcdError::Unanswered)
        });
        let outcome = match answer {
            Ok((succeeded, found)) => {
                self.take(found, caller.sent_ms());
                Ok(succeeded)
            }
            Err(e) => {
                // A refused write says nothing of the way to etcd.
                if writes.is_empty() || matches!(e, EtcdError::Unanswered(_)) {
                    self.sight().miss();
                    *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(e.to_string());
                }
                Err(e)
            }
        };
        self.publish();
        outcome
    }

    fn take(&self, mut found: wire::Snapshot, sent: u64) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let mut sight = self.sight();
        // Nobody has lost what has not begun. Until it has, this agent does not lead.
        if !self.begun.load(Ordering::Relaxed) && found.state == wire::Found::Absent {
            found.state = wire::Found::Unchanged;
        }
        let known = self.state.borrow().clone();
        match sight.see(&self.cluster, &known, found, (sent, boottime_ms())) {
            Taken::Nothing => {}
            // While what was seen is locked: the state is there before anybody sees this agent lead.
            Taken::State(state) => {
                self.state.send_if_modified(|was| {
                    let changed = **was != *state;
                    if changed {
                        *was = Arc::new(*state);
                    }
                    changed
                });
            }
            Taken::LookAgain => self.bells.look.notify_one(),
        }
    }

    /// The record has begun: from now on an etcd without it has lost it.
    pub(super) fn has_begun(&self) {
        let _sight = self.sight();
        self.begun.store(true, Ordering::Relaxed);
    }

    /// All members with their addresses: the configured ones and those that were let in, without those that were struck out.
    fn members(&self) -> BTreeMap<NodeName, String> {
        let state = self.state.borrow();
        let mut members = self.configured.clone();
        members.extend(state.admitted.iter().map(|(name, seat)| (name.clone(), seat.address.clone())));
        members.retain(|name, _| !state.removed.contains(name));
        members
    }

    /// Publishes the standing, when it changed.
    fn publish(&self) {
        self.standing.send_if_modified(|was| {
            // Made while the old one is locked, so that the last one made is the last one told.
            let now = self.standing_now();
            let changed = *was != now;
            *was = now;
            changed
        });
    }

    fn standing_now(&self) -> Standing {
        let now = boottime_ms();
        let detect = u64::try_from(self.detect.as_millis()).unwrap_or(u64::MAX);
        let formed = self.formed.load(Ordering::Relaxed);
        let sight = self.sight();
        let leads = sight.leads().filter(|_| self.able(&sight));
        let fresh = sight.is_fresh(now, detect);
        let leader = match sight.holder() {
            Some(_) if sight.is_mine() => leads.map(|_| self.me.node.clone()),
            Some(holder) => {
                let heard = self.peers.leader_heard_at(holder.term).unwrap_or(0).max(sight.holder_since());
                let there = fresh && now.saturating_sub(heard) < detect;
                holder.claim.as_ref().map(|c| &c.node).filter(|n| there && **n != self.me.node).cloned()
            }
            None => None,
        };
        let lock = |text: &Mutex<Option<String>>| text.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let problem = match sight.refused() {
            Some(why) => Some(why.to_owned()),
            None if fresh || now.saturating_sub(self.since) < detect => lock(&self.founding),
            None => Some(lock(&self.trouble).unwrap_or_else(|| "etcd does not answer".to_owned())),
        };
        let leader_at = leader.as_ref().and_then(|leader| self.members().remove(leader));
        Standing {
            leader,
            leader_at,
            leading: leads.is_some(),
            formed,
            voters: if formed { self.members().into_keys().collect() } else { Default::default() },
            changing: false,
            term: sight.term().unwrap_or(0),
            problem,
            removed: self.state.borrow().removed.contains(&self.me.node),
        }
    }

    pub(super) async fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        if let Some(lease) = self.lease() {
            // The leader's key goes with it: the others need not wait.
            let mut caller = Caller::new(&self.servers, Duration::from_millis(500));
            let ended = json!({"ID": lease.to_string()});
            if let Err(e) = caller.call::<serde_json::Value>(wire::REVOKE, &ended).await {
                tracing::debug!("the lease in etcd was not given back: {e}");
            }
        }
        let (memory, state) = (self.memory.clone(), self.state.borrow().clone());
        let written = tokio::task::spawn_blocking(move || {
            let written = memory.write(Some(&state));
            memory.release();
            written
        });
        if let Ok(Err(e)) = written.await {
            tracing::warn!("{e}");
        }
    }
}

/// The state to begin with: the one that this node knew last, or what the record began with.
fn newest(kept: State, opening: Option<&Opening>) -> State {
    match opening {
        Some(opening) if opening.state.revision > kept.revision => opening.state.clone(),
        Some(_) | None => kept,
    }
}
