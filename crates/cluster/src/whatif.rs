//! What would happen if ...: the rules themselves, tried on what is known now.
//!
//! The leader's state and observations are copied, an event is supposed, and time goes on in heartbeats: `decide` decides,
//! `apply` records, `step` tells each node what to do, and nodes are taken to do it in the time that PostgreSQL is known to
//! need. Nothing here can change the cluster, as it only has copies. The answer is as good as the last heartbeats: a
//! node that would fail to do what it is told is not foreseen.

mod course;
mod node;
mod sides;
mod words;

use crate::basics::{Millis, NodeName};
use crate::decide::switchover::{self, Order};
use crate::decide::{Now, Proposed};
use crate::handover::Obstacle;
use crate::observe::Observations;
use crate::reason::{NotChosen, Reason, Safe};
use crate::state::{Fencing, Replication, State};
use course::Course;
use serde::{Deserialize, Serialize};
pub use sides::{Deciders, Leadership};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What is supposed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// The host of a node is gone: its agent, its guard and its server at once.
    Down {
        /// The node.
        node: NodeName,
    },
    /// These nodes hear each other and none of the others.
    Partition {
        /// One side; the other is all other nodes.
        nodes: BTreeSet<NodeName>,
    },
    /// Somebody orders a switchover.
    Switchover {
        /// The next primary; `None`: the best candidate.
        to: Option<NodeName>,
    },
}

/// A name that no node has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoSuchNode {
    /// The name asked for.
    pub node: NodeName,
    /// The names that there are.
    pub known: BTreeSet<NodeName>,
}

impl fmt::Display for NoSuchNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known: Vec<&str> = self.known.iter().map(NodeName::as_str).collect();
        write!(f, "there is no node {}; the nodes are {}", self.node, known.join(", "))
    }
}

/// Something that would be decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    /// So long after the event.
    pub after_ms: Millis,
    /// What, and why.
    pub reason: Reason,
}

/// How it would end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "end")]
pub enum End {
    /// The primary stays.
    Stays {
        /// It.
        node: NodeName,
    },
    /// Another node is primary.
    Replaced {
        /// It.
        node: NodeName,
        /// Why the choice is safe.
        safe: Safe,
        /// Why not the others.
        others: BTreeMap<NodeName, NotChosen>,
    },
    /// No majority of the voters could decide anything: the lease of a primary ends, and its guard stops it.
    NoMajority,
    /// There would be no primary until something else happens: `waits` says what.
    NoPrimary,
    /// The switchover would be refused.
    Refused {
        /// Why, with the cure.
        because: Vec<Obstacle>,
    },
}

/// The parts of the time without a primary, as expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// Until enough nodes are sure that the primary is gone (or, in a switchover, proxies begin nothing new).
    pub detect_ms: Millis,
    /// From then until a node is appointed: seals, the end of the old lease, or an orderly stop.
    pub choose_ms: Millis,
    /// From then until it takes writes.
    pub promote_ms: Millis,
}

impl Times {
    /// All of it.
    #[must_use]
    pub fn total_ms(&self) -> Millis {
        self.detect_ms + self.choose_ms + self.promote_ms
    }
}

/// Whether commits would be acknowledged afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "commits")]
pub enum Commits {
    /// Yes.
    GoOn,
    /// Yes, with fewer confirmations (`degrade = "available"`).
    Reduced {
        /// How many must confirm; 0: nobody but the primary surely has a commit.
        k: usize,
        /// Otherwise.
        full_k: usize,
    },
    /// The primary takes them and they wait for standbys.
    Wait {
        /// Synchronous standbys that stream.
        have: usize,
        /// How many must confirm.
        k: usize,
    },
    /// There is no primary.
    Stop,
}

/// What a person is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// What was supposed.
    pub event: Event,
    /// The primary before it.
    pub primary: Option<NodeName>,
    /// Who could decide, and under whose lead.
    pub deciders: Deciders,
    /// How it would end.
    pub end: End,
    /// How long there would be no primary; `None`: it stays, or it is not known how long.
    pub times: Option<Times>,
    /// Commits afterwards.
    pub commits: Commits,
    /// Bytes of WAL that might be lost; `None`: nobody would be chosen.
    pub loss_bytes: Option<u64>,
    /// The old primary, cut off, may go on so long; what it acknowledges alone then (asynchronous mode) would be lost.
    pub alone_ms: Option<Millis>,
    /// What would be decided, in this order.
    pub decided: Vec<Decided>,
    /// What would be waited for at the end, or refused.
    pub waits: Vec<Reason>,
}

/// Answers on copies of what the leader knows.
///
/// # Errors
/// When the event names a node that does not exist.
pub fn what_if(
    state: &State,
    seen: &Observations,
    proposed: &Proposed,
    event: &Event,
    now: &Now,
) -> Result<Answer, NoSuchNode> {
    let named: Vec<&NodeName> = match event {
        Event::Down { node } => vec![node],
        Event::Partition { nodes } => nodes.iter().collect(),
        Event::Switchover { to } => to.iter().collect(),
    };
    for node in named {
        if !state.members.contains_key(node) {
            return Err(NoSuchNode { node: node.clone(), known: state.members.keys().cloned().collect() });
        }
    }
    let deciders = sides::deciders(state, seen, proposed.record, event, now);
    if deciders.leadership == Leadership::None {
        return Ok(undecided(state, event, deciders));
    }
    let mut state = state.clone();
    state.planned.clear();
    let mut begun = Vec::new();
    if let Event::Switchover { to } = event {
        let order = Order::Switchover { to: to.clone(), at: None };
        match switchover::order(&state, seen, proposed, &order, "what if", now) {
            Ok((command, _)) => begun.push(command),
            Err(because) => return Ok(refused(&state, event, deciders, because)),
        }
    }
    let primary = state.primary().cloned();
    let epoch = state.epoch;
    // On which side of a cut they would be is not known.
    let cut = matches!(event, Event::Partition { .. });
    let unheard = if cut { BTreeSet::new() } else { deciders.silent.clone() };
    let mut course = Course::new(state, seen, proposed, &deciders, unheard, now);
    begun.iter().for_each(|command| course.record(command));
    course.run();
    Ok(told(event, primary, epoch, deciders, course))
}

