//! What only the embedded store can show.

use super::trio::*;
use agent::store::{Limits, StoreError};
use cluster::NodeName;
use identity::Caller;
use std::time::{Duration, Instant};

#[test]
fn an_isolated_leader_says_so() {
    let mut trio = Trio::formed("isolated", On::Embedded);
    trio.record();
    let leader = trio.leader();
    let others: Vec<NodeName> = trio.up.keys().filter(|n| **n != leader).cloned().collect();
    others.iter().for_each(|n| trio.crash(n));
    let alone = &trio.up[&leader];
    let lost = Instant::now();
    let expected = format!("no majority of the 3 voters: {} and {} do not answer", others[0], others[1]);
    until("the problem is named", || (alone.standing().problem.as_ref() == Some(&expected)).then_some(()));
    let age = alone.store.quorum_age().unwrap();
    assert!(age + Duration::from_millis(300) > lost.elapsed(), "{age:?} {:?}", lost.elapsed());
    assert!(matches!(
        alone.propose(register(5)),
        Err(StoreError::NotLeader { leader: None } | StoreError::Timeout { .. })
    ));
    for node in others {
        trio.start(node.as_str());
    }
    trio.record();
}

/// The worst order: one node misses the last records and comes back first, alone with an older log.
#[test]
fn the_stalest_first_waits_for_the_others() {
    let mut trio = Trio::formed("stale", On::Embedded);
    trio.record();
    trio.check();
    let stale = trio.follower();
    trio.crash(&stale);
    trio.record();
    trio.check();
    let others: Vec<NodeName> = trio.up.keys().cloned().collect();
    others.iter().for_each(|n| trio.crash(n));
    trio.start(stale.as_str());
    let problem = until("the problem is named", || trio.up[&stale].standing().problem);
    assert!(problem.starts_with("no majority of the 3 voters"), "{problem}");
    for n in &others {
        trio.start(n.as_str());
    }
    trio.record();
    trio.check();
    assert_ne!(trio.up.len(), 2);
}

#[test]
fn a_member_away_for_long_gets_a_snapshot() {
    let limits = Limits { snapshot_after: 20, keep: 5 };
    let mut trio = Trio::new("snapshot", On::Embedded);
    trio.limits = limits;
    trio.start_all();
    let away = trio.follower();
    trio.crash(&away);
    for _ in 0..100 {
        trio.record();
    }
    trio.start(away.as_str());
    trio.check();
    trio.record();
    trio.check();
    // And its own file is whole.
    trio.crash(&away);
    trio.start(away.as_str());
    trio.record();
    trio.check();
}

#[test]
fn a_single_node_is_its_own_majority() {
    let trio = Trio::new("single", On::Embedded);
    let mut options = trio.options("n1");
    options.members.retain(|n, _| *n == options.node);
    let node = Node::start(&options, Limits::default());
    node.form().unwrap();
    until("it leads", || node.standing().leading.then_some(()));
    node.propose(register(0)).unwrap();
    assert_eq!(node.store.quorum_age(), Some(Duration::ZERO));
    node.crash();
    let again = Node::start(&options, Limits::default());
    until("it leads again", || again.standing().leading.then_some(()));
    assert_eq!(again.store.state().members.len(), 1);
}

#[test]
fn calls_from_outside_are_checked() {
    let trio = Trio::formed("hostile", On::Embedded);
    let address = trio.members[&name("n1")].clone();
    let runtime = runtime();
    let caller = Caller::plain();
    let post = |path: &str, body: serde_json::Value| {
        let answer = agent::http::post_json::<_, serde_json::Value>(&caller, &address, path, &body, PATIENCE);
        runtime.block_on(answer).map_err(|e| e.to_string())
    };
    let vote = serde_json::json!({"leader_id": {"term": 9, "node_id": 9}, "committed": false});
    let call = |cluster: &str| serde_json::json!({"cluster": cluster, "from": 9, "to": 9, "call": {"vote": vote, "last_log_id": null}});
    assert!(post("/v1/raft/vote", call("elsewhere")).unwrap_err().contains("409"));
    assert!(post("/v1/raft/vote", call("test")).unwrap_err().contains("with id"));
    for path in ["append", "vote", "pre-vote", "snapshot", "transfer", "hello"] {
        assert!(
            post(&format!("/v1/raft/{path}"), serde_json::json!([1, "x"])).unwrap_err().contains(" 4"),
            "{path}"
        );
    }
    let identity: serde_json::Value = runtime
        .block_on(agent::http::get(&Caller::plain(), &address, "/v1/raft/identity", PATIENCE))
        .unwrap();
    assert_eq!((&identity["name"], &identity["formed"]), (&"n1".into(), &true.into()));
    let large = runtime.block_on(async {
        let mut wide = agent::http::Connection::new(&Caller::plain(), &address, usize::MAX);
        wide.post_json::<_, serde_json::Value>("/v1/raft/append", &"x".repeat(5 << 20), PATIENCE).await
    });
    assert!(large.is_err());
    assert_eq!(trio.up[&trio.leader()].standing().voters.len(), 3);
}

/// Prints what three idle nodes cost; run it with `--ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn idle() {
    let trio = Trio::formed("idle", On::Embedded);
    let term = trio.up[&name("n1")].standing().term;
    // Nanoseconds on a processor, of all threads (proc(5), schedstat); the ticks of /proc/self/stat are too coarse.
    let spent = || -> u64 {
        let threads = std::fs::read_dir("/proc/self/task").unwrap();
        let stat = |t: std::fs::DirEntry| std::fs::read_to_string(t.path().join("schedstat")).ok();
        let run = |text: String| text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok());
        threads.filter_map(|t| t.ok().and_then(stat).and_then(run)).sum()
    };
    std::thread::sleep(Duration::from_secs(2));
    let before = spent();
    std::thread::sleep(Duration::from_secs(10));
    let after = trio.up[&name("n1")].standing().term;
    eprintln!("{} ms of CPU per node in 10 s; terms {term} to {after}", (spent() - before) / 3_000_000);
}

/// Prints what a proposal costs; run it with `--ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn latency() {
    let trio = Trio::formed("latency", On::Embedded);
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
    for (what, mut times) in [("committed at the leader", committed), ("applied everywhere", applied)] {
        times.sort();
        eprintln!("{what}: median {:?}, p95 {:?}, worst {:?}", times[100], times[190], times[199]);
    }
}
