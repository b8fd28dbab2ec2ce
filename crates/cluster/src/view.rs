//! What a proxy may know of the cluster, and nothing more.
//!
//! This module stands alone: the proxy crate uses it and no other part of `cluster`.

use serde::{Deserialize, Serialize};

/// A server that clients may be carried to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Name of the node.
    pub node: String,
    /// Host name or IP address on which its PostgreSQL listens.
    pub host: String,
    /// TCP port on which its PostgreSQL listens.
    pub port: u16,
}

/// One picture of the cluster, pushed to every proxy whenever it changes.
///
/// Of two views the one with the greater `(epoch, revision)` is the newer; a proxy never goes back to an older one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// Name of the cluster; a proxy ignores views of another one.
    pub cluster: String,
    /// The epoch this view belongs to. While it is open (no primary yet) `primary` is `None`.
    pub epoch: u64,
    /// Number of commands the store had applied when the view was made.
    pub revision: u64,
    /// The published primary of `epoch`, if there is one: the only server that may get writes.
    pub primary: Option<Server>,
    /// Published standbys, which may get reads.
    pub readers: Vec<Server>,
    /// One sentence for people while there is no primary: what the cluster waits for.
    pub waiting: Option<String>,
    /// The primary is about to be replaced in order: begin nothing new on it, let open transactions end. One sentence
    /// for people that says why.
    #[serde(default)]
    pub hold: Option<String>,
    /// `host:port` of the agents of all nodes, which may be others than a proxy was configured with. Empty: not told.
    #[serde(default)]
    pub agents: Vec<String>,
    /// `host:port` of the agent of the primary. `None`: there is no primary, or it is not told.
    #[serde(default)]
    pub primary_agent: Option<String>,
}

impl View {
    /// Whether `self` tells something later than `other`.
    #[must_use]
    pub fn is_newer_than(&self, other: &View) -> bool {
        (self.epoch, self.revision) > (other.epoch, other.revision)
    }
}
