//! Nodes come and go: what may be asked for, and when a node that leaves is needed no more.
//!
//! To leave takes two commands. The first says that the node is leaving: from then on it is never chosen
//! ([`crate::candidate::barred`]) and may not confirm commits, so it leaves the sync set as any such member does
//! (`sync_set`). The second strikes it out, once no set in force names it. [`crate::membership`] says why it can do no harm
//! afterwards. Votes follow: the store's own list of voters is made like the record, one node at a time, by the leader's
//! agent.

use super::switchover::{Recorded, known};
use super::{Draft, Now, Outcome, Proposed, Record, leadership, sync_set};
use crate::basics::{Millis, NodeName, WallMs};
use crate::command::Change;
use crate::handover::Obstacle;
use crate::membership::{Bar, Knock, Leaving, NODES_MAX, Seat, TOKENS_MAX, Tale, Token, TokenRole};
use crate::membership::{held, is_knock, sits_at};
use crate::observe::Observations;
use crate::reason::Reason;
use crate::state::{Phase, Replication, Settings, State};
use std::collections::BTreeSet;

/// Refused invitations are remembered once in this time: whoever knocks from outside fills nothing.
const KNOCK_EVERY_MS: Millis = 60_000;
/// Longest name of an invitation, in characters.
const ID_MAX: usize = 64;
/// Longest address, in characters: a host name of DNS and a port.
const ADDRESS_MAX: usize = 253 + 6;
/// Characters of a SHA-256 in hexadecimal.
const HASH_LEN: usize = 64;

fn bar<T>(bar: Bar) -> Result<T, Vec<Obstacle>> {
    Err(vec![Obstacle::Membership { bar }])
}

fn told(tale: Tale) -> Vec<Reason> {
    vec![Reason::Membership { tale }]
}

/// It is so already.
fn nothing(state: &State) -> Recorded {
    (Change::Note { epoch: state.epoch }, Vec::new())
}

fn settled(state: &State) -> Result<&Settings, Vec<Obstacle>> {
    match (&state.phase, &state.settings) {
        _ if state.paused.is_some() => Err(vec![Obstacle::Paused]),
        (Phase::Serving { .. }, Some(settings)) => Ok(settings),
        _ => bar(Bar::NotServing),
    }
}

pub(super) fn admit(
    state: &State,
    proposed: &Proposed,
    (node, seat): (&NodeName, &Seat),
    by: String,
) -> Result<Recorded, Vec<Obstacle>> {
    settled(state)?;
    if !is_address(&seat.address) {
        return bar(Bar::BadAddress { address: seat.address.chars().take(ADDRESS_MAX).collect() });
    }
    if state.leaving.contains_key(node) {
        return bar(Bar::Leaves { node: node.clone() });
    }
    if state.admitted.get(node) == Some(seat) {
        return Ok(nothing(state));
    }
    if state.has_seat(node) {
        let registered = state.members.get(node).map(|m| m.agent.clone());
        let address = state.admitted.get(node).map(|s| s.address.clone()).or(registered).unwrap_or_default();
        return bar(Bar::NameTaken { node: node.clone(), address });
    }
    if state.removed.contains(node) {
        return bar(Bar::NameGone { node: node.clone() });
    }
    if seat.raft_id == 0 && proposed.record == Record::Nodes {
        return bar(Bar::NoNumber { node: node.clone() });
    }
    if let Some(by) = sits_at(state, node, seat) {
        return bar(Bar::AddressTaken { address: seat.address.clone(), by: by.clone() });
    }
    if state.seated().count() >= NODES_MAX {
        return bar(Bar::Full { nodes_max: NODES_MAX });
    }
    let tale = Tale::Admitted { node: node.clone(), address: seat.address.clone(), by };
    Ok((Change::Admit { node: node.clone(), seat: seat.clone() }, told(tale)))
}

fn is_address(text: &str) -> bool {
    let printable = text.len() <= ADDRESS_MAX && text.chars().all(|c| c.is_ascii_graphic());
    let parts = text.rsplit_once(':');
    printable
        && parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0))
}

pub(super) fn remove(
    state: &State,
    seen: &Observations,
    proposed: &Proposed,
    (node, insist): (&NodeName, bool),
    by: String,
    now: &Now,
) -> Result<Recorded, Vec<Obstacle>> {
    let settings = settled(state)?;
    if !state.admitted.contains_key(node) {
        known(state, node)?;
    }
    if state.leaving.contains_key(node) {
        return Ok(nothing(state));
    }
    let found: Vec<Bar> = [
        named(state, node),
        no_majority(state, settings, seen, proposed, node, now),
        too_few(state, settings, seen, node, now).filter(|_| !insist),
    ]
    .into_iter()
    .flatten()
    .collect();
    if !found.is_empty() {
        return Err(found.into_iter().map(|bar| Obstacle::Membership { bar }).collect());
    }
    let leaving = Leaving { by: by.clone(), at: now.wall };
    let change = Change::Leave { node: node.clone(), leaving: Some(leaving) };
    Ok((change, told(Tale::Leaves { node: node.clone(), by })))
}

