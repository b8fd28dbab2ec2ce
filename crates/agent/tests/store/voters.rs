//! The embedded store's voters follow the record.

use super::trio::*;
use agent::http;
use agent::store::{Limits, StoreError, StoreOptions};
use cluster::NodeName;
use cluster::command::{Change, Refusal, first_promotion_id};
use cluster::membership::{Leaving, Seat};
use cluster::observe::Promoted;
use cluster::state::{Member, PgAddress, Replication, Settings};
use identity::Caller;
use std::collections::{BTreeMap, BTreeSet};

/// A cluster that one node has founded, in whose record a primary serves.
fn of_one(test: &str) -> Trio {
    let mut trio = Trio::new(test, On::Embedded);
    let alone = options(&trio, "n1", &["n1"], false);
    start(&mut trio, &alone);
    trio.leader();
    let replication = Replication::Async { max_loss_bytes: 0, loss_bound_bytes: None };
    let settings = Settings { replication, detect_ms: 1500, drift_ppm: 0 };
    let (n1, postgres) = (name("n1"), PgAddress { host: "h".into(), port: 1 });
    let agent = trio.members[&n1].clone();
    let member = Member { agent, postgres: Some(postgres), tags: Default::default(), data_dir: None };
    let promoted = Promoted { epoch: 1, timeline: 1, forks: Vec::new(), system_identifier: 7 };
    for change in [
        Change::Configure { cluster: "test".into(), settings },
        Change::Register { node: n1.clone(), member },
        Change::Initialise { node: n1.clone(), replication_password: "p".into() },
        Change::Publish { epoch: 1, promoted, promotion_id: first_promotion_id(&n1) },
    ] {
        propose(&trio, change).unwrap();
    }
    trio
}

fn options(trio: &Trio, node: &str, known: &[&str], founded: bool) -> StoreOptions {
    let members = known.iter().map(|n| (name(n), trio.members[&name(n)].clone())).collect();
    StoreOptions { members, founded, ..trio.options(node) }
}

fn start(trio: &mut Trio, options: &StoreOptions) {
    let started = Node::start(options, Limits::default());
    started.form_in_background();
    trio.up.insert(options.node.clone(), started);
}

/// Newcomers do not know yet.
fn leading(trio: &Trio) -> NodeName {
    let leads = || trio.up.iter().find(|(_, node)| node.standing().leading).map(|(name, _)| name.clone());
    until("a leader", leads)
}

fn propose(trio: &Trio, change: Change) -> Result<(), StoreError> {
    trio.up[&leading(trio)].propose(change).map(|_| ())
}

/// What the store of this node calls itself.
fn number(trio: &Trio, node: &str) -> u64 {
    let (caller, address) = (Caller::plain(), &trio.members[&name(node)]);
    let asked = http::get::<serde_json::Value>(&caller, address, "/v1/raft/identity", PATIENCE);
    runtime().block_on(asked).unwrap()["id"].as_u64().unwrap()
}

fn admit(trio: &Trio, node: &str) -> Result<(), StoreError> {
    let seat = Seat { address: trio.members[&name(node)].clone(), raft_id: number(trio, node) };
    propose(trio, Change::Admit { node: name(node), seat })
}

fn remove(trio: &Trio, node: &str) {
    let leaving = Some(Leaving { by: "somebody".into(), at: 0 });
    propose(trio, Change::Leave { node: name(node), leaving }).unwrap();
    propose(trio, Change::Remove { node: name(node) }).unwrap();
}

fn vote(trio: &Trio, wanted: &[&str]) {
    let wanted: BTreeSet<NodeName> = wanted.iter().map(|n| name(n)).collect();
    until(&format!("the voters are {wanted:?}"), || {
        let all = wanted.iter().filter_map(|n| trio.up.get(n)).map(Node::standing);
        all.into_iter().all(|s| s.voters == wanted && !s.changing).then_some(())
    });
}

fn everybody_knows(trio: &Trio) {
    let newest = trio.up[&leading(trio)].store.state().revision;
    for (node, running) in &trio.up {
        until(&format!("{node} has the record"), || (running.store.state().revision >= newest).then_some(()));
    }
}

