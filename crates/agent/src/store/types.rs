//! The consensus library's types, filled in. They stay inside `store`.

use cluster::NodeName;
use cluster::command::{Command, Refusal};
use openraft::type_config::alias::{EntryOf, LogIdOf, SnapshotMetaOf, StoredMembershipOf, VoteOf};
use serde::{Deserialize, Serialize};
use std::fmt;

openraft::declare_raft_types!(
    /// A command in, accepted or refused out; nodes are numbered, with name and address beside.
    pub(super) Types:
        D = Proposal,
        R = Result<(), Refusal>,
        NodeId = u64,
        Node = Peer,
);

pub(super) type Entry = EntryOf<Types>;
pub(super) type LogId = LogIdOf<Types>;
pub(super) type Membership = StoredMembershipOf<Types>;
pub(super) type SnapshotMeta = SnapshotMetaOf<Types>;
pub(super) type Vote = VoteOf<Types>;
pub(super) type Raft = openraft::Raft<Types, super::machine::Machine>;

/// A command on its way through the log.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Proposal(pub(super) Command);

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command of {}", self.0.by)
    }
}

/// A member of the store, as its log records it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Peer {
    /// The node's name.
    pub(super) name: NodeName,
    /// `host:port` of its agent.
    pub(super) address: String,
}
