//! Where the record is kept, and how it moves from one store to another while a primary serves.
//!
//! The move is the last command that the old store takes ([`change`]): it *seals* the record. [`crate::command::apply`] accepts
//! nothing afterwards, so whoever reads the old store, whenever, finds that it is over, and where to go. The new store begins
//! with what the sealed record says of itself ([`State::moved_on`]), which is the same for everybody who works it out.
//!
//! Why no two stores decide. Moves are numbered from 1, and the stores form a chain: the record can be sealed once in each store, so
//! there is one store of each number, and it exists only once that of the number before can record nothing more. What the
//! agents have to keep, so that leases and lost stores do not break this, is written down in `agent/src/store/moving.rs`.

mod said;

use crate::basics::{NodeName, WallMs};
use crate::command::Refusal;
use crate::membership::Seat;
use crate::state::{Phase, State};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

pub use said::Bar;

/// Addresses of an etcd at most.
pub const ENDPOINTS_MAX: usize = 16;
/// Longest text about an etcd: an address, a prefix, a path, a user.
pub const TEXT_MAX: usize = 300;

/// Where a record is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "in")]
pub enum Home {
    /// In the agents. They vote under these numbers, which their files were given for this store alone.
    Embedded {
        /// All voters, each with its address.
        #[serde(default)]
        voters: BTreeMap<NodeName, Seat>,
    },
    /// In an etcd beside them.
    Etcd {
        /// How it is reached.
        access: Access,
    },
}

/// How an etcd is reached, from every host alike. Secrets stay in files on the hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Its members' client addresses: `http://host:port` or `https://host:port`.
    pub endpoints: Vec<String>,
    /// What every key begins with.
    pub prefix: String,
    /// File with the authorities that sign its certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// File with the own certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert: Option<String>,
    /// File with its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// As whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// File with the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<String>,
}

/// The record is sealed: it goes on elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// The number of the move.
    pub number: u64,
    /// Where to.
    pub to: Home,
    /// Who asked for it.
    pub by: String,
    /// When, on the leader's wall clock.
    pub at: WallMs,
}

impl Home {
    /// Whether both are of one kind.
    #[must_use]
    pub fn is_like(&self, other: &Home) -> bool {
        matches!(
            (self, other),
            (Home::Embedded { .. }, Home::Embedded { .. }) | (Home::Etcd { .. }, Home::Etcd { .. })
        )
    }
}

impl State {
    /// The record with which the next store begins, if this one is sealed.
    #[must_use]
    pub fn moved_on(&self) -> Option<State> {
        let moved = self.moved.as_ref()?;
        let mut next = self.clone();
        next.moved = None;
        next.moves = moved.number;
        // Proxies take a view for newer by it.
        next.revision += 1;
        for (node, seat) in &mut next.admitted {
            seat.raft_id = match &moved.to {
                Home::Embedded { voters } => voters.get(node).map_or(0, |voter| voter.raft_id),
                Home::Etcd { .. } => 0,
            };
        }
        Some(next)
    }
}

/// What is half done, or amiss in the record: with that it is not moved.
#[must_use]
pub fn unsettled(state: &State) -> Option<Bar> {
    let half_done = |what: &str| Some(Bar::HalfDone { what: what.to_owned() });
    match () {
        () if !matches!(state.phase, Phase::Serving { .. }) => Some(Bar::NotServing),
        () if state.paused.is_some() => half_done("the cluster is paused (pgkeel resume)"),
        () if state.unleased.is_some() => half_done("the primary does not run under a lease again yet"),
        () if state.handover.is_some() => half_done("a switchover is under way"),
        () if state.restart.is_some() => half_done("restarts are under way"),
        () if !state.leaving.is_empty() => half_done("a node is leaving"),
        () if state.sync.in_force.len() > 1 => half_done("the set of synchronous standbys is being changed"),
        () => None,
    }
}

/// What is wrong with the place where the record is to go.
#[must_use]
pub fn unfit(state: &State, to: &Home) -> Option<Bar> {
    let bad = |why: String| Some(Bar::BadHome { why });
    match to {
        Home::Etcd { access } => {
            let texts = [&access.ca, &access.cert, &access.key, &access.user, &access.password_file];
            let texts = access.endpoints.iter().chain([&access.prefix]).chain(texts.into_iter().flatten());
            if access.endpoints.is_empty() || access.endpoints.len() > ENDPOINTS_MAX {
                return bad(format!("1 to {ENDPOINTS_MAX} addresses of etcd are taken"));
            }
            let is_long = |text: &String| text.is_empty() || text.len() > TEXT_MAX;
            let long = texts.into_iter().any(is_long);
            if long { bad(format!("each text has 1 to {TEXT_MAX} bytes")) } else { None }
        }
        Home::Embedded { voters } => {
            let seated: BTreeSet<&NodeName> = state.seated().collect();
            if let Some(node) = seated.iter().find(|node| !voters.contains_key(**node)) {
                return bad(format!("{node} has told no number under which it would vote"));
            }
            if let Some(node) = voters.keys().find(|node| !seated.contains(node)) {
                return bad(format!("{node} does not belong to the cluster"));
            }
            let numbers: BTreeSet<u64> = voters.values().map(|seat| seat.raft_id).collect();
            let addresses: BTreeSet<&str> = voters.values().map(|seat| seat.address.as_str()).collect();
            if numbers.contains(&0) || numbers.len() < voters.len() || addresses.len() < voters.len() {
                return bad("two nodes have one number, or one address".to_owned());
            }
            None
        }
    }
}

/// Seals the record.
pub(crate) fn change(
    state: &mut State,
    (number, to): (u64, &Home),
    by: &str,
    at: WallMs,
) -> Result<(), Refusal> {
    if number != state.moves + 1 {
        return Err(Refusal::OutOfPlace(format!("the next move has number {}", state.moves + 1)));
    }
    if let Some(bar) = unsettled(state).or_else(|| unfit(state, to)) {
        return Err(Refusal::OutOfPlace(bar.to_string()));
    }
    state.moved = Some(Moved { number, to: to.clone(), by: by.to_owned(), at });
    Ok(())
}

#[cfg(test)]
mod tests;
