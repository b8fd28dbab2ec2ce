//! What only a store in etcd can show: what becomes of the cluster when etcd, or somebody in it, does not behave.

use super::servers::Servers;
use super::trio::*;
use agent::store::{Limits, StoreError};
use cluster::NodeName;
use identity::Caller;
use rustix::process::Signal;
use serde_json::json;
use std::time::{Duration, Instant};

const LEADER: &str = "/pgkeel/test/leader";
const STATE: &str = "/pgkeel/test/state";

fn trio(test: &str, members: usize) -> Option<Trio> {
    let servers = Servers::start(test, members)?;
    Some(Trio::formed(test, On::Etcd(servers)))
}

impl Trio {
    /// The longest time without a confirmed round while this is done, as far as it can be seen.
    fn oldest_round(&self, what: impl FnOnce(&Trio) + Send) -> Duration {
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let watch = scope.spawn(|| {
                let mut oldest = Duration::ZERO;
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let ages = self.up.values().filter_map(|n| n.store.quorum_age());
                    oldest = oldest.max(ages.min().unwrap_or_default());
                    std::thread::sleep(Duration::from_millis(5));
                }
                oldest
            });
            what(self);
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            watch.join().unwrap()
        })
    }
}

#[test]
fn any_member_of_etcd_may_die() {
    let Some(mut trio) = trio("etcd-dies", 3) else { return };
    trio.record();
    for _ in 0..2 {
        let lost = trio.servers().leader();
        trio.servers().kill(lost);
        let dead = Instant::now();
        let oldest = trio.oldest_round(|_| std::thread::sleep(Duration::from_secs(4)));
        trio.record();
        eprintln!(
            "etcd's leader killed: the oldest confirmed round was {} ms old; recorded again within {} ms",
            oldest.as_millis(),
            dead.elapsed().as_millis()
        );
        until("no problem is told", || {
            trio.up.values().all(|n| n.standing().problem.is_none()).then_some(())
        });
        trio.servers().revive(lost);
        trio.check();
    }
    let follower = (trio.servers().leader() + 1) % 3;
    trio.servers().kill(follower);
    let oldest = trio.oldest_round(|_| std::thread::sleep(Duration::from_secs(2)));
    eprintln!("another member killed: the oldest confirmed round was {} ms old", oldest.as_millis());
    trio.record();
    trio.check();
}

#[test]
fn without_a_majority_of_etcd_nothing_is_confirmed() {
    let Some(mut trio) = trio("etcd-minority", 3) else { return };
    trio.record();
    let leader = trio.leader();
    trio.servers().kill(0);
    trio.servers().kill(1);
    let lost = Instant::now();
    for node in trio.up.values() {
        let problem = until("the problem is named", || node.standing().problem);
        assert!(problem.starts_with("2 of 3 etcd members cannot be reached"), "{problem}");
    }
    assert!(trio.up.iter().all(|(n, node)| *n == leader || node.standing().leader.is_none()));
    let age = trio.up[&leader].store.quorum_age().unwrap();
    assert!(age + Duration::from_millis(500) > lost.elapsed(), "{age:?} {:?}", lost.elapsed());
    let proposed = trio.up[&leader].propose(register(90));
    assert!(matches!(proposed, Err(StoreError::Timeout { .. })), "{proposed:?}");
    // It may have been recorded, once etcd is there again, or not at all.
    trio.servers().revive(0);
    trio.servers().revive(1);
    trio.record();
    let at_most = trio.recorded + 1;
    assert!(trio.up[&leader].store.state().members.len() <= at_most);
}

#[test]
fn a_member_of_etcd_that_is_frozen_is_passed_over() {
    let Some(mut trio) = trio("etcd-frozen", 3) else { return };
    trio.record();
    for i in 0..3 {
        trio.servers().signal(i, Signal::STOP);
        let oldest = trio.oldest_round(|_| std::thread::sleep(Duration::from_secs(4)));
        eprintln!("member {i} frozen: the oldest confirmed round was {} ms old", oldest.as_millis());
        trio.record();
        trio.servers().signal(i, Signal::CONT);
        trio.check();
    }
}

