//! `GET /v1/aside`: the directories that this node keeps beside its data directory. `POST /v1/aside/prune`: removes those
//! that are named, all or none. With `node` both are passed on to that node.

use super::elsewhere::{Whom, blocking};
use super::{Shared, Unanswered};
use crate::http::Guest;
use crate::messages::Prune;
use crate::postgres::aside::{self, Kept};
use crate::postgres::files;
use axum::extract::{ConnectInfo, Query, State};
use axum::routing::{get, post};
use axum::{Json, Router};

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/v1/aside", get(list)).route("/v1/aside/prune", post(prune))
}

async fn list(State(shared): State<Shared>, Query(whom): Query<Whom>) -> Result<Json<Vec<Kept>>, Unanswered> {
    if let Some(agent) = shared.elsewhere(&whom)? {
        return agent.get("/v1/aside?").await.map(Json);
    }
    let place = shared.place()?;
    blocking(move || aside::list(&place)).await.map(Json)
}

/// Answers with the names that are gone; their files may take a while longer.
async fn prune(
    State(shared): State<Shared>,
    Query(whom): Query<Whom>,
    ConnectInfo(guest): ConnectInfo<Guest>,
    Json(mut asked): Json<Prune>,
) -> Result<Json<Vec<String>>, Unanswered> {
    asked.by = guest.as_named(asked.by);
    if let Some(agent) = shared.elsewhere(&whom)? {
        return agent.post("/v1/aside/prune?", &asked).await.map(Json);
    }
    let place = shared.place()?;
    let names = asked.names.clone();
    let going = blocking(move || aside::prune(&place, &names)).await?;
    let going = going.map_err(|e| Unanswered(e.to_string()))?;
    let by = if asked.by.is_empty() { "somebody" } else { &asked.by };
    tracing::warn!("pruned, asked by {by} from {}: {}", guest.from.ip(), asked.names.join(", "));
    tokio::task::spawn_blocking(move || {
        for dir in going {
            if let Err(e) = files::remove_dir(&dir) {
                tracing::error!("{e}");
            }
        }
    });
    Ok(Json(asked.names))
}
