//! Whether the cluster is ready to lose its primary now: green, amber or red, with reasons.
//!
//! The loss of the primary's host is tried with the rules themselves ([`crate::whatif`]); what came of it, and what is wrong
//! with each node meanwhile, gives the light.

use crate::basics::{Millis, Moment, NodeName};
use crate::candidate;
use crate::decide::{Now, Proposed};
use crate::explain::{Bar, Cure, cure_without, plight};
use crate::observe::Observations;
use crate::reason::Reason;
use crate::state::State;
use crate::whatif::{self, Answer, Commits, End, Event};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// A second standby must be no older than this in its replay to count as caught up.
const REPLAY_LAG_MAX_MS: Millis = 10_000;

/// The light.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Light {
    /// The primary could be lost now, and all goes on as it should.
    Green,
    /// It could be lost, with less margin than the cluster is made for.
    Amber,
    /// If it were lost now there would be no primary.
    Red,
}

/// Why the light is not green.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "concern")]
pub enum Concern {
    /// There is no primary that could be lost.
    NoPrimaryNow,
    /// Too few voters would be left.
    NoMajority {
        /// As many.
        left: usize,
        /// Needed to decide anything.
        needed: usize,
        /// Nodes that are silent already.
        silent: BTreeSet<NodeName>,
    },
    /// Nobody would be chosen, for this reason.
    NobodyChosen {
        /// If this node, the primary, were lost.
        lost: NodeName,
        /// The wait it would end in.
        wait: Reason,
    },
    /// The leader has only just been elected and has not heard every node yet.
    LeaderNew {
        /// It leads for so long.
        leading_ms: Millis,
    },
    /// Only one node could take over, although others were made for it.
    OneCandidate {
        /// It.
        node: NodeName,
    },
    /// Commits would wait afterwards.
    CommitsWouldWait {
        /// Synchronous standbys that would stream.
        have: usize,
        /// As many must confirm.
        k: usize,
    },
    /// Commits wait already.
    CommitsWait {
        /// Synchronous standbys that stream.
        have: usize,
        /// As many must confirm.
        k: usize,
    },
    /// Commits would be confirmed by fewer afterwards.
    WouldReduce {
        /// By so many.
        k: usize,
        /// As many should.
        full_k: usize,
    },
    /// Commits are confirmed by fewer already.
    Reduced {
        /// By so many.
        k: usize,
        /// As many should.
        full_k: usize,
    },
    /// Something is wrong with a node.
    Node {
        /// It.
        node: NodeName,
        /// What.
        bar: Bar,
    },
    /// The node that would take over replays old WAL and would be late.
    Lags {
        /// It.
        node: NodeName,
        /// Age of what it replays.
        lag_ms: Millis,
    },
}

impl Concern {
    /// How bad it is.
    #[must_use]
    pub fn light(&self) -> Light {
        match self {
            Concern::NoPrimaryNow | Concern::NoMajority { .. } | Concern::NobodyChosen { .. } => Light::Red,
            Concern::LeaderNew { .. }
            | Concern::OneCandidate { .. }
            | Concern::CommitsWouldWait { .. }
            | Concern::CommitsWait { .. }
            | Concern::WouldReduce { .. }
            | Concern::Reduced { .. }
            | Concern::Node { .. }
            | Concern::Lags { .. } => Light::Amber,
        }
    }

    /// What would cure it; `None`: its sentence says it, or something else in the list does.
    #[must_use]
    pub fn cure(&self) -> Option<Cure> {
        match self {
            Concern::NoMajority { silent, .. } if silent.is_empty() => Some(Cure::AddVoter),
            Concern::NoMajority { silent, .. } => Some(Cure::Agents { nodes: silent.clone() }),
            Concern::NobodyChosen { lost, wait } => cure_without(wait, lost),
            Concern::LeaderNew { .. } | Concern::Lags { .. } => Some(Cure::Passes { in_ms: None }),
            Concern::CommitsWouldWait { .. } | Concern::WouldReduce { .. } => Some(Cure::AddNode),
            Concern::Node { node, bar } => bar.cure(node),
            Concern::NoPrimaryNow
            | Concern::OneCandidate { .. }
            | Concern::CommitsWait { .. }
            | Concern::Reduced { .. } => None,
        }
    }
}

