//! The tasks of an agent beside etcd: it looks, makes its move for the leadership, keeps its lease, and lets itself be
//! rung up when something changes. All end when the store is dropped or closed.

use super::client::{Caller, EtcdError};
use super::succession::{self, Facts, Move};
use super::wire::{self, LeaseAnswer, Streamed, Write};
use super::{Etcd, memory, peers};
use crate::clock::boottime_ms;
use serde_json::json;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::Notify;

/// Between two looks whether the store is still there, while nothing is told.
const STILL_THERE: Duration = Duration::from_secs(1);
/// Pause after a failure.
const AGAIN: Duration = Duration::from_millis(100);

/// What wakes the tasks.
#[derive(Default)]
pub(super) struct Bells {
    /// Something may have changed.
    pub(super) look: Notify,
    /// Something has changed that was not told.
    deaf: Notify,
    /// The lease is gone.
    lease: Notify,
}

/// Starts the tasks of a store.
pub(super) fn start(store: &Arc<Etcd>, limit: Duration) {
    let caller = || Caller::new(&store.servers, limit);
    tokio::spawn(look(Arc::downgrade(store), caller()));
    tokio::spawn(listen(Arc::downgrade(store), caller()));
    tokio::spawn(keep_lease(Arc::downgrade(store), caller()));
    tokio::spawn(peers::listen(Arc::downgrade(store)));
    tokio::spawn(memory::keep(store.memory.clone(), store.state()));
}

fn still_there(store: &Weak<Etcd>) -> Option<Arc<Etcd>> {
    store.upgrade().filter(|store| !store.closed.load(Ordering::Relaxed))
}

/// Looks at the keys and makes the next move, again and again.
async fn look(store: Weak<Etcd>, mut caller: Caller) {
    let mut rung = true;
    while let Some(here) = still_there(&store) {
        let seen = |s: &Etcd| {
            let sight = s.sight();
            (sight.term(), sight.state_at())
        };
        let before = seen(&here);
        // What went wrong is in the standing.
        let _ = here.exchange(&mut caller, &[], &[]).await;
        if !rung && before != seen(&here) {
            here.bells.deaf.notify_one();
        }
        here.make_move(&mut caller).await;
        here.publish();
        let (bells, pause) = (here.bells.clone(), here.pause());
        drop(here);
        rung = tokio::time::timeout(pause, bells.look.notified()).await.is_ok();
    }
}

/// Lets etcd ring when a key has changed. Which one, and to what, the next look finds: also what changed before etcd began
/// to listen, as it says so itself when it does.
async fn listen(store: Weak<Etcd>, mut caller: Caller) {
    while let Some(here) = still_there(&store) {
        let (bells, body) = (here.bells.clone(), wire::watch(&here.keys.prefix));
        drop(here);
        match caller.open(wire::WATCH, &body).await {
            Err(e) => {
                tracing::debug!("changes in etcd are not told, and looked for: {e}");
                tokio::time::sleep(AGAIN).await;
            }
            Ok(mut pieces) => {
                while still_there(&store).is_some() {
                    tokio::select! {
                        piece = pieces.next() => match piece {
                            Ok(Some(piece)) => {
                                bells.look.notify_one();
                                if wire::says_end(&piece) {
                                    tokio::time::sleep(AGAIN).await;
                                    break;
                                }
                            }
                            Ok(None) | Err(_) => break,
                        },
                        () = bells.deaf.notified() => break,
                        () = tokio::time::sleep(STILL_THERE) => {}
                    }
                }
            }
        }
    }
}

/// Keeps a lease of etcd, so that this agent can take the leader's key at any moment.
async fn keep_lease(store: Weak<Etcd>, mut caller: Caller) {
    while let Some(here) = still_there(&store) {
        let pause = here.tend_lease(&mut caller).await;
        let bells = here.bells.clone();
        drop(here);
        let _ = tokio::time::timeout(pause, bells.lease.notified()).await;
    }
}

