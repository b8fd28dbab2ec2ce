//! Everything the store holds: the one record that all nodes agree on.

use crate::basics::{Epoch, Lsn, Millis, NodeName, Timeline, WallMs};
use crate::configuration::Configuration;
use crate::handover::{Handover, Planned};
use crate::leash::Unleased;
use crate::membership::{Leaving, Seat, Token};
use crate::moving::Moved;
use crate::mutant::{self, Mutant};
use crate::reason::Reason;
use crate::restart::Restart;
use crate::users::User;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The form of the record and its commands that this program reads. It grows with each kind of command that an older one does not know:
/// such a command is not recorded before all agents read it, because an older one could not go on. 1: users of the API.
pub const FORM: u32 = 1;
/// Entries of `history` kept; the oldest go first.
pub const HISTORY_MAX: usize = 200;
/// Planned switchovers at most.
pub const PLANNED_MAX: usize = 20;
/// Promotions kept; a node that has been away longer than this many is cloned.
pub const PROMOTIONS_MAX: usize = 200;

/// The drift allowance is at most this, in parts per million.
const DRIFT_PPM_MAX: u64 = 500_000;

/// When a commit counts as acknowledged, and what a failover may lose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "mode")]
pub enum Replication {
    /// A commit is acknowledged when the primary has it. A failover may lose at most so many bytes of WAL.
    Async {
        /// Bound on what an automatic failover may lose, in bytes of WAL.
        max_loss_bytes: u64,
        /// New commits wait while no standby is this near to the primary, in bytes of WAL; `None`: they never do.
        #[serde(default)]
        loss_bound_bytes: Option<u64>,
    },
    /// A commit is acknowledged when any `k` of the sync set have flushed it. A failover loses nothing.
    Quorum {
        /// How many standbys of the sync set must confirm.
        k: usize,
        /// What happens when fewer than `k` can.
        #[serde(default)]
        degrade: Degrade,
    },
}

/// Quorum mode: what happens when too few standbys are there to confirm a commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Degrade {
    /// Commits wait until enough are there again.
    #[default]
    Strict,
    /// The sync set shrinks, down to nobody: first in the store, then in PostgreSQL. Commits go on.
    Available,
}

/// What all nodes must agree on; taken from the first leader's configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The replication mode.
    pub replication: Replication,
    /// Silence after which a node is suspected; all timers derive from it.
    pub detect_ms: Millis,
    /// How far two clocks may run apart, in parts per million.
    pub drift_ppm: u64,
}

impl Settings {
    /// The length of a lease: 1.5 × `detect`.
    #[must_use]
    pub fn lease_ms(&self) -> Millis {
        self.detect_ms * 3 / 2
    }

    /// How long a wait must be on one clock so that `time` has surely passed on another: the first may run fast and the
    /// other slow, each by the drift allowance.
    #[must_use]
    pub fn surely_past_ms(&self, time: Millis) -> Millis {
        let drift_ppm = self.drift_ppm.min(DRIFT_PPM_MAX);
        (time * (1_000_000 + drift_ppm)).div_ceil(1_000_000 - drift_ppm)
    }

    /// After how long a lease that another clock measures has surely ended.
    #[must_use]
    pub fn lease_surely_over_ms(&self) -> Millis {
        let lease = self.lease_ms();
        if mutant::is(Mutant::DriftIgnored) { lease } else { self.surely_past_ms(lease) }
    }

    /// Time between two heartbeats of a node.
    #[must_use]
    pub fn heartbeat_ms(&self) -> Millis {
        (self.detect_ms / 8).max(10)
    }
}

/// Where a node's PostgreSQL is reached by other nodes and by proxies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PgAddress {
    /// Host name or IP address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// What a node may become, from its own configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tags {
    /// Of candidates with the same WAL, the one with the greater number is preferred.
    #[serde(default)]
    pub priority: u32,
    /// It is never appointed.
    #[serde(default)]
    pub never_primary: bool,
    /// It never confirms commits: a slow node for reports or backups does not slow the primary.
    #[serde(default)]
    pub never_sync: bool,
}

/// A node as recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// `host:port` of its agent.
    pub agent: String,
    /// Its PostgreSQL; `None` for a witness.
    pub postgres: Option<PgAddress>,
    /// What it may become.
    #[serde(default)]
    pub tags: Tags,
    /// Its data directory, which commands of people are told (`[hooks]`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<String>,
}

/// Where the cluster stands between two primaries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "phase")]
pub enum Phase {
    /// There is no database yet.
    #[default]
    Empty,
    /// `node` makes the database.
    Initialising {
        /// The node that runs initdb.
        node: NodeName,
    },
    /// The epoch is open: standbys seal, nobody is primary.
    Sealing {
        /// What is known of the lease of the primary before.
        lease: OldLease,
    },
    /// A node was appointed and promotes.
    Promoting {
        /// Who.
        appointment: Appointment,
    },
    /// The appointed primary takes writes and proxies know it.
    Serving {
        /// Who.
        appointment: Appointment,
    },
}

