//! Where this node stands in the store: who leads, who votes, and what keeps the store from deciding.

use super::contacts::Contacts;
use super::types::{Peer, Types};
use cluster::NodeName;
use openraft::{RaftMetrics, ServerState};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Where this node stands in the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Who leads, as far as this node knows; `None` also when the last leader has been silent for `detect`.
    pub leader: Option<NodeName>,
    /// `host:port` of its agent.
    pub leader_at: Option<String>,
    /// Whether this node leads AND has applied all that was recorded before its term: only then may it decide.
    /// It stays true while no majority answers; `quorum_age` tells.
    pub leading: bool,
    /// Whether the store exists and this node knows its members.
    pub formed: bool,
    /// The members that vote.
    pub voters: BTreeSet<NodeName>,
    /// Whether voters are being changed: until that is done, decisions need a majority of those before and of those after.
    pub changing: bool,
    /// Raft's term, or the revision of etcd that made the leader. Two leaders may follow each other in one term, but the same
    /// node never leads twice in it.
    pub term: u64,
    /// What keeps the store from deciding, for people.
    pub problem: Option<String>,
    /// Whether this node was struck out of the cluster, by what it has of the record or by what a member answered. It stays so.
    pub removed: bool,
}

/// The members of the store by id; empty before it is founded.
pub(super) fn members(metrics: &RaftMetrics<Types>) -> BTreeMap<u64, Peer> {
    metrics.membership_config.nodes().map(|(id, peer)| (*id, peer.clone())).collect()
}

/// The voters of the store by id.
pub(super) fn voters(metrics: &RaftMetrics<Types>) -> BTreeMap<u64, NodeName> {
    let known = &metrics.membership_config;
    known.voter_ids().filter_map(|id| known.get_node(&id).map(|peer| (id, peer.name.clone()))).collect()
}

/// Makes the standing from what the library reports and when the others were last heard.
pub(super) fn standing(metrics: &RaftMetrics<Types>, contacts: &Contacts, detect: Duration) -> Standing {
    let voters = voters(metrics);
    let me = metrics.id;
    let leads = metrics.state == ServerState::Leader && metrics.current_leader == Some(me);
    let caught_up = metrics.last_applied.is_some_and(|last| last.leader_id == metrics.vote.leader_id);
    let leader = metrics.current_leader.filter(|id| *id == me || contacts.silence(*id) < detect);
    let silent: BTreeMap<&NodeName, Duration> = voters
        .iter()
        .filter(|(id, _)| **id != me)
        .map(|(id, name)| (name, contacts.silence(*id)))
        .filter(|(_, silence)| *silence >= detect)
        .collect();
    let problem = if leader.is_none() || leads { no_majority(voters.len(), &silent) } else { None };
    let leader_at =
        leader.and_then(|id| metrics.membership_config.get_node(&id)).map(|peer| peer.address.clone());
    Standing {
        leader: leader.and_then(|id| voters.get(&id).cloned()),
        leader_at,
        leading: leads && caught_up,
        formed: !voters.is_empty(),
        changing: metrics.membership_config.membership().get_joint_config().len() > 1,
        term: metrics.current_term,
        voters: voters.into_values().collect(),
        problem,
        removed: false,
    }
}

/// Says that no majority answers, and who is missing.
fn no_majority(voters: usize, silent: &BTreeMap<&NodeName, Duration>) -> Option<String> {
    if voters == 0 || voters - silent.len() > voters / 2 {
        return None;
    }
    let missing: Vec<String> = silent.keys().map(ToString::to_string).collect();
    Some(format!(
        "no majority of the {voters} voters: {} {} not answer",
        missing.join(" and "),
        if missing.len() == 1 { "does" } else { "do" }
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_missing_majority_is_named() {
        let (n1, n3): (NodeName, NodeName) = ("n1".parse().unwrap(), "n3".parse().unwrap());
        let long = Duration::from_secs(9);
        assert_eq!(no_majority(3, &BTreeMap::from([(&n1, long)])), None);
        let both = no_majority(3, &BTreeMap::from([(&n1, long), (&n3, long)]));
        assert_eq!(both.unwrap(), "no majority of the 3 voters: n1 and n3 do not answer");
        let one = no_majority(2, &BTreeMap::from([(&n1, long)]));
        assert_eq!(one.unwrap(), "no majority of the 2 voters: n1 does not answer");
    }
}
