//! Why: every decision, refusal and wait, with its evidence. The log, `pgkeel why`, the API and the transcripts print
//! these and nothing else.

mod said;

use crate::basics::{Epoch, Lsn, Millis, NodeName, Timeline, WallMs};
use crate::brake::Brake;
use crate::configuration::Difference;
use crate::handover::{Obstacle, Stage};
use crate::membership;
use crate::observe::Rejoined;
use crate::restart::Tale;
use crate::state::{Fencing, OldLease, SyncSet};
use crate::word::Word;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Where a sealed node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The timeline of its last WAL.
    pub timeline: Timeline,
    /// The last position it flushed.
    pub lsn: Lsn,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on timeline {}", self.lsn, self.timeline)
    }
}

/// Why a choice of primary loses nothing, or no more than allowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "safe")]
pub enum Safe {
    /// So many of the sync set are sealed that every acknowledged commit is on one of them.
    Quorum {
        /// Sealed members of the sync set.
        sealed: BTreeSet<NodeName>,
        /// Members of the sync set.
        of: BTreeSet<NodeName>,
        /// How many confirm a commit.
        k: usize,
    },
    /// The last primary is among the sealed: it has all that it acknowledged.
    LastPrimary {
        /// The last primary.
        node: NodeName,
    },
    /// The old primary has stopped in order, and the candidate has replayed its shutdown checkpoint.
    StoppedInOrder {
        /// The old primary.
        node: NodeName,
        /// Where its shutdown checkpoint begins.
        at: Lsn,
    },
    /// Asynchronous: what the last primary was known to have beyond the candidate is within the bound.
    WithinLoss {
        /// Bytes of WAL that may be lost.
        missing_bytes: u64,
        /// The bound.
        max_loss_bytes: u64,
    },
    /// Neither: a person has accepted what is lost.
    Accepted {
        /// Who, from where.
        by: String,
    },
}

/// Why a node was not chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "because")]
pub enum NotChosen {
    /// It lacks WAL that the chosen one has.
    Behind {
        /// Where it stands.
        at: Position,
        /// Bytes it lacks.
        bytes: u64,
    },
    /// It has the same WAL; the order of preference decided.
    Equal {
        /// Where it stands.
        at: Position,
    },
    /// Its data does not descend from the last published primary.
    OtherLine {
        /// Where it stands.
        at: Position,
    },
    /// It has not sealed.
    NotSealed {
        /// What is known of it instead.
        seen: String,
    },
    /// It has more WAL, but a person chose otherwise.
    Ahead {
        /// Where it stands.
        at: Position,
    },
    /// It has WAL of a promotion that the last choice had to do without, and lacks what that choice was made for.
    LeftOut {
        /// Where it stands.
        at: Position,
    },
    /// It holds no data.
    Witness,
    /// It is under maintenance.
    Maintained,
    /// It is leaving the cluster.
    Leaves,
    /// Its configuration says that it is never appointed.
    NeverPrimary,
}

/// One thing that happened, was decided, refused or is waited for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
#[allow(missing_docs, reason = "each variant is explained by its sentence in Display below")]
pub enum Reason {
    // Decisions: recorded in the history.
    Formed {
        members: BTreeSet<NodeName>,
    },
    Initialise {
        node: NodeName,
        /// The system identifier of a database that was there before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        adopted: Option<u64>,
    },
    ServerGone {
        node: NodeName,
    },
    ServerHung {
        node: NodeName,
        silent_ms: Millis,
    },
    NotPrimaryAnyMore {
        node: NodeName,
        seen: String,
    },
    Silent {
        node: NodeName,
        leader_ms: Millis,
        confirmed: BTreeMap<NodeName, Millis>,
        needed: usize,
    },
    LeaseOver {
        node: NodeName,
        unleased_ms: Millis,
    },
    EpochOpened {
        epoch: Epoch,
        old_primary: Option<NodeName>,
        lease: OldLease,
    },
    Sealed {
        seals: BTreeMap<NodeName, Position>,
    },
    Chosen {
        node: NodeName,
        at: Position,
        safe: Safe,
        others: BTreeMap<NodeName, NotChosen>,
    },
    Appointed {
        node: NodeName,
        sync: BTreeSet<NodeName>,
    },
    Published {
        node: NodeName,
        timeline: Timeline,
    },
    SyncSetChanging {
        from: SyncSet,
        to: SyncSet,
        why: String,
    },
    SyncSetChanged {
        set: SyncSet,
        since: Lsn,
    },
    Rejoined {
        node: NodeName,
        rejoined: Rejoined,
    },
    SwitchoverPlanned {
        id: String,
        to: Option<NodeName>,
        at: WallMs,
        by: String,
    },
    SwitchoverCancelled {
        id: String,
        by: String,
    },
    SwitchoverBegun {
        id: String,
        from: NodeName,
        to: NodeName,
        by: String,
    },
    SwitchoverGoesOn {
        from: NodeName,
        stage: Stage,
        open_transactions: usize,
    },
    SwitchoverRefused {
        id: String,
        because: Vec<Obstacle>,
    },
    Paused {
        by: String,
        #[serde(default)]
        fencing: Fencing,
    },
    Resumed {
        by: String,
    },
    Word {
        word: Word,
    },
    Configured {
        version: u64,
        by: String,
        back_to: Option<u64>,
        differences: Vec<Difference>,
    },
    Restart {
        tale: Tale,
    },
    Membership {
        tale: membership::Tale,
    },
    StoreMoved {
        number: u64,
        to: String,
        by: String,
    },
    // Waits and refusals: shown while they last.
    SwitchoverWaits {
        from: NodeName,
        to: NodeName,
        stage: Stage,
        open_transactions: usize,
    },
    WaitNodes {
        missing: BTreeSet<NodeName>,
    },
    RefuseInitialise {
        node: NodeName,
        system_identifier: u64,
    },
    WaitInitialise {
        node: NodeName,
    },
    NotConfirmed {
        node: NodeName,
        leader_ms: Millis,
        heard_by: BTreeMap<NodeName, String>,
        needed: usize,
    },
    StreamAdvances {
        node: NodeName,
        on: NodeName,
        silent_ms: Millis,
    },
    WaitSeals {
        sealed: BTreeSet<NodeName>,
        missing: BTreeSet<NodeName>,
        rule: String,
    },
    WaitLease {
        node: NodeName,
        left_ms: Millis,
    },
    WaitLoss {
        best: NodeName,
        missing_bytes: Option<u64>,
        max_loss_bytes: u64,
        waiting_for: BTreeSet<NodeName>,
    },
    WaitPromotion {
        node: NodeName,
    },
    SyncShort {
        have: usize,
        k: usize,
    },
    SyncReduced {
        primary: NodeName,
        set: SyncSet,
        full_k: usize,
        alone: bool,
    },
    LossBound {
        primary: NodeName,
        brake: Brake,
    },
    Steady,
}
