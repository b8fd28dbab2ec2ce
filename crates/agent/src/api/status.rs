//! `GET /v1/status`: the cluster as the leader sees it; without a leader, what this node knows.

use super::elsewhere::blocking;
use super::leader::Local;
use super::{Shared, Unanswered};
use crate::http;
use crate::run::{Event, Known};
use axum::extract::{Query, State};
use axum::routing::get;
use axum::{Json, Router};
use cluster::readiness::readiness;
use cluster::status::Status;
use std::time::Duration;

/// How long the leader may take before this node answers for itself.
const LEADER_LIMIT: Duration = Duration::from_millis(500);

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/v1/status", get(status))
}

async fn status(
    State(shared): State<Shared>,
    Query(local): Query<Local>,
) -> Result<Json<Status>, Unanswered> {
    known_best(&shared, local).await.map(Json)
}

/// What the leader knows; if it does not answer, or is not to be asked, what this node knows.
pub(super) async fn known_best(shared: &Shared, local: Local) -> Result<Status, Unanswered> {
    if let Some(agent) = shared.leader(local)
        && let Ok(theirs) =
            http::get::<Status>(&shared.caller, &agent, "/v1/status?local=1", LEADER_LIMIT).await
    {
        return Ok(theirs);
    }
    let mut own = shared.ask(Event::AskStatus).await?;
    if let Some(known) = shared.known().await? {
        let judge = move || {
            let Known { state, seen, proposed, waits, now } = &known;
            readiness(state, seen, proposed, waits, now)
        };
        own.readiness = blocking(judge).await.ok();
    }
    Ok(own)
}