/// What is known of the lease of the primary of the epoch before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OldLease {
    /// Its agent said that the server's last process is gone, or there never was a primary.
    Returned,
    /// It may still run: wait until the lease has surely ended, or rely on the seal.
    MayRun,
}

/// A node's right to promote in this epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Appointment {
    /// The node.
    pub node: NodeName,
    /// Tells two promotions apart that end on the same timeline number.
    pub promotion_id: String,
    /// Where the node was sealed: standbys at or before it on the same timeline may follow at once.
    pub sealed_timeline: Timeline,
    /// Position of that seal.
    pub sealed_lsn: Lsn,
    /// The line of WAL that its data belongs to (see [`crate::lineage`]).
    pub parent: Option<String>,
}

/// Where a timeline was left for the next one (a line of a PostgreSQL `.history` file).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fork {
    /// The timeline that was left.
    pub timeline: Timeline,
    /// The position up to which it is part of the history.
    pub at: Lsn,
}

/// An appointment as remembered, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promotion {
    /// The epoch it belongs to.
    pub epoch: Epoch,
    /// The node.
    pub node: NodeName,
    /// Its identity: two promotions may end on the same timeline number, never on the same identity.
    pub promotion_id: String,
    /// The line of WAL that the node continued; `None` for the node that made the database.
    pub parent: Option<String>,
    /// The timeline on which the node stood when it was appointed.
    pub sealed_timeline: Timeline,
    /// The position at which it stood: up to here, on that timeline, the WAL of this line is still its parent's.
    pub sealed_lsn: Lsn,
    /// `None` until (or unless) it was published.
    pub published: Option<Published>,
}

/// What a published promotion wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The timeline it opened.
    pub timeline: Timeline,
    /// The timelines before it and where each was left, oldest first.
    pub forks: Vec<Fork>,
}

/// Standbys of which any `k` must confirm a commit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SyncSet {
    /// How many must confirm; 0: commits do not wait.
    pub k: usize,
    /// Who may.
    pub members: BTreeSet<NodeName>,
}

impl SyncSet {
    /// A commit under it waits for nobody: only the primary surely has it.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.k == 0
    }

    /// Whether it can ever be satisfied; while it is not, no commit is confirmed under it.
    #[must_use]
    pub fn can_confirm(&self) -> bool {
        self.members.len() >= self.k
    }
}

/// The sets of standbys that confirm commits, while one replaces another (quorum mode; none in asynchronous mode).
///
/// A failover must satisfy every set in force: commits were acknowledged under each of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncSets {
    /// Oldest first; PostgreSQL is told the last. Only one when no change is under way.
    pub in_force: Vec<SyncSet>,
}

impl SyncSets {
    /// Whether `node` is in a set in force.
    #[must_use]
    pub fn contains(&self, node: &NodeName) -> bool {
        self.in_force.iter().any(|set| set.members.contains(node))
    }

    /// Whether commits may have been acknowledged that only the primary has.
    #[must_use]
    pub fn any_open(&self) -> bool {
        self.in_force.iter().any(SyncSet::is_open)
    }

    /// Puts `next` in force beside the others and makes it the target. Sets that cannot confirm go: under such a one no
    /// commit was ever acknowledged.
    pub fn add(&mut self, next: SyncSet) {
        self.in_force.retain(|set| *set != next && set.can_confirm());
        self.in_force.push(next);
    }
}

/// One remembered decision: what `pgkeel why` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When, on the clock of the leader that decided.
    pub at: WallMs,
    /// The epoch it belongs to.
    pub epoch: Epoch,
    /// The leader that decided.
    pub by: NodeName,
    /// What and why, with the evidence.
    pub reason: Reason,
}

/// A pause of all decisions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paused {
    /// Who asked for it.
    pub by: String,
    /// When, on the leader's wall clock.
    pub at: WallMs,
    /// Whether the primary is still ended with its lease.
    #[serde(default)]
    pub fencing: Fencing,
}

/// Whether a primary that cannot renew its lease is ended during a pause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fencing {
    /// As ever.
    #[default]
    Kept,
    /// It serves on (see [`crate::leash`]).
    Suspended,
}

/// A node that is left alone: never chosen, in no sync set, its server is not started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maintenance {
    /// Who asked for it.
    pub by: String,
    /// When, on the leader's wall clock.
    pub at: WallMs,
    /// Why, in that person's words.
    pub text: Option<String>,
}

