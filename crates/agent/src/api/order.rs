//! `POST /v1/order`: a person's order to the cluster (switchover, cancel, pause, resume, ...). Any agent takes it and passes
//! it on to the leader, which checks it and records it. A configuration is judged by the servers before that, and a new place for
//! the record by the agents.

use super::Shared;
use super::access::check_order;
use super::leader::Local;
use crate::http::{self, Guest};
use crate::messages::OrderAsked;
use crate::run::Event;
use axum::extract::{ConnectInfo, Query, State};
use axum::response::Response;
use axum::routing::post;
use axum::{Json, Router};
use cluster::decide::switchover::{Order, Ordered};
use cluster::handover::Obstacle;
use cluster::moving::Bar;
use std::time::Duration;

/// How long the leader may take.
const LEADER_LIMIT: Duration = Duration::from_secs(3);

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/v1/order", post(order))
}

async fn order(
    State(shared): State<Shared>,
    Query(local): Query<Local>,
    ConnectInfo(guest): ConnectInfo<Guest>,
    Json(mut asked): Json<OrderAsked>,
) -> Result<Json<Ordered>, Response> {
    check_order(&guest, &asked.order, shared.caller.credentials().is_some())?;
    asked.by = guest.as_named(asked.by);
    let shared = &shared;
    // Only another agent is believed that it has asked the servers.
    let judged = local.is_passed_on() && guest.is_agent();
    if let (Order::Configure { content, .. }, false) = (&asked.order, judged) {
        let because: Vec<Obstacle> =
            shared.judged(content).await.into_iter().map(|fault| Obstacle::Configuration { fault }).collect();
        if !because.is_empty() {
            return Ok(Json(Ordered::Refused { because }));
        }
    }
    if let Order::MoveStore { to } = &asked.order
        && let Some(why) = shared.reads_nothing_for(to)
    {
        let because = vec![Obstacle::Store { bar: Bar::BadHome { why } }];
        return Ok(Json(Ordered::Refused { because }));
    }
    if let (Order::MoveStore { to }, false) = (&asked.order, judged) {
        match shared.fit_home(to.clone()).await {
            Ok(to) => asked.order = Order::MoveStore { to },
            Err(bars) => {
                let because = bars.into_iter().map(|bar| Obstacle::Store { bar }).collect();
                return Ok(Json(Ordered::Refused { because }));
            }
        }
    }
    let there = |agent: String| {
        let asked = asked.clone();
        async move { http::post_json(&shared.caller, &agent, "/v1/order?local=1", &asked, LEADER_LIMIT).await }
    };
    let here = || shared.ask(|reply| Event::Order { asked: asked.clone(), reply });
    shared.of_leader(local, there, here).await.map(Json)
}