/// Somebody else holds the key: who held it before may not record anything, and counts no more rounds.
#[test]
fn a_leader_without_the_key_leads_no_more() {
    let Some(mut trio) = trio("etcd-key", 1) else { return };
    trio.record();
    let leader = trio.leader();
    let (was, term) = (trio.up[&leader].store.state(), trio.up[&leader].standing().term);
    trio.servers().put(LEADER, b"{\"node\":\"n9\",\"run\":\"x\"}");
    let outcome = trio.up[&leader].propose(register(80));
    assert!(matches!(outcome, Err(StoreError::NotLeader { .. } | StoreError::Unsure)), "{outcome:?}");
    until("it has noticed", || (!trio.up[&leader].standing().leading).then_some(()));
    assert_eq!(trio.up[&leader].store.quorum_age(), None);
    assert_eq!(trio.up[&leader].store.state(), was);
    trio.servers().delete(LEADER);
    let next = trio.leader();
    assert!(trio.up[&next].standing().term > term);
    trio.record();
    // Deleted under a leader that is well: somebody leads again, in a new term.
    let term = trio.up[&trio.leader()].standing().term;
    trio.servers().delete(LEADER);
    until("a new term", || {
        trio.up.values().any(|n| n.standing().leading && n.standing().term > term).then_some(())
    });
    trio.record();
    trio.check();
}

#[test]
fn one_that_may_not_lead_gives_the_leadership_away() {
    let Some(mut trio) = trio("etcd-may", 1) else { return };
    for _ in 0..2 {
        let leader = trio.leader();
        trio.up[&leader].store.may_lead(false);
        let asked = Instant::now();
        let next = until("another leader", || {
            trio.up.iter().find(|(n, node)| **n != leader && node.standing().leading).map(|(n, _)| n.clone())
        });
        eprintln!("{next} leads {} ms after {leader} gave it up", asked.elapsed().as_millis());
        assert!(!trio.up[&leader].standing().leading);
        trio.record();
        trio.up[&leader].store.may_lead(true);
    }
    trio.check();
}

/// What a store that was restored from an older backup would show. Epochs must not be given out twice.
#[test]
fn an_older_record_is_refused() {
    let Some(mut trio) = trio("etcd-older", 1) else { return };
    trio.record();
    trio.check();
    let older = trio.servers().get(STATE).0;
    trio.record();
    trio.check();
    let newer = trio.servers().get(STATE).0;
    trio.servers().put(STATE, &older);
    for node in trio.up.values() {
        until("it is said", || {
            node.standing().problem.filter(|p| p.contains("gone back from revision 2 to 1"))
        });
    }
    until("nobody leads", || trio.up.values().all(|n| !n.standing().leading).then_some(()));
    // A node that is started anew remembers it.
    let one = NodeName::clone(trio.up.keys().next().unwrap());
    trio.crash(&one);
    trio.start(one.as_str());
    until("it is said", || trio.up[&one].standing().problem.filter(|p| p.contains("gone back")));
    trio.servers().put(STATE, &newer);
    trio.record();
    trio.check();
    trio.servers().delete(STATE);
    for node in trio.up.values() {
        until("it is said", || node.standing().problem.filter(|p| p.contains("is gone")));
    }
}

#[test]
fn compaction_costs_nothing() {
    let Some(mut trio) = trio("etcd-compact", 1) else { return };
    let away = trio.follower();
    trio.crash(&away);
    for _ in 0..5 {
        trio.record();
        let revision = trio.servers().get(STATE).1;
        let body = json!({"revision": revision.to_string(), "physical": true});
        trio.servers().ask("/v3/kv/compaction", &body).unwrap();
    }
    trio.start(away.as_str());
    trio.record();
    trio.check();
}

