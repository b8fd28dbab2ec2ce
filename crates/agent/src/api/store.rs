//! Where the cluster's record is kept. `GET /v1/store`: what this node says, or the one that is named. For agents alone are
//! `GET /v1/store/opening`, which tells one that was away where to go, and `POST /v1/store/judge`: whether a node could keep it
//! elsewhere. An order to move it ([`super::order`]) is judged by every node, before the leader hears of it.

use super::elsewhere::Whom;
use super::{Shared, Unanswered};
use crate::http;
use crate::messages::Keeping;
use crate::store::{HomeAsked, HomeJudged, Whereabouts};
use axum::extract::{Query, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use cluster::NodeName;
use cluster::membership::Seat;
use cluster::moving::{Bar, Home, unfit};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a node may take to judge: it asks each member of an etcd.
const JUDGE_LIMIT: Duration = Duration::from_secs(6);

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/v1/store", get(keeping))
        .route("/v1/store/opening", get(opening))
        .route("/v1/store/judge", post(judge))
}

async fn keeping(
    State(shared): State<Shared>,
    Query(whom): Query<Whom>,
) -> Result<Json<Keeping>, Unanswered> {
    if let Some(agent) = shared.elsewhere(&whom)? {
        return agent.get("/v1/store?").await.map(Json);
    }
    let (store, state) = (&shared.store, shared.store.state());
    let standing = store.standing().borrow().clone();
    Ok(Json(Keeping {
        node: shared.files.me.clone(),
        number: store.number(),
        home: shared.follows.home.clone(),
        in_etcd: store.is_elsewhere(),
        file: shared.follows.file_differs.clone(),
        moves_to: state.moved.as_ref().map(|moved| moved.to.to_string()),
        leader: standing.leader,
        problem: standing.problem,
        detect_ms: state.settings.as_ref().map_or(0, |settings| settings.detect_ms),
    }))
}

async fn opening(State(shared): State<Shared>) -> Json<Whereabouts> {
    Json(shared.store.whereabouts())
}

async fn judge(State(shared): State<Shared>, Json(asked): Json<HomeAsked>) -> Json<HomeJudged> {
    Json(shared.store.judge(&asked).await)
}

impl Shared {
    /// The place to which the record may move, with all that is to be known of it, or what any node has against it.
    pub(super) async fn fit_home(&self, to: Home) -> Result<Home, Vec<Bar>> {
        let state = self.store.state();
        let bad = |why: String| Err(vec![Bar::BadHome { why }]);
        if state.moved.is_none() && self.store.is_elsewhere() == matches!(to, Home::Etcd { .. }) {
            return Err(vec![Bar::Same { home: self.follows.home.clone() }]);
        }
        // Of the agents it is not known yet under which numbers they vote.
        if let (Home::Etcd { .. }, Some(bar)) = (&to, unfit(&state, &to)) {
            return Err(vec![bar]);
        }
        let mark = matches!(to, Home::Etcd { .. }).then(|| uuid::Uuid::new_v4().to_string());
        if let Some(text) = &mark
            && let Err(why) = self.store.leave_mark(&to, text).await
        {
            return bad(format!("{} cannot use it: {why}", self.files.me));
        }
        let asked = HomeAsked { number: self.store.number() + 1, to: to.clone(), mark };
        let judged = self.judge_all(&asked).await;
        self.store.take_mark(&to).await;
        let mut bars = Vec::new();
        let mut voters = BTreeMap::new();
        for (node, address, answer) in judged {
            match answer {
                Err(why) | Ok(HomeJudged { fault: Some(why), .. }) => bars.push(Bar::Unfit { node, why }),
                Ok(HomeJudged { differs: true, .. }) => bars.push(Bar::Differs { node }),
                Ok(HomeJudged { raft_id, .. }) => drop(voters.insert(node, Seat { address, raft_id })),
            }
        }
        match (bars.is_empty(), to) {
            (false, _) => Err(bars),
            (true, Home::Embedded { .. }) => Ok(Home::Embedded { voters }),
            (true, to @ Home::Etcd { .. }) => Ok(to),
        }
    }

    /// What each node of the cluster, this one included, says to it, with the address of its agent.
    async fn judge_all(&self, asked: &HomeAsked) -> Vec<(NodeName, String, Result<HomeJudged, String>)> {
        let state = self.store.state();
        let seated: Vec<NodeName> = state.seated().cloned().collect();
        let judging = seated.into_iter().map(|node| {
            let of_member = state.members.get(&node).map(|member| member.agent.clone());
            let of_seat = || state.admitted.get(&node).map(|seat| seat.address.clone());
            let address = of_member.or_else(of_seat).unwrap_or_default();
            async move {
                let answer = if node == self.files.me {
                    Ok(self.store.judge(asked).await)
                } else {
                    let path = "/v1/store/judge";
                    let answer = http::post_json(&self.caller, &address, path, asked, JUDGE_LIMIT).await;
                    answer.map_err(|e| e.to_string())
                };
                (node, address, answer)
            }
        });
        futures::future::join_all(judging).await
    }
}
