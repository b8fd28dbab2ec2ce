//! A node that was struck out while it could not be told hears of it all the same, and for good.

use super::trio::*;
use agent::store::{Limits, Store, StoreError, StoreOptions};
use cluster::NodeName;
use cluster::command::{Change, first_promotion_id};
use cluster::membership::Leaving;
use cluster::observe::Promoted;
use cluster::state::{Member, PgAddress, Replication, Settings};

/// Three nodes that founded a cluster together, in whose record the leader is the primary.
fn serving(test: &str) -> Trio {
    let trio = Trio::formed(test, On::Embedded);
    let replication = Replication::Async { max_loss_bytes: 0, loss_bound_bytes: None };
    let settings = Settings { replication, detect_ms: 1500, drift_ppm: 0 };
    propose(&trio, &Change::Configure { cluster: "test".into(), settings });
    for (node, agent) in &trio.members {
        let postgres = Some(PgAddress { host: "h".into(), port: 1 });
        let member = Member { agent: agent.clone(), postgres, tags: Default::default(), data_dir: None };
        propose(&trio, &Change::Register { node: node.clone(), member });
    }
    let primary = trio.leader();
    let promoted = Promoted { epoch: 1, timeline: 1, forks: Vec::new(), system_identifier: 7 };
    let promotion_id = first_promotion_id(&primary);
    propose(&trio, &Change::Initialise { node: primary, replication_password: "p".into() });
    propose(&trio, &Change::Publish { epoch: 1, promoted, promotion_id });
    trio
}

fn propose(trio: &Trio, change: &Change) {
    until("it is recorded", || match trio.up[&trio.leader()].propose(change.clone()) {
        Ok(_) => Some(()),
        Err(StoreError::NotLeader { .. }) => None,
        Err(e) => panic!("{change:?}: {e}"),
    });
}

/// By the others, which then vote without it.
fn remove(trio: &Trio, node: &NodeName) {
    let leaving = Some(Leaving { by: "somebody".into(), at: 0 });
    propose(trio, &Change::Leave { node: node.clone(), leaving });
    propose(trio, &Change::Remove { node: node.clone() });
    until("the voters are the others", || {
        let standing = trio.up[&trio.leader()].standing();
        (!standing.voters.contains(node) && !standing.changing).then_some(())
    });
}

#[test]
fn one_that_was_down_is_told_when_it_starts() {
    let mut trio = serving("removed-down");
    let gone = trio.follower();
    trio.crash(&gone);
    remove(&trio, &gone);
    let leader = trio.leader();
    assert!(!trio.up[&leader].standing().removed);
    let back = Node::start(&trio.options(gone.as_str()), Limits::default());
    assert!(!back.store.state().removed.contains(&gone), "its own record does not say so");
    back.form().unwrap();
    let standing = back.standing();
    let problem = standing.problem.unwrap_or_default();
    assert!(
        standing.removed && problem.contains(&format!("{gone} was removed from the cluster")),
        "{problem}"
    );
    assert!(problem.contains("another --node"), "{problem}");
    back.crash();
}

/// With an empty directory it cannot come back under its name, nor found anything.
#[test]
fn one_with_an_empty_directory_is_told_too() {
    let mut trio = serving("removed-empty");
    let gone = trio.follower();
    trio.crash(&gone);
    remove(&trio, &gone);
    std::fs::remove_dir_all(trio.dir.0.join(gone.as_str())).unwrap();
    let options = StoreOptions { founded: true, ..trio.options(gone.as_str()) };
    let back = Node::start(&options, Limits::default());
    back.form().unwrap();
    assert!(back.standing().removed && !back.standing().formed);
    back.crash();
}

/// It calls others, and nobody reaches it: what is recorded, and that it was struck out, does not come to it.
#[test]
fn one_that_stays_up_and_cut_off_asks() {
    let mut trio = serving("removed-cut-off");
    let gone = trio.follower();
    trio.crash(&gone);
    let runtime = runtime();
    let options = trio.options(gone.as_str());
    let store = until("the directory is free", || match runtime.block_on(Store::open(options.clone())) {
        Ok(store) => Some(store),
        Err(StoreError::Locked { .. }) => None,
        Err(e) => panic!("{e}"),
    });
    let standing = store.standing();
    runtime.block_on(store.form()).unwrap();
    assert!(!standing.borrow().removed);
    remove(&trio, &gone);
    let told = until("it is told", || Some(standing.borrow().clone()).filter(|now| now.removed));
    assert!(told.problem.is_some_and(|p| p.contains(&format!("{gone} was removed from the cluster"))));
    assert!(!store.state().removed.contains(&gone), "by another node, and not by its own record");
    // Those that stay are not asked and not told.
    assert!(trio.up.values().all(|node| !node.standing().removed));
    drop(store);
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
}
