//! `GET /v1/why/now`: what holds, and why. `GET /v1/why/not?node=n2`: why that node is not primary. `GET /v1/whatif`, with
//! `down=n1`, `partition=n1,n2` or `switchover=n3` (empty: to the best candidate): what would happen. The leader answers
//! each, on a copy of what it knows; any agent takes the question.

use super::elsewhere::blocking;
use super::leader::Local;
use super::{Shared, Unanswered};
use crate::http;
use crate::run::Known;
use axum::extract::{Query, State};
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use cluster::NodeName;
use cluster::explain::{self, Present, WhyNot};
use cluster::whatif::{self, Answer, Event, NoSuchNode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long the leader may take.
const LEADER_LIMIT: Duration = Duration::from_secs(2);

/// An answer, or the names that there are.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Found<T> {
    /// The answer.
    Answer(T),
    /// A node was named that does not exist.
    NoSuchNode(NoSuchNode),
}

impl<T> From<Result<T, NoSuchNode>> for Found<T> {
    fn from(found: Result<T, NoSuchNode>) -> Found<T> {
        match found {
            Ok(answer) => Found::Answer(answer),
            Err(unknown) => Found::NoSuchNode(unknown),
        }
    }
}

/// Which node.
#[derive(Deserialize)]
struct Which {
    node: NodeName,
}

/// One of these.
#[derive(Deserialize)]
struct Supposed {
    down: Option<NodeName>,
    partition: Option<String>,
    switchover: Option<String>,
}

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/v1/why/now", get(present))
        .route("/v1/why/not", get(why_not))
        .route("/v1/whatif", get(what_if))
}

async fn present(
    State(shared): State<Shared>,
    Query(local): Query<Local>,
) -> Result<Json<Present>, Unanswered> {
    if let Some(agent) = shared.leader(local)
        && let Ok(theirs) = http::get(&shared.caller, &agent, "/v1/why/now?local=1", LEADER_LIMIT).await
    {
        return Ok(Json(theirs));
    }
    let Some(known) = shared.known().await? else {
        let problem = shared.store.standing().borrow().problem.clone();
        return Ok(Json(explain::unled(&shared.files.me, problem)));
    };
    Ok(Json(explain::present(&known.state, &known.seen, &known.waits, known.now.at)))
}

async fn why_not(
    State(shared): State<Shared>,
    Query(local): Query<Local>,
    Query(Which { node }): Query<Which>,
) -> Result<Json<Found<WhyNot>>, Response> {
    let path = format!("/v1/why/not?local=1&node={node}");
    thought(&shared, local, path, move |known| {
        explain::why_not(&known.state, &known.seen, &known.proposed, &node, &known.now).into()
    })
    .await
}

async fn what_if(
    State(shared): State<Shared>,
    Query(local): Query<Local>,
    Query(supposed): Query<Supposed>,
) -> Result<Json<Found<Answer>>, Response> {
    let event = event(&supposed).map_err(Unanswered)?;
    thought(&shared, local, format!("{}&local=1", path(&event)), move |known| {
        whatif::what_if(&known.state, &known.seen, &known.proposed, &event, &known.now).into()
    })
    .await
}

/// What the leader thinks; `path` asks its agent for it.
async fn thought<T: DeserializeOwned + Send + 'static>(
    shared: &Shared,
    local: Local,
    path: String,
    think: impl Fn(&Known) -> T + Clone + Send + Sync + 'static,
) -> Result<Json<T>, Response> {
    let there = |agent: String| {
        let path = path.clone();
        async move { http::get(&shared.caller, &agent, &path, LEADER_LIMIT).await }
    };
    let here = || {
        let think = think.clone();
        async move {
            let Some(known) = shared.known().await? else { return Ok(None) };
            blocking(move || think(&known)).await.map(Some)
        }
    };
    shared.of_leader(local, there, here).await.map(Json)
}

/// The path that asks for an event.
#[must_use]
pub fn path(event: &Event) -> String {
    match event {
        Event::Down { node } => format!("/v1/whatif?down={node}"),
        Event::Partition { nodes } => {
            let nodes: Vec<&str> = nodes.iter().map(NodeName::as_str).collect();
            format!("/v1/whatif?partition={}", nodes.join(","))
        }
        Event::Switchover { to } => {
            format!("/v1/whatif?switchover={}", to.as_ref().map_or("", NodeName::as_str))
        }
    }
}

fn event(supposed: &Supposed) -> Result<Event, String> {
    let name = |text: &str| text.parse::<NodeName>().map_err(|e| e.to_string());
    match (&supposed.down, &supposed.partition, &supposed.switchover) {
        (Some(node), None, None) => Ok(Event::Down { node: node.clone() }),
        (None, Some(list), None) => {
            let nodes = list.split(',').map(name).collect::<Result<_, _>>()?;
            Ok(Event::Partition { nodes })
        }
        (None, None, Some(to)) => {
            let to = if to.is_empty() { None } else { Some(name(to)?) };
            Ok(Event::Switchover { to })
        }
        _ => Err("say one of down=NODE, partition=NODE,NODE and switchover=NODE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_read_as_it_is_asked_for() {
        let name = |text: &str| text.parse::<NodeName>().unwrap();
        let events = [
            Event::Down { node: name("n1") },
            Event::Partition { nodes: [name("n1"), name("n2")].into() },
            Event::Switchover { to: Some(name("n3")) },
            Event::Switchover { to: None },
        ];
        for asked in events {
            let uri: axum::http::Uri = path(&asked).parse().unwrap();
            let Query(supposed) = Query::<Supposed>::try_from_uri(&uri).unwrap();
            assert_eq!(event(&supposed), Ok(asked));
        }
        assert!(event(&Supposed { down: None, partition: None, switchover: None }).is_err());
        let bad = Supposed { down: None, partition: Some("n1,,n2".to_owned()), switchover: None };
        assert!(event(&bad).is_err());
    }
}
