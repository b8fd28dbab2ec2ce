//! `GET /v1/process`: what the agent's process is. `POST /v1/upgrade`: exchange it for one of the program that lies in its place
//! now, while PostgreSQL runs on. With `node` both are passed on to that node.

use super::elsewhere::Whom;
use super::{Shared, Unanswered};
use crate::http::Guest;
use crate::run::Event;
use crate::successor::{self, Process, UpgradeAnswer, UpgradeAsked};
use axum::extract::{ConnectInfo, Query, State};
use axum::routing::{get, post};
use axum::{Json, Router};

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/v1/process", get(process)).route("/v1/upgrade", post(upgrade))
}

async fn process(
    State(shared): State<Shared>,
    Query(whom): Query<Whom>,
) -> Result<Json<Process>, Unanswered> {
    match shared.elsewhere(&whom)? {
        Some(agent) => agent.get("/v1/process?").await.map(Json),
        None => shared.ask(Event::AskProcess).await.map(Json),
    }
}

async fn upgrade(
    State(shared): State<Shared>,
    Query(whom): Query<Whom>,
    ConnectInfo(guest): ConnectInfo<Guest>,
    Json(mut asked): Json<UpgradeAsked>,
) -> Result<Json<UpgradeAnswer>, Unanswered> {
    asked.by = guest.as_named(asked.by);
    if let Some(agent) = shared.elsewhere(&whom)? {
        return agent.post("/v1/upgrade?", &asked).await.map(Json);
    }
    let version = match (shared.successor.check)().await {
        Ok(version) => version,
        Err(why) => return Ok(Json(UpgradeAnswer::Refused(why))),
    };
    if let Err(why) = shared.ask(Event::AskRoom).await? {
        return Ok(Json(UpgradeAnswer::Refused(why)));
    }
    if !asked.only_try {
        tracing::info!("makes room for a process of {version}, asked by {}; the server runs on", asked.by);
        tokio::spawn(async move {
            shared.hand_leadership_on().await;
            successor::make_room(shared.events).await;
        });
    }
    Ok(Json(UpgradeAnswer::To(version)))
}

impl Shared {
    /// A leader that goes without a word has to be missed first. If nobody takes it, that is what happens.
    async fn hand_leadership_on(&self) {
        let standing = self.store.standing().borrow().clone();
        if !standing.leading {
            return;
        }
        let state = self.store.state();
        // Who is not primary first: the leader should not live with it.
        let mut others: Vec<_> = standing.voters.iter().filter(|voter| **voter != self.files.me).collect();
        others.sort_by_key(|voter| Some(*voter) == state.primary());
        for voter in others {
            match self.store.transfer(voter).await {
                Ok(()) => return,
                Err(e) => tracing::info!("the leadership was not handed to {voter}: {e}"),
            }
        }
    }
}
