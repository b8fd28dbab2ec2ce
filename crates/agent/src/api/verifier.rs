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
use tokio_postgres::error::SqlState;

/// How long the server may take.
const LIMIT: Duration = Duration::from_secs(2);

/// How long a question may wait for others.
const TURN_LIMIT: Duration = Duration::from_millis(1_500);

/// See `LIMIT`.
const BOUNDED: &str = "SET statement_timeout = '2s'";

/// Questions that the server is asked at the same time: who floods a proxy with logins is not to take all connections of a server.
static AT_ONCE: Semaphore = Semaphore::const_new(4);

/// Nothing here depends on a search_path.
///
/// Of who has no password the kind is told in which the server would keep one: unknown users are asked in that way.
const QUESTION: &str = "SELECT COALESCE((SELECT a.rolpassword FROM pg_catalog.pg_authid a
    WHERE a.rolname OPERATOR(pg_catalog.=) $1::pg_catalog.text::pg_catalog.name AND a.rolcanlogin
      AND a.rolname OPERATOR(pg_catalog.<>) $2::pg_catalog.text::pg_catalog.name
      AND (a.rolvaliduntil IS NULL OR a.rolvaliduntil OPERATOR(pg_catalog.>) pg_catalog.now())),
    pg_catalog.current_setting('password_encryption'))";

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/v1/verifier", post(told))
}

async fn told(
    State(shared): State<Shared>,
    Json(WhoseVerifier { user }): Json<WhoseVerifier>,
) -> Result<Json<Verifier>, Unanswered> {
    let place = shared.place()?;
    // Who waits here costs the server nothing yet.
    let Ok(_turn) = tokio::time::timeout(TURN_LIMIT, AT_ONCE.acquire()).await else {
        return Err(Unanswered(format!(
            "the agent of {} is asked for too many at the moment",
            shared.files.me
        )));
    };
    let asking = async {
        let client = connection::connect(&place, LIMIT).await?;
        // Should the answer be late, the connection ends nevertheless.
        client.batch_execute(BOUNDED).await?;
        // The cluster's own role is nobody's who comes through a proxy.
        let row = client.query_one(QUESTION, &[&user, &REPLICATION_ROLE]).await;
        Ok::<_, PgError>(row?.get(0))
    };
    let unanswered = |why: String| Unanswered(format!("the server of {} {why}", shared.files.me));
    let verifier = match tokio::time::timeout(LIMIT, asking).await {
        Ok(Ok(verifier)) => verifier,
        // It has no such character: nobody is called so.
        Ok(Err(PgError::Sql(error))) if is_no_text(&error) => None,
        Ok(Err(error)) => return Err(unanswered(format!("cannot be asked: {error}"))),
        Err(_) => return Err(unanswered(format!("does not answer within {} s", LIMIT.as_secs()))),
    };
    Ok(Json(Verifier { verifier }))
}

fn is_no_text(error: &tokio_postgres::Error) -> bool {
    let no_text = [SqlState::CHARACTER_NOT_IN_REPERTOIRE, SqlState::UNTRANSLATABLE_CHARACTER];
    error.code().is_some_and(|code| no_text.contains(code))
}
