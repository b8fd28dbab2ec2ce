//! Why a node does nothing at this moment.

use crate::basics::{Epoch, Lsn, NodeName};
use std::fmt;

/// Why a node does nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wait {
    /// It has not looked at its own server yet.
    Looking,
    /// It is not recorded yet.
    NotRecorded,
    /// The state it sees is older than what it promised: it waits until the store has caught up.
    StateIsOld {
        /// The epoch that it promised.
        promised: Epoch,
    },
    /// It only votes.
    Witness,
    /// There is no database yet, or no primary to copy it from.
    NoDatabase,
    /// Its data belongs to another database system.
    ForeignData {
        /// What it has.
        mine: u64,
        /// What the cluster has; `None`: the cluster has no database yet.
        cluster: Option<u64>,
    },
    /// Its server starts.
    Starting,
    /// Its server does not answer.
    NoAnswer,
    /// It sealed for this epoch.
    Sealed {
        /// The epoch.
        epoch: Epoch,
        /// The position.
        lsn: Lsn,
    },
    /// It may not act as primary before the leader gives it a lease.
    NoLease,
    /// It is primary.
    Primary,
    /// It follows the primary.
    Following {
        /// The primary.
        upstream: NodeName,
    },
    /// Its server ended; the leader must open an epoch.
    ServerGone,
    /// It was appointed, and its data is not what was appointed any more: it was promoted once already.
    NotAsAppointed,
    /// It is under maintenance: nothing is started and no data is replaced.
    Maintained,
    /// It was struck out.
    Removed,
    /// It waits for the appointed node to promote.
    Promotion {
        /// Who.
        of: NodeName,
    },
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wait::Looking => f.write_str("looking at its server"),
            Wait::NotRecorded => f.write_str("not recorded in the store yet"),
            Wait::StateIsOld { promised } => {
                write!(
                    f,
                    "waits for the store: it sealed or promoted for epoch {promised} and sees an older state"
                )
            }
            Wait::Witness => f.write_str("votes"),
            Wait::NoDatabase => f.write_str("has no data, and there is no primary to copy it from yet"),
            Wait::ForeignData { mine, cluster: Some(cluster) } => write!(
                f,
                "refused: its data directory belongs to system identifier {mine}, this cluster is {cluster}; \
                 move the directory away and the node is cloned"
            ),
            Wait::ForeignData { mine, cluster: None } => write!(
                f,
                "refused: it has a data directory (system identifier {mine}) that this new cluster does not know; \
                 move the directory away, or join the cluster it belongs to"
            ),
            Wait::Starting => f.write_str("its server starts"),
            Wait::NoAnswer => f.write_str("its server does not answer"),
            Wait::Sealed { epoch, lsn } => write!(f, "sealed for epoch {epoch} at {lsn}"),
            Wait::NoLease => f.write_str("waits for a lease from the leader"),
            Wait::Primary => f.write_str("primary"),
            Wait::Following { upstream } => write!(f, "follows {upstream}"),
            Wait::ServerGone => f.write_str("its server ended; waits for the next epoch"),
            Wait::NotAsAppointed => f.write_str(
                "its data went on since it was appointed, so it was promoted already; waits for the next epoch",
            ),
            Wait::Maintained => f.write_str(
                "under maintenance: its server is neither started nor stopped and its data is left alone until pgkeel maintenance off",
            ),
            Wait::Removed => f.write_str(
                "does not belong to the cluster any more: its server takes no writes and follows nobody; stop the agent, \
                 or let the node in again",
            ),
            Wait::Promotion { of } => write!(f, "waits for the promotion of {of}"),
        }
    }
}
