//! `POST /v1/reload`: a node's server reads its configuration files again. With `node` it is passed on to that node.

use super::elsewhere::Whom;
use super::{Shared, Unanswered};
use crate::messages::Reloaded;
use axum::extract::{Query, State};
use axum::routing::post;
use axum::{Json, Router};

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/v1/reload", post(reload))
}

async fn reload(
    State(shared): State<Shared>,
    Query(whom): Query<Whom>,
) -> Result<Json<Reloaded>, Unanswered> {
    if let Some(agent) = shared.elsewhere(&whom)? {
        return agent.post("/v1/reload?", &()).await.map(Json);
    }
    shared.hands()?.read_again().await.map_err(|e| Unanswered(e.to_string()))?;
    Ok(Json(Reloaded { node: shared.files.me.clone() }))
}
