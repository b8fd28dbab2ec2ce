//! `POST /v1/order`: a person's order to the cluster (switchover, cancel, pause, resume). Any agent takes it and passes it
//! on to the leader, which checks it and records it.

use super::{Shared, Unanswered};
use crate::http;
use crate::messages::OrderAsked;
use crate::run::Event;
use axum::extract::{Query, State};
use axum::routing::post;
use axum::{Json, Router};
use cluster::decide::switchover::Ordered;
use serde::Deserialize;
use std::time::Duration;

/// How long the leader may take.
const LEADER_LIMIT: Duration = Duration::from_secs(3);

/// Whom to ask.
#[derive(Deserialize, Default)]
struct Options {
    /// `local=1`: do not pass it on.
    #[serde(default)]
    local: u8,
}

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/v1/order", post(order))
}

async fn order(
    State(shared): State<Shared>,
    Query(options): Query<Options>,
    Json(asked): Json<OrderAsked>,
) -> Result<Json<Ordered>, Unanswered> {
    let own = shared.ask(Event::AskStatus).await?;
    let leader = own.leader.as_ref().filter(|leader| **leader != own.asked && options.local == 0);
    let agent = leader.and_then(|l| shared.store.state().members.get(l).map(|m| m.agent.clone()));
    match agent {
        Some(agent) => http::post_json(&agent, "/v1/order?local=1", &asked, LEADER_LIMIT)
            .await
            .map(Json)
            .map_err(|e| Unanswered(format!("the leader did not take the order: {e}"))),
        None => shared.ask(|reply| Event::Order { asked, reply }).await.map(Json),
    }
}
