//! What this node answers to the other members.

use super::embedded::Embedded;
use super::form::{Greeting, Identity};
use super::transport::{Envelope, SNAPSHOT_MAX, SentSnapshot};
use super::types::Types;
use crate::http::BODY_MAX;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::storage::Snapshot;
use std::sync::Arc;

type Here = State<Arc<Embedded>>;
type Call<T> = Json<Envelope<T>>;
type Answer<T> = Result<Json<T>, (StatusCode, String)>;

/// The routes under `/v1/raft/`.
pub(super) fn router(store: Arc<Embedded>) -> Router {
    Router::new()
        .route("/v1/raft/append", post(append))
        .route("/v1/raft/vote", post(vote))
        .route("/v1/raft/pre-vote", post(pre_vote))
        .route("/v1/raft/transfer", post(transfer))
        .route("/v1/raft/identity", get(identity))
        .route("/v1/raft/hello", post(hello))
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .merge(
            Router::new()
                .route("/v1/raft/snapshot", post(snapshot))
                .layer(DefaultBodyLimit::max(SNAPSHOT_MAX)),
        )
        .with_state(store)
}

/// Lets a call in only when it means this node.
fn admit<T>(store: &Embedded, Json(envelope): Call<T>) -> Result<T, (StatusCode, String)> {
    let me = &store.owner;
    if envelope.cluster != me.cluster {
        let why = format!("this is {} of cluster {:?}, not of {:?}", me.node, me.cluster, envelope.cluster);
        return Err((StatusCode::CONFLICT, why));
    }
    if envelope.to != me.id {
        return Err((
            StatusCode::CONFLICT,
            format!("this is {} with id {:x}, not {:x}", me.node, me.id, envelope.to),
        ));
    }
    store.contacts.heard(envelope.from);
    Ok(envelope.call)
}

fn answer<T>(result: Result<T, impl std::fmt::Display>) -> Answer<T> {
    result.map(Json).map_err(|e| (StatusCode::SERVICE_UNAVAILABLE, format!("the store has stopped: {e}")))
}

async fn append(
    State(store): Here,
    call: Call<AppendEntriesRequest<Types>>,
) -> Answer<AppendEntriesResponse<Types>> {
    let answered = store.raft.append_entries(admit(&store, call)?).await;
    // One that is refused leads nobody any more.
    if matches!(&answered, Ok(said) if !matches!(said, AppendEntriesResponse::HigherVote(_))) {
        store.contacts.was_led();
    }
    answer(answered)
}

async fn vote(State(store): Here, call: Call<VoteRequest<Types>>) -> Answer<VoteResponse<Types>> {
    answer(store.raft.vote(admit(&store, call)?).await)
}

async fn pre_vote(State(store): Here, call: Call<VoteRequest<Types>>) -> Answer<VoteResponse<Types>> {
    answer(store.raft.pre_vote(admit(&store, call)?).await)
}

async fn transfer(
    State(store): Here,
    call: Call<TransferLeaderRequest<Types>>,
) -> Answer<TransferLeaderResponse<Types>> {
    answer(store.raft.handle_transfer_leader(admit(&store, call)?).await)
}

async fn snapshot(State(store): Here, call: Call<SentSnapshot>) -> Answer<SnapshotResponse<Types>> {
    let SentSnapshot { vote, meta, state } = admit(&store, call)?;
    // The library panics on a snapshot from beyond its sender's term.
    if meta.last_log_id.is_some_and(|last| last.leader_id > vote.leader_id) {
        return Err((StatusCode::BAD_REQUEST, "the snapshot is newer than the vote it comes with".into()));
    }
    let snapshot = Snapshot { meta, snapshot: Arc::new(state) };
    let answered = store.raft.install_full_snapshot(vote, snapshot).await;
    if matches!(&answered, Ok(said) if said.vote <= vote) {
        store.contacts.was_led();
    }
    answer(answered)
}

async fn identity(State(store): Here) -> Json<Identity> {
    Json(store.identity())
}

async fn hello(State(store): Here, Json(visitor): Json<Identity>) -> Json<Greeting> {
    Json(store.greet(&visitor))
}
