//! What both kinds of store must do.

use super::servers::Servers;
use super::trio::*;
use agent::store::{Limits, Store, StoreError, StoreOptions};
use cluster::command::{Change, Refusal};
use cluster::state::Member;
use std::time::{Duration, Instant};

/// Runs each of these on the embedded store and on an etcd of one member.
macro_rules! on_both {
    ($($test:ident),* $(,)?) => {
        mod in_the_agents {
            $(#[test]
            fn $test() {
                super::$test(super::On::Embedded);
            })*
        }
        mod in_etcd {
            $(#[test]
            fn $test() {
                if let Some(servers) = super::Servers::start(stringify!($test), 1) {
                    super::$test(super::On::Etcd(servers));
                }
            })*
        }
    };
}

on_both!(
    three_form_and_record,
    a_dead_leader_is_replaced_below_detect,
    any_order_of_restarts_keeps_everything,
    after_an_orderly_stop_the_state_is_there_at_once,
    leadership_moves_on_request,
    a_taken_name_is_refused,
    two_new_agents_with_one_name_are_refused,
    another_cluster_is_refused,
    a_directory_has_one_user_and_one_owner,
);

fn three_form_and_record(on: On) {
    let mut trio = Trio::formed("form", on);
    trio.record();
    trio.check();
    let (leader, follower) = (trio.leader(), trio.follower());
    assert_eq!(trio.up[&leader].standing().voters.len(), 3);
    match trio.up[&follower].propose(register(9)) {
        Err(StoreError::NotLeader { leader: Some(named) }) => assert_eq!(named, leader),
        other => panic!("{other:?}"),
    }
    let late = Change::OpenEpoch { epoch: 99, lease: cluster::state::OldLease::Returned };
    assert!(matches!(trio.up[&leader].propose(late), Err(StoreError::Refused(Refusal::OtherEpoch { .. }))));
    let huge =
        Member { agent: "x".repeat(100_000), postgres: None, tags: Default::default(), data_dir: None };
    let huge = trio.up[&leader].propose(Change::Register { node: name("huge"), member: huge });
    assert!(matches!(huge, Err(StoreError::TooLarge { .. })));
    assert_eq!(trio.up[&follower].store.quorum_age(), None);
    let age = until("a confirmed round", || trio.up[&leader].store.quorum_age());
    assert!(age < DETECT, "{age:?}");
    assert_eq!(trio.up[&leader].store.silent_peers().len(), 2);
    assert_eq!(trio.up[&follower].store.silent_peers().keys().collect::<Vec<_>>(), [&leader]);
    until("quiet", || trio.up[&leader].standing().problem.is_none().then_some(()));
}

fn a_dead_leader_is_replaced_below_detect(on: On) {
    let mut trio = Trio::formed("leader", on);
    for _ in 0..3 {
        trio.record();
        let leader = trio.leader();
        trio.crash(&leader);
        let dead = Instant::now();
        let next = until("another leader", || {
            trio.up.iter().find(|(_, n)| n.standing().leading).map(|(n, _)| n.clone())
        });
        eprintln!("{next} leads {} ms after the end of {leader}", dead.elapsed().as_millis());
        trio.record();
        trio.start(leader.as_str());
        trio.record();
        trio.check();
    }
}

fn any_order_of_restarts_keeps_everything(on: On) {
    let mut trio = Trio::formed("restart", on);
    let orders: [&[&str]; 6] = [
        &["n1"],
        &["n2", "n3"],
        &["n3", "n1"],
        &["n1", "n2", "n3"],
        &["n3", "n2", "n1"],
        &["n2", "n1", "n3"],
    ];
    for order in orders {
        trio.record();
        trio.record();
        trio.check();
        order.iter().for_each(|n| trio.crash(&name(n)));
        for n in order.iter().rev() {
            trio.start(n);
            std::thread::sleep(Duration::from_millis(200));
        }
        trio.check();
    }
}

fn after_an_orderly_stop_the_state_is_there_at_once(on: On) {
    let mut trio = Trio::formed("fresh", on);
    trio.record();
    trio.record();
    trio.check();
    for (_, node) in std::mem::take(&mut trio.up) {
        node.runtime.block_on(node.store.close());
        node.crash();
    }
    let alone = Node::start(&trio.options("n2"), Limits::default());
    assert_eq!(alone.store.state().members.len(), 2);
}

