//! `POST /v1/clone`: a person has a standby copied anew ("online recovery"). With `node` it is passed on to that node,
//! which remembers the order, so that it survives a crash, and does it as soon as there is a primary.

use super::elsewhere::Whom;
use super::leader::Local;
use super::{Shared, Unanswered, status};
use crate::http::Guest;
use crate::messages::{CloneAnswer, CloneAsked};
use crate::run::Event;
use axum::extract::{ConnectInfo, Query, State};
use axum::routing::post;
use axum::{Json, Router};
use cluster::copy::{self, CloneCause};

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/v1/clone", post(clone))
}

async fn clone(
    State(shared): State<Shared>,
    Query(whom): Query<Whom>,
    ConnectInfo(guest): ConnectInfo<Guest>,
    Json(mut asked): Json<CloneAsked>,
) -> Result<Json<CloneAnswer>, Unanswered> {
    asked.by = guest.as_named(asked.by);
    if let Some(agent) = shared.elsewhere(&whom)? {
        return agent.post("/v1/clone?", &asked).await.map(Json);
    }
    shared.place()?;
    let (seen, state) = (status::known_best(&shared, Local::default()).await?, shared.store.state());
    if let Err(refused) = copy::permit(&state, &seen, &shared.files.me, asked.from.as_ref()) {
        return Ok(Json(CloneAnswer { refused: Some(refused.to_string()) }));
    }
    if !asked.only_try {
        let cause = CloneCause::Ordered { by: asked.by, from: asked.from };
        let noted = shared.ask(|reply| Event::CloneOrdered { cause, reply }).await?;
        noted.map_err(Unanswered)?;
    }
    Ok(Json(CloneAnswer { refused: None }))
}
