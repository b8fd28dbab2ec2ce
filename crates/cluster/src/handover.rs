//! A planned change of primary (switchover), as recorded and as nodes report on it.
//!
//! It is the road of a failover, prepared: a checkpoint first; then proxies begin nothing new and open transactions get
//! time to end; then the old primary stops in order, and the new one must have its shutdown checkpoint. What follows
//! from all this is decided in `decide::switchover`.

use crate::basics::{Lsn, Millis, NodeName, WallMs};
use crate::configuration::Fault;
use crate::membership;
use crate::moving;
use crate::restart::Bar;
use crate::word::Objection;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How far a switchover has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The primary makes a checkpoint, so that its stop is short; clients notice nothing.
    Preparing,
    /// Proxies begin nothing new; open transactions get time to end.
    Holding,
    /// The primary stops in order.
    Stopping,
}

/// A switchover under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handover {
    /// Its identity.
    pub id: String,
    /// The primary.
    pub from: NodeName,
    /// The next one; the same: it restarts in place (see [`crate::restart`]).
    pub to: NodeName,
    /// Who asked for it.
    pub by: String,
    /// How far it has come.
    pub stage: Stage,
}

impl Handover {
    /// Whether the primary stays, with a new server.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        self.from == self.to
    }
}

impl fmt::Display for Handover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_in_place() {
            true => write!(f, "{} restarts", self.from),
            false => write!(f, "{} hands over to {}", self.from, self.to),
        }
    }
}

/// A switchover that waits for its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// Its identity.
    pub id: String,
    /// The next primary; `None`: the best candidate of that moment.
    pub to: Option<NodeName>,
    /// When, on the leader's wall clock.
    pub at: WallMs,
    /// Who asked for it.
    pub by: String,
}

/// How a server that hands over has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "stopped")]
pub enum Stopped {
    /// In order.
    InOrder {
        /// Where its shutdown checkpoint begins.
        at: Lsn,
    },
    /// Otherwise: it must recover when it starts.
    Badly,
}

/// What the primary reports of a switchover under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Which switchover.
    pub id: String,
    /// The checkpoint is made.
    pub checkpointed: bool,
    /// No client is in a transaction, and none comes or goes any more.
    pub drained: bool,
    /// Clients in a transaction.
    pub open_transactions: usize,
    /// How the server stopped, once that was looked at.
    pub stopped: Option<Stopped>,
}

/// Something in a server that speaks against stopping or promoting it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "hindrance")]
pub enum Hindrance {
    /// Replay is paused (pg_wal_replay_pause).
    ReplayPaused,
    /// The last try to archive a segment failed: an orderly stop waits for the archiver.
    ArchiverFails,
    /// Logical replication slots, which another server does not have (PostgreSQL before 17).
    LogicalSlots {
        /// How many.
        count: usize,
    },
}