/// For how long a lease of etcd is asked. etcd gives at least 1.5 of its election time-outs, which is 2 s by default.
fn lease_s(detect: Duration) -> u64 {
    (detect.as_millis() * 2 / 3).div_ceil(1000).try_into().unwrap_or(60)
}

impl Etcd {
    fn pause(&self) -> Duration {
        if self.standing.borrow().leading { self.every() } else { self.detect / 8 }
    }

    async fn tend_lease(&self, caller: &mut Caller) -> Duration {
        let third = |ttl_s: i64| Duration::from_secs(wire::revision(ttl_s)) / 3;
        let Some(id) = self.lease() else {
            let wanted = json!({"TTL": lease_s(self.detect).to_string()});
            return match caller.call::<LeaseAnswer>(wire::GRANT, &wanted).await {
                Ok(granted) if granted.ttl_s > 0 && granted.id != 0 => {
                    tracing::debug!(
                        "etcd gives leases of {} s, asked for {}",
                        granted.ttl_s,
                        lease_s(self.detect)
                    );
                    self.set_lease(Some(granted.id));
                    self.bells.look.notify_one();
                    third(granted.ttl_s)
                }
                Ok(_) => AGAIN,
                Err(e) => {
                    tracing::debug!("etcd gives no lease: {e}");
                    AGAIN
                }
            };
        };
        let kept =
            caller.call::<Streamed<LeaseAnswer>>(wire::KEEP_ALIVE, &json!({"ID": id.to_string()})).await;
        match kept {
            Ok(kept) if kept.result.ttl_s > 0 => third(kept.result.ttl_s),
            Ok(_) => {
                self.set_lease(None);
                Duration::ZERO
            }
            Err(e) => {
                if e.lease_is_over() {
                    self.set_lease(None);
                }
                AGAIN
            }
        }
    }

    /// Makes this agent's next move for the leadership, if there is one.
    async fn make_move(&self, caller: &mut Caller) {
        let now = boottime_ms();
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (silent_ms, has_lease) = (self.leader_silence_ms(), self.lease().is_some());
        let next = {
            let sight = self.sight();
            succession::next(&Facts {
                me: &self.me.node,
                mine: sight.is_mine(),
                holder: sight.holder().map(|h| (h.term, h.claim.as_ref().map(|c| &c.node))),
                able: self.able(&sight),
                has_lease,
                fresh: sight.is_fresh(now, ms(self.patience())),
                silent_ms,
                patience_ms: ms(self.patience()),
            })
        };
        match next {
            Move::Stay => {}
            Move::Take(term) => self.take_key(caller, term).await,
            Move::AskAround(term) => {
                if self.silence_is_confirmed(term).await {
                    tracing::info!("the leader of term {term} is silent to most agents: takes over");
                    self.take_key(caller, term).await;
                }
            }
            Move::Resign(term) => {
                let when = [(self.keys.leader.as_str(), term)];
                let outcome = self.exchange(caller, &when, &[Write::Delete(&self.keys.leader)]).await;
                tracing::warn!("gives up the leadership (term {term}): {}", said(&outcome));
            }
        }
    }

    async fn take_key(&self, caller: &mut Caller, term: u64) {
        let (Some(lease), Ok(value)) = (self.lease(), serde_json::to_vec(&self.me)) else { return };
        let when = [(self.keys.leader.as_str(), term)];
        let write = [Write::Put(&self.keys.leader, &value, Some(lease))];
        if let Err(e) = self.exchange(caller, &when, &write).await {
            tracing::debug!("the leadership was not taken: {e}");
            if e.lease_is_over() {
                self.set_lease(None);
                self.bells.lease.notify_one();
            }
        }
    }
}

fn said(outcome: &Result<bool, EtcdError>) -> String {
    match outcome {
        Ok(true) => "done".to_owned(),
        Ok(false) => "somebody else has it already".to_owned(),
        Err(e) => e.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_follow_detect() {
        let s = |ms| lease_s(Duration::from_millis(ms));
        assert_eq!((s(300), s(1500), s(3000), s(4000), s(60_000)), (1, 1, 2, 3, 40));
    }
}
