//! Who belongs to the cluster, as recorded. What may be asked for, and when a node is gone, is decided in
//! `decide::membership`; here is what holds whoever asks ([`change`]).
//!
//! The configuration files name the nodes that formed the cluster. The record goes on from there: it lets nodes in,
//! and it strikes nodes out, although files may still list them.
//!
//! Why a node that was struck out can do no harm, whatever it still believes.
//! - *It is in no sync set in force*, so PostgreSQL does not count what it confirms, and no failover needs its seal.
//! - *It is not the primary, nor about to be*, so no lease is given to it; one that it held in an earlier epoch ends as
//!   every lease does.
//! - *Its word counts for nothing*: the leader does not hear it ([`crate::observe::Observations::hear`]), and takes seals only of
//!   nodes that are recorded.
//! - *Its name is not given again.* PostgreSQL knows a standby by its name alone: a copy of a node that was struck out, still
//!   running somewhere, would confirm commits in the name of the new one.

mod said;

use crate::basics::{NodeName, WallMs};
use crate::command::{Change, Refusal};
use crate::mutant::{self, Mutant};
use crate::reason::Reason;
use crate::state::{Entry, Phase, State};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

pub use said::{Bar, Knock, Tale};

/// Nodes that a cluster has at most: the size to which PostgreSQL's list of synchronous standbys and a vote stay small.
pub const NODES_MAX: usize = 32;
/// Names kept of nodes that were struck out. A name that was forgotten could be given again, so no more are struck out then.
pub const REMOVED_MAX: usize = 1000;
/// Invitations kept at one time.
pub const TOKENS_MAX: usize = 64;
/// Entries of the history that refused invitations may take: whoever knocks from outside drives nothing else out of it.
pub const KNOCKS_MAX: usize = 10;

/// A node that was let in after the cluster was formed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// `host:port` of its agent.
    pub address: String,
    /// What its store calls itself; 0 where the record is kept elsewhere.
    pub raft_id: u64,
}

/// A node on its way out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaving {
    /// Who asked for it.
    pub by: String,
    /// When, on the leader's wall clock.
    pub at: WallMs,
}

/// What an invitation is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenRole {
    /// A node with a copy of the data.
    Data,
    /// A node that only votes.
    Witness,
    /// A proxy, which is no node.
    Proxy,
}

/// An invitation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// SHA-256 of its secret, in hexadecimal.
    pub hash: String,
    /// What it is good for.
    pub role: TokenRole,
    /// Until when, on the leader's wall clock.
    pub until: WallMs,
    /// How many may still use it.
    pub left: u32,
    /// Who made it.
    pub by: String,
    /// When, on the leader's wall clock.
    pub made: WallMs,
}

impl fmt::Display for TokenRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TokenRole::Data => "a node with data",
            TokenRole::Witness => "a witness",
            TokenRole::Proxy => "a proxy",
        })
    }
}

impl State {
    /// Whoever belongs to the cluster, where the configuration files name these.
    #[must_use]
    pub fn names(&self, configured: &BTreeSet<NodeName>) -> BTreeSet<NodeName> {
        let all = configured.iter().chain(self.admitted.keys());
        all.filter(|node| !self.removed.contains(*node)).cloned().collect()
    }

    /// The recorded nodes, and those that were let in and have not reported yet.
    pub fn seated(&self) -> impl Iterator<Item = &NodeName> {
        let unheard = self.admitted.keys().filter(|node| !self.members.contains_key(*node));
        self.members.keys().chain(unheard)
    }

    /// Whether `node` is recorded or was let in.
    #[must_use]
    pub fn has_seat(&self, node: &NodeName) -> bool {
        self.members.contains_key(node) || self.admitted.contains_key(node)
    }
}

fn refused<T>(why: String) -> Result<T, Refusal> {
    Err(Refusal::OutOfPlace(why))
}

/// Nodes come and go only while a primary serves and somebody decides.
fn settled(state: &State) -> Result<(), Refusal> {
    match (&state.phase, &state.paused) {
        (Phase::Serving { .. }, None) => Ok(()),
        (Phase::Serving { .. }, Some(_)) => refused("the cluster is paused".into()),
        _ => refused("no primary serves".into()),
    }
}

pub(crate) fn change(state: &mut State, change: &Change, at: WallMs) -> Result<(), Refusal> {
    match change {
        Change::Admit { node, seat } => admit(state, node, seat),
        Change::Leave { node, leaving: Some(leaving) } => {
            settled(state)?;
            if let Some(why) = needed(state, node) {
                return refused(why);
            }
            state.leaving.insert(node.clone(), leaving.clone());
            Ok(())
        }
        Change::Leave { node, leaving: None } => match state.leaving.remove(node) {
            Some(_) => Ok(()),
            None => refused(format!("{node} does not leave")),
        },
        Change::Remove { node } => remove(state, node),
        Change::Invite { id, token } => {
            state.tokens.retain(|_, kept| kept.until > at);
            if state.tokens.len() >= TOKENS_MAX {
                return refused(format!("at most {TOKENS_MAX} invitations are kept"));
            }
            state.tokens.insert(id.clone(), token.clone());
            Ok(())
        }
        Change::Redeem { id, .. } => {
            let Some(token) = state.tokens.get_mut(id).filter(|t| t.left > 0 && t.until > at) else {
                return refused(format!("there is no invitation {id}"));
            };
            token.left -= 1;
            state.tokens.retain(|_, kept| kept.left > 0);
            Ok(())
        }
        Change::Uninvite { id } => match state.tokens.remove(id) {
            Some(_) => Ok(()),
            None => refused(format!("there is no invitation {id}")),
        },
        _ => Ok(()),
    }
}