/// Why a switchover is refused, and what would cure it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "obstacle")]
pub enum Obstacle {
    /// There is no primary that could hand over.
    NotServing,
    /// The cluster is paused.
    Paused,
    /// Another one is under way.
    Underway {
        /// To this node.
        to: NodeName,
    },
    /// No such node.
    Unknown {
        /// The name asked for.
        node: NodeName,
    },
    /// No such switchover waits, or it has gone too far.
    NotPlanned {
        /// The identity asked for.
        id: String,
    },
    /// It only votes.
    Witness {
        /// The node.
        node: NodeName,
    },
    /// It is primary already.
    IsPrimary {
        /// The node.
        node: NodeName,
    },
    /// Its configuration says that it never becomes primary.
    NeverPrimary {
        /// The node.
        node: NodeName,
    },
    /// Its agent was not heard lately.
    Silent {
        /// The node.
        node: NodeName,
    },
    /// The leader is new and has not heard from it yet.
    NotHeardYet {
        /// Which node.
        node: NodeName,
        /// The leader leads for so long.
        leading_ms: Millis,
    },
    /// It does not stream from the primary.
    NotStreaming {
        /// The node.
        node: NodeName,
    },
    /// It is too far behind.
    Behind {
        /// The node.
        node: NodeName,
        /// Bytes of WAL it has not replayed.
        bytes: u64,
        /// As many as it may lack.
        bytes_max: u64,
    },
    /// What speaks against deciding in the cluster's stead.
    Objected {
        /// What.
        objection: Objection,
    },
    /// Something in its server.
    Hindered {
        /// The node.
        node: NodeName,
        /// What.
        by: Hindrance,
    },
    /// What speaks against restarts.
    Restart {
        /// What.
        bar: Bar,
    },
    /// What speaks against letting a node in or out.
    Membership {
        /// What.
        bar: membership::Bar,
    },
    /// What speaks against a move of the record.
    Store {
        /// What.
        bar: moving::Bar,
    },
    /// What is wrong with a cluster-wide configuration.
    Configuration {
        /// What.
        fault: Fault,
    },
    /// No node may take over; each for its own reason.
    NoCandidate {
        /// The obstacles of every other node.
        each: Vec<Obstacle>,
    },
    /// The primary did not get through a stage in time.
    TooSlow {
        /// The primary.
        node: NodeName,
        /// The stage.
        stage: Stage,
        /// How long it was waited.
        waited_ms: Millis,
    },
    /// The planned time is long past: nobody led the cluster then.
    Missed {
        /// By so much.
        late_ms: Millis,
    },
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Preparing => "makes a checkpoint",
            Stage::Holding => "waits for open transactions; proxies begin nothing new",
            Stage::Stopping => "stops its server in order",
        })
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Obstacle::NotServing => f.write_str(
                "there is no primary that could hand over; see pgkeel status for what the cluster waits for",
            ),
            Obstacle::Paused => f.write_str("the cluster is paused; pgkeel resume first"),
            Obstacle::Underway { to } => {
                write!(f, "a switchover to {to} is under way; wait until it has ended")
            }
            Obstacle::Unknown { node } => write!(f, "there is no node {node}; pgkeel status lists the nodes"),
            Obstacle::NotPlanned { id } => write!(
                f,
                "no switchover {id} waits, or it has gone too far to be cancelled; pgkeel switchover --list shows those that wait"
            ),
            Obstacle::Witness { node } => {
                write!(f, "{node} is a witness and holds no data; choose another node")
            }
            Obstacle::IsPrimary { node } => write!(f, "{node} is primary already"),
            Obstacle::NeverPrimary { node } => {
                write!(
                    f,
                    "{node} has never_primary in its configuration; choose another node, or take that out"
                )
            }
            Obstacle::Silent { node } => {
                write!(f, "{node} has not been heard lately; is its agent running and its network up?")
            }
            Obstacle::NotHeardYet { node, leading_ms } => write!(
                f,
                "{node} has not been heard yet by this leader, which leads for {leading_ms} ms; ask again in a moment"
            ),
            Obstacle::NotStreaming { node } => {
                write!(f, "{node} does not stream from the primary; pgkeel status says what it does instead")
            }
            Obstacle::Behind { node, bytes, bytes_max } => write!(
                f,
                "{node} has {bytes} bytes of WAL still to replay, at most {bytes_max} are allowed; wait until it has caught up"
            ),
            Obstacle::Objected { objection } => objection.fmt(f),
            Obstacle::Restart { bar } => bar.fmt(f),
            Obstacle::Membership { bar } => bar.fmt(f),
            Obstacle::Store { bar } => bar.fmt(f),
            Obstacle::Configuration { fault } => fault.fmt(f),
            Obstacle::Hindered { node, by } => write!(f, "{node}: {by}"),
            Obstacle::NoCandidate { each } => {
                f.write_str("no node may take over")?;
                each.iter().try_for_each(|o| write!(f, "; {o}"))
            }
            Obstacle::TooSlow { node, stage, waited_ms } => {
                write!(f, "{node} {stage} and did not end within {waited_ms} ms; nothing was changed")
            }
            Obstacle::Missed { late_ms } => write!(
                f,
                "its time has passed {} s ago while nobody could decide; plan it again",
                late_ms / 1000
            ),
        }
    }
}

impl fmt::Display for Hindrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hindrance::ReplayPaused => {
                f.write_str("replay is paused; run select pg_wal_replay_resume() there")
            }
            Hindrance::ArchiverFails => f.write_str(
                "its archiver fails, and an orderly stop waits for it; repair archive_command (pg_stat_archiver says what failed last)",
            ),
            Hindrance::LogicalSlots { count } => write!(
                f,
                "it has {count} logical replication slot(s), which the next primary would not have; drop them or move their consumers first"
            ),
        }
    }
}
