//! Three nodes, each of which may be down, and what is recorded by them.

use super::servers::Servers;
use agent::http::serve;
use agent::store::{Limits, Standing, Store, StoreError, StoreKind, StoreOptions};
use cluster::NodeName;
use cluster::command::{Change, Command};
use cluster::state::{Member, State};
use identity::{Acceptor, Caller};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

pub const DETECT: Duration = Duration::from_millis(1500);
/// Longest wait for anything in these tests.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

pub fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
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
pub struct Dir(pub PathBuf);

impl Dir {
    pub fn new(test: &str) -> Self {
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
pub struct Node {
    pub store: Store,
    pub runtime: Runtime,
}

impl Node {
    pub fn start(options: &StoreOptions, limits: Limits) -> Node {
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

    pub fn form_in_background(&self) {
        let store = self.store.clone();
        self.runtime.spawn(async move { store.form().await.unwrap() });
    }

    pub fn form(&self) -> Result<(), StoreError> {
        self.runtime.block_on(self.store.form())
    }

    pub fn standing(&self) -> Standing {
        self.store.standing().borrow().clone()
    }

    pub fn propose(&self, change: Change) -> Result<Arc<State>, StoreError> {
        let command = Command { by: name("n1"), at: 0, change, reasons: Vec::new() };
        self.runtime.block_on(self.store.propose(command))
    }

    pub fn crash(self) {
        let Node { store, runtime } = self;
        drop(store);
        runtime.shutdown_timeout(Duration::from_secs(2));
    }
}

/// On what the nodes run.
pub enum On {
    Embedded,
    Etcd(Servers),
}

/// Three nodes, each of which may be down.
pub struct Trio {
    /// Before the servers: nodes go first.
    pub up: BTreeMap<NodeName, Node>,
    pub dir: Dir,
    pub members: BTreeMap<NodeName, String>,
    pub limits: Limits,
    pub on: On,
    pub recorded: usize,
}

impl Trio {
    pub fn new(test: &str, on: On) -> Trio {
        // All held until all are known, so that they differ.
        let held: Vec<_> = (1..=3).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let address = |i: usize| held[i].local_addr().unwrap().to_string();
        let members = (0..3).map(|i| (name(&format!("n{}", i + 1)), address(i))).collect();
        let limits = Limits::default();
        let kind = if matches!(on, On::Embedded) { "embedded" } else { "etcd" };
        Trio {
            up: BTreeMap::new(),
            dir: Dir::new(&format!("{test}-{kind}")),
            members,
            limits,
            on,
            recorded: 0,
        }
    }

    pub fn formed(test: &str, on: On) -> Trio {
        let mut trio = Trio::new(test, on);
        trio.start_all();
        trio
    }

    pub fn start_all(&mut self) {
        for node in ["n1", "n2", "n3"] {
            self.start(node);
        }
        self.leader();
    }

    /// The node's file in its directory.
    pub fn file(&self, node: &str) -> PathBuf {
        let file = if matches!(self.on, On::Embedded) { "store.redb" } else { "etcd.json" };
        self.dir.0.join(node).join(file)
    }

    /// etcd's processes.
    pub fn servers(&mut self) -> &mut Servers {
        match &mut self.on {
            On::Etcd(servers) => servers,
            On::Embedded => panic!("there is no etcd"),
        }
    }

    pub fn options(&self, node: &str) -> StoreOptions {
        StoreOptions {
            dir: self.dir.0.join(node),
            cluster: "test".into(),
            node: name(node),
            address: self.members[&name(node)].clone(),
            members: self.members.clone(),
            detect: DETECT,
            founded: false,
            caller: Caller::plain(),
            opening: None,
            kind: match &self.on {
                On::Embedded => StoreKind::Embedded,
                On::Etcd(servers) => StoreKind::Etcd(servers.options()),
            },
        }
    }

    pub fn start(&mut self, node: &str) {
        let started = Node::start(&self.options(node), self.limits);
        started.form_in_background();
        self.up.insert(name(node), started);
    }

    pub fn crash(&mut self, node: &NodeName) {
        self.up.remove(node).unwrap().crash();
    }

    /// The one that leads, once all that run agree.
    pub fn leader(&self) -> NodeName {
        until("a leader that all agree on", || {
            let leader = self.up.iter().find(|(_, n)| n.standing().leading)?.0.clone();
            self.up.values().all(|n| n.standing().leader.as_ref() == Some(&leader)).then_some(leader)
        })
    }

    pub fn follower(&self) -> NodeName {
        let leader = self.leader();
        self.up.keys().find(|n| **n != leader).unwrap().clone()
    }

    /// Records one more thing. A proposal that fails for want of a leader is tried again.
    pub fn record(&mut self) {
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
    pub fn check(&self) {
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

pub fn register(i: usize) -> Change {
    Change::Register {
        node: name(&format!("w{i}")),
        member: Member { agent: i.to_string(), postgres: None, tags: Default::default(), data_dir: None },
    }
}
