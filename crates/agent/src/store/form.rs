//! How the store comes into being: the agents find each other, make sure that they mean the same cluster and that every
//! name is held by one agent only, and the one whose name comes first founds the store with all of them.

use super::embedded::Embedded;
use super::error::StoreError;
use super::types::Peer;
use crate::http::{HttpError, post_json};
use cluster::NodeName;
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{PoisonError, Weak};
use std::time::{Duration, Instant};

/// Pause between two rounds of greetings.
const AGAIN: Duration = Duration::from_millis(200);
/// Deadline of a greeting.
const GREETING: Duration = Duration::from_millis(1000);
/// How long an agent that does not yet belong to the store keeps its name after it was last heard.
const NAME_KEPT: Duration = Duration::from_secs(5);
/// Pause between two rounds in which a node that nobody leads asks whether it was struck out.
const ASK_AGAIN: Duration = Duration::from_secs(3);

/// Who an agent says it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) cluster: String,
    pub(super) name: NodeName,
    pub(super) id: u64,
    pub(super) address: String,
    /// Whether its log or its vote says that the store exists.
    pub(super) formed: bool,
    /// The members as it is configured.
    pub(super) members: BTreeMap<NodeName, String>,
    /// The number of the store that it has a part of (see [`super::moving`]).
    #[serde(default)]
    pub(super) store: Option<u64>,
}

impl Identity {
    /// Whether both have a part of a store, and not of the same.
    fn is_of_another_store(&self, other: &Identity) -> bool {
        self.store.zip(other.store).is_some_and(|(mine, theirs)| mine != theirs)
    }
}

/// The answer to an agent that introduced itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Greeting {
    pub(super) identity: Identity,
    pub(super) verdict: Verdict,
}

/// What an agent thinks of another one's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub(super) enum Verdict {
    /// Nothing speaks against it.
    Welcome,
    /// The store exists, and this name is not in it.
    NoMember,
    /// The store exists, and this name was struck out of it.
    Removed,
    /// The name is held by this one.
    NameTaken { id: u64, address: String },
}

/// Holder of a name, as seen.
pub(super) type Seen = BTreeMap<NodeName, (u64, String, Instant)>;

/// Judges `visitor` by this node's own name, the members of the store, the names that were struck out, and who else used the name
/// of late.
fn judge(
    me: &Identity,
    (members, removed): (&BTreeMap<u64, Peer>, &BTreeSet<NodeName>),
    seen: &Seen,
    visitor: &Identity,
    now: Instant,
) -> Verdict {
    let taken = |id: u64, address: &str| Verdict::NameTaken { id, address: address.to_owned() };
    // First, because the library's list still has it for a while, and because a name is never given again.
    if removed.contains(&visitor.name) {
        return Verdict::Removed;
    }
    // One of the two has missed a move. The numbers under which nodes vote mean nothing then.
    if me.is_of_another_store(visitor) {
        return Verdict::Welcome;
    }
    if visitor.name == me.name {
        let is_me = (visitor.id, &visitor.address) == (me.id, &me.address);
        return if is_me { Verdict::Welcome } else { taken(me.id, &me.address) };
    }
    if let Some((id, member)) = members.iter().find(|(id, m)| m.name == visitor.name || **id == visitor.id) {
        let same = *id == visitor.id && member.name == visitor.name && member.address == visitor.address;
        return if same { Verdict::Welcome } else { taken(*id, &member.address) };
    }
    if !members.is_empty() {
        return Verdict::NoMember;
    }
    match seen.get(&visitor.name) {
        Some((id, address, at)) if *id != visitor.id && now.saturating_duration_since(*at) < NAME_KEPT => {
            taken(*id, address)
        }
        Some(_) | None => Verdict::Welcome,
    }
}

/// What is to be done about a store that this node does not belong to yet.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Found it with these members.
    Found(BTreeMap<u64, Peer>),
    /// Wait, and say so.
    Wait(String),
}

