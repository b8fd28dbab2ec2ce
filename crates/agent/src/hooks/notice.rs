//! What has happened since the last look. Pure: facts and the time are handed in, what to tell comes out.
//!
//! - The role of this node is what its server is: primary only when that is also published. A primary that is ended, or
//!   whose epoch is over, is no primary from then on; a standby that restarts goes on to be one.
//! - Another primary is told of by the node whose agent recorded it as the leader (`Entry::by`): by one node, and once
//!   for an epoch, whoever leads afterwards. A node that became primary again after itself is not another one.
//! - Nodes are up or down as the leader hears them. Not up for 2 × `detect` is down: a server that is restarted, or turns
//!   to another primary, is not. A new leader knows nothing of what was told before, and tells again who is down.

use super::Hook;
use cluster::observe::{DataDir, Observation, Observations, Server};
use cluster::reason::{Reason, Safe};
use cluster::state::{Phase, Promotion, State};
use cluster::{Epoch, Millis, Moment, NodeName};
use std::collections::BTreeMap;

/// What a node is, to its hooks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// It takes writes.
    Primary,
    /// Its server is in recovery.
    Standby,
    /// Neither, or not known.
    #[default]
    None,
}

impl Role {
    /// One word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Role::Primary => "primary",
            Role::Standby => "standby",
            Role::None => "none",
        }
    }
}

/// How a primary came to be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It failed, or a person made another one primary.
    Failover,
    /// In order.
    Switchover,
}

/// Something that a hook is run for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happened {
    /// This node's role.
    Role {
        /// What it was.
        from: Role,
        /// What it is.
        to: Role,
    },
    /// Another primary was published.
    Primary {
        /// In this epoch.
        epoch: Epoch,
        /// The one before.
        old: NodeName,
        /// The one now.
        new: NodeName,
        /// How.
        way: Way,
    },
    /// A node is not up any more.
    Down(NodeName),
    /// A node that was down is up.
    Up(NodeName),
}

impl Happened {
    /// The hook that is run for it.
    #[must_use]
    pub fn hook(&self) -> Hook {
        match self {
            Happened::Role { .. } => Hook::RoleChange,
            Happened::Primary { .. } => Hook::Failover,
            Happened::Down(_) => Hook::NodeDown,
            Happened::Up(_) => Hook::NodeUp,
        }
    }
}

/// What is known at this moment.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// This node.
    pub me: &'a NodeName,
    /// The record.
    pub state: &'a State,
    /// This node's server.
    pub server: &'a Server,
    /// What this node hears of all, while it leads.
    pub seen: Option<&'a Observations>,
    /// This host's clock.
    pub now: Moment,
}

/// What was noticed so far.
#[derive(Debug, Default)]
pub struct Noticed {
    role: Role,
    epoch_published: Epoch,
    leading_since: Option<Moment>,
    nodes: BTreeMap<NodeName, Sight>,
}

/// A node as this leader saw it.
#[derive(Debug, Default)]
struct Sight {
    told: Option<Standing>,
    missing_since: Option<Moment>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Up,
    Down,
}

impl Noticed {
    /// Nothing that is recorded in `state` is news.
    #[must_use]
    pub fn new(state: &State) -> Noticed {
        let epoch_published = published(state).map(|p| p.epoch).max().unwrap_or(0);
        Noticed { epoch_published, ..Noticed::default() }
    }

    /// What has happened since the last look.
    pub fn look(&mut self, facts: &Facts<'_>) -> Vec<Happened> {
        let mut happened = Vec::new();
        let (from, to) = (self.role, role(self.role, facts));
        self.role = to;
        if from != to {
            happened.push(Happened::Role { from, to });
        }
        happened.extend(self.other_primaries(facts));
        happened.extend(self.nodes(facts));
        happened
    }

