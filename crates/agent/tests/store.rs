//! The embedded store, three nodes in one process: each with a runtime, a port and a directory of its own, so that
//! ending its runtime is as sudden as a crash.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use agent::http::serve;
use agent::store::{Limits, Standing, Store, StoreError, StoreOptions};
use cluster::NodeName;
use cluster::command::{Change, Command, Refusal};
use cluster::state::{Member, State};
use identity::{Acceptor, Caller};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

const DETECT: Duration = Duration::from_millis(1500);
/// Longest wait for anything in these tests.
const PATIENCE: Duration = Duration::from_secs(20);

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = found() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A directory that goes when the test ends.
struct Dir(PathBuf);

impl Dir {
    fn new(test: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("pgkeel-store-{test}-{}", std::process::id()));
        drop(std::fs::remove_dir_all(&dir));
        Dir(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// A running node.
struct Node {
    store: Store,
    runtime: Runtime,
}

impl Node {
    fn start(options: &StoreOptions, limits: Limits) -> Node {
        let runtime = runtime();
        let store = until("the directory and the port are free", || {
            match runtime.block_on(Store::open_with(options.clone(), limits)) {
                Ok(store) => Some(store),
                Err(StoreError::Locked { .. }) => None,
                Err(e) => panic!("{e}"),
            }
        });
        let listener =
            until("the port is free", || runtime.block_on(TcpListener::bind(&options.address)).ok());
        runtime.spawn(serve(listener, Acceptor::with(None), store.router(), std::future::pending()));
        Node { store, runtime }
    }

    fn form_in_background(&self) {
        let store = self.store.clone();
        self.runtime.spawn(async move { store.form().await.unwrap() });
    }

    fn form(&self) -> Result<(), StoreError> {
        self.runtime.block_on(self.store.form())
    }

    fn standing(&self) -> Standing {
        self.store.standing().borrow().clone()
    }

    fn propose(&self, change: Change) -> Result<Arc<State>, StoreError> {
        let command = Command { by: name("n1"), at: 0, change, reasons: Vec::new() };
        self.runtime.block_on(self.store.propose(command))
    }

    fn crash(self) {
        let Node { store, runtime } = self;
        drop(store);
        runtime.shutdown_timeout(Duration::from_secs(2));
    }
}

/// Three nodes, each of which may be down.
struct Trio {
    dir: Dir,
    members: BTreeMap<NodeName, String>,
    limits: Limits,
    up: BTreeMap<NodeName, Node>,
    recorded: usize,
}

impl Trio {
    fn new(test: &str, limits: Limits) -> Trio {
        // All held until all are known, so that they differ.
        let held: Vec<_> = (1..=3).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let address = |i: usize| held[i].local_addr().unwrap().to_string();
        let members = (0..3).map(|i| (name(&format!("n{}", i + 1)), address(i))).collect();
        Trio { dir: Dir::new(test), members, limits, up: BTreeMap::new(), recorded: 0 }
    }

    fn formed(test: &str, limits: Limits) -> Trio {
        let mut trio = Trio::new(test, limits);
        for node in ["n1", "n2", "n3"] {
            trio.start(node);
        }
        trio.leader();
        trio
    }

    fn options(&self, node: &str) -> StoreOptions {
        StoreOptions {
            dir: self.dir.0.join(node),
            cluster: "test".into(),
            node: name(node),
            address: self.members[&name(node)].clone(),
            members: self.members.clone(),
            detect: DETECT,
            caller: Caller::plain(),
        }
    }

    fn start(&mut self, node: &str) {
        let started = Node::start(&self.options(node), self.limits);
        started.form_in_background();
        self.up.insert(name(node), started);
    }

    fn crash(&mut self, node: &NodeName) {
        self.up.remove(node).unwrap().crash();
    }

    /// The one that leads, once all that run agree.
    fn leader(&self) -> NodeName {
        until("a leader that all agree on", || {
            let leader = self.up.iter().find(|(_, n)| n.standing().leading)?.0.clone();
            self.up.values().all(|n| n.standing().leader.as_ref() == Some(&leader)).then_some(leader)
        })
    }

    fn follower(&self) -> NodeName {
        let leader = self.leader();
        self.up.keys().find(|n| **n != leader).unwrap().clone()
    }

    /// Records one more thing. A proposal that fails for want of a leader is tried again.
    fn record(&mut self) {
        let i = self.recorded;
        self.recorded += 1;
        until("the proposal is recorded", || match self.up[&self.leader()].propose(register(i)) {
            Ok(state) => {
                assert_eq!(state.members[&name(&format!("w{i}"))].agent, i.to_string());
                Some(())
            }
            Err(StoreError::NotLeader { .. } | StoreError::Timeout { .. } | StoreError::Unsure) => None,
            Err(e) => panic!("{e}"),
        });
    }

    /// All that was recorded is on every node that runs.
    fn check(&self) {
        for (node, running) in &self.up {
            until(&format!("{node} has everything"), || {
                (running.store.state().members.len() == self.recorded).then_some(())
            });
            let state = running.store.state();
            assert!(
                (0..self.recorded).all(|i| state.members[&name(&format!("w{i}"))].agent == i.to_string())
            );
        }
    }
}

fn register(i: usize) -> Change {
    Change::Register {
        node: name(&format!("w{i}")),
        member: Member { agent: i.to_string(), postgres: None, tags: Default::default(), data_dir: None },
    }
}

#[test]
fn three_form_and_record() {
    let mut trio = Trio::formed("form", Limits::default());
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

#[test]
fn a_dead_leader_is_replaced_below_detect() {
    let mut trio = Trio::formed("leader", Limits::default());
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

#[test]
fn an_isolated_leader_says_so() {
    let mut trio = Trio::formed("isolated", Limits::default());
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

#[test]
fn any_order_of_restarts_keeps_everything() {
    let mut trio = Trio::formed("restart", Limits::default());
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

/// The worst order: one node misses the last records and comes back first, alone with an older log.
#[test]
fn the_stalest_first_waits_for_the_others() {
    let mut trio = Trio::formed("stale", Limits::default());
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
fn after_an_orderly_stop_the_state_is_there_at_once() {
    let mut trio = Trio::formed("fresh", Limits::default());
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

#[test]
fn a_member_away_for_long_gets_a_snapshot() {
    let limits = Limits { snapshot_after: 20, keep: 5 };
    let mut trio = Trio::formed("snapshot", limits);
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
fn leadership_moves_on_request() {
    let mut trio = Trio::formed("transfer", Limits::default());
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

#[test]
fn a_taken_name_is_refused() {
    let trio = Trio::formed("taken", Limits::default());
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // A second n2 on another host, and an n2 that lost its directory.
    let second =
        StoreOptions { dir: trio.dir.0.join("second"), address: port.to_string(), ..trio.options("n2") };
    let second = Node::start(&second, Limits::default());
    let refused = second.form().unwrap_err();
    assert!(matches!(&refused, StoreError::NameTaken { .. }), "{refused}");
    let text = refused.to_string();
    assert!(text.contains("n2 is taken") && text.contains(&trio.members[&name("n2")]), "{text}");
}

#[test]
fn two_new_agents_with_one_name_are_refused() {
    let mut trio = Trio::new("twice", Limits::default());
    trio.start("n1");
    trio.start("n2");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let second =
        StoreOptions { dir: trio.dir.0.join("second"), address: port.to_string(), ..trio.options("n2") };
    std::thread::sleep(Duration::from_millis(500));
    let second = Node::start(&second, Limits::default());
    assert!(matches!(second.form(), Err(StoreError::NameTaken { .. })));
    let problem = until("founding waits", || trio.up[&name("n1")].standing().problem);
    assert!(problem.contains("n3"), "{problem}");
}

#[test]
fn another_cluster_is_refused() {
    let trio = Trio::formed("other", Limits::default());
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

#[test]
fn a_directory_has_one_user_and_one_owner() {
    let trio = Trio::formed("locked", Limits::default());
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
    std::fs::write(trio.dir.0.join("n1/store.redb"), b"garbage of all kinds").unwrap();
    let garbage = runtime.block_on(Store::open(trio.options("n1"))).err().unwrap();
    assert!(matches!(garbage, StoreError::Damaged { .. }), "{garbage}");
}

#[test]
fn a_single_node_is_its_own_majority() {
    let trio = Trio::new("single", Limits::default());
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
    let trio = Trio::formed("hostile", Limits::default());
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
    let trio = Trio::formed("idle", Limits::default());
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
    let trio = Trio::formed("latency", Limits::default());
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
