//! `GET /v1/lost`: what this node had and the cluster lost, oldest first; with `transactions=1` one by one. With `node`
//! the question is passed on to that node.

use super::elsewhere::Whom;
use super::{Shared, Unanswered};
use crate::postgres::lost::{self, Record};
use axum::extract::{Query, State};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;

/// Losses of which the transactions are told one by one, the newest; more would not fit into an answer.
const LISTED_MAX: usize = 8;

/// What is asked.
#[derive(Deserialize, Default)]
struct Options {
    /// `transactions=1`: with each transaction.
    #[serde(default)]
    transactions: u8,
}

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/v1/lost", get(told))
}

async fn told(
    State(shared): State<Shared>,
    Query(whom): Query<Whom>,
    Query(options): Query<Options>,
) -> Result<Json<Vec<Record>>, Unanswered> {
    if let Some(agent) = shared.elsewhere(&whom)? {
        let path = format!("/v1/lost?transactions={}", options.transactions);
        return agent.get(&path).await.map(Json);
    }
    let place = shared.place()?;
    let records = super::elsewhere::blocking(move || lost::list(&place)).await?;
    let mut records: Vec<Record> = records.into_iter().map(|(_, record)| record).collect();
    let short =
        if options.transactions == 1 { records.len().saturating_sub(LISTED_MAX) } else { records.len() };
    for findings in records.iter_mut().take(short).filter_map(|record| record.findings.as_mut()) {
        findings.listed.clear();
    }
    Ok(Json(records))
}