/// How ready the cluster is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// The light.
    pub light: Light,
    /// Who would be primary.
    pub next: Option<NodeName>,
    /// In so long, as expected.
    pub expected_ms: Option<Millis>,
    /// With the loss of so many bytes of WAL, as of the last heartbeats; within the rule.
    pub loss_bytes: Option<u64>,
    /// Why it is not green, the worst first.
    pub concerns: Vec<Concern>,
}

/// Judges on the leader. `waits` is what its last decision waits for.
#[must_use]
pub fn readiness(
    state: &State,
    seen: &Observations,
    proposed: &Proposed,
    waits: &[Reason],
    now: &Now,
) -> Readiness {
    let mut ready = Readiness {
        light: Light::Green,
        next: None,
        expected_ms: None,
        loss_bytes: None,
        concerns: Vec::new(),
    };
    let detect_ms = state.settings.as_ref().map_or(0, |s| s.detect_ms);
    let leading_ms = now.at.since(seen.leading_since);
    let lost = state.primary().map(|node| Event::Down { node: node.clone() });
    let answer = lost.and_then(|event| whatif::what_if(state, seen, proposed, &event, now).ok());
    match answer {
        None => ready.concerns.push(Concern::NoPrimaryNow),
        // It has not heard everybody yet: what is missing is no news of the cluster.
        Some(_) if leading_ms < detect_ms => ready.concerns.push(Concern::LeaderNew { leading_ms }),
        Some(answer) => {
            ready.expected_ms = answer.times.map(|times| times.total_ms());
            ready.loss_bytes = answer.loss_bytes;
            ready.concerns.extend(outcome(&answer));
            if let End::Replaced { node, .. } = answer.end {
                ready.concerns.extend(lags(seen, &node));
                ready.next = Some(node);
            }
        }
    }
    ready.concerns.extend(waits.iter().filter_map(|wait| match wait {
        Reason::SyncShort { have, k } => Some(Concern::CommitsWait { have: *have, k: *k }),
        Reason::SyncReduced { set, full_k, .. } => Some(Concern::Reduced { k: set.k, full_k: *full_k }),
        _ => None,
    }));
    if leading_ms >= detect_ms {
        ready.concerns.extend(margins(state, seen, ready.next.as_ref(), now.at));
    }
    ready.concerns.sort_by_key(|concern| std::cmp::Reverse(concern.light()));
    ready.light = ready.concerns.iter().map(Concern::light).max().unwrap_or(Light::Green);
    ready
}

fn outcome(answer: &Answer) -> Vec<Concern> {
    let Answer { end, commits, deciders, waits, .. } = answer;
    match end {
        End::NoMajority => {
            let (left, needed) = (deciders.with.len(), deciders.needed);
            vec![Concern::NoMajority { left, needed, silent: deciders.silent.clone() }]
        }
        End::Replaced { .. } => match commits {
            Commits::Wait { have, k } => vec![Concern::CommitsWouldWait { have: *have, k: *k }],
            Commits::Reduced { k, full_k } => vec![Concern::WouldReduce { k: *k, full_k: *full_k }],
            Commits::GoOn | Commits::Stop => Vec::new(),
        },
        End::NoPrimary | End::Stays { .. } | End::Refused { .. } => {
            let Some(lost) = &answer.primary else { return Vec::new() };
            let nobody = |wait: &Reason| Concern::NobodyChosen { lost: lost.clone(), wait: wait.clone() };
            waits.iter().map(nobody).collect()
        }
    }
}

