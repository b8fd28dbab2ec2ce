//! What holds at this moment and why, and why a node is not primary: with evidence and what would cure it.
//!
//! Everything here is said for people by the leader, from what it knows; nothing is decided by it.

mod bar;
mod cure;
mod why_not;

pub use bar::{Bar, plight};
pub use cure::{Cure, cure, cure_without};
pub use why_not::{Chance, LastChoice, Then, WhyNot, why_not};

use crate::basics::{Epoch, Moment, NodeName};
use crate::observe::{Observations, Server};
use crate::reason::Reason;
use crate::state::{Phase, State};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// What holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "holds")]
pub enum Holds {
    /// Nobody decides.
    Unled {
        /// Who says so.
        asked: NodeName,
        /// What keeps the store from electing a leader, in its words.
        problem: Option<String>,
    },
    /// There is no database yet.
    NoDatabase,
    /// There is no primary.
    NoPrimary {
        /// The open epoch.
        epoch: Epoch,
        /// The last one.
        last: Option<NodeName>,
    },
    /// A node is being promoted.
    Promoting {
        /// It.
        node: NodeName,
        /// For this epoch.
        epoch: Epoch,
    },
    /// A node is recorded as primary and is not seen to take writes.
    NotServing {
        /// It.
        node: NodeName,
        /// Of this epoch.
        epoch: Epoch,
    },
    /// There is a primary, and commits wait.
    CommitsWait {
        /// It.
        node: NodeName,
        /// Of this epoch.
        epoch: Epoch,
    },
    /// There is a primary and it takes writes.
    Serves {
        /// It.
        node: NodeName,
        /// Of this epoch.
        epoch: Epoch,
    },
}

/// A wait or a refusal, and its cure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Because {
    /// What is waited for or refused, with its evidence.
    pub reason: Reason,
    /// What would end it; `None`: its own sentence says it.
    pub cure: Option<Cure>,
}

/// The present, explained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Present {
    /// What holds.
    pub holds: Holds,
    /// Why, if it is not all well.
    pub because: Vec<Because>,
    /// Nodes that do not do their part, and why.
    pub nodes: BTreeMap<NodeName, Vec<Bar>>,
}

/// Explains the present, on the leader. `waits` is what its last decision waits for.
#[must_use]
pub fn present(state: &State, seen: &Observations, waits: &[Reason], now: Moment) -> Present {
    let plights = state.members.keys().map(|node| (node.clone(), plight(state, seen, node, now)));
    let nodes: BTreeMap<NodeName, Vec<Bar>> = plights.filter(|(_, bars)| !bars.is_empty()).collect();
    let sealing = nodes.values().flatten().any(|bar| matches!(bar, Bar::NotSealed { .. }));
    let cure = |reason: &Reason| match reason {
        Reason::WaitSeals { .. } if sealing => Some(Cure::Passes { in_ms: None }),
        reason => cure(reason),
    };
    let because = waits.iter().filter(|reason| **reason != Reason::Steady);
    Present {
        holds: holds(state, seen, waits, now),
        because: because.map(|r| Because { reason: r.clone(), cure: cure(r) }).collect(),
        nodes,
    }
}

/// What a node says that hears of no leader.
#[must_use]
pub fn unled(asked: &NodeName, problem: Option<String>) -> Present {
    let holds = Holds::Unled { asked: asked.clone(), problem };
    Present { holds, because: Vec::new(), nodes: BTreeMap::new() }
}

fn holds(state: &State, seen: &Observations, waits: &[Reason], now: Moment) -> Holds {
    let epoch = state.epoch;
    match &state.phase {
        Phase::Empty | Phase::Initialising { .. } => Holds::NoDatabase,
        Phase::Sealing { .. } => {
            Holds::NoPrimary { epoch, last: state.last_appointed.as_ref().map(|a| a.node.clone()) }
        }
        Phase::Promoting { appointment } => Holds::Promoting { node: appointment.node.clone(), epoch },
        Phase::Serving { appointment } => {
            let node = appointment.node.clone();
            let detect_ms = state.settings.as_ref().map_or(0, |s| s.detect_ms);
            let report = seen.fresh(&node, now, detect_ms);
            let serves = report.is_some_and(|o| matches!(o.server, Server::Primary { .. }));
            if !serves {
                Holds::NotServing { node, epoch }
            } else if waits.iter().any(|reason| matches!(reason, Reason::SyncShort { .. })) {
                Holds::CommitsWait { node, epoch }
            } else {
                Holds::Serves { node, epoch }
            }
        }
    }
}

impl fmt::Display for Holds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holds::Unled { asked, problem } => {
                write!(f, "nobody decides: {asked} knows of no leader")?;
                match problem {
                    Some(problem) => write!(f, " ({problem})")?,
                    None => f.write_str(", so there is no majority of agents that hear each other")?,
                }
                f.write_str(
                    "; start the agents that do not run (pgkeel run), and see to the network between them",
                )
            }
            Holds::NoDatabase => f.write_str("there is no database yet"),
            Holds::NoPrimary { epoch, last: Some(last) } => {
                write!(
                    f,
                    "there is no primary: {last} was replaced, and none is chosen yet for epoch {epoch}"
                )
            }
            Holds::NoPrimary { epoch, last: None } => {
                write!(f, "there is no primary: none is chosen yet for epoch {epoch}")
            }
            Holds::Promoting { node, epoch } => {
                write!(f, "there is no primary for a moment: {node} is being promoted for epoch {epoch}")
            }
            Holds::NotServing { node, epoch } => {
                write!(f, "{node} is the recorded primary of epoch {epoch}, and is not seen to take writes")
            }
            Holds::CommitsWait { node, epoch } => {
                write!(f, "{node} is primary of epoch {epoch}, and commits wait")
            }
            Holds::Serves { node, epoch } => write!(f, "{node} is primary of epoch {epoch} and takes writes"),
        }
    }
}

impl Present {
    /// For people: what holds; why; what is wrong with each node. The second of each pair is the cure.
    #[must_use]
    pub fn sentences(&self) -> Vec<(String, Option<String>)> {
        let cured = |cure: &Option<Cure>| cure.as_ref().map(ToString::to_string);
        let mut told = vec![(self.holds.to_string(), None)];
        told.extend(self.because.iter().map(|b| (b.reason.to_string(), cured(&b.cure))));
        for (node, bars) in &self.nodes {
            told.extend(bars.iter().map(|bar| (format!("{node}: {bar}"), cured(&bar.cure(node)))));
        }
        told
    }
}