/// A node that was struck out meanwhile is not appointed, and confirms nothing.
pub(crate) fn belong<'a>(
    state: &State,
    nodes: impl IntoIterator<Item = &'a NodeName>,
) -> Result<(), Refusal> {
    match nodes.into_iter().find(|node| state.removed.contains(*node)) {
        Some(gone) if !mutant::is(Mutant::RemovedSeals) => refused(format!("{gone} was removed")),
        _ => Ok(()),
    }
}

fn admit(state: &mut State, node: &NodeName, seat: &Seat) -> Result<(), Refusal> {
    settled(state)?;
    if state.has_seat(node) {
        return refused(format!("{node} belongs to the cluster"));
    }
    if state.removed.contains(node) {
        return refused(format!("a node {node} was removed"));
    }
    if let Some(other) = sits_at(state, node, seat) {
        return refused(format!("{} is the address of {other}", seat.address));
    }
    if state.seated().count() >= NODES_MAX {
        return refused(format!("a cluster has at most {NODES_MAX} nodes"));
    }
    state.admitted.insert(node.clone(), seat.clone());
    Ok(())
}

/// The other node that has this address, or this number in the store.
pub(crate) fn sits_at<'a>(state: &'a State, node: &NodeName, seat: &Seat) -> Option<&'a NodeName> {
    let registered = state.members.iter().find(|(n, m)| *n != node && m.agent == seat.address);
    let same = |s: &Seat| s.address == seat.address || s.raft_id == seat.raft_id && seat.raft_id != 0;
    let admitted = state.admitted.iter().find(|(n, s)| *n != node && same(s));
    registered.map(|(n, _)| n).or(admitted.map(|(n, _)| n))
}

/// Why `node` may not begin to leave, for what it is at this moment.
fn needed(state: &State, node: &NodeName) -> Option<String> {
    if !state.has_seat(node) {
        return Some(format!("there is no node {node}"));
    }
    if state.lease_holder() == Some(node) {
        return Some(format!("{node} is primary, or about to be"));
    }
    if state.handover.as_ref().is_some_and(|h| h.from == *node || h.to == *node) {
        return Some(format!("a switchover names {node}"));
    }
    if state.restart.as_ref().is_some_and(|r| r.turns.iter().skip(r.at).any(|t| t.node == *node)) {
        return Some(format!("restarts name {node}"));
    }
    None
}

/// Why a node that leaves is not struck out yet.
#[must_use]
pub(crate) fn held(state: &State, node: &NodeName) -> Option<String> {
    if let Some(why) = needed(state, node) {
        return Some(why);
    }
    if state.unleased.as_ref().is_some_and(|u| u.node == *node) {
        return Some(format!("{node} may run without a lease"));
    }
    let in_set = state.sync.contains(node) && !mutant::is(Mutant::RemovedFromSet);
    in_set.then(|| format!("{node} is in the sync set"))
}

fn remove(state: &mut State, node: &NodeName) -> Result<(), Refusal> {
    settled(state)?;
    if !state.leaving.contains_key(node) {
        return refused(format!("{node} does not leave"));
    }
    if let Some(why) = held(state, node) {
        return refused(why);
    }
    if state.removed.len() >= REMOVED_MAX {
        return refused(format!(
            "{REMOVED_MAX} nodes were removed already, and more names are not remembered"
        ));
    }
    state.members.remove(node);
    state.admitted.remove(node);
    state.leaving.remove(node);
    state.maintenance.remove(node);
    state.planned.retain(|planned| planned.to.as_ref() != Some(node));
    state.removed.insert(node.clone());
    Ok(())
}

/// Whether an entry tells of an invitation that was refused.
pub(crate) fn is_knock(entry: &Entry) -> bool {
    matches!(&entry.reason, Reason::Membership { tale: Tale::Knocked { .. } })
}

/// Drops the oldest entries of refused invitations beyond [`KNOCKS_MAX`].
pub(crate) fn bound_knocks(history: &mut Vec<Entry>) {
    let mut beyond = history.iter().filter(|entry| is_knock(entry)).count().saturating_sub(KNOCKS_MAX);
    history.retain(|entry| {
        let drop = beyond > 0 && is_knock(entry);
        beyond -= usize::from(drop);
        !drop
    });
}

#[cfg(test)]
mod tests;
