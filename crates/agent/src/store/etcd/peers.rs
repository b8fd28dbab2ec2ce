//! What the agents say to each other beside etcd: whether the leader is there. A leader that is gone is noticed sooner so
//! than by the end of its lease.

use super::Etcd;
use super::succession::enough;
use crate::clock::boottime_ms;
use crate::http::{BODY_MAX, Connection, post_json};
use axum::extract::State as Here;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use cluster::NodeName;
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

/// "Are you the leader of this term?" It says who asks, and what a transfer of the leadership to that one would need.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Pulse {
    cluster: String,
    node: NodeName,
    run: String,
    lease: Option<i64>,
}

/// The answer.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct PulseAnswer {
    /// The term in which the asked agent leads.
    leads: Option<u64>,
    /// The age of its last confirmed round.
    age_ms: Option<u64>,
}

/// "How long have you not heard the leader of this term?"
#[derive(Clone, Debug, Serialize, Deserialize)]
struct SilenceAsked {
    cluster: String,
    term: u64,
}

/// The answer; `None`: it cannot say.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Silence {
    silent_ms: Option<u64>,
}

/// Another member, as it was heard last.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    heard_at: u64,
    /// Its run.
    pub(super) run: String,
    /// Its lease in etcd.
    pub(super) lease: Option<i64>,
}

/// When the others were heard.
#[derive(Debug)]
pub(super) struct Peers {
    since: u64,
    heard: Mutex<BTreeMap<NodeName, Peer>>,
    /// The last sign of a leader: of which term, and when it was asked for it.
    leader: Mutex<Option<(u64, u64)>>,
}

impl Peers {
    pub(super) fn new() -> Peers {
        Peers { since: boottime_ms(), heard: Mutex::default(), leader: Mutex::default() }
    }

    /// When the leader of this term gave its last sign, if it ever did.
    pub(super) fn leader_heard_at(&self, term: u64) -> Option<u64> {
        let last = *self.leader.lock().unwrap_or_else(PoisonError::into_inner);
        last.filter(|(of, _)| *of == term).map(|(_, at)| at)
    }

    fn hear_leader(&self, term: u64, at: u64) {
        let mut last = self.leader.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|(of, before)| of != term || before < at) {
            *last = Some((term, at));
        }
    }

    pub(super) fn peer(&self, node: &NodeName) -> Option<Peer> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).get(node).cloned()
    }

    /// Time since this one asked last; since the start when it never did.
    pub(super) fn silence(&self, node: &NodeName) -> Duration {
        let at = self.peer(node).map_or(self.since, |peer| peer.heard_at);
        Duration::from_millis(boottime_ms().saturating_sub(at))
    }
}

/// The routes for the other agents.
pub(super) fn router(etcd: Arc<Etcd>) -> Router {
    Router::new()
        .route("/v1/etcd/pulse", post(pulse))
        .route("/v1/etcd/silence", post(silence))
        .with_state(etcd)
}

fn admit(etcd: &Etcd, cluster: &str) -> Result<(), (StatusCode, String)> {
    if cluster == etcd.cluster {
        return Ok(());
    }
    let why = format!("this is {} of cluster {:?}, not of {cluster:?}", etcd.me.node, etcd.cluster);
    Err((StatusCode::CONFLICT, why))
}

async fn pulse(
    Here(etcd): Here<Arc<Etcd>>,
    Json(asked): Json<Pulse>,
) -> Result<Json<PulseAnswer>, (StatusCode, String)> {
    admit(&etcd, &asked.cluster)?;
    let now = boottime_ms();
    if etcd.members().contains_key(&asked.node) {
        let peer = Peer { heard_at: now, run: asked.run, lease: asked.lease };
        etcd.peers.heard.lock().unwrap_or_else(PoisonError::into_inner).insert(asked.node, peer);
    }
    let sight = etcd.sight();
    Ok(Json(PulseAnswer { leads: sight.leads().filter(|_| etcd.able(&sight)), age_ms: sight.round_age(now) }))
}

async fn silence(
    Here(etcd): Here<Arc<Etcd>>,
    Json(asked): Json<SilenceAsked>,
) -> Result<Json<Silence>, (StatusCode, String)> {
    admit(&etcd, &asked.cluster)?;
    let term = etcd.sight().term();
    let silent_ms = (term == Some(asked.term)).then(|| etcd.leader_silence_ms());
    Ok(Json(Silence { silent_ms }))
}

/// Asks the leader for a sign, again and again, as long as the store is there.
pub(super) async fn listen(etcd: Weak<Etcd>) {
    let mut wire: Option<(String, Connection)> = None;
    loop {
        let Some(here) = etcd.upgrade() else { return };
        let (every, limit) = (here.every(), here.patience());
        let asked = here.leader_elsewhere();
        let pulse = Pulse {
            cluster: here.cluster.clone(),
            node: here.me.node.clone(),
            run: here.me.run.clone(),
            lease: here.lease(),
        };
        let agents = here.agents.clone();
        drop(here);
        if let Some((term, address)) = asked {
            if wire.as_ref().is_none_or(|(to, _)| *to != address) {
                wire = Some((address.clone(), Connection::new(&agents, &address, BODY_MAX)));
            }
            let sent = boottime_ms();
            if let Some((_, connection)) = &mut wire
                && let Ok(answer) =
                    connection.post_json::<_, PulseAnswer>("/v1/etcd/pulse", &pulse, limit).await
                && let (Some(here), Some(leads), Some(age_ms)) = (etcd.upgrade(), answer.leads, answer.age_ms)
                && leads == term
            {
                // One that etcd does not answer is as good as silent.
                here.peers.hear_leader(term, sent.saturating_sub(age_ms));
            }
        }
        tokio::time::sleep(every).await;
    }
}

impl Etcd {
    /// The term and the agent's address of a leader that is another node.
    fn leader_elsewhere(&self) -> Option<(u64, String)> {
        let sight = self.sight();
        let holder = sight.holder()?;
        let node = &holder.claim.as_ref()?.node;
        let address = self.members().remove(node).filter(|_| *node != self.me.node)?;
        Some((holder.term, address))
    }

    /// How long the leader was silent while etcd answered this agent: the shorter of both. A leader that is new is silent
    /// since it was seen first.
    pub(super) fn leader_silence_ms(&self) -> u64 {
        let now = boottime_ms();
        let sight = self.sight();
        let (Some(term), Some(fine_since)) = (sight.term(), sight.fine_since()) else { return 0 };
        if sight.is_mine() {
            return 0;
        }
        let heard = self.peers.leader_heard_at(term).unwrap_or(0);
        now.saturating_sub(heard.max(sight.holder_since()).max(fine_since))
    }

    /// Whether enough members hear the leader of this term as little as this one.
    pub(super) async fn silence_is_confirmed(&self, term: u64) -> bool {
        let leader = self.sight().holder().and_then(|h| h.claim.as_ref().map(|c| c.node.clone()));
        let members = self.members();
        let others = members.iter().filter(|(n, _)| **n != self.me.node && Some(*n) != leader.as_ref());
        let patience = self.patience();
        let asked = SilenceAsked { cluster: self.cluster.clone(), term };
        let calls = others.map(|(_, address)| {
            post_json::<_, Silence>(&self.agents, address, "/v1/etcd/silence", &asked, patience)
        });
        let least = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        let answers = join_all(calls).await;
        let silent = |s: &Silence| s.silent_ms.is_some_and(|ms| ms >= least);
        let confirming = 1 + answers.iter().flatten().filter(|answer| silent(answer)).count();
        enough(confirming, members.len())
    }
}
