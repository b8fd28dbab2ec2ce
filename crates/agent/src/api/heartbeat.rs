//! `POST /v1/heartbeat`: a node's observation; the answer carries its lease. Only the leader answers.

use super::{Shared, Unanswered};
use crate::messages::HeartbeatAnswer;
use crate::run::Event;
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use cluster::observe::Observation;

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/v1/heartbeat", post(heartbeat))
}

async fn heartbeat(
    State(shared): State<Shared>,
    Json(observation): Json<Observation>,
) -> Result<Json<HeartbeatAnswer>, Unanswered> {
    let observation = Box::new(observation);
    shared.ask(|reply| Event::Heartbeat { observation, reply }).await.map(Json)
}
