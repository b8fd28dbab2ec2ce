//! The store: the replicated record of the cluster. Three verbs: propose a command, read the state, watch it.
//!
//! Only decisions go through it, never heartbeats. No type of the consensus library, and none of etcd's, leaves this module.
//!
//! It is one of two. In the agents themselves:
//! - `embedded` ties the parts together; `log`, `machine` and `transport` are what the library asks of us.
//! - `ballots` keeps connections open for votes.
//! - `voters` makes the library's list of members like the record.
//! - `disk` is the file, `routes` what other members may ask, `form` how the members find each other.
//!
//! Or in an etcd beside them: `etcd`.
//!
//! The record of a running cluster moves from one to the other: `moving` says why that is safe, `begin` and `etcd/begin` begin
//! the new store, `elsewhere` is what the agents tell each other about it, `judge` is what is asked of each before, `grants` withholds leases
//! meanwhile, `written` keeps programs from before moves from reading what has moved.

mod ballots;
mod begin;
mod contacts;
mod disk;
pub(crate) mod elsewhere;
mod embedded;
mod error;
mod etcd;
mod form;
mod grants;
mod judge;
mod log;
mod machine;
pub mod moving;
mod options;
mod routes;
mod standing;
mod transport;
mod types;
mod voters;
mod written;

pub use elsewhere::Whereabouts;
pub use error::StoreError;
pub use judge::{Asked as HomeAsked, Judged as HomeJudged};
pub use options::{Endpoint, EtcdOptions, EtcdUser, StoreKind, StoreOptions};
pub use standing::Standing;

use cluster::NodeName;
use cluster::command::{Change, Command};
use cluster::state::State;
use identity::Caller;
use moving::Opening;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Largest command, in bytes of JSON.
const COMMAND_MAX: usize = 48 * 1024;

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
    inner: Inner,
    /// Of this node, and of its cluster.
    me: NodeName,
    cluster: String,
    /// The directory of all stores of this node.
    stores: PathBuf,
    /// How this one began, if the record has moved to it.
    opening: Option<Arc<Opening>>,
    grants: Arc<grants::Grants>,
}

#[derive(Clone)]
enum Inner {
    Embedded(Arc<embedded::Embedded>),
    Etcd(Arc<etcd::Etcd>),
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
    /// Whether the record is kept by others than the agents.
    pub(crate) fn is_elsewhere(&self) -> bool {
        match &self.inner {
            Inner::Embedded(_) => false,
            Inner::Etcd(_) => true,
        }
    }

    /// Whether what keeps the record still counts on this node. Nobody counts where it is kept by others than the agents.
    pub(crate) fn has_member(&self, node: &NodeName) -> bool {
        match &self.inner {
            Inner::Embedded(store) => store.members().values().any(|peer| peer.name == *node),
            Inner::Etcd(_) => false,
        }
    }

