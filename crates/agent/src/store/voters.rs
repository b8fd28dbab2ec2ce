//! The leader makes Raft's own list of members like the record: who was let in is told everything, and votes once it has caught
//! up; who was struck out is told nothing more. One member at a time, by joint consensus (Ongaro's thesis, chapter 4.3), so
//! that the majorities before and after share a member.
//!
//! A change that is begun needs the majority of the voters that it makes, and cannot be taken back before it has it. So it is begun
//! only while these are heard: one that is given a wrong address, or dies, before it votes must not stop a cluster that runs.

use super::embedded::Embedded;
use super::types::Peer;
use cluster::state::State;
use openraft::ChangeMembers;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Weak;
use std::time::Duration;

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Pause after one that did not come about.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// Longest time for one change; what it was in the middle of goes on, or is taken up again.
const CHANGE_LIMIT: Duration = Duration::from_secs(10);
/// A member that is so few entries behind has caught up.
const NEAR: u64 = 10;

/// Raft's list.
#[derive(Debug, Default, PartialEq, Eq)]
struct List {
    /// Everybody.
    members: BTreeMap<u64, Peer>,
    /// Those of them that vote.
    voters: BTreeSet<u64>,
    /// The voters that a change was about to leave when the leader before was lost.
    half_way_to: Option<BTreeSet<u64>>,
    /// Members that have nearly the whole log.
    near: BTreeSet<u64>,
    /// Members that were heard within `detect`, this one included.
    heard: BTreeSet<u64>,
}

impl List {
    /// Whether more than half of these were heard of late.
    fn can_decide(&self, voters: &BTreeSet<u64>) -> bool {
        voters.intersection(&self.heard).count() * 2 > voters.len()
    }

    /// The voters with this one, or without it.
    fn voters_if(&self, id: u64, votes: bool) -> BTreeSet<u64> {
        let others = self.voters.iter().copied().filter(|voter| *voter != id);
        others.chain(votes.then_some(id)).collect()
    }
}

/// One change.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// End what an earlier leader began.
    Finish(BTreeSet<u64>),
    /// It goes.
    Drop(u64, Peer),
    /// It is told everything.
    Teach(u64, Peer),
    /// It votes.
    LetVote(u64, Peer),
}

fn next(list: &List, state: &State, me: u64) -> Option<Next> {
    if let Some(voters) = &list.half_way_to {
        return Some(Next::Finish(voters.clone()));
    }
    let goes = |id: u64, peer: &Peer| match state.admitted.get(&peer.name) {
        Some(seat) => seat.raft_id != id,
        None => state.removed.contains(&peer.name),
    };
    let may_go = |id: u64| !list.voters.contains(&id) || list.can_decide(&list.voters_if(id, false));
    let gone = list.members.iter().find(|(id, peer)| **id != me && goes(**id, peer) && may_go(**id));
    if let Some((id, peer)) = gone {
        return Some(Next::Drop(*id, peer.clone()));
    }
    state.admitted.iter().filter(|(_, seat)| seat.raft_id != 0).find_map(|(name, seat)| {
        let peer = || Peer { name: name.clone(), address: seat.address.clone() };
        let id = seat.raft_id;
        match (list.members.contains_key(&id), list.voters.contains(&id)) {
            (false, _) => Some(Next::Teach(id, peer())),
            (true, false) => {
                let ready = list.near.contains(&id) && list.heard.contains(&id);
                (ready && list.can_decide(&list.voters_if(id, true))).then(|| Next::LetVote(id, peer()))
            }
            (true, true) => None,
        }
    })
}

fn list(store: &Embedded) -> List {
    let now = &store.metrics();
    let membership = now.membership_config.membership();
    let half_way_to = membership.get_joint_config().get(1).cloned();
    let last = now.last_log_index.unwrap_or(0);
    let near = now.replication.iter().flatten().filter_map(|(id, matched)| {
        // None: it has never answered.
        matched.as_ref().is_some_and(|log| log.index + NEAR >= last).then_some(*id)
    });
    let members = super::standing::members(now);
    List {
        heard: members.keys().copied().filter(|id| store.hears(*id)).collect(),
        members,
        voters: membership.voter_ids().collect(),
        half_way_to,
        near: near.collect(),
    }
}

/// Sees to it, as long as the store is there.
pub(super) async fn follow_record(store: Weak<Embedded>) {
    let mut said = String::new();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(here) = store.upgrade() else { return };
        if !here.is_leading() {
            continue;
        }
        let Some(change) = next(&list(&here), &here.present(), here.owner.id) else { continue };
        let about = words(&change);
        let outcome = match tokio::time::timeout(CHANGE_LIMIT, here.make(change)).await {
            Ok(Ok(())) => {
                tracing::info!("{about}");
                said.clear();
                continue;
            }
            Ok(Err(e)) => e,
            Err(_) => format!("it takes more than {CHANGE_LIMIT:?}"),
        };
        drop(here);
        let outcome = format!("not yet: {about}: {outcome}");
        if said != outcome {
            tracing::warn!("{outcome}");
            said = outcome;
        }
        tokio::time::sleep(AFTER_FAILURE).await;
    }
}

