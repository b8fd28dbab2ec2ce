//! A host: its clock, its disk, and the processes on it.

use super::agent::Agent;
use super::postgres::{Data, Postgres};
use super::world::Event;
use cluster::leash::Promises;
use cluster::observe::Seal;
use cluster::state::{State, Tags};
use cluster::step::Unfinished;
use cluster::{Epoch, Moment, NodeName};

/// Index of a node.
pub type NodeId = usize;

/// CLOCK_BOOTTIME of a host: it began at another moment than the others and runs a little faster or slower, not always
/// by the same.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// When its speed last changed, in microseconds of the simulation.
    pub since: u64,
    /// What it showed then, in microseconds.
    pub shown: u64,
    /// Its error, in parts per million.
    pub ppm: i64,
}

impl Clock {
    fn micros(self, now: u64) -> u64 {
        let passed = i128::from(now - self.since);
        let shown = i128::from(self.shown) + passed + passed * i128::from(self.ppm) / 1_000_000;
        u64::try_from(shown).unwrap_or(0)
    }

    /// What it shows at `now`.
    pub fn read(self, now: u64) -> Moment {
        Moment(self.micros(now) / 1000)
    }

    /// Runs at another speed from `now` on.
    pub fn change_speed(&mut self, now: u64, ppm: i64) {
        *self = Clock { since: now, shown: self.micros(now), ppm };
    }

    /// When it will show at least `moment`, in microseconds of the simulation.
    pub fn when(self, moment: Moment, now: u64) -> u64 {
        let left = moment.since(self.read(now)) * 1000;
        let stretched = i128::from(left) * 1_000_000 / (1_000_000 + i128::from(self.ppm));
        now + u64::try_from(stretched).unwrap_or(0) + 1000
    }
}

/// What the agent writes down about the data directory, outside of it.
#[derive(Clone, Debug, Default)]
pub struct Notes {
    /// The line of WAL that the data belongs to.
    pub line: Option<String>,
    /// The last seal given.
    pub seal: Option<Seal>,
    /// The primary that `primary_conninfo` names, and for which epoch.
    pub following: Option<(Epoch, NodeName)>,
    /// The latest epoch for which the node sealed or promoted.
    pub promised: Epoch,
    /// The latest epoch for which the node was told to promote.
    pub promoted_for: Epoch,
    /// The number of the last pause for which the lease is not taken off any more.
    pub leased_again: u64,
    /// Work that was begun and not ended.
    pub unfinished: Option<Unfinished>,
    /// Rewound or copied, and not seen consistent since.
    pub inconsistent: bool,
    /// Copied, and not caught up since.
    pub copied: bool,
    /// The epoch for which a rewind was done.
    pub rewound_for: Option<Epoch>,
    /// The revision of the state whose sync set the server was last told.
    pub sync_revision: u64,
    /// The version of the cluster-wide configuration in the server's files.
    pub configured: u64,
    /// What they say of connections.
    pub limit: Option<u64>,
    /// The restart for which the server was started last.
    pub restarted: Option<String>,
}

impl Notes {
    /// What concerns its lease.
    pub fn promises(&self) -> Promises {
        Promises { epoch: self.promised, leased_again: self.leased_again }
    }
}

/// The node's part of the store, on disk.
#[derive(Clone, Debug, Default)]
pub struct Replica {
    /// The highest term it promised.
    pub promised: u64,
    /// Commands applied.
    pub applied: usize,
    /// The state after them.
    pub state: State,
}

/// A process that may be stopped by SIGSTOP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Running {
    /// It runs.
    Yes,
    /// It stands still; what concerns it waits.
    Frozen,
}

/// A node.
#[derive(Debug)]
pub struct Node {
    /// Its name.
    pub name: NodeName,
    /// Whether it has a server at all.
    pub witness: bool,
    /// What it may become.
    pub tags: Tags,
    /// An operator changed that for a while.
    pub barred: bool,
    /// Its clock.
    pub clock: Clock,
    /// Counts starts of the host; odd while it has power.
    pub boots: u64,
    /// All of its processes.
    pub host: Running,
    /// Its agent process alone.
    pub agent_process: Running,
    /// What the agent has in memory; `None`: no agent runs.
    pub agent: Option<Agent>,
    /// What the agent wrote down.
    pub notes: Notes,
    /// Its part of the store.
    pub replica: Replica,
    /// The server.
    pub postgres: Postgres,
    /// Its own data directory while another one is in its place.
    pub shelf: Option<Data>,
    /// How much longer the server needs to take on a sync set, and until when; microseconds of the simulation.
    pub slow_set_sync: (u64, u64),
    /// When the guard kills the server, on this node's clock.
    pub deadline: Option<Moment>,
    /// What waits for the frozen host, and for the frozen agent.
    pub backlog: Vec<Event>,
    /// What waits for the hung server.
    pub server_backlog: Vec<Event>,
}

impl Node {
    /// Its own data directory, in its place or not.
    pub fn own_data(&self) -> Option<&Data> {
        self.shelf.as_ref().or(self.postgres.data.as_ref())
    }

    /// Whether the host has power.
    pub fn has_power(&self) -> bool {
        self.boots % 2 == 1
    }

    /// Whether the agent can take part in anything now.
    pub fn agent_runs(&self) -> bool {
        self.agent.is_some() && self.host == Running::Yes && self.agent_process == Running::Yes
    }

    /// Whether the server can do anything now.
    pub fn server_runs(&self) -> bool {
        self.has_power() && self.host == Running::Yes
    }
}
