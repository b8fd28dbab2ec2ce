//! `GET /v1/ping`: is this agent there? Its loop answers, so a stuck one does not.

use super::{Shared, Unanswered};
use crate::messages::Pong;
use crate::run::Event;
use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/v1/ping", get(ping))
}

async fn ping(State(shared): State<Shared>) -> Result<Json<Pong>, Unanswered> {
    shared.ask(Event::AskPing).await.map(Json)
}
