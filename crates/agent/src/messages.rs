//! What agents say to each other, and to proxies and people, besides the types of `cluster`.

use cluster::decide::switchover::Order;
use cluster::{Epoch, Lsn, Millis, NodeName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The leader's answer to a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatAnswer {
    /// The epoch for which the lease is.
    pub epoch: Epoch,
    /// What remains of the lease, counted from the moment the heartbeat was sent; `None`: no lease.
    pub lease_ms: Option<Millis>,
}

/// A person's order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderAsked {
    /// What.
    #[serde(flatten)]
    pub order: Order,
    /// Who asks, for the history.
    pub by: String,
    /// Only say whether it could be done.
    #[serde(default)]
    pub only_try: bool,
}

/// An agent's answer to "are you there?".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// Who answers.
    pub node: NodeName,
    /// What its server has flushed, when it is a primary.
    pub lsn: Option<Lsn>,
    /// What its standbys have confirmed as flushed, when it is a primary.
    pub flushed: BTreeMap<NodeName, Lsn>,
}

/// An agent's answer to "does your server still hold this WAL?".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalHeld {
    /// Who answers.
    pub node: NodeName,
    /// What its server has flushed, when it is a primary.
    pub flushed: Option<Lsn>,
    /// Whether the segment with the position is on its disk.
    pub held: bool,
}

/// How much room a copy of a node's data takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataSize {
    /// In bytes.
    pub bytes: u64,
}

/// A person wants a node copied anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloneAsked {
    /// Who asks, for the history.
    pub by: String,
    /// From which node; none: from whichever serves best.
    #[serde(default)]
    pub from: Option<NodeName>,
    /// Only say whether it could be done.
    #[serde(default)]
    pub only_try: bool,
}

/// The node's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloneAnswer {
    /// Why it is not done, if it is not.
    pub refused: Option<String>,
}

/// Somebody's certificate runs out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateAsked {
    /// A request for one (PKCS #10, as PEM): it holds the new key's public half.
    pub request: String,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateSigned {
    /// As PEM.
    pub certificate: String,
}

/// What somebody wants to be rid of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prune {
    /// Names of directories, as `GET /v1/aside` tells them.
    pub names: Vec<String>,
    /// Who asks, for the log.
    #[serde(default)]
    pub by: String,
}