    /// The number of this store: how often the record has moved.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.opening.as_ref().map_or(0, |opening| opening.number).max(self.state().moves)
    }

    /// Whether the record comes from another store, and how it began here.
    #[must_use]
    pub fn opening(&self) -> Option<&Opening> {
        self.opening.as_deref()
    }

    /// The store that the record has moved to while this node was away, if another one knows of it.
    pub(crate) async fn later(
        &self,
        caller: &Caller,
        configured: &BTreeMap<NodeName, String>,
    ) -> Option<Opening> {
        let others = elsewhere::others(&self.state(), configured, &self.me);
        let answers = elsewhere::ask(caller, &others).await;
        elsewhere::latest((&self.cluster, &self.me), self.number(), answers)
    }

    /// Whether this store decides, as far as this node can tell: a leader is heard, or it leads and a majority has answered it lately.
    pub(crate) fn is_led(&self, detect: Duration) -> bool {
        let standing = self.standing().borrow().clone();
        match standing.leading {
            true => self.quorum_age().is_some_and(|age| age < detect),
            false => standing.leader.is_some_and(|leader| leader != self.me),
        }
    }

    /// What this agent tells another one of where the record is.
    pub(crate) fn whereabouts(&self) -> Whereabouts {
        let state = self.state();
        let begun = match &self.inner {
            Inner::Embedded(_) => true,
            // It may have begun since this agent opened it.
            Inner::Etcd(store) => store.is_begun(),
        };
        let mine = || self.opening.as_deref().map(|opening| Opening { begun, ..opening.clone() });
        Whereabouts {
            node: self.me.clone(),
            cluster: self.cluster.clone(),
            number: self.number(),
            opening: Opening::of(&state).or_else(mine),
            revision: state.revision,
        }
    }

    /// The recorded state as it is written into the file.
    ///
    /// # Errors
    /// When it cannot be put into that form.
    pub fn sample(&self) -> Result<String, String> {
        let bytes = disk::sample(&self.state()).map_err(|e| e.to_string())?;
        String::from_utf8(bytes).map_err(|e| e.to_string())
    }

    /// Opens the store of this node; mints its id at the first start.
    ///
    /// # Errors
    /// [`StoreError`] when the directory is in use, unreadable, damaged, or of another node, cluster or kind of store.
    pub async fn open(options: StoreOptions) -> Result<Store, StoreError> {
        Self::open_with(options, Limits::default()).await
    }

    /// As [`Store::open`], with other limits of the embedded store's log; for tests.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub async fn open_with(options: StoreOptions, limits: Limits) -> Result<Store, StoreError> {
        let opening = options.opening.clone().map(Arc::new);
        let stores = match &opening {
            Some(_) => options.dir.parent().map(Path::to_owned).unwrap_or_default(),
            None => options.dir.clone(),
        };
        if opening.is_none() {
            refuse_other_kind(&options.dir, &options.kind)?;
        }
        let (me, cluster) = (options.node.clone(), options.cluster.clone());
        let inner = match options.kind.clone() {
            StoreKind::Embedded => Inner::Embedded(embedded::Embedded::open(options, limits).await?),
            StoreKind::Etcd(etcd) => Inner::Etcd(etcd::Etcd::open(options, etcd).await?),
        };
        Ok(Store { inner, me, cluster, stores, opening, grants: Arc::default() })
    }

    /// What the other members ask of this one, for the agent's HTTP server: routes under `/v1/raft/` or `/v1/etcd/`. The
    /// embedded store's must be served before [`Store::form`] can end.
    pub fn router(&self) -> axum::Router {
        match &self.inner {
            Inner::Embedded(store) => routes::router(store.clone()),
            Inner::Etcd(store) => store.router(),
        }
    }

    /// Runs until the store exists and this node belongs to it. Checks at every start that all mean the same cluster and
    /// that no other agent holds this node's name. What is waited for is in [`Standing::problem`].
    ///
    /// # Errors
    /// [`StoreError::NameTaken`], [`StoreError::NameTakenInEtcd`], [`StoreError::OtherCluster`]: a person must correct the
    /// configuration.
    pub async fn form(&self) -> Result<(), StoreError> {
        match &self.inner {
            Inner::Embedded(store) => store.form().await,
            Inner::Etcd(store) => store.form().await,
        }
    }

    /// Records a command; returns the state with it applied, and possibly later ones too. Only the leader can.
    ///
    /// # Errors
    /// [`StoreError::NotLeader`]; [`StoreError::Refused`] by the rules of the state; [`StoreError::TooLarge`];
    /// [`StoreError::Gone`]; [`StoreError::Etcd`]. After [`StoreError::Timeout`] and [`StoreError::Unsure`] it may yet be
    /// recorded.
    pub async fn propose(&self, command: Command) -> Result<Arc<State>, StoreError> {
        match &command.change {
            Change::MoveStore { .. } => self.seal(command).await,
            _ => self.propose_plain(command).await,
        }
    }

    async fn propose_plain(&self, command: Command) -> Result<Arc<State>, StoreError> {
        match &self.inner {
            Inner::Embedded(store) => store.propose(command).await,
            Inner::Etcd(store) => store.propose(command).await,
        }
    }

    /// The state as this node knows it. After a restart it is what this node had applied before it stopped.
    pub fn state(&self) -> Arc<State> {
        self.watch().borrow().clone()
    }

    /// Follows the state.
    pub fn watch(&self) -> watch::Receiver<Arc<State>> {
        match &self.inner {
            Inner::Embedded(store) => store.state(),
            Inner::Etcd(store) => store.state(),
        }
    }

    /// Follows where this node stands in the store.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        match &self.inner {
            Inner::Embedded(store) => store.standing(),
            Inner::Etcd(store) => store.standing(),
        }
    }

    /// Leader only: the time since the last round of messages that a majority (of the members, or of etcd's) confirmed was
    /// SENT. Time that this host slept through counts; it is rather too long than too short. Zero for a single voter of the
    /// embedded store, `None` when this node does not lead or no round of its term is confirmed yet, or it seals the record.
    pub fn quorum_age(&self) -> Option<Duration> {
        if self.grants.are_withheld(self.standing().borrow().term) {
            return None;
        }
        match &self.inner {
            Inner::Embedded(store) => store.quorum_age(),
            Inner::Etcd(store) => store.quorum_age(),
        }
    }

    /// Time since each other voter last answered this node or called it: all of them on the leader; only the leader on
    /// a follower, as followers do not talk to each other; all of them when there is no leader.
    pub fn silent_peers(&self) -> BTreeMap<NodeName, Duration> {
        match &self.inner {
            Inner::Embedded(store) => store.silent_peers(),
            Inner::Etcd(store) => store.silent_peers(),
        }
    }

    /// Hands the leadership to `to` and returns when it is seen to lead.
    ///
    /// # Errors
    /// [`StoreError::NotLeader`], [`StoreError::NoSuchMember`], [`StoreError::NotTransferred`]. In the last case some
    /// member is elected within `detect`.
    pub async fn transfer(&self, to: &NodeName) -> Result<(), StoreError> {
        match &self.inner {
            Inner::Embedded(store) => store.transfer(to).await,
            Inner::Etcd(store) => store.transfer(to).await,
        }
    }

    /// Stops taking part, writes what waits and gives up the lock of the directory.
    pub async fn close(&self) {
        match &self.inner {
            Inner::Embedded(store) => store.close().await,
            Inner::Etcd(store) => store.close().await,
        }
    }

    /// Resolves with the cause when the store on this node has died. It does not recover: the agent process must end
    /// and be started again.
    pub async fn failed(&self) -> String {
        match &self.inner {
            Inner::Embedded(store) => store.failed().await,
            // It has nothing that could die: what etcd does not answer now, it may answer later.
            Inner::Etcd(_) => std::future::pending().await,
        }
    }
}