/// What else names the node.
fn named(state: &State, node: &NodeName) -> Option<Bar> {
    let name = || node.clone();
    if state.lease_holder() == Some(node) {
        return Some(Bar::IsPrimary { node: name() });
    }
    if state.handover.as_ref().is_some_and(|h| h.from == *node || h.to == *node) {
        return Some(Bar::HandsOver { node: name() });
    }
    if let Some(planned) = state.planned.iter().find(|p| p.to.as_ref() == Some(node)) {
        return Some(Bar::Planned { node: name(), id: planned.id.clone() });
    }
    let restart = state.restart.as_ref()?;
    let names = restart.turns.iter().skip(restart.at).any(|turn| turn.node == *node);
    names.then(|| Bar::Restarts { node: name(), id: restart.id.clone() })
}

/// All nodes vote. Those that leave too are not counted on.
fn no_majority(
    state: &State,
    settings: &Settings,
    seen: &Observations,
    proposed: &Proposed,
    node: &NodeName,
    now: &Now,
) -> Option<Bar> {
    if proposed.record == Record::Elsewhere {
        return None;
    }
    let stays = |n: &&NodeName| *n != node && !state.leaving.contains_key(*n);
    let left: Vec<&NodeName> = state.seated().filter(stays).collect();
    let hears = |n: &&NodeName| **n == seen.leader || seen.fresh(n, now.at, settings.detect_ms).is_some();
    let heard: BTreeSet<NodeName> = left.iter().copied().filter(hears).cloned().collect();
    let (count, of) = (heard.len(), left.len());
    (count * 2 <= of).then(|| Bar::NoMajority { node: node.clone(), heard, of })
}

/// Too few could confirm commits without it; in asynchronous mode with a bound on losses one must be near.
fn too_few(
    state: &State,
    settings: &Settings,
    seen: &Observations,
    node: &NodeName,
    now: &Now,
) -> Option<Bar> {
    let primary = state.primary()?;
    let k = match settings.replication {
        Replication::Quorum { k, .. } => k,
        Replication::Async { loss_bound_bytes: Some(_), .. } => 1,
        Replication::Async { loss_bound_bytes: None, .. } => return None,
    };
    let report = seen.fresh(primary, now.at, settings.detect_ms);
    let streams = |n: &NodeName| report.and_then(|o| o.replicas.get(n)).is_some_and(|r| r.streaming);
    let others = state.data_nodes().map(|(n, _)| n).filter(|n| *n != node && *n != primary);
    let left = others.filter(|n| sync_set::may_confirm(state, n) && streams(n)).count();
    // One that only votes is not missed.
    let votes_only = state.members.get(node).is_none_or(|m| m.postgres.is_none());
    (left < k && !votes_only).then(|| Bar::TooFewConfirm { node: node.clone(), left, k })
}

pub(super) fn keep(state: &State, node: &NodeName, by: String) -> Result<Recorded, Vec<Obstacle>> {
    if !state.leaving.contains_key(node) {
        if !state.has_seat(node) {
            return Err(vec![Obstacle::Unknown { node: node.clone() }]);
        }
        return bar(Bar::Stays { node: node.clone() });
    }
    let change = Change::Leave { node: node.clone(), leaving: None };
    Ok((change, told(Tale::Kept { node: node.clone(), by })))
}

/// Strikes out a node that is needed no more.
pub(super) fn conduct(
    state: &State,
    settings: &Settings,
    seen: &Observations,
    proposed: &Proposed,
    now: &Now,
) -> Outcome {
    let mut waits = Vec::new();
    for (node, leaving) in &state.leaving {
        // Its own last act would be one that it never sees recorded.
        let leads = (*node == seen.leader).then(|| format!("{node} leads; another node takes over from it"));
        // Asked once more: since it was ordered, others may have been lost, and with this node goes a vote.
        let alone = || no_majority(state, settings, seen, proposed, node, now).map(|bar| bar.to_string());
        match leads.or_else(|| held(state, node)).or_else(alone) {
            Some(because) => waits.push(Tale::Waits { node: node.clone(), because }),
            None => {
                let Leaving { by, at } = leaving.clone();
                let tale = Tale::Removed { node: node.clone(), by, asked: at };
                return Outcome::Do(Draft {
                    change: Change::Remove { node: node.clone() },
                    reasons: told(tale),
                });
            }
        }
    }
    match waits.into_iter().next() {
        Some(tale) => Outcome::Wait(Reason::Membership { tale }),
        None => Outcome::Nothing,
    }
}

