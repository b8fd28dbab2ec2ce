//! `GET /v1/audit`: the last entries of this agent's audit list, oldest first. With `node` the question is passed on to that node.

use super::elsewhere::Whom;
use super::{Shared, Unanswered};
use crate::audit::Entry;
use axum::extract::{Query, State};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;

/// Entries that are told unless it is said how many.
const LAST_DEFAULT: usize = 50;

/// What is asked.
#[derive(Deserialize)]
struct Options {
    /// `last=N`: so many entries.
    #[serde(default = "last_default")]
    last: usize,
}

fn last_default() -> usize {
    LAST_DEFAULT
}

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/v1/audit", get(told))
}

async fn told(
    State(shared): State<Shared>,
    Query(whom): Query<Whom>,
    Query(options): Query<Options>,
) -> Result<Json<Vec<Entry>>, Unanswered> {
    if let Some(agent) = shared.elsewhere(&whom)? {
        return agent.get(&format!("/v1/audit?last={}", options.last)).await.map(Json);
    }
    shared.audit.tell(options.last).await.map(Json).map_err(Unanswered)
}
