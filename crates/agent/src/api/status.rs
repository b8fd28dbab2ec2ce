//! `GET /v1/status`: the cluster as the leader sees it; without a leader, what this node knows.

use super::{Shared, Unanswered};
use crate::http;
use crate::run::Event;
use axum::extract::{Query, State};
use axum::routing::get;
use axum::{Json, Router};
use cluster::status::Status;
use serde::Deserialize;
use std::time::Duration;

/// How long the leader may take before this node answers for itself.
const LEADER_LIMIT: Duration = Duration::from_millis(500);

/// Whom to ask.
#[derive(Deserialize, Default)]
struct Options {
    /// `local=1`: do not ask the leader.
    #[serde(default)]
    local: u8,
}

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/v1/status", get(status))
}

async fn status(
    State(shared): State<Shared>,
    Query(options): Query<Options>,
) -> Result<Json<Status>, Unanswered> {
    if options.local == 0 {
        return of_leader(&shared).await.map(Json);
    }
    shared.ask(Event::AskStatus).await.map(Json)
}

/// What the leader knows; if it does not answer, what this node knows.
pub(super) async fn of_leader(shared: &Shared) -> Result<Status, Unanswered> {
    let own = shared.ask(Event::AskStatus).await?;
    let leader = own.leader.as_ref().filter(|leader| **leader != own.asked);
    let agent = leader.and_then(|l| shared.store.state().members.get(l).map(|m| m.agent.clone()));
    if let Some(agent) = agent
        && let Ok(theirs) = http::get::<Status>(&agent, "/v1/status?local=1", LEADER_LIMIT).await
    {
        return Ok(theirs);
    }
    Ok(own)
}
