//! `GET /v1/why`: the remembered decisions with their evidence, oldest first. Every node has them.

use super::Shared;
use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use cluster::state::Entry;

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/v1/why", get(why))
}

async fn why(State(shared): State<Shared>) -> Json<Vec<Entry>> {
    Json(shared.store.state().history.clone())
}
