//! A question to every node about its own files, asked through whichever agent answers.

use std::time::Duration;

use cluster::NodeName;
use cluster::status::Status;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::agents::{Agents, first_answer};
use crate::ask::{AskError, ask, tell};

/// A node may look at many files before it answers, and may have to be asked through another.
const LIMIT: Duration = Duration::from_secs(8);

/// What each node said.
pub type Answers<T> = Vec<(NodeName, Result<T, String>)>;

/// Asks one node, or all that hold data.
///
/// # Errors
/// When no agent answers at all.
pub async fn ask_each<T: DeserializeOwned>(
    agents: &Agents,
    only: Option<&NodeName>,
    path: &str,
) -> Result<Answers<T>, String> {
    let nodes = match only {
        Some(node) => vec![node.clone()],
        None => {
            let status: Status = first_answer(agents, "/v1/status").await?;
            status.nodes.into_iter().filter(|n| n.postgres.is_some()).map(|n| n.node).collect()
        }
    };
    let mut answers = Vec::new();
    for node in nodes {
        let answer = ask_one(agents, &node, path, LIMIT).await;
        answers.push((node, answer));
    }
    Ok(answers)
}

/// Asks one node through whichever agent answers, each within `limit`.
///
/// # Errors
/// What the last agent said that was asked.
pub async fn ask_one<T: DeserializeOwned>(
    agents: &Agents,
    node: &NodeName,
    path: &str,
    limit: Duration,
) -> Result<T, String> {
    let path = with_node(path, node);
    let mut answer = Err("there is no agent to ask".to_owned());
    for agent in &agents.addresses {
        let got = ask(&agents.caller, agent, &path, limit).await;
        // Any agent that refuses speaks for the node; one that is silent does not.
        let settled = matches!(got, Ok(_) | Err(AskError::Refused(..)));
        answer = got.map_err(|error| said(agent, &error));
        if settled {
            break;
        }
    }
    answer
}

/// Tells one node to do something; the first agent that can be reached passes it on.
///
/// # Errors
/// What the agents said, when it was not done, or when it is not known whether it was.
pub async fn tell_one<B: Serialize + Sync, T: DeserializeOwned>(
    agents: &Agents,
    node: &NodeName,
    path: &str,
    body: &B,
) -> Result<T, String> {
    let path = with_node(path, node);
    let mut problem = "there is no agent to ask".to_owned();
    for agent in &agents.addresses {
        match tell(&agents.caller, agent, &path, body, LIMIT).await {
            Ok(answer) => return Ok(answer),
            Err(error) => {
                problem = said(agent, &error);
                if !matches!(error, AskError::Unreachable(_)) {
                    break;
                }
            }
        }
    }
    Err(problem)
}

fn with_node(path: &str, node: &NodeName) -> String {
    let joint = if path.contains('?') { '&' } else { '?' };
    format!("{path}{joint}node={node}")
}

fn said(agent: &str, error: &AskError) -> String {
    match error {
        AskError::Refused(_, text) => text.clone(),
        other => format!("{agent}: {other}"),
    }
}