fn is_hash(text: &str) -> bool {
    text.len() == HASH_LEN && text.chars().all(|c| c.is_ascii_hexdigit())
}

/// What is to be an invitation.
pub(super) struct Invitation<'a> {
    /// Its identity.
    pub(super) id: &'a str,
    /// The hash of its secret.
    pub(super) hash: &'a str,
    /// What it is good for.
    pub(super) role: TokenRole,
    /// Until when.
    pub(super) until: WallMs,
    /// How many may use it.
    pub(super) uses: u32,
}

pub(super) fn invite(
    state: &State,
    wanted: &Invitation<'_>,
    by: String,
    now: &Now,
) -> Result<Recorded, Vec<Obstacle>> {
    let Invitation { id, hash, role, until, uses } = *wanted;
    let good_id =
        !id.is_empty() && id.len() <= ID_MAX && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    let why = match () {
        () if !good_id => Some(format!("its name is 1 to {ID_MAX} letters, digits and '-'")),
        () if !is_hash(hash) => Some("it needs the SHA-256 of its secret".to_owned()),
        () if uses == 0 => Some("nobody could use it".to_owned()),
        () if until <= now.wall => Some("it would have expired already".to_owned()),
        () if state.tokens.contains_key(id) => Some(format!("there is one called {id}")),
        () => None,
    };
    if let Some(why) = why {
        return bar(Bar::BadInvitation { why });
    }
    if state.tokens.values().filter(|t| t.until > now.wall).count() >= TOKENS_MAX {
        return bar(Bar::TooManyInvitations { tokens_max: TOKENS_MAX });
    }
    let hash = hash.to_ascii_lowercase();
    let token = Token { hash, role, until, left: uses, by: by.clone(), made: now.wall };
    let tale = Tale::Invited { id: id.to_owned(), role, uses, until, by };
    Ok((Change::Invite { id: id.to_owned(), token }, told(tale)))
}

pub(super) fn uninvite(state: &State, id: &str, by: String) -> Result<Recorded, Vec<Obstacle>> {
    if !state.tokens.contains_key(id) {
        return bar(Bar::NotInvited);
    }
    let id = id.to_owned();
    Ok((Change::Uninvite { id: id.clone() }, told(Tale::Uninvited { id, by })))
}

/// What a redeemed invitation came to.
pub(super) enum Redeemed {
    /// It is good.
    Good(Recorded),
    /// It is refused, and that is remembered.
    Remembered(Recorded, Bar),
}

pub(super) fn redeem(
    state: &State,
    (id, hash): (&str, &str),
    role: TokenRole,
    node: &NodeName,
    by: String,
    now: &Now,
) -> Result<Redeemed, Vec<Obstacle>> {
    // Whoever does not know the secret learns nothing of the invitation.
    let knock = match state.tokens.get(id) {
        None => Knock::Unknown,
        Some(token) if token.hash != hash.to_ascii_lowercase() => Knock::WrongSecret,
        Some(token) if token.left == 0 => Knock::Unknown,
        Some(token) if token.until <= now.wall => Knock::Expired { until: token.until },
        Some(token) if token.role != role => Knock::OtherRole { role: token.role, shown: role },
        Some(token) => {
            let (id, node, left) = (id.to_owned(), node.clone(), token.left - 1);
            let tale = Tale::Redeemed { id: id.clone(), role, node: node.clone(), by, left };
            return Ok(Redeemed::Good((Change::Redeem { id, node }, told(tale))));
        }
    };
    let refusal = match knock {
        Knock::Unknown | Knock::WrongSecret => Bar::NotInvited,
        Knock::Expired { until } => Bar::Expired { until },
        Knock::OtherRole { role, .. } => Bar::OtherRole { role },
    };
    let lately = |at: WallMs| now.wall.saturating_sub(at) < KNOCK_EVERY_MS;
    if state.history.iter().any(|entry| is_knock(entry) && lately(entry.at)) {
        return bar(refusal);
    }
    let id = id.chars().filter(|c| !c.is_control()).take(ID_MAX).collect();
    let tale = Tale::Knocked { id, node: node.clone(), by, knock };
    Ok(Redeemed::Remembered((Change::Note { epoch: state.epoch }, told(tale)), refusal))
}

/// The node that should lead instead of one that leaves, or has left.
pub(super) fn takes_over(
    state: &State,
    settings: &Settings,
    seen: &Observations,
    now: &Now,
) -> Option<NodeName> {
    let goes = state.leaving.contains_key(&seen.leader) || state.removed.contains(&seen.leader);
    if goes { leadership::transfer(state, settings, seen, now.at) } else { None }
}