    fn other_primaries(&mut self, facts: &Facts<'_>) -> Vec<Happened> {
        let known = self.epoch_published;
        let all: Vec<&Promotion> = published(facts.state).collect();
        self.epoch_published = all.last().map_or(known, |last| last.epoch.max(known));
        let changes = all.iter().zip(all.iter().skip(1)).filter(|(_, new)| new.epoch > known);
        changes
            .filter(|(old, new)| old.node != new.node && was_recorded_by(facts, new.epoch))
            .map(|(old, new)| Happened::Primary {
                epoch: new.epoch,
                old: old.node.clone(),
                new: new.node.clone(),
                way: way(facts.state, new.epoch),
            })
            .collect()
    }

    fn nodes(&mut self, facts: &Facts<'_>) -> Vec<Happened> {
        let (Some(seen), Some(detect_ms)) = (facts.seen, facts.state.settings.as_ref().map(|s| s.detect_ms))
        else {
            self.leading_since = None;
            self.nodes.clear();
            return Vec::new();
        };
        if self.leading_since != Some(seen.leading_since) {
            self.leading_since = Some(seen.leading_since);
            self.nodes.clear();
        }
        // While there is no database nobody can be up.
        if facts.state.system_identifier.is_none() {
            return Vec::new();
        }
        self.nodes.retain(|node, _| facts.state.members.contains_key(node));
        let mut happened = Vec::new();
        for node in facts.state.members.keys() {
            let heard = seen.fresh(node, facts.now, detect_ms);
            match self.nodes.entry(node.clone()).or_default().look(heard, facts.now, detect_ms) {
                Some(Standing::Up) => happened.push(Happened::Up(node.clone())),
                Some(Standing::Down) => happened.push(Happened::Down(node.clone())),
                None => {}
            }
        }
        happened
    }
}

impl Sight {
    /// What is to be told.
    fn look(&mut self, heard: Option<&Observation>, now: Moment, detect_ms: Millis) -> Option<Standing> {
        if heard.is_some_and(is_up) {
            self.missing_since = None;
            let before = self.told.replace(Standing::Up);
            return (before == Some(Standing::Down)).then_some(Standing::Up);
        }
        // Not down: it never was up. It has no data yet, or was not looked at.
        let begins = heard.is_some_and(|o| matches!(o.data, DataDir::Absent | DataDir::Unknown));
        if self.told.is_none() && begins {
            self.missing_since = None;
            return None;
        }
        let since = *self.missing_since.get_or_insert(now);
        if self.told == Some(Standing::Down) || now.since(since) < 2 * detect_ms {
            return None;
        }
        self.told = Some(Standing::Down);
        Some(Standing::Down)
    }
}

fn is_up(observation: &Observation) -> bool {
    let serves = matches!(observation.server, Server::Standby(_) | Server::Primary { .. });
    serves || observation.data == DataDir::Witness
}

fn role(before: Role, facts: &Facts<'_>) -> Role {
    let published = match &facts.state.phase {
        Phase::Serving { appointment } => appointment.node == *facts.me,
        Phase::Empty | Phase::Initialising { .. } | Phase::Sealing { .. } | Phase::Promoting { .. } => false,
    };
    let over = before == Role::Primary && !published;
    match facts.server {
        Server::Primary { .. } if published => Role::Primary,
        Server::Standby(_) => Role::Standby,
        Server::Stopped if before == Role::Primary => Role::None,
        Server::Primary { .. }
        | Server::Stopped
        | Server::Starting
        | Server::Unresponsive { .. }
        | Server::Unknown => {
            if over {
                Role::None
            } else {
                before
            }
        }
    }
}

fn published(state: &State) -> impl Iterator<Item = &Promotion> {
    state.promotions.iter().filter(|p| p.published.is_some())
}

fn was_recorded_by(facts: &Facts<'_>, epoch: Epoch) -> bool {
    facts.state.history.iter().rev().any(|entry| {
        entry.epoch == epoch && entry.by == *facts.me && matches!(entry.reason, Reason::Published { .. })
    })
}

fn way(state: &State, epoch: Epoch) -> Way {
    let in_order = state.history.iter().rev().any(|entry| {
        let chosen = matches!(entry.reason, Reason::Chosen { safe: Safe::StoppedInOrder { .. }, .. });
        entry.epoch == epoch && chosen
    });
    if in_order { Way::Switchover } else { Way::Failover }
}

#[cfg(test)]
mod tests;