#[test]
fn nodes_come_vote_and_go() {
    let mut trio = of_one("come-and-go");
    for node in ["n2", "n3"] {
        let joins = options(&trio, node, &["n1", node], true);
        start(&mut trio, &joins);
        until("it says that it is no member", || {
            trio.up[&name(node)].standing().problem.filter(|p| p.contains("not a member"))
        });
        admit(&trio, node).unwrap();
        assert!(admit(&trio, node).is_err(), "twice");
    }
    vote(&trio, &["n1", "n2", "n3"]);
    everybody_knows(&trio);
    // Any of them can be lost now, the first one too.
    trio.crash(&name("n1"));
    let leader = trio.leader();
    let alone = options(&trio, "n1", &["n1"], true);
    start(&mut trio, &alone);
    trio.leader();
    // One that is down goes too; when it comes back it is told.
    let gone = if leader == name("n2") { "n3" } else { "n2" };
    trio.crash(&name(gone));
    remove(&trio, gone);
    let rest: Vec<&str> = ["n1", "n2", "n3"].into_iter().filter(|n| *n != gone).collect();
    vote(&trio, &rest);
    let back = options(&trio, gone, &["n1", gone], true);
    start(&mut trio, &back);
    let told = until("it is told", || trio.up[&name(gone)].standing().problem);
    assert!(told.contains(&format!("{gone} was removed from the cluster")), "{told}");
    let refused = trio.up[&name(gone)].propose(register(1)).unwrap_err();
    assert!(matches!(refused, StoreError::NotLeader { .. }), "{refused}");
    // With an empty directory it is another one, and needs another name.
    trio.crash(&name(gone));
    std::fs::remove_dir_all(trio.dir.0.join(gone)).unwrap();
    start(&mut trio, &back);
    until("its store is open", || trio.up[&name(gone)].standing().problem);
    assert!(admit(&trio, gone).is_err());
    vote(&trio, &rest);
    trio.crash(&name(gone));
    everybody_knows(&trio);
}

/// It would have to vote for anything to be recorded after that.
#[test]
fn a_seat_that_nobody_answers_for_does_not_stop_a_cluster_of_one() {
    let mut trio = of_one("nobody-there");
    let joins = options(&trio, "n2", &["n1", "n2"], true);
    start(&mut trio, &joins);
    let (there, nowhere) = (trio.members[&name("n2")].clone(), trio.members[&name("n3")].clone());
    let right = number(&trio, "n2");
    for (node, address, raft_id) in [("n2", &there, right + 1), ("n3", &nowhere, 77)] {
        let seat = Seat { address: address.clone(), raft_id };
        propose(&trio, Change::Admit { node: name(node), seat }).unwrap();
    }
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(trio.up[&name("n1")].standing().voters, BTreeSet::from([name("n1")]));
    // Removed, and let in once more, by another name.
    for node in ["n2", "n3"] {
        remove(&trio, node);
    }
    let seat = Seat { address: there, raft_id: right };
    propose(&trio, Change::Admit { node: name("n4"), seat }).unwrap();
    vote(&trio, &["n1", "n4"]);
}

#[test]
fn the_leader_hands_on_before_it_is_taken_out() {
    let mut trio = of_one("leader-goes");
    for node in ["n2", "n3"] {
        let joins = options(&trio, node, &["n1", node], true);
        start(&mut trio, &joins);
        admit(&trio, node).unwrap();
    }
    vote(&trio, &["n1", "n2", "n3"]);
    let (leader, other) = (trio.leader(), trio.follower());
    let serves = Change::Leave { node: name("n1"), leaving: Some(Leaving { by: "x".into(), at: 0 }) };
    let refused = propose(&trio, serves).unwrap_err();
    assert!(matches!(refused, StoreError::Refused(Refusal::OutOfPlace(_))), "{refused}");
    let (goes, takes) = if leader == name("n1") { (other, leader) } else { (leader, name("n1")) };
    let running = &trio.up[&trio.leader()];
    running.runtime.block_on(running.store.transfer(&takes)).unwrap();
    until("it leads", || (trio.leader() == takes).then_some(()));
    remove(&trio, goes.as_str());
    trio.crash(&goes);
    let rest: Vec<&str> = ["n1", "n2", "n3"].into_iter().filter(|n| *n != goes.as_str()).collect();
    vote(&trio, &rest);
    everybody_knows(&trio);
}

#[test]
fn a_node_whose_cluster_exists_founds_none() {
    let mut trio = Trio::new("founds-none", On::Embedded);
    let lost = options(&trio, "n1", &["n1"], true);
    start(&mut trio, &lost);
    let said = until("it says so", || trio.up[&name("n1")].standing().problem);
    assert!(said.contains("no part of the record") && said.contains("pgkeel remove n1"), "{said}");
    assert!(trio.up[&name("n1")].standing().voters.is_empty());
    let none: BTreeMap<NodeName, Member> = BTreeMap::new();
    assert_eq!(trio.up[&name("n1")].store.state().members, none);
}
