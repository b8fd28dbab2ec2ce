//! What would end a wait, a refusal or a fault.

use crate::basics::{Millis, NodeName};
use crate::membership;
use crate::reason::Reason;
use crate::restart::Tale;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// What a person can do, or need not do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "cure")]
pub enum Cure {
    /// It passes by itself.
    Passes {
        /// In so long, as far as that is known.
        in_ms: Option<Millis>,
    },
    /// End the pause.
    Resume,
    /// End the maintenance of a node.
    EndMaintenance {
        /// The node.
        node: NodeName,
    },
    /// See to these hosts and their agents.
    Agents {
        /// The nodes.
        nodes: BTreeSet<NodeName>,
    },
    /// Bring back one of these: what it has is needed.
    BringBack {
        /// The nodes.
        nodes: BTreeSet<NodeName>,
    },
    /// The leader does not hear the primary and others do.
    Network {
        /// The primary.
        node: NodeName,
    },
    /// The agent of a running server is silent.
    Agent {
        /// The node.
        node: NodeName,
    },
    /// A standby must come nearer to the primary while that still runs.
    CatchUp,
    /// Standbys must stream again.
    Standbys,
    /// Take a tag out of the configuration.
    Untag {
        /// The node.
        node: NodeName,
        /// The key.
        key: String,
    },
    /// Its data is not the cluster's.
    MoveData {
        /// The node.
        node: NodeName,
    },
    /// Look at its logs.
    Logs {
        /// The node.
        node: NodeName,
    },
    /// The cluster needs another voter.
    AddVoter,
    /// The cluster needs another node with data.
    AddNode,
}

impl fmt::Display for Cure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list =
            |nodes: &BTreeSet<NodeName>| nodes.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", ");
        match self {
            Cure::Passes { in_ms: None } => f.write_str("it passes by itself"),
            Cure::Passes { in_ms: Some(ms) } => write!(f, "it passes by itself, in {ms} ms"),
            Cure::Resume => f.write_str("end the pause: pgkeel resume"),
            Cure::EndMaintenance { node } => {
                write!(f, "when the work is done: pgkeel maintenance off {node}")
            }
            Cure::Agents { nodes } if nodes.is_empty() => f.write_str("it passes by itself"),
            Cure::Agents { nodes } => write!(
                f,
                "look at the host and the network of {}, and start the agent there (pgkeel run) if it does not run",
                list(nodes)
            ),
            Cure::BringBack { nodes } if nodes.is_empty() => f.write_str("wait for a node that has the data"),
            Cure::BringBack { nodes } => {
                write!(
                    f,
                    "bring back {} with its data: start its host and its agent; if that cannot be, pgkeel failover --to NODE \
                     shows what it would lose to do without",
                    either(nodes)
                )
            }
            Cure::Network { node } => write!(
                f,
                "if {node} is really lost it passes as soon as the others confirm; else repair the network between it and \
                 the leader"
            ),
            Cure::Agent { node } => {
                write!(
                    f,
                    "the server of {node} runs and its agent does not answer: look at the host and its log"
                )
            }
            Cure::CatchUp => f.write_str("let a standby catch up while the primary still runs"),
            Cure::Standbys => f.write_str("let standbys stream again; what keeps each of them is told below"),
            Cure::Untag { node, key } => {
                write!(f, "take {key} out of the configuration of {node} and restart its agent")
            }
            Cure::MoveData { node } => write!(
                f,
                "move the data directory of {node} away and it is cloned, or join the cluster that the data belongs to"
            ),
            Cure::Logs { node } => write!(f, "see the logs of the agent and of the server of {node}"),
            Cure::AddVoter => f.write_str("add a node or a witness, so that a majority is left"),
            Cure::AddNode => f.write_str("add a node with data"),
        }
    }
}

fn either(nodes: &BTreeSet<NodeName>) -> String {
    let list: Vec<&str> = nodes.iter().map(NodeName::as_str).collect();
    if list.len() == 1 { list.concat() } else { format!("any of {}", list.join(", ")) }
}

/// What would end this wait; `None`: it is no wait, or its own sentence says it.
#[must_use]
pub fn cure(reason: &Reason) -> Option<Cure> {
    let passes = |in_ms| Some(Cure::Passes { in_ms });
    match reason {
        Reason::Paused { .. } => Some(Cure::Resume),
        Reason::WaitNodes { missing } => Some(Cure::Agents { nodes: missing.clone() }),
        Reason::WaitSeals { missing, .. } => Some(Cure::BringBack { nodes: missing.clone() }),
        Reason::WaitLoss { waiting_for, .. } => Some(Cure::BringBack { nodes: waiting_for.clone() }),
        Reason::NotConfirmed { node, .. } => Some(Cure::Network { node: node.clone() }),
        Reason::StreamAdvances { node, .. } => Some(Cure::Agent { node: node.clone() }),
        Reason::SyncShort { .. } | Reason::SyncReduced { .. } | Reason::LossBound { .. } => {
            Some(Cure::Standbys)
        }
        Reason::WaitLease { left_ms, .. } => passes(Some(*left_ms)),
        Reason::WaitPromotion { .. }
        | Reason::WaitInitialise { .. }
        | Reason::SwitchoverWaits { .. }
        | Reason::Membership { tale: membership::Tale::Waits { .. } }
        | Reason::Restart { tale: Tale::Waits { .. } } => passes(None),
        _ => None,
    }
}

/// The same for a wait that would follow the loss of a node: what that node has is gone, so it cannot be brought back.
#[must_use]
pub fn cure_without(reason: &Reason, lost: &NodeName) -> Option<Cure> {
    match cure(reason)? {
        Cure::BringBack { mut nodes } => {
            nodes.remove(lost);
            Some(if nodes.is_empty() { Cure::CatchUp } else { Cure::BringBack { nodes } })
        }
        other => Some(other),
    }
}