fn undecided(state: &State, event: &Event, deciders: Deciders) -> Answer {
    let lease_ms = state.settings.as_ref().map(crate::state::Settings::lease_ms);
    // Only who could still serve alone matters: a host that is gone acknowledges nothing.
    let gone = matches!(event, Event::Down { node } if state.primary() == Some(node));
    // A pause without fencing: it serves on although nobody renews its lease.
    let suspended = state.paused.as_ref().is_some_and(|p| p.fencing == Fencing::Suspended);
    let serves_on = status_primary(state).filter(|_| suspended && !gone);
    let commits = if serves_on.is_some() { Commits::GoOn } else { Commits::Stop };
    Answer {
        event: event.clone(),
        primary: state.primary().cloned(),
        deciders,
        alone_ms: lease_ms.filter(|_| !gone && serves_on.is_none() && state.primary().is_some()),
        end: serves_on.map_or(End::NoMajority, |node| End::Stays { node }),
        times: None,
        commits,
        loss_bytes: None,
        decided: Vec::new(),
        waits: Vec::new(),
    }
}

fn refused(state: &State, event: &Event, deciders: Deciders, because: Vec<Obstacle>) -> Answer {
    let commits = if state.primary().is_some() { Commits::GoOn } else { Commits::Stop };
    Answer {
        event: event.clone(),
        primary: state.primary().cloned(),
        deciders,
        end: End::Refused { because },
        times: None,
        commits,
        loss_bytes: None,
        alone_ms: None,
        decided: Vec::new(),
        waits: Vec::new(),
    }
}

fn told(event: &Event, primary: Option<NodeName>, epoch: u64, deciders: Deciders, course: Course) -> Answer {
    let Course { state, decided, waits, .. } = course;
    let serving = status_primary(&state);
    let choice = decided.iter().rev().find_map(|d| match &d.reason {
        Reason::Chosen { safe, others, .. } => Some((safe.clone(), others.clone())),
        _ => None,
    });
    let end = match (serving, choice) {
        (Some(node), Some((safe, others))) if state.epoch > epoch || primary.is_none() => {
            End::Replaced { node, safe, others }
        }
        (Some(node), _) if deciders.with.contains(&node) => End::Stays { node },
        _ => End::NoPrimary,
    };
    let short = waits.iter().find_map(|reason| match reason {
        Reason::SyncShort { have, k } => Some(Commits::Wait { have: *have, k: *k }),
        Reason::SyncReduced { set, full_k, .. } => Some(Commits::Reduced { k: set.k, full_k: *full_k }),
        _ => None,
    });
    let commits = match &end {
        End::Stays { .. } | End::Replaced { .. } => short.unwrap_or(Commits::GoOn),
        End::NoMajority | End::NoPrimary | End::Refused { .. } => Commits::Stop,
    };
    let loss_bytes = match &end {
        End::Stays { .. } => Some(0),
        End::Replaced { safe: Safe::WithinLoss { missing_bytes, .. }, .. } => Some(*missing_bytes),
        End::Replaced { .. } => Some(0),
        End::NoMajority | End::NoPrimary | End::Refused { .. } => None,
    };
    let cut_off = primary.as_ref().is_some_and(|p| !deciders.with.contains(p));
    let alone = cut_off && matches!(event, Event::Partition { .. });
    let is_async = state.settings.as_ref().filter(|s| matches!(s.replication, Replication::Async { .. }));
    Answer {
        event: event.clone(),
        primary,
        deciders,
        times: times(&end, &decided),
        end,
        commits,
        loss_bytes,
        alone_ms: is_async.filter(|_| alone).map(crate::state::Settings::lease_ms),
        decided,
        waits,
    }
}

fn status_primary(state: &State) -> Option<NodeName> {
    match &state.phase {
        crate::state::Phase::Serving { appointment } => Some(appointment.node.clone()),
        _ => None,
    }
}

fn times(end: &End, decided: &[Decided]) -> Option<Times> {
    if !matches!(end, End::Replaced { .. }) {
        return None;
    }
    let at =
        |wanted: fn(&Reason) -> bool| decided.iter().rev().find(|d| wanted(&d.reason)).map(|d| d.after_ms);
    let begun = at(|r| matches!(r, Reason::SwitchoverGoesOn { stage: crate::handover::Stage::Holding, .. }));
    let opened = at(|r| matches!(r, Reason::EpochOpened { .. })).or(begun).unwrap_or(0);
    let appointed = at(|r| matches!(r, Reason::Appointed { .. }))?;
    let published = at(|r| matches!(r, Reason::Published { .. }))?;
    Some(Times {
        detect_ms: if begun.is_some() { 0 } else { opened },
        choose_ms: appointed.saturating_sub(opened),
        promote_ms: published.saturating_sub(appointed),
    })
}
