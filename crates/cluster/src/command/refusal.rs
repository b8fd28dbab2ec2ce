//! Why a command was not applied.

use crate::basics::Epoch;
use serde::{Deserialize, Serialize};

/// Why a command was not applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// It was decided for another epoch.
    #[error("the command was decided for epoch {decided}, but the cluster is at epoch {present}")]
    OtherEpoch {
        /// The epoch of the command.
        decided: Epoch,
        /// The epoch of the state.
        present: Epoch,
    },
    /// The configuration was made from another version.
    #[error("the configuration was made from version {from}, but version {present} is in force")]
    OtherVersion {
        /// The version that it was made from.
        from: u64,
        /// The version in force.
        present: u64,
    },
    /// The record has moved: it goes on in another store.
    #[error("the record has moved to another store (move {number}): nothing is recorded here any more")]
    Moved {
        /// The number of the move.
        number: u64,
    },
    /// The cluster is not in the phase that the command needs.
    #[error("the command does not fit: {0}")]
    OutOfPlace(String),
}
