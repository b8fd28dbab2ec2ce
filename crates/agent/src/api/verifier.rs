//! `POST /v1/verifier`: what a user of the database logs in with, for proxies, which let clients in by it. A verifier is no
//! password and does for no login, but passwords can be tried against it: only proxies and agents are told.
//!
//! A proxy asks the primary's agent, which asks its own server. So no proxy needs a role of its own that may read pg_authid, nor a
//! password of one.

use super::{Shared, Unanswered};
use crate::messages::{Verifier, WhoseVerifier};
use crate::postgres::{PgError, REPLICATION_ROLE, connection};
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use std::time::Duration;
use tokio::sync::Semaphore;

/// How long the server may take.
const LIMIT: Duration = Duration::from_secs(3);

/// Questions that the server is asked at the same time: who floods a proxy with logins is not to take all connections of a server.
static AT_ONCE: Semaphore = Semaphore::const_new(4);

/// Nothing here depends on a search_path.
const QUESTION: &str = "SELECT a.rolpassword FROM pg_catalog.pg_authid a
    WHERE a.rolname OPERATOR(pg_catalog.=) $1::pg_catalog.text::pg_catalog.name AND a.rolcanlogin
      AND (a.rolvaliduntil IS NULL OR a.rolvaliduntil OPERATOR(pg_catalog.>) pg_catalog.now())";

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/v1/verifier", post(told))
}

async fn told(
    State(shared): State<Shared>,
    Json(WhoseVerifier { user }): Json<WhoseVerifier>,
) -> Result<Json<Verifier>, Unanswered> {
    // The cluster's own role: nobody comes as that through a proxy.
    if user == REPLICATION_ROLE {
        return Ok(Json(Verifier { verifier: None }));
    }
    let place = shared.place()?;
    let asking = async {
        let _place = AT_ONCE.acquire().await;
        let client = connection::connect(&place, LIMIT).await?;
        let row = client.query_opt(QUESTION, &[&user]).await?;
        Ok::<_, PgError>(row)
    };
    let asked = tokio::time::timeout(LIMIT, asking).await;
    let row = match asked {
        Ok(row) => row.map_err(|e| Unanswered(format!("the server of {}: {e}", shared.files.me)))?,
        Err(_) => {
            let said =
                format!("the server of {} does not answer within {} s", shared.files.me, LIMIT.as_secs());
            return Err(Unanswered(said));
        }
    };
    Ok(Json(Verifier { verifier: row.and_then(|row| row.get(0)) }))
}
