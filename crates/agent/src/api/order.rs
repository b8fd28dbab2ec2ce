//! `POST /v1/order`: a person's order to the cluster (switchover, cancel, pause, resume). Any agent takes it and passes it
//! on to the leader, which checks it and records it.

use super::elsewhere::Local;
use super::{Shared, Unanswered};
use crate::http;
use crate::messages::OrderAsked;
use crate::run::Event;
use axum::extract::{Query, State};
use axum::routing::post;
use axum::{Json, Router};
use cluster::decide::switchover::Ordered;
use std::time::Duration;

/// How long the leader may take.
const LEADER_LIMIT: Duration = Duration::from_secs(3);

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/v1/order", post(order))
}

async fn order(
    State(shared): State<Shared>,
    Query(local): Query<Local>,
    Json(asked): Json<OrderAsked>,
) -> Result<Json<Ordered>, Unanswered> {
    match shared.leader(local) {
        Some(agent) => http::post_json(&agent, "/v1/order?local=1", &asked, LEADER_LIMIT)
            .await
            .map(Json)
            .map_err(|e| Unanswered(format!("the leader did not take the order: {e}"))),
        None => shared.ask(|reply| Event::Order { asked, reply }).await.map(Json),
    }
}