/// Decides from the answers of all other members.
fn next(me: &Identity, answers: &BTreeMap<NodeName, Result<Greeting, String>>) -> Next {
    let silent: Vec<String> =
        answers.iter().filter_map(|(n, a)| a.as_ref().err().map(|e| format!("{n} ({e})"))).collect();
    let greetings: Vec<&Greeting> = answers.values().filter_map(|a| a.as_ref().ok()).collect();
    if let Some(there) = greetings.iter().find(|g| g.identity.formed) {
        let name = &there.identity.name;
        return Next::Wait(match there.verdict {
            Verdict::NoMember => {
                format!("the store exists ({name} belongs to it), but {} is not a member of it", me.name)
            }
            Verdict::Removed => removed(&me.name, name),
            Verdict::Welcome | Verdict::NameTaken { .. } => {
                format!("the store exists ({name} belongs to it); waiting for its leader")
            }
        });
    }
    if !silent.is_empty() {
        return Next::Wait(format!(
            "the store is founded when all members answer; silent: {}",
            silent.join(", ")
        ));
    }
    if let Some(other) = greetings.iter().find(|g| g.identity.members != me.members) {
        return Next::Wait(format!(
            "the members configured here and on {} differ: make the lists of nodes and addresses equal",
            other.identity.name
        ));
    }
    match me.members.keys().next() {
        Some(first) if *first == me.name => {
            let all = greetings.iter().map(|g| &g.identity).chain([me]);
            Next::Found(
                all.map(|i| (i.id, Peer { name: i.name.clone(), address: i.address.clone() })).collect(),
            )
        }
        Some(first) => Next::Wait(format!("all members answer; {first} founds the store")),
        None => Next::Wait("no members are configured".into()),
    }
}

/// Who of the store says that this node was struck out of it.
fn struck_out_by<'a>(cluster: &str, mut answers: impl Iterator<Item = &'a Greeting>) -> Option<&'a NodeName> {
    let says =
        |g: &Greeting| g.identity.cluster == cluster && g.identity.formed && g.verdict == Verdict::Removed;
    answers.find(|g| says(g)).map(|g| &g.identity.name)
}

pub(super) fn removed(me: &NodeName, told_by: &NodeName) -> String {
    format!(
        "{told_by} says that {me} was removed from the cluster, and a name is not given again; to bring this host back, empty its \
         directories and run pgkeel join with another --node"
    )
}

/// Who was cut off while it was struck out is told by nobody: the others have no business with it any more. So it asks, whenever
/// nobody leads it.
pub(super) async fn ask_whether_removed(store: Weak<Embedded>) {
    loop {
        tokio::time::sleep(ASK_AGAIN).await;
        let Some(here) = store.upgrade() else { return };
        if here.is_struck_out() {
            return;
        }
        if here.members().is_empty() || here.is_led() {
            continue;
        }
        if let Some(by) = here.removed_by().await {
            here.strike_out(&by);
        }
    }
}

impl Embedded {
    /// Who this agent is.
    pub(super) fn identity(&self) -> Identity {
        Identity {
            cluster: self.owner.cluster.clone(),
            name: self.owner.node.clone(),
            id: self.owner.id,
            address: self.address.clone(),
            formed: self.founded(),
            members: self.configured.clone(),
            store: self.number(),
        }
    }

    /// Answers an agent that introduces itself.
    pub(super) fn greet(&self, visitor: &Identity) -> Greeting {
        let identity = self.identity();
        if visitor.cluster != identity.cluster {
            // The visitor sees from the identity that it is in the wrong place.
            return Greeting { identity, verdict: Verdict::Welcome };
        }
        let now = Instant::now();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let verdict = judge(&identity, (&self.members(), &self.present().removed), &seen, visitor, now);
        // Only configured names are remembered: the map stays small.
        if verdict == Verdict::Welcome && self.configured.contains_key(&visitor.name) {
            seen.insert(visitor.name.clone(), (visitor.id, visitor.address.clone(), now));
        }
        Greeting { identity, verdict }
    }

