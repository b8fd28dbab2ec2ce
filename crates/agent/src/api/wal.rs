//! `GET /v1/wal?from=0/3000000`: whether the server of this node still holds the WAL at this position.

use super::elsewhere::blocking;
use super::{Shared, Unanswered};
use crate::messages::WalHeld;
use crate::postgres::{control, wal};
use crate::run::Event;
use axum::extract::{Query, State};
use axum::routing::get;
use axum::{Json, Router};
use cluster::Lsn;
use serde::Deserialize;

/// What is asked.
#[derive(Deserialize)]
struct Options {
    /// A position as PostgreSQL writes it.
    from: String,
}

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/v1/wal", get(held))
}

async fn held(
    State(shared): State<Shared>,
    Query(options): Query<Options>,
) -> Result<Json<WalHeld>, Unanswered> {
    let from: Lsn =
        options.from.parse().map_err(|_| Unanswered(format!("{} is no position", options.from)))?;
    let place = shared.place()?;
    let pong = shared.ask(Event::AskPing).await?;
    let unreadable = |e: crate::postgres::PgError| Unanswered(e.to_string());
    let control = control::look(&place).await.map_err(unreadable)?.1;
    let segment = control.map_or(16 << 20, |control| control.wal_segment_bytes);
    let held = blocking(move || wal::holds(&place, from, segment)).await?.map_err(unreadable)?;
    Ok(Json(WalHeld { node: pong.node, flushed: pong.lsn, held }))
}
