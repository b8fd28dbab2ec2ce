//! The cluster-wide configuration.
//!
//! `GET /v1/config`: its versions, as the leader knows them. `GET /v1/config/own`: what a node's own file says.
//! `POST /v1/config/judge`: whether a node's server takes it. An order to change it ([`super::order`]) is judged by every
//! node that answers, before the leader hears of it.

use super::elsewhere::Whom;
use super::leader::Local;
use super::{Shared, Unanswered};
use crate::hands::Hands;
use crate::http;
use crate::messages::{Judged, OwnConfiguration};
use axum::extract::{Query, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use cluster::NodeName;
use cluster::configuration::{Configuration, Content, Fault};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How long the leader may take before this node answers for itself.
const LEADER_LIMIT: Duration = Duration::from_millis(500);
/// How long a node may take to judge: it starts a program for each parameter.
const JUDGE_LIMIT: Duration = Duration::from_secs(6);

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/v1/config", get(config))
        .route("/v1/config/own", get(own))
        .route("/v1/config/judge", post(judge))
}

async fn config(State(shared): State<Shared>, Query(local): Query<Local>) -> Json<Configuration> {
    if let Some(agent) = shared.leader(local)
        && let Ok(theirs) =
            http::get::<Configuration>(&shared.caller, &agent, "/v1/config?local=1", LEADER_LIMIT).await
    {
        return Json(theirs);
    }
    Json(shared.store.state().configuration.clone())
}

async fn own(
    State(shared): State<Shared>,
    Query(whom): Query<Whom>,
) -> Result<Json<OwnConfiguration>, Unanswered> {
    if let Some(agent) = shared.elsewhere(&whom)? {
        return agent.get("/v1/config/own?").await.map(Json);
    }
    let place = shared.place()?;
    Ok(Json(OwnConfiguration {
        node: shared.files.me.clone(),
        parameters: place.settings.settings.clone(),
        hba: place.settings.hba,
    }))
}

async fn judge(
    State(shared): State<Shared>,
    Json(content): Json<Content>,
) -> Result<Json<Judged>, Unanswered> {
    let faults = judged_here(shared.files.me.clone(), shared.hands()?, content).await.map_err(Unanswered)?;
    Ok(Json(Judged { faults }))
}

/// In a task of its own: a file that is only tried is put back although whoever asks goes away.
async fn judged_here(me: NodeName, hands: Arc<Hands>, content: Content) -> Result<Vec<Fault>, String> {
    let judging = tokio::spawn(async move { hands.judge(&content).await });
    let wrong = judging.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
    Ok(wrong.into_iter().map(|(name, said)| Fault::Wrong { node: me.clone(), name, said }).collect())
}

impl Shared {
    /// The hands of this node.
    pub(super) fn hands(&self) -> Result<Arc<Hands>, Unanswered> {
        let none = || Unanswered(format!("{} is a witness: it has no server", self.files.me));
        self.files.hands.clone().ok_or_else(none)
    }

    /// What any server that can be asked has against a configuration. What two of them say alike is told once.
    pub(super) async fn judged(&self, content: &Content) -> Vec<Fault> {
        let state = self.store.state();
        let mut asked = Vec::new();
        for (node, _) in state.data_nodes() {
            let (node, content, caller) = (node.clone(), content.clone(), self.caller.clone());
            let here = self.files.hands.clone().filter(|_| node == self.files.me);
            let agent = state.members.get(&node).map(|member| member.agent.clone()).unwrap_or_default();
            let judging = tokio::spawn(async move {
                match here {
                    Some(hands) => judged_here(node, hands, content).await,
                    None => http::post_json::<_, Judged>(
                        &caller,
                        &agent,
                        "/v1/config/judge",
                        &content,
                        JUDGE_LIMIT,
                    )
                    .await
                    .map(|judged| judged.faults)
                    .map_err(|e| e.to_string()),
                }
            });
            asked.push(judging);
        }
        let (mut faults, mut silent, mut answered) = (Vec::new(), BTreeMap::new(), 0);
        for (judging, (node, _)) in asked.into_iter().zip(state.data_nodes()) {
            match judging.await.unwrap_or_else(|e| Err(e.to_string())) {
                Ok(found) => {
                    answered += 1;
                    faults.extend(
                        found.into_iter().filter(|fault| !is_told(&faults, fault)).collect::<Vec<_>>(),
                    );
                }
                Err(said) => drop(silent.insert(node.clone(), said)),
            }
        }
        if answered == 0 { vec![Fault::Unasked { each: silent }] } else { faults }
    }
}

fn is_told(told: &[Fault], fault: &Fault) -> bool {
    let words = |fault: &Fault| match fault {
        Fault::Wrong { name, said, .. } => Some((name.clone(), said.clone())),
        _ => None,
    };
    told.iter().any(|known| words(known) == words(fault))
}
