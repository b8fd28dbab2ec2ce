//! One state of the model: what is on each node, what the store agreed on, what the leader heard, what clients were told.

use super::wal::Record;
use cluster::observe::{Observation, SyncApplied};
use cluster::state::{State, SyncSet};
use cluster::{Epoch, NodeName};
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Index of a node.
pub type NodeId = usize;

/// How many nodes there are.
pub const NODES: usize = 3;

/// A shared value of the `cluster` crate, known by a hash of its text: those types need not be hashable themselves.
#[derive(Clone, Debug)]
pub struct Hashed<T> {
    key: u64,
    /// The value.
    pub value: Arc<T>,
}

impl<T: std::fmt::Debug> Hashed<T> {
    /// Takes in a value.
    pub fn new(value: T) -> Hashed<T> {
        let mut hasher = DefaultHasher::new();
        format!("{value:?}").hash(&mut hasher);
        Hashed { key: hasher.finish(), value: Arc::new(value) }
    }
}

impl<T> Hash for Hashed<T> {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.key.hash(hasher);
    }
}

impl<T> PartialEq for Hashed<T> {
    fn eq(&self, other: &Hashed<T>) -> bool {
        self.key == other.key
    }
}

/// What a server process does.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum Process {
    /// No process of it exists.
    Stopped,
    /// In recovery.
    Standby,
    /// In recovery, told to promote.
    Promoting,
    /// Takes writes.
    Primary,
}

/// `synchronous_standby_names`.
#[derive(Clone, Debug, Default, Hash, PartialEq, Eq)]
pub struct Names {
    /// How many must confirm.
    pub k: usize,
    /// Who may.
    pub members: BTreeSet<NodeId>,
}

impl Names {
    /// From what the rules ask to configure.
    pub fn of(asked: &SyncSet) -> Names {
        Names { k: asked.k, members: asked.members.iter().filter_map(id).collect() }
    }
}

/// A WAL stream, both ends of it.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub struct Stream {
    /// The server that sends.
    pub from: NodeId,
    /// What the standby has flushed; its confirmation is on the way.
    pub flushed: usize,
    /// What the sender has heard confirmed.
    pub confirmed: usize,
    /// The configuration that the sender obeys.
    pub obeys: Names,
    /// Whether the standby's receiver still exists.
    pub open: bool,
}

/// A node's promise.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub struct SealNote {
    /// For this epoch.
    pub epoch: Epoch,
    /// Where it stood.
    pub timeline: u32,
    /// Where it stood.
    pub records: usize,
    /// The line of its data.
    pub line: Option<String>,
}

/// What the agent wrote down.
#[derive(Clone, Debug, Default, Hash, PartialEq, Eq)]
pub struct Notes {
    /// The line of its data.
    pub line: Option<String>,
    /// The last seal given.
    pub seal: Option<SealNote>,
    /// Whom it was told to follow, and for which epoch.
    pub following: Option<(Epoch, NodeId)>,
    /// The latest epoch for which it sealed or promoted.
    pub promised: Epoch,
    /// The epoch for which it was rewound.
    pub rewound_for: Option<Epoch>,
}

/// A step in two parts that was begun.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub enum Busy {
    /// `primary_conninfo` is empty; the receiver must go, then the position is read.
    Seal(Epoch),
    /// Noted; the server must be told.
    Follow(NodeId),
}

/// What an agent has in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agent {
    /// The step under way.
    pub busy: Option<Busy>,
    /// The epoch it has a lease for. It never ends: in quorum mode nothing may rest on that.
    pub lease: Option<Epoch>,
    /// The synchronous standbys it configured.
    pub sync_configured: Option<SyncSet>,
    /// Since when the server obeys them.
    pub sync_applied: Option<SyncApplied>,
}

impl Hash for Agent {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.busy.hash(hasher);
        self.lease.hash(hasher);
        self.sync_configured.as_ref().map(Names::of).hash(hasher);
        self.sync_applied.as_ref().map(|a| (a.since.0, Names::of(&a.set))).hash(hasher);
    }
}

/// A node.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub struct Node {
    /// Which of the agreed states it knows: an index of `Picture::log`.
    pub knows: usize,
    /// All WAL it holds.
    pub wal: Vec<Record>,
    /// Readable only from here on: after a copy or a rewind.
    pub consistent_at: usize,
    /// Its server.
    pub process: Process,
    /// The epoch for which it was last promoted.
    pub promoted_for: Epoch,
    /// `primary_conninfo`.
    pub upstream: Option<NodeId>,
    /// The stream that it receives, or received until its receiver went.
    pub stream: Option<Stream>,
    /// Its configuration file.
    pub sync: Names,
    /// Commits whose clients wait, by position.
    pub waiting: Vec<usize>,
    /// What its agent wrote down.
    pub notes: Notes,
    /// What its agent has in memory.
    pub agent: Agent,
}

impl Node {
    /// Whether its server can be asked.
    pub fn is_readable(&self) -> bool {
        self.wal.len() >= self.consistent_at
    }
}

/// How much of what is bounded was used.
#[derive(Clone, Copy, Debug, Default, Hash, PartialEq, Eq)]
pub struct Used {
    /// Commits begun.
    pub writes: usize,
    /// Servers killed, hosts restarted, agents killed, streams broken.
    pub faults: usize,
    /// Sync sets changed while a primary served.
    pub sync_changes: usize,
    /// Changes of leader.
    pub leaders: usize,
}

/// What went wrong.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum Broken {
    /// A server was promoted without a commit that an earlier primary acknowledged.
    Durability,
    /// A primary acknowledged a commit when a later one had been promoted without it.
    Writer,
    /// A server was promoted for an epoch that did not appoint it.
    Appointment,
    /// WAL of one history was put onto another, and PostgreSQL could not see that.
    Prefix,
}

/// A state of the model.
#[derive(Clone, Debug, Hash, PartialEq)]
pub struct Picture {
    /// Agreed states, from the oldest that a node still sees to the last.
    pub log: Vec<Hashed<State>>,
    /// The nodes.
    pub nodes: Vec<Node>,
    /// What the leader last heard of each.
    pub heard: Vec<Option<Hashed<Observation>>>,
    /// Commits that clients were told of, by position.
    pub acknowledged: BTreeMap<(usize, Epoch), u32>,
    /// The latest epoch in which a commit was acknowledged.
    pub last_writer: Epoch,
    /// What each promoted server began with.
    pub began_with: BTreeMap<Epoch, Vec<Record>>,
    /// What was used of the bounds.
    pub used: Used,
    /// What went wrong.
    pub broken: Option<Broken>,
}

impl Picture {
    /// The state on which the store agreed last.
    pub fn agreed(&self) -> Arc<State> {
        self.log.last().map_or_else(Arc::default, |s| s.value.clone())
    }

    /// The state that `node` sees.
    pub fn known(&self, node: NodeId) -> Arc<State> {
        self.log.get(self.nodes[node].knows).map_or_else(Arc::default, |s| s.value.clone())
    }
}

/// The name of a node.
pub fn name(node: NodeId) -> NodeName {
    static NAMES: std::sync::LazyLock<Vec<NodeName>> =
        std::sync::LazyLock::new(|| (1..=NODES).filter_map(|i| format!("n{i}").parse().ok()).collect());
    NAMES[node].clone()
}

/// The node of a name.
pub fn id(name: &NodeName) -> Option<NodeId> {
    (0..NODES).find(|node| self::name(*node) == *name)
}