fn leadership_moves_on_request(on: On) {
    let mut trio = Trio::formed("transfer", on);
    for _ in 0..3 {
        let (leader, to) = (trio.leader(), trio.follower());
        let asked = Instant::now();
        let node = &trio.up[&leader];
        node.runtime.block_on(node.store.transfer(&to)).unwrap();
        eprintln!("leadership moved in {} ms", asked.elapsed().as_millis());
        assert_eq!(trio.leader(), to);
        trio.record();
    }
    let (leader, to) = (trio.leader(), trio.follower());
    let follower = &trio.up[&to];
    let refused = follower.runtime.block_on(follower.store.transfer(&to));
    assert!(matches!(refused, Err(StoreError::NotLeader { .. })));
    let node = &trio.up[&leader];
    let unknown = node.runtime.block_on(node.store.transfer(&name("nobody")));
    assert!(matches!(unknown, Err(StoreError::NoSuchMember(_))));
    trio.check();
}

fn is_taken(refused: &StoreError) -> bool {
    matches!(refused, StoreError::NameTaken { .. } | StoreError::NameTakenInEtcd { .. })
}

fn a_taken_name_is_refused(on: On) {
    let trio = Trio::formed("taken", on);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // A second n2 on another host, and an n2 that lost its directory.
    let second =
        StoreOptions { dir: trio.dir.0.join("second"), address: port.to_string(), ..trio.options("n2") };
    let second = Node::start(&second, Limits::default());
    let refused = second.form().unwrap_err();
    assert!(is_taken(&refused), "{refused}");
    let text = refused.to_string();
    assert!(text.contains("n2 is taken") && text.contains(&trio.members[&name("n2")]), "{text}");
}

fn two_new_agents_with_one_name_are_refused(on: On) {
    let mut trio = Trio::new("twice", on);
    trio.start("n1");
    trio.start("n2");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let second =
        StoreOptions { dir: trio.dir.0.join("second"), address: port.to_string(), ..trio.options("n2") };
    std::thread::sleep(Duration::from_millis(500));
    let second = Node::start(&second, Limits::default());
    assert!(second.form().is_err_and(|refused| is_taken(&refused)));
    // An etcd is there before the members are.
    if matches!(trio.on, On::Embedded) {
        let problem = until("founding waits", || trio.up[&name("n1")].standing().problem);
        assert!(problem.contains("n3"), "{problem}");
    }
}

fn another_cluster_is_refused(on: On) {
    let trio = Trio::formed("other", on);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let stray = StoreOptions {
        dir: trio.dir.0.join("stray"),
        cluster: "elsewhere".into(),
        node: name("n4"),
        address: port.to_string(),
        ..trio.options("n1")
    };
    let stray = Node::start(&stray, Limits::default());
    let refused = stray.form().unwrap_err().to_string();
    assert!(refused.contains("\"test\"") && refused.contains("\"elsewhere\""), "{refused}");
}

fn a_directory_has_one_user_and_one_owner(on: On) {
    let trio = Trio::formed("locked", on);
    let runtime = runtime();
    let second = runtime.block_on(Store::open(trio.options("n1"))).err().unwrap();
    assert!(second.to_string().contains("an agent already runs for this node"), "{second}");
    let mut trio = trio;
    trio.crash(&name("n1"));
    let stolen = StoreOptions { dir: trio.options("n1").dir, ..trio.options("n2") };
    let refused = until("the lock is free", || match runtime.block_on(Store::open(stolen.clone())).err() {
        Some(StoreError::Locked { .. }) => None,
        other => Some(other.unwrap()),
    });
    assert!(refused.to_string().contains("belongs to node n1"), "{refused}");
    std::fs::write(trio.file("n1"), b"garbage of all kinds").unwrap();
    let garbage = runtime.block_on(Store::open(trio.options("n1"))).err().unwrap();
    assert!(matches!(garbage, StoreError::Damaged { .. }), "{garbage}");
}
