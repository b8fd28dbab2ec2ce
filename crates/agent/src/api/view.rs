//! `GET /v1/view`: what a proxy may know. `GET /v1/view/watch`: the same, one JSON line at once, one at every change, and
//! at least one every half second as a sign of life.

use super::Shared;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use cluster::status;
use cluster::view::View;
use std::convert::Infallible;
use std::time::Duration;

const SIGN_OF_LIFE: Duration = Duration::from_millis(500);

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/v1/view", get(view)).route("/v1/view/watch", get(watch))
}

async fn view(State(shared): State<Shared>) -> Json<View> {
    Json(status::view(&shared.store.state()))
}

async fn watch(State(shared): State<Shared>) -> Response {
    let states = shared.store.watch();
    let lines = futures::stream::unfold((states, true), |(mut states, first)| async move {
        if !first && matches!(tokio::time::timeout(SIGN_OF_LIFE, states.changed()).await, Ok(Err(_))) {
            return None;
        }
        let view = status::view(&states.borrow_and_update());
        let mut line = serde_json::to_vec(&view).ok()?;
        line.push(b'\n');
        Some((Ok::<_, Infallible>(Bytes::from(line)), (states, false)))
    });
    Response::new(Body::from_stream(lines))
}
