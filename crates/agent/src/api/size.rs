//! `GET /v1/size`: how much room a copy of this node's data takes.

use super::elsewhere::blocking;
use super::{Shared, Unanswered};
use crate::messages::DataSize;
use crate::postgres::{control, room};
use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/v1/size", get(size))
}

async fn size(State(shared): State<Shared>) -> Result<Json<DataSize>, Unanswered> {
    let place = shared.place()?;
    let control = control::look(&place).await.map_err(|e| Unanswered(e.to_string()))?.1;
    let segment = control.map_or(16 << 20, |control| control.wal_segment_bytes);
    let bytes = blocking(move || room::data_bytes(&place, segment)).await?;
    Ok(Json(DataSize { bytes }))
}
