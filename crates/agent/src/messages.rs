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

/// What somebody wants to be rid of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prune {
    /// Names of directories, as `GET /v1/aside` tells them.
    pub names: Vec<String>,
}
