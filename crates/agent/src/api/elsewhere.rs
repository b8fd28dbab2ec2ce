//! Questions and orders that the agent of a node that is named must answer, passed on to it: people then need to reach
//! only one agent.

use super::{Shared, Unanswered};
use crate::http;
use crate::postgres::Place;
use cluster::NodeName;
use identity::Caller;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long the other agent may take.
const LIMIT: Duration = Duration::from_secs(5);

/// Whom a question is about.
#[derive(Clone, Deserialize, Default)]
pub(super) struct Whom {
    /// The node; none: the one that is asked.
    node: Option<NodeName>,
    /// `passed_on=1`: it was passed on already, and is not passed on again.
    #[serde(default)]
    passed_on: u8,
}

/// The agent of another node.
pub(super) struct Elsewhere {
    caller: Caller,
    node: NodeName,
    agent: String,
}

impl Elsewhere {
    fn path(&self, path: &str) -> String {
        format!("{path}&passed_on=1&node={}", self.node)
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Unanswered> {
        let answer = http::get(&self.caller, &self.agent, &self.path(path), LIMIT).await;
        answer.map_err(|e| Unanswered(format!("the agent of {} does not answer: {e}", self.node)))
    }

    pub(super) async fn post<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, Unanswered> {
        let answer = http::post_json(&self.caller, &self.agent, &self.path(path), body, LIMIT).await;
        answer.map_err(|e| Unanswered(e.to_string()))
    }
}

impl Shared {
    /// The agent to ask instead of this one, if the question is about another node.
    pub(super) fn elsewhere(&self, whom: &Whom) -> Result<Option<Elsewhere>, Unanswered> {
        let Some(node) = whom.node.clone().filter(|node| *node != self.files.me) else { return Ok(None) };
        if whom.passed_on != 0 {
            return Err(Unanswered(format!("this is {}, not {node}: is its address right?", self.files.me)));
        }
        let state = self.store.state();
        let Some(member) = state.members.get(&node) else {
            let known: Vec<&str> = state.members.keys().map(NodeName::as_str).collect();
            return Err(Unanswered(format!("there is no node {node}; the nodes are {}", known.join(", "))));
        };
        Ok(Some(Elsewhere { caller: self.caller.clone(), node, agent: member.agent.clone() }))
    }

    /// Where this node's data is.
    pub(super) fn place(&self) -> Result<Place, Unanswered> {
        self.files
            .place
            .clone()
            .ok_or_else(|| Unanswered(format!("{} is a witness: it has no data", self.files.me)))
    }
}

/// Work on files that may take a while.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Unanswered> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Unanswered(e.to_string()))
}