    /// Greets all others until the store exists and this node belongs to it; one round at least.
    pub(super) async fn form(&self) -> Result<(), StoreError> {
        loop {
            let answers = self.greet_all().await?;
            // It was away when it was struck out, and does not know; or has an empty directory and the name of one that was.
            if let Some(by) = struck_out_by(&self.owner.cluster, answers.values().flatten()) {
                self.strike_out(by);
                return Ok(());
            }
            if !self.members().is_empty() {
                self.say(None);
                return Ok(());
            }
            match next(&self.identity(), &answers) {
                Next::Wait(why) => self.say(Some(why)),
                Next::Found(_) if !self.may_found => self.say(Some(format!(
                    "{} has no part of the record, and none is founded, because its file says that the cluster exists \
                     (node.joined); if its disk was lost, run pgkeel remove {0} elsewhere, and pgkeel join here with another --node",
                    self.owner.node
                ))),
                Next::Found(members) => {
                    tracing::info!("founding the store with {} members", members.len());
                    if let Err(e) = self.raft.initialize(members).await {
                        self.say(Some(format!("the store could not be founded: {e}")));
                    }
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Whoever else belongs to the cluster, by the configuration or by the record as far as it is known here.
    fn all_others(&self) -> BTreeMap<NodeName, String> {
        super::elsewhere::others(&self.present(), &self.configured, &self.owner.node)
    }

    /// Who says that this node was struck out. Nothing else that is answered counts, not even as a sign of life: a leader that
    /// answers this need not lead this node.
    async fn removed_by(&self) -> Option<NodeName> {
        let (me, others) = (self.identity(), self.all_others());
        let calls = others
            .values()
            .map(|address| post_json::<_, Greeting>(&self.caller, address, "/v1/raft/hello", &me, GREETING));
        let answers = join_all(calls).await;
        struck_out_by(&self.owner.cluster, answers.iter().flatten()).cloned()
    }

    /// Introduces this agent to all other members.
    async fn greet_all(&self) -> Result<BTreeMap<NodeName, Result<Greeting, String>>, StoreError> {
        let me = self.identity();
        let others = self.configured.iter().filter(|(name, _)| **name != me.name);
        let calls = others.map(|(name, address)| {
            let me = &me;
            async move {
                let answer: Result<Greeting, HttpError> =
                    post_json(&self.caller, address, "/v1/raft/hello", me, GREETING).await;
                (name.clone(), address, answer)
            }
        });
        let mut answers = BTreeMap::new();
        for (name, address, answer) in join_all(calls).await {
            let answer = match answer {
                Err(e) => Err(e.to_string()),
                Ok(greeting) => {
                    self.contacts.heard(greeting.identity.id);
                    check(&me, &name, address, greeting)?
                }
            };
            answers.insert(name, answer);
        }
        Ok(answers)
    }
}

/// Checks that the right agent answered and has nothing against this one.
fn check(
    me: &Identity,
    name: &NodeName,
    address: &str,
    greeting: Greeting,
) -> Result<Result<Greeting, String>, StoreError> {
    let them = &greeting.identity;
    if them.cluster != me.cluster {
        return Err(StoreError::OtherCluster {
            address: address.to_owned(),
            theirs: them.cluster.clone(),
            ours: me.cluster.clone(),
        });
    }
    if greeting.verdict != Verdict::Removed && them.is_of_another_store(me) {
        return Ok(Err(format!(
            "{} keeps the record in another store, after another number of moves",
            them.name
        )));
    }
    if let Verdict::NameTaken { id, address } = &greeting.verdict {
        return Err(StoreError::NameTaken {
            name: me.name.clone(),
            told_by: them.name.clone(),
            id: *id,
            address: address.clone(),
            my_id: me.id,
            my_address: me.address.clone(),
        });
    }
    if them.name != *name {
        return Ok(Err(format!("at {address} is {}, not {name}", them.name)));
    }
    Ok(Ok(greeting))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn node(name: &str, id: u64) -> Identity {
        let members = ["a", "b"].map(|n| (n.parse().unwrap(), format!("{n}:1")));
        Identity {
            cluster: "c".into(),
            name: name.parse().unwrap(),
            id,
            address: format!("{name}:1"),
            formed: false,
            members: members.into(),
            store: None,
        }
    }

    fn peer(name: &str) -> Peer {
        Peer { name: name.parse().unwrap(), address: format!("{name}:1") }
    }

    #[test]
    fn a_name_has_one_holder() {
        let now = Instant::now();
        let (me, none, nobody) = (node("a", 1), BTreeMap::new(), Seen::new());
        let gone = BTreeSet::from(["z".parse().unwrap()]);
        let taken = |v| matches!(v, Verdict::NameTaken { .. });
        assert_eq!(judge(&me, (&none, &gone), &nobody, &node("b", 2), now), Verdict::Welcome);
        assert!(taken(judge(&me, (&none, &gone), &nobody, &node("a", 2), now)));
        let seen = Seen::from([("b".parse().unwrap(), (2, "b:1".into(), now))]);
        assert!(taken(judge(&me, (&none, &gone), &seen, &node("b", 3), now)));
        assert_eq!(judge(&me, (&none, &gone), &seen, &node("b", 3), now + NAME_KEPT), Verdict::Welcome);
        let members = BTreeMap::from([(1, peer("a")), (2, peer("b"))]);
        assert_eq!(judge(&me, (&members, &gone), &nobody, &node("b", 2), now), Verdict::Welcome);
        assert!(taken(judge(&me, (&members, &gone), &nobody, &node("b", 3), now)));
        let moved = Identity { address: "elsewhere:1".into(), ..node("b", 2) };
        assert!(taken(judge(&me, (&members, &gone), &nobody, &moved, now)));
        assert_eq!(judge(&me, (&members, &gone), &nobody, &node("c", 3), now), Verdict::NoMember);
        assert_eq!(judge(&me, (&members, &gone), &nobody, &node("z", 9), now), Verdict::Removed);
        // The record is changed first, the library's list later.
        let not_yet = BTreeMap::from([(1, peer("a")), (8, peer("z"))]);
        for id in [8, 9] {
            assert_eq!(judge(&me, (&not_yet, &gone), &nobody, &node("z", id), now), Verdict::Removed);
        }
    }

    /// It would be told otherwise that its name is taken, and end.
    #[test]
    fn who_has_missed_a_move_is_not_judged_by_its_number() {
        let now = Instant::now();
        let of = |name, id, store| Identity { store, ..node(name, id) };
        let members = BTreeMap::from([(1, peer("a")), (2, peer("b"))]);
        let (me, gone) = (of("a", 1, Some(2)), BTreeSet::from(["z".parse().unwrap()]));
        let judged = |visitor: Identity| judge(&me, (&members, &gone), &Seen::new(), &visitor, now);
        assert_eq!(judged(of("b", 7, Some(0))), Verdict::Welcome);
        assert!(matches!(judged(of("b", 7, Some(2))), Verdict::NameTaken { .. }));
        assert!(matches!(judged(of("b", 7, None)), Verdict::NameTaken { .. }), "it has lost its directory");
        assert_eq!(judged(of("z", 7, Some(0))), Verdict::Removed);
        let taken = Verdict::NameTaken { id: 9, address: "x:1".into() };
        let told = Greeting { identity: of("b", 2, Some(2)), verdict: taken };
        let visitor = of("a", 1, Some(0));
        assert!(
            check(&visitor, &"b".parse().unwrap(), "b:1", told)
                .unwrap()
                .is_err_and(|e| e.contains("another store"))
        );
    }

    #[test]
    fn only_a_member_of_the_same_store_says_that_a_node_was_struck_out() {
        let says = |formed, verdict| Greeting { identity: Identity { formed, ..node("a", 1) }, verdict };
        let by = |cluster, greeting: Greeting| struck_out_by(cluster, [greeting].iter()).cloned();
        assert_eq!(by("c", says(true, Verdict::Removed)), Some("a".parse().unwrap()));
        assert_eq!(by("c", says(false, Verdict::Removed)), None);
        assert_eq!(by("d", says(true, Verdict::Removed)), None);
        assert_eq!(by("c", says(true, Verdict::NoMember)), None);
    }

    #[test]
    fn only_the_first_founds_and_only_when_all_agree() {
        let greeting = |identity: Identity| Greeting { identity, verdict: Verdict::Welcome };
        let from = |n: &str, answer| BTreeMap::from([(n.parse::<NodeName>().unwrap(), answer)]);
        let (a, b) = (node("a", 1), node("b", 2));
        let founders = BTreeMap::from([(1, peer("a")), (2, peer("b"))]);
        assert_eq!(next(&a, &from("b", Ok(greeting(b.clone())))), Next::Found(founders));
        assert!(matches!(next(&b, &from("a", Ok(greeting(a.clone())))), Next::Wait(_)));
        assert!(
            matches!(next(&a, &from("b", Err("refused".into()))), Next::Wait(why) if why.contains("refused"))
        );
        let formed = Identity { formed: true, ..b.clone() };
        assert!(matches!(next(&a, &from("b", Ok(greeting(formed)))), Next::Wait(_)));
        let mut other = b;
        other.members.pop_last();
        assert!(
            matches!(next(&a, &from("b", Ok(greeting(other)))), Next::Wait(why) if why.contains("differ"))
        );
    }
}