fn lags(seen: &Observations, next: &NodeName) -> Option<Concern> {
    let heard = seen.nodes.get(next)?;
    match &heard.observation.server {
        crate::observe::Server::Standby(s) => {
            let lag_ms = s.replay_lag_ms.filter(|ms| *ms > REPLAY_LAG_MAX_MS)?;
            Some(Concern::Lags { node: next.clone(), lag_ms })
        }
        _ => None,
    }
}

/// What is less than the cluster was made for.
fn margins(state: &State, seen: &Observations, next: Option<&NodeName>, now: Moment) -> Vec<Concern> {
    let mut found = Vec::new();
    let mut able = 0;
    let mut made_for = 0;
    for node in state.members.keys() {
        let bars = plight(state, seen, node, now);
        let is_data = state.members.get(node).is_some_and(|m| m.postgres.is_some());
        if is_data && state.primary() != Some(node) && !candidate::tags(state, node).never_primary {
            made_for += 1;
            able += usize::from(!bars.iter().any(Bar::stops));
        }
        found.extend(bars.into_iter().map(|bar| Concern::Node { node: node.clone(), bar }));
    }
    if let (Some(next), true) = (next, able < made_for && able < 2) {
        found.insert(0, Concern::OneCandidate { node: next.clone() });
    }
    found
}

impl fmt::Display for Light {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Light::Green => "green",
            Light::Amber => "amber",
            Light::Red => "red",
        })
    }
}

impl fmt::Display for Concern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Concern::NoPrimaryNow => f.write_str("there is no primary now"),
            Concern::NoMajority { left, needed, silent } => {
                write!(f, "too few voters would be left to decide anything: {left}, {needed} are needed")?;
                if silent.is_empty() {
                    return Ok(());
                }
                let silent: Vec<&str> = silent.iter().map(NodeName::as_str).collect();
                write!(f, "; silent already: {}", silent.join(", "))
            }
            Concern::NobodyChosen { wait, .. } => write!(f, "nobody would be chosen: {wait}"),
            Concern::LeaderNew { leading_ms } => {
                write!(f, "the leader was elected {leading_ms} ms ago and has not heard every node yet")
            }
            Concern::OneCandidate { node } => write!(f, "only {node} could take over"),
            Concern::CommitsWouldWait { have, k } => write!(
                f,
                "commits would wait afterwards: {have} synchronous standbys would stream, {k} must confirm each commit"
            ),
            Concern::CommitsWait { have, k } => {
                write!(f, "commits wait: {have} synchronous standbys stream, {k} must confirm each commit")
            }
            Concern::WouldReduce { k, full_k } => {
                write!(
                    f,
                    "each commit would be confirmed by {k} afterwards, not {full_k} (degrade = available)"
                )
            }
            Concern::Reduced { k, full_k } => {
                write!(f, "each commit is confirmed by {k}, not {full_k} (degrade = available)")
            }
            Concern::Node { node, bar } => write!(f, "{node}: {bar}"),
            Concern::Lags { node, lag_ms } => write!(
                f,
                "{node} would take over and replays what is {:.1} s old: it would be late",
                *lag_ms as f64 / 1000.0
            ),
        }
    }
}

impl Readiness {
    /// One line: the light and what would come of the loss of the primary.
    #[must_use]
    pub fn headline(&self) -> String {
        match (&self.next, self.expected_ms) {
            (Some(next), Some(ms)) => {
                let lost = match self.loss_bytes {
                    Some(0) | None => String::new(),
                    Some(bytes) => format!(", without the last {bytes} bytes of WAL"),
                };
                let tenths = ms.saturating_add(50) / 100;
                let seconds = format!("{}.{} s", tenths / 10, tenths % 10);
                format!("{}: {next} would take over in about {seconds}{lost}", self.light)
            }
            (Some(next), None) => format!("{}: {next} would take over", self.light),
            (None, _) if self.light == Light::Red => format!("{}: no node would take over", self.light),
            (None, _) => format!("{}: not known yet who would take over", self.light),
        }
    }
}