/// etcd is away when the node starts: it knows what it knew.
#[test]
fn a_node_remembers_without_etcd() {
    let Some(mut trio) = trio("etcd-away", 1) else { return };
    trio.record();
    trio.check();
    for (_, node) in std::mem::take(&mut trio.up) {
        node.runtime.block_on(node.store.close());
        node.crash();
    }
    trio.servers().kill(0);
    let alone = Node::start(&trio.options("n1"), Limits::default());
    assert_eq!(alone.store.state().members.len(), 1);
    alone.form_in_background();
    let problem = until("the problem is named", || alone.standing().problem);
    assert!(problem.contains("cannot be reached"), "{problem}");
    trio.servers().revive(0);
    until("it leads", || alone.standing().leading.then_some(()));
}

/// Of two members none can confirm that the other one is silent: the key has to end with etcd's lease.
#[test]
fn of_two_nodes_the_other_one_takes_over_when_the_lease_ends() {
    let Some(servers) = Servers::start("etcd-two", 1) else { return };
    let mut trio = Trio::new("etcd-two", On::Etcd(servers));
    trio.members.remove(&name("n3"));
    trio.start("n1");
    trio.start("n2");
    for _ in 0..3 {
        let leader = trio.leader();
        trio.record();
        trio.crash(&leader);
        let dead = Instant::now();
        let next = until("the other one leads", || {
            trio.up.iter().find(|(_, n)| n.standing().leading).map(|(n, _)| n.clone())
        });
        eprintln!("{next} leads {} ms after the end of {leader}", dead.elapsed().as_millis());
        trio.start(leader.as_str());
    }
    trio.record();
    trio.check();
}

#[test]
fn what_the_agents_ask_each_other_is_checked() {
    let Some(trio) = trio("etcd-hostile", 1) else { return };
    let address = trio.members[&name("n1")].clone();
    let runtime = runtime();
    let caller = Caller::plain();
    let post = |path: &str, body: serde_json::Value| {
        let answer = agent::http::post_json::<_, serde_json::Value>(&caller, &address, path, &body, PATIENCE);
        runtime.block_on(answer).map_err(|e| e.to_string())
    };
    for path in ["/v1/etcd/pulse", "/v1/etcd/silence"] {
        assert!(post(path, json!([1, "x"])).unwrap_err().contains(" 4"), "{path}");
    }
    assert!(
        post("/v1/etcd/silence", json!({"cluster": "elsewhere", "term": 1})).unwrap_err().contains("409")
    );
    let unknown = post("/v1/etcd/silence", json!({"cluster": "test", "term": 1})).unwrap();
    assert_eq!(unknown, json!({"silent_ms": null}));
}

/// The record of a cluster is not carried over by a change of the configuration.
#[test]
fn another_kind_of_store_is_refused() {
    let Some(mut trio) = trio("etcd-kind", 1) else { return };
    let options = trio.options("n1");
    trio.crash(&name("n1"));
    let embedded = agent::store::StoreOptions { kind: Default::default(), ..options };
    let refused = runtime().block_on(agent::store::Store::open(embedded)).err().unwrap();
    assert!(matches!(refused, StoreError::OtherKind { .. }), "{refused}");
}

/// Prints what a proposal costs; run it with `--ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn latency() {
    let Some(trio) = trio("etcd-latency", 3) else { return };
    let leader = trio.leader();
    let (mut committed, mut applied) = (Vec::new(), Vec::new());
    for i in 0..200 {
        std::thread::sleep(Duration::from_millis(5));
        let start = Instant::now();
        trio.up[&leader].propose(register(i)).unwrap();
        committed.push(start.elapsed());
        while !trio.up.values().all(|n| n.store.state().members.len() > i) {
            std::thread::sleep(Duration::from_micros(50));
        }
        applied.push(start.elapsed());
    }
    for (what, mut times) in [("recorded at the leader", committed), ("known everywhere", applied)] {
        times.sort();
        eprintln!("{what}: median {:?}, p95 {:?}, worst {:?}", times[100], times[190], times[199]);
    }
}
