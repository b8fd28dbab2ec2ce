//! The store: the replicated record of the cluster. Three verbs: propose a command, read the state, watch it.
//!
//! Only decisions go through it, never heartbeats. No type of the consensus library leaves this module.
//!
//! - `embedded` ties the parts together; `log`, `machine` and `transport` are what the library asks of us.
//! - `disk` is the file, `routes` what other members may ask, `form` how the members find each other.

mod contacts;
mod disk;
mod embedded;
mod error;
mod form;
mod log;
mod machine;
mod routes;
mod standing;
mod transport;
mod types;

pub use error::StoreError;
pub use standing::Standing;

use cluster::NodeName;
use cluster::command::Command;
use cluster::state::State;
use identity::Caller;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// What the store of this node needs to know.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Directory of its file, on a local disk. Made if need be; must never be copied to another node.
    pub dir: PathBuf,
    /// Name of the cluster.
    pub cluster: String,
    /// Name of this node.
    pub node: NodeName,
    /// `host:port` under which the other members reach this agent.
    pub address: String,
    /// All members with their addresses, this node included.
    pub members: BTreeMap<NodeName, String>,
    /// The silence after which a node is suspected; every time-out derives from it.
    pub detect: Duration,
    /// How the other members are called.
    pub caller: Caller,
}

/// How much of the log is kept.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A snapshot is made after so many entries.
    pub snapshot_after: u64,
    /// So many entries before the snapshot stay in the log, for members that were away. The library may panic when the
    /// snapshot overtakes what is still to be applied, so this is never small outside tests.
    pub keep: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { snapshot_after: 1000, keep: 1000 }
    }
}

/// This node's handle on the store.
#[derive(Clone)]
pub struct Store {
    inner: Arc<embedded::Embedded>,
}

/// Whether this program reads what another one writes into its store, by a [`Store::sample`] of it.
///
/// # Errors
/// What it does not understand.
pub fn can_read(sample: &str) -> Result<(), String> {
    match disk::read_state(sample.as_bytes()) {
        Ok(_) => Ok(()),
        Err(StoreError::Damaged { what, .. }) => Err(format!("it cannot read what the store holds: {what}")),
        Err(e) => Err(format!("it cannot read what the store holds: {e}")),
    }
}

impl Store {
    /// The recorded state as it is written into the file.
    ///
    /// # Errors
    /// When it cannot be put into that form.
    pub fn sample(&self) -> Result<String, String> {
        let bytes = disk::encode(&*self.state()).map_err(|e| e.to_string())?;
        String::from_utf8(bytes).map_err(|e| e.to_string())
    }

    /// Opens the store of this node; mints its id at the first start.
    ///
    /// # Errors
    /// [`StoreError`] when the directory is in use, unreadable, damaged, or of another node or cluster.
    pub async fn open(options: StoreOptions) -> Result<Store, StoreError> {
        Self::open_with(options, Limits::default()).await
    }

    /// As [`Store::open`], with other limits of the log; for tests.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub async fn open_with(options: StoreOptions, limits: Limits) -> Result<Store, StoreError> {
        Ok(Store { inner: embedded::Embedded::open(options, limits).await? })
    }

    /// The routes under `/v1/raft/`, for the agent's HTTP server. They must be served before [`Store::form`] can end.
    pub fn router(&self) -> axum::Router {
        routes::router(self.inner.clone())
    }

    /// Runs until the store exists and this node belongs to it. Checks at every start, with the members that answer,
    /// that they mean the same cluster and that no other agent holds this node's name. What is waited for is in
    /// [`Standing::problem`].
    ///
    /// # Errors
    /// [`StoreError::NameTaken`], [`StoreError::OtherCluster`]: a person must correct the configuration.
    pub async fn form(&self) -> Result<(), StoreError> {
        self.inner.form().await
    }

    /// Records a command; returns the state with it applied, and possibly later ones too. Only the leader can.
    ///
    /// # Errors
    /// [`StoreError::NotLeader`]; [`StoreError::Refused`] by the rules of the state; [`StoreError::TooLarge`];
    /// [`StoreError::Gone`]. After [`StoreError::Timeout`] and [`StoreError::Unsure`] it may yet be recorded.
    pub async fn propose(&self, command: Command) -> Result<Arc<State>, StoreError> {
        self.inner.propose(command).await
    }

    /// The state as this node knows it. After a restart it is what this node had applied before it stopped.
    pub fn state(&self) -> Arc<State> {
        self.inner.state().borrow().clone()
    }

    /// Follows the state.
    pub fn watch(&self) -> watch::Receiver<Arc<State>> {
        self.inner.state()
    }

    /// Follows where this node stands in the store.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.inner.standing()
    }

    /// Leader only: the time since the last round of messages that a majority confirmed was SENT. Time that this host
    /// slept through counts; it is rather too long than too short. Zero for a single voter, `None` when this node does
    /// not lead or no round of its term is confirmed yet.
    pub fn quorum_age(&self) -> Option<Duration> {
        self.inner.quorum_age()
    }

    /// Time since each other voter last answered this node or called it: all of them on the leader; only the leader on
    /// a follower, as followers do not talk to each other; all of them when there is no leader.
    pub fn silent_peers(&self) -> BTreeMap<NodeName, Duration> {
        self.inner.silent_peers()
    }

    /// Whether this node goes on as the leader, if it is one: without its heartbeats the others elect another one.
    pub fn may_lead(&self, may: bool) {
        self.inner.may_lead(may);
    }

    /// Hands the leadership to `to` and returns when it is seen to lead.
    ///
    /// # Errors
    /// [`StoreError::NotLeader`], [`StoreError::NoSuchMember`], [`StoreError::NotTransferred`]. In the last case some
    /// member is elected within `detect`.
    pub async fn transfer(&self, to: &NodeName) -> Result<(), StoreError> {
        self.inner.transfer(to).await
    }

    /// Stops taking part, writes what waits and gives up the lock of the directory.
    pub async fn close(&self) {
        self.inner.close().await;
    }

    /// Resolves with the cause when the store on this node has died. It does not recover: the agent process must end
    /// and be started again.
    pub async fn failed(&self) -> String {
        self.inner.failed().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_version_has_written_is_read_or_named() {
        let state = State { cluster: "c".to_owned(), ..State::default() };
        let bytes = disk::encode(&state).expect("a state");
        let sample = String::from_utf8(bytes).expect("JSON");
        assert_eq!(can_read(&sample), Ok(()));
        let newer = sample.replacen("\"v\":1", "\"v\":2", 1);
        assert!(can_read(&newer).is_err_and(|why| why.contains("format 2")));
        let other = sample.replacen("\"phase\":", "\"face\":", 1);
        assert!(can_read(&other).is_err_and(|why| why.contains("phase") && why.contains("the store")));
    }
}