/// The record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Name of the cluster; empty until the first leader recorded it.
    pub cluster: String,
    /// Recorded settings; `None` until the first leader recorded them.
    pub settings: Option<Settings>,
    /// All nodes.
    pub members: BTreeMap<NodeName, Member>,
    /// PostgreSQL's system identifier, once the database exists.
    pub system_identifier: Option<u64>,
    /// The present epoch.
    pub epoch: Epoch,
    /// Where the cluster stands.
    pub phase: Phase,
    /// The last node that was appointed in an earlier or the present epoch.
    pub last_appointed: Option<Appointment>,
    /// Appointments, oldest first.
    pub promotions: Vec<Promotion>,
    /// The synchronous standbys (quorum mode).
    pub sync: SyncSets,
    /// The revision that recorded the last of them: a report from before says nothing of it, though it may name the same.
    #[serde(default)]
    pub sync_since: u64,
    /// Password of the replication role, made by the node that made the database.
    pub replication_password: String,
    /// The switchover under way.
    #[serde(default)]
    pub handover: Option<Handover>,
    /// Switchovers that wait for their time.
    #[serde(default)]
    pub planned: Vec<Planned>,
    /// While set, nothing is decided.
    #[serde(default)]
    pub paused: Option<Paused>,
    /// The primary that a pause allowed to run without a lease, until it is known that it does so no more.
    #[serde(default)]
    pub unleased: Option<Unleased>,
    /// PostgreSQL's parameters and access rules for all nodes.
    #[serde(default)]
    pub configuration: Configuration,
    /// The restarts under way.
    #[serde(default)]
    pub restart: Option<Restart>,
    /// Nodes that are left alone.
    #[serde(default)]
    pub maintenance: BTreeMap<NodeName, Maintenance>,
    /// Nodes that were let in after the cluster was formed.
    #[serde(default)]
    pub admitted: BTreeMap<NodeName, Seat>,
    /// Nodes on their way out: never chosen, and in no sync set any more as soon as others can confirm.
    #[serde(default)]
    pub leaving: BTreeMap<NodeName, Leaving>,
    /// Nodes that were struck out, although configuration files may still list them.
    #[serde(default)]
    pub removed: BTreeSet<NodeName>,
    /// Invitations, by their identity.
    #[serde(default)]
    pub tokens: BTreeMap<String, Token>,
    /// Users of the API who show a token, by their names.
    #[serde(default)]
    pub users: BTreeMap<String, User>,
    /// How often the record has moved from one store to another.
    #[serde(default)]
    pub moves: u64,
    /// It has moved from this store to another one: nothing more is recorded here.
    #[serde(default)]
    pub moved: Option<Moved>,
    /// Remembered decisions, oldest first.
    pub history: Vec<Entry>,
    /// Number of commands applied.
    pub revision: u64,
}

impl State {
    /// How many standbys must confirm a commit, when all goes well; `None` in asynchronous mode.
    #[must_use]
    pub fn confirmations(&self) -> Option<usize> {
        match self.settings.as_ref().map(|s| s.replication) {
            Some(Replication::Quorum { k, .. }) => Some(k),
            Some(Replication::Async { .. }) | None => None,
        }
    }

    /// The set that PostgreSQL is told: before there is one nobody can confirm, so in quorum mode commits wait.
    #[must_use]
    pub fn sync_target(&self) -> SyncSet {
        let none = || SyncSet { k: self.confirmations().unwrap_or(0), members: BTreeSet::new() };
        self.sync.in_force.last().cloned().unwrap_or_else(none)
    }

    /// The appointment of the present epoch, published or not.
    #[must_use]
    pub fn appointment(&self) -> Option<&Appointment> {
        match &self.phase {
            Phase::Promoting { appointment } | Phase::Serving { appointment } => Some(appointment),
            Phase::Empty | Phase::Initialising { .. } | Phase::Sealing { .. } => None,
        }
    }

    /// Whether the primary of the present epoch takes writes, and writes this line.
    #[must_use]
    pub fn serves(&self, line: &str) -> bool {
        matches!(&self.phase, Phase::Serving { appointment } if appointment.promotion_id == line)
    }

    /// The node that is, or is about to be, primary in the present epoch.
    #[must_use]
    pub fn primary(&self) -> Option<&NodeName> {
        self.appointment().map(|a| &a.node)
    }

    /// The node that holds, or may be given, the lease of the present epoch (the initialising node included).
    #[must_use]
    pub fn lease_holder(&self) -> Option<&NodeName> {
        match &self.phase {
            Phase::Initialising { node } => Some(node),
            Phase::Promoting { appointment } | Phase::Serving { appointment } => Some(&appointment.node),
            Phase::Empty | Phase::Sealing { .. } => None,
        }
    }

    /// Nodes that hold a copy of the data (all but witnesses).
    pub fn data_nodes(&self) -> impl Iterator<Item = (&NodeName, &PgAddress)> {
        self.members.iter().filter_map(|(name, m)| m.postgres.as_ref().map(|pg| (name, pg)))
    }

    /// The last published promotion: its WAL is the cluster's.
    #[must_use]
    pub fn last_published(&self) -> Option<(&Promotion, &Published)> {
        self.promotions.iter().rev().find_map(|p| p.published.as_ref().map(|published| (p, published)))
    }
}