/// The record of a cluster is not carried over by a change of the configuration: without it, its data would look like nobody's.
fn refuse_other_kind(dir: &Path, kind: &StoreKind) -> Result<(), StoreError> {
    let (file, had, wanted) = match kind {
        StoreKind::Embedded => (etcd::FILE, "the memory of a store in etcd", "the embedded store"),
        StoreKind::Etcd(_) => (disk::FILE, "an embedded store", "a store in etcd"),
    };
    if dir.join(file).exists() {
        return Err(StoreError::OtherKind { dir: dir.to_owned(), had, wanted });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_version_has_written_is_read_or_named() {
        let state = State { cluster: "c".to_owned(), ..State::default() };
        let bytes = disk::sample(&state).expect("a state");
        let sample = String::from_utf8(bytes).expect("JSON");
        assert_eq!(can_read(&sample), Ok(()));
        let newer = sample.replacen("\"v\":1", "\"v\":2", 1);
        assert!(can_read(&newer).is_err_and(|why| why.contains("format 2")));
        let other = sample.replacen("\"phase\":", "\"face\":", 1);
        assert!(can_read(&other).is_err_and(|why| why.contains("phase") && why.contains("the store")));
        let moved = disk::sample(&State { moves: 1, ..state }).expect("a state");
        assert_eq!(can_read(&String::from_utf8(moved).expect("JSON")), Ok(()));
    }
}
