//! The agent's HTTP API, version 1. One file per resource; each posts an event to the loop and waits for its answer, or
//! reads the recorded state, or the directories beside the data directory. Only `order` changes the cluster, by a
//! decision of the leader; only `clone`, `reload` and `upgrade` change the node, and only `aside` removes what somebody names.

mod access;
mod aside;
mod audit;
mod certificate;
mod clone;
mod config;
mod elsewhere;
pub mod explain;
mod heartbeat;
mod join;
mod leader;
mod listing;
mod lost;
mod order;
mod ping;
mod reload;
mod size;
mod status;
mod store;
mod upgrade;
mod users;
mod verifier;
mod view;
mod wal;
mod why;

use crate::audit::Audit;
use crate::hands::Hands;
use crate::postgres::Place;
use crate::run::Event;
use crate::store::{Store, StoreKind};
use crate::successor::Successor;
use crate::successor::fit::Used;
use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use cluster::NodeName;
use identity::Caller;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How long the loop may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// What the handlers need.
#[derive(Clone)]
struct Shared {
    events: mpsc::Sender<Event>,
    store: Store,
    files: Files,
    caller: Caller,
    follows: Follows,
    audit: Audit,
}

/// Whose files the API tells of.
#[derive(Clone)]
pub struct Files {
    /// This node.
    pub me: NodeName,
    /// Its PostgreSQL; `None`: a witness.
    pub place: Option<Place>,
    /// For what only its server can answer.
    pub hands: Option<Arc<Hands>>,
}

/// Who follows this process, and what it has to find.
#[derive(Clone, Debug)]
pub struct Follows {
    /// Who.
    pub successor: Successor,
    /// What this process uses.
    pub used: Used,
    /// Where it has the record, in words.
    pub home: String,
    /// Where its configuration file says that it is.
    pub configured: StoreKind,
    /// What its configuration file should say of that instead.
    pub file_differs: Option<String>,
}

/// All routes of the agent.
pub fn router(
    events: mpsc::Sender<Event>,
    store: Store,
    files: Files,
    caller: Caller,
    (follows, audit): (Follows, Audit),
) -> Router {
    let raft = store.router();
    let (me, credentials) = (files.me.clone(), caller.credentials().cloned());
    let (roll, users) = (roll(store.clone()), users::of(&store));
    let door = access::Door { me, credentials, roll, users, audit: audit.clone() };
    let shared = Shared { events, store, files, caller, follows, audit };
    Router::new()
        .merge(heartbeat::routes())
        .merge(config::routes())
        .merge(join::routes())
        .merge(order::routes())
        .merge(reload::routes())
        .merge(ping::routes())
        .merge(status::routes())
        .merge(store::routes())
        .merge(why::routes())
        .merge(explain::routes())
        .merge(view::routes())
        .merge(lost::routes())
        .merge(aside::routes())
        .merge(audit::routes())
        .merge(wal::routes())
        .merge(size::routes())
        .merge(certificate::routes())
        .merge(clone::routes())
        .merge(upgrade::routes())
        .merge(users::routes())
        .merge(verifier::routes())
        .with_state(shared)
        .merge(raft)
        .layer(axum::middleware::from_fn_with_state(door, access::check))
}

fn roll(store: Store) -> access::Roll {
    Arc::new(move |name| access::belongs(&store.state(), name, |node| store.has_member(node)))
}

/// The loop did not answer, or this agent is not the one to ask.
struct Unanswered(String);

/// Of an agent that was asked as the leader and does not lead, or not long enough: nothing was done.
struct NotLeading;

impl IntoResponse for Unanswered {
    fn into_response(self) -> Response {
        (StatusCode::SERVICE_UNAVAILABLE, self.0).into_response()
    }
}

impl IntoResponse for NotLeading {
    fn into_response(self) -> Response {
        (StatusCode::MISDIRECTED_REQUEST, "this agent does not lead the cluster, or has only just begun to")
            .into_response()
    }
}

impl From<Unanswered> for Response {
    fn from(unanswered: Unanswered) -> Response {
        unanswered.into_response()
    }
}

impl Shared {
    /// Posts an event that carries the way back for its answer.
    async fn ask<T>(&self, event: impl FnOnce(oneshot::Sender<T>) -> Event) -> Result<T, Unanswered> {
        let (reply, answer) = oneshot::channel();
        let busy = || Unanswered("this agent is too busy to answer".to_owned());
        let send = self.events.send_timeout(event(reply), ANSWER_LIMIT);
        send.await.map_err(|_| busy())?;
        let answered = tokio::time::timeout(ANSWER_LIMIT, answer).await.map_err(|_| busy())?;
        answered.map_err(|_| {
            Unanswered("this agent does not lead the cluster, or could not record it".to_owned())
        })
    }
}
