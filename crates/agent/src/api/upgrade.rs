//! `GET /v1/process`: what the agent's process is. `POST /v1/upgrade`: exchange it for one of the program that lies in its place
//! now, while PostgreSQL runs on. With `node` both are passed on to that node.

use super::elsewhere::Whom;
use super::{Shared, Unanswered};
use crate::http::Guest;
use crate::run::{Event, Purpose};
use crate::successor::fit::Question;
use crate::successor::{self, Process, UpgradeAnswer, UpgradeAsked};
use axum::extract::{ConnectInfo, Query, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use std::time::Duration;

/// How long the others may take to get another leader. Who asks waits meanwhile.
const HAND_ON_LIMIT: Duration = Duration::from_secs(2);

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
    Ok(Json(match shared.exchange(&asked).await? {
        Ok(version) => UpgradeAnswer::To(version),
        Err(why) => UpgradeAnswer::Refused(why),
    }))
}

impl Shared {
    /// Has this process go, if it may, and says which version follows, or why it stays.
    async fn exchange(self, asked: &UpgradeAsked) -> Result<Result<String, String>, Unanswered> {
        let question = Question {
            used: self.follows.used.clone(),
            postmaster: self.ask(Event::AskProcess).await?.postmaster,
            store: self.store.sample().map_err(Unanswered)?,
        };
        let (answer, checked) = match (self.follows.successor.check)(question.clone()).await {
            Ok(answered) => answered,
            Err(why) => return Ok(Err(why)),
        };
        if let Err(why) = question.judge(&answer) {
            return Ok(Err(why));
        }
        if let Err(why) = self.ask_room(checked, Purpose::Try).await? {
            return Ok(Err(why));
        }
        if asked.only_try {
            return Ok(Ok(answer.version));
        }
        // Before the room is taken: no step begins from then on, and this may take a while.
        self.hand_leadership_on().await;
        if let Err(why) = self.ask_room(checked, Purpose::Leave).await? {
            return Ok(Err(why));
        }
        let version = &answer.version;
        tracing::info!(
            "is to make room for a process of {version}, asked by {}; the server runs on",
            asked.by
        );
        tokio::spawn(successor::make_room(self.events));
        Ok(Ok(answer.version))
    }

    async fn ask_room(&self, checked: Duration, purpose: Purpose) -> Result<Result<(), String>, Unanswered> {
        self.ask(|reply| Event::AskRoom { checked, purpose, reply }).await
    }

    /// The others have to miss a leader that goes without a word, and nothing is decided until they do: longer than the process
    /// is away. If nobody takes it in time, that is what happens.
    async fn hand_leadership_on(&self) {
        if tokio::time::timeout(HAND_ON_LIMIT, self.hand_leadership_to_any()).await.is_err() {
            tracing::info!("the leadership was not taken over within {} s", HAND_ON_LIMIT.as_secs());
        }
    }

    async fn hand_leadership_to_any(&self) {
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