fn words(change: &Next) -> String {
    match change {
        Next::Finish(_) => "ends a change of the voters that an earlier leader began".to_owned(),
        Next::Drop(_, peer) => format!("takes {} out of the store: it was removed", peer.name),
        Next::Teach(_, peer) => format!("lets {} at {} have the record", peer.name, peer.address),
        Next::LetVote(_, peer) => format!("lets {} vote: it has the whole record", peer.name),
    }
}

impl Embedded {
    async fn make(&self, change: Next) -> Result<(), String> {
        let change = match change {
            Next::Finish(voters) => ChangeMembers::ReplaceAllVoters(voters),
            Next::Drop(id, _) if self.votes(id) => ChangeMembers::RemoveVoters(BTreeSet::from([id])),
            Next::Drop(id, _) => ChangeMembers::RemoveNodes(BTreeSet::from([id])),
            Next::Teach(id, peer) => ChangeMembers::AddNodes(BTreeMap::from([(id, peer)])),
            Next::LetVote(id, _) => ChangeMembers::AddVoterIds(BTreeSet::from([id])),
        };
        self.raft.change_membership(change, false).await.map(|_| ()).map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use cluster::NodeName;
    use cluster::membership::Seat;

    fn name(text: &str) -> NodeName {
        text.parse().unwrap()
    }

    fn peer(text: &str) -> Peer {
        Peer { name: name(text), address: format!("{text}:1") }
    }

    fn of(members: &[(u64, &str)], voters: &[u64]) -> List {
        List {
            members: members.iter().map(|(id, n)| (*id, peer(n))).collect(),
            voters: voters.iter().copied().collect(),
            half_way_to: None,
            near: members.iter().map(|(id, _)| *id).collect(),
            heard: members.iter().map(|(id, _)| *id).collect(),
        }
    }

    fn admitted(seats: &[(&str, u64)]) -> State {
        let seat = |(n, id): &(&str, u64)| (name(n), Seat { address: format!("{n}:1"), raft_id: *id });
        State { admitted: seats.iter().map(seat).collect(), ..State::default() }
    }

    #[test]
    fn who_is_let_in_is_taught_and_votes_once_it_knows_all() {
        let state = admitted(&[("b", 2)]);
        assert_eq!(next(&of(&[(1, "a")], &[1]), &state, 1), Some(Next::Teach(2, peer("b"))));
        let mut taught = of(&[(1, "a"), (2, "b")], &[1]);
        assert_eq!(next(&taught, &state, 1), Some(Next::LetVote(2, peer("b"))));
        taught.near.remove(&2);
        assert_eq!(next(&taught, &state, 1), None);
        let mut silent = of(&[(1, "a"), (2, "b")], &[1]);
        silent.heard.remove(&2);
        assert_eq!(next(&silent, &state, 1), None, "with it one of two would be heard");
        assert_eq!(next(&of(&[(1, "a"), (2, "b")], &[1, 2]), &state, 1), None);
        // Where the record is kept elsewhere nobody has a number.
        assert_eq!(next(&of(&[(1, "a")], &[1]), &admitted(&[("b", 0)]), 1), None);
    }

    #[test]
    fn who_was_struck_out_goes_and_so_does_an_earlier_holder_of_a_name() {
        let mut state = admitted(&[("c", 4)]);
        state.removed.insert(name("b"));
        let all = of(&[(1, "a"), (2, "b"), (3, "c")], &[1, 2, 3]);
        assert_eq!(next(&all, &state, 1), Some(Next::Drop(2, peer("b"))));
        let rest = of(&[(1, "a"), (3, "c")], &[1, 3]);
        assert_eq!(next(&rest, &state, 1), Some(Next::Drop(3, peer("c"))));
        assert_eq!(next(&of(&[(1, "a")], &[1]), &state, 1), Some(Next::Teach(4, peer("c"))));
        // The leader hands on first: it does not strike itself out.
        state.removed.insert(name("a"));
        assert_eq!(next(&of(&[(1, "a"), (4, "c")], &[1, 4]), &state, 1), None);
    }

    #[test]
    fn a_vote_goes_only_while_the_others_can_decide() {
        let mut state = admitted(&[]);
        state.removed.insert(name("c"));
        let mut list = of(&[(1, "a"), (2, "b"), (3, "c")], &[1, 2, 3]);
        list.heard.remove(&3);
        assert_eq!(next(&list, &state, 1), Some(Next::Drop(3, peer("c"))));
        list.heard = BTreeSet::from([1, 3]);
        assert_eq!(next(&list, &state, 1), None, "without it one of two would be heard");
        list.voters.remove(&3);
        assert_eq!(next(&list, &state, 1), Some(Next::Drop(3, peer("c"))), "it does not vote");
    }

    #[test]
    fn what_was_begun_is_ended_first() {
        let mut list = of(&[(1, "a"), (2, "b")], &[1, 2]);
        list.half_way_to = Some(BTreeSet::from([1]));
        assert_eq!(next(&list, &State::default(), 1), Some(Next::Finish(BTreeSet::from([1]))));
        list.half_way_to = None;
        assert_eq!(next(&list, &State::default(), 1), None, "a member of the first hour needs no seat");
    }
}
