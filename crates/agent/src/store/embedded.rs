//! The store inside the agents: Raft by a library, its log on this node's disk, its messages over the agents' HTTP.

use super::ballots::{self, Ballots};
use super::begin;
use super::contacts::{Contacts, SuspendClock};
use super::disk::{self, Disk, Owner};
use super::error::StoreError;
use super::form::{self, Seen};
use super::log::Log;
use super::machine::Machine;
use super::standing::{Standing, members, standing, voters};
use super::transport::Network;
use super::types::{Peer, Proposal, Raft, Types};
use super::{COMMAND_MAX, Limits, StoreOptions, voters as membership};
use cluster::NodeName;
use cluster::command::Command;
use cluster::state::State;
use identity::Caller;
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{ClientWriteError, Fatal, ForwardToLeader, RaftError};
use openraft::{Config, RaftMetrics, ServerState, SnapshotPolicy};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::watch;

/// Entries sent in one message: with the largest commands it stays below [`crate::http::BODY_MAX`].
const ENTRIES_PER_MESSAGE: usize = 64;
/// Deadline for sending and installing a snapshot.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(20);

/// This node's part of the store.
pub(super) struct Embedded {
    pub(super) owner: Owner,
    pub(super) address: String,
    /// The members as configured, by name.
    pub(super) configured: BTreeMap<NodeName, String>,
    /// Whether it may found a store, if nobody has one.
    pub(super) may_found: bool,
    pub(super) raft: Raft,
    pub(super) contacts: Arc<Contacts>,
    pub(super) ballots: Arc<Ballots>,
    pub(super) caller: Caller,
    /// Who introduced itself of late.
    pub(super) seen: Mutex<Seen>,
    detect: Duration,
    disk: Disk,
    state: watch::Receiver<Arc<State>>,
    standing: watch::Sender<Standing>,
    clock: SuspendClock,
    /// Whether the file already belonged to a founded store when it was opened.
    was_founded: bool,
    /// The number of this store.
    number: u64,
    /// What founding waits for.
    founding: Mutex<Option<String>>,
    /// The member that said that this node was struck out.
    struck_out_by: OnceLock<NodeName>,
    closed: AtomicBool,
}

impl Embedded {
    /// Opens the file and starts Raft on it.
    pub(super) async fn open(options: StoreOptions, limits: Limits) -> Result<Arc<Embedded>, StoreError> {
        let StoreOptions {
            dir,
            cluster,
            node,
            address,
            members: configured,
            detect,
            founded,
            caller,
            opening,
            ..
        } = options;
        let config = config(&cluster, detect, limits)?;
        let opened = tokio::task::spawn_blocking(move || disk::open(&dir, &cluster, &node)).await;
        let (disk, mut loaded) = opened.map_err(|e| StoreError::Gone(e.to_string()))??;
        let number = opening.as_ref().map_or(0, |opening| opening.number);
        if let Some(opening) = opening {
            begin::begin(&disk, &mut loaded, opening).await?;
        }
        let contacts = Arc::new(Contacts::new());
        let ballots = Arc::new(Ballots::new(&caller));
        let network = Network {
            cluster: loaded.owner.cluster.clone(),
            me: loaded.owner.id,
            contacts: contacts.clone(),
            ballots: ballots.clone(),
            caller: caller.clone(),
            append_timeout: Duration::from_millis(config.heartbeat_interval * 4)
                .max(Duration::from_millis(100)),
        };
        let was_founded = loaded.vote.is_some() || !loaded.entries.is_empty() || loaded.snapshot.is_some();
        let machine = Machine::new(disk.clone(), loaded.snapshot);
        let state = machine.watch();
        let log = Log::new(disk.clone(), loaded.entries, loaded.vote, loaded.committed, loaded.purged);
        let clock = SuspendClock::new(detect * 4);
        let raft = Raft::new(loaded.owner.id, Arc::new(config), network, log, machine)
            .await
            .map_err(|e| StoreError::Gone(e.to_string()))?;
        let store = Arc::new(Embedded {
            owner: loaded.owner,
            address,
            configured,
            may_found: !founded,
            raft,
            contacts,
            ballots,
            caller,
            seen: Mutex::default(),
            detect,
            disk,
            state,
            standing: watch::Sender::default(),
            clock,
            was_founded,
            number,
            founding: Mutex::default(),
            struck_out_by: OnceLock::new(),
            closed: AtomicBool::new(false),
        });
        tokio::spawn(follow(Arc::downgrade(&store)));
        tokio::spawn(ballots::keep_open(Arc::downgrade(&store)));
        tokio::spawn(membership::follow_record(Arc::downgrade(&store)));
        tokio::spawn(form::ask_whether_removed(Arc::downgrade(&store)));
        Ok(store)
    }

    pub(super) fn state(&self) -> watch::Receiver<Arc<State>> {
        self.state.clone()
    }

    pub(super) fn may_lead(&self, may: bool) {
        self.raft.runtime_config().heartbeat(may);
    }

    pub(super) fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// The record as it is now.
    pub(super) fn present(&self) -> Arc<State> {
        self.state.borrow().clone()
    }

    /// Whether it leads and knows all that was recorded before.
    pub(super) fn is_leading(&self) -> bool {
        self.standing.borrow().leading
    }

    /// Whether it is this member, or it was heard within `detect`.
    pub(super) fn hears(&self, id: u64) -> bool {
        id == self.owner.id || self.contacts.silence(id) < self.detect
    }

    /// Whether this member votes.
    pub(super) fn votes(&self, id: u64) -> bool {
        voters(&self.metrics()).contains_key(&id)
    }

    pub(super) fn metrics(&self) -> RaftMetrics<Types> {
        self.raft.metrics().borrow_watched().clone()
    }

    /// The members as recorded in the log.
    pub(super) fn members(&self) -> BTreeMap<u64, Peer> {
        members(&self.metrics())
    }

    /// Whether this node's log or vote says that the store exists.
    pub(super) fn founded(&self) -> bool {
        let now = self.metrics();
        self.was_founded || now.last_log_index.is_some() || now.current_term > 0
    }

    /// The number of the store that this node has a part of, if it has one.
    pub(super) fn number(&self) -> Option<u64> {
        // A node that was let in later has not moved here.
        self.founded().then(|| self.number.max(self.state.borrow().moves))
    }

    /// Notes what founding waits for.
    pub(super) fn say(&self, why: Option<String>) {
        if let Some(why) = &why {
            tracing::debug!("{why}");
        }
        *self.founding.lock().unwrap_or_else(PoisonError::into_inner) = why;
        self.observe();
    }

    /// Notes that this node belongs to the store no more, as `by` says.
    pub(super) fn strike_out(&self, by: &NodeName) {
        if self.struck_out_by.set(by.clone()).is_ok() {
            tracing::warn!("{}", form::removed(&self.owner.node, by));
        }
        self.observe();
    }

    /// Whether the record here, or another member, says that this node belongs to the store no more.
    pub(super) fn is_struck_out(&self) -> bool {
        self.struck_out_by.get().is_some() || self.state.borrow().removed.contains(&self.owner.node)
    }

    /// Whether a leader tells this node what is recorded, or it leads others that answer it.
    pub(super) fn is_led(&self) -> bool {
        let leads = self.quorum_age().is_some_and(|age| age < self.detect);
        leads || self.contacts.not_led_for() < self.detect
    }

    /// Publishes the standing, when it changed.
    fn observe(&self) {
        let mut now = standing(&self.metrics(), &self.contacts, self.detect);
        now.removed = self.is_struck_out();
        if let Some(by) = self.struck_out_by.get() {
            now.problem = Some(form::removed(&self.owner.node, by));
        } else if now.problem.is_none() {
            now.problem.clone_from(&self.founding.lock().unwrap_or_else(PoisonError::into_inner));
        }
        self.standing.send_if_modified(|was| {
            let changed = *was != now;
            *was = now;
            changed
        });
    }

    pub(super) async fn propose(&self, command: Command) -> Result<Arc<State>, StoreError> {
        let bytes = serde_json::to_vec(&command).map_or(usize::MAX, |json| json.len());
        if bytes > COMMAND_MAX {
            return Err(StoreError::TooLarge { bytes, bytes_max: COMMAND_MAX });
        }
        let written = tokio::time::timeout(self.detect, self.raft.client_write(Proposal(command))).await;
        match written {
            Err(_) => Err(StoreError::Timeout { after: self.detect }),
            Ok(Ok(answer)) => {
                answer.data?;
                Ok(self.state.borrow().clone())
            }
            Ok(Err(RaftError::Fatal(e))) => Err(StoreError::Gone(e.to_string())),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to)))) => Err(self.not_leader(to)),
            Ok(Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)))) => Err(StoreError::Unsure),
            Ok(Err(RaftError::APIError(
                e @ (ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_)),
            ))) => Err(StoreError::Gone(format!("it refused a plain command: {e}"))),
        }
    }

    fn not_leader(&self, to: ForwardToLeader<Types>) -> StoreError {
        // A leader that no majority answers points at itself.
        let other = to.leader_node.filter(|_| to.leader_id != Some(self.owner.id));
        StoreError::NotLeader { leader: other.map(|peer| peer.name) }
    }

    pub(super) fn quorum_age(&self) -> Option<Duration> {
        let now = self.metrics();
        if now.state != ServerState::Leader {
            return None;
        }
        if voters(&now).keys().eq([&self.owner.id]) {
            return Some(Duration::ZERO);
        }
        now.last_quorum_acked.map(|sent| self.clock.age(sent.into_inner()))
    }

    pub(super) fn silent_peers(&self) -> BTreeMap<NodeName, Duration> {
        let now = self.metrics();
        let leader = self.standing.borrow().leader.clone();
        let others = voters(&now).into_iter().filter(|(id, _)| *id != self.owner.id);
        // A follower exchanges nothing with other followers while there is a leader.
        let known = others.filter(|(_, name)| {
            now.state == ServerState::Leader || leader.as_ref().is_none_or(|leader| leader == name)
        });
        known.map(|(id, name)| (name, self.contacts.silence(id))).collect()
    }

    pub(super) async fn transfer(&self, to: &NodeName) -> Result<(), StoreError> {
        let mut standing = self.standing();
        if !standing.borrow_and_update().leading {
            return Err(StoreError::NotLeader { leader: self.standing.borrow().leader.clone() });
        }
        if *to == self.owner.node {
            return Ok(());
        }
        let target = voters(&self.metrics()).into_iter().find(|(_, name)| name == to);
        let (id, _) = target.ok_or_else(|| StoreError::NoSuchMember(to.clone()))?;
        let failed = |why: String| StoreError::NotTransferred { to: to.clone(), why };
        let silence = self.contacts.silence(id);
        if silence > self.detect / 2 {
            return Err(failed(format!("it has not answered for {} ms", silence.as_millis())));
        }
        self.raft.trigger().transfer_leader(id).await.map_err(|e| StoreError::Gone(e.to_string()))?;
        let moved = standing.wait_for(|now| now.leader.as_ref() == Some(to));
        match tokio::time::timeout(self.detect, moved).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => {
                Err(failed(format!("nothing was seen of it within {} ms", self.detect.as_millis())))
            }
        }
    }

    pub(super) async fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        if let Err(e) = self.raft.shutdown().await {
            tracing::warn!("the store did not stop in order: {e}");
        }
        if let Err(e) = self.disk.close().await {
            tracing::warn!("the store's file was not closed in order: {e}");
        }
    }

    /// Resolves when the library's core has died; never after [`Embedded::close`].
    pub(super) async fn failed(&self) -> String {
        let mut metrics = self.raft.metrics();
        loop {
            let running = metrics.borrow_watched().running_state.clone();
            let changed = match running {
                Ok(()) => metrics.changed().await.map_err(|_| "its core ended".to_owned()),
                Err(fatal) => Err(explain(&fatal)),
            };
            if let Err(why) = changed {
                if self.closed.load(Ordering::Relaxed) {
                    std::future::pending::<()>().await;
                }
                return why;
            }
        }
    }
}

fn explain(fatal: &Fatal<Types>) -> String {
    match fatal {
        Fatal::Panicked => "its core panicked; this is a defect of the library".into(),
        Fatal::StorageError(e) => format!("its log could not be written or read: {e}"),
        Fatal::Stopped => "it was stopped".into(),
    }
}

/// Publishes the standing whenever the library reports something, and from time to time, because silence is news too.
async fn follow(store: Weak<Embedded>) {
    let Some((mut metrics, pause)) = store.upgrade().map(|s| (s.raft.metrics(), s.detect / 8)) else {
        return;
    };
    loop {
        match store.upgrade() {
            Some(store) => {
                store.clock.sample();
                store.observe();
            }
            None => return,
        }
        if let Ok(Err(_)) = tokio::time::timeout(pause, metrics.changed()).await {
            return;
        }
    }
}

/// All time-outs from `detect`. A follower stands for election when it has heard nothing for the lease, which is the
/// longest election time-out, and then for a random one: at most `detect / 2` in all.
fn config(cluster: &str, detect: Duration, limits: Limits) -> Result<Config, StoreError> {
    let detect_ms = u64::try_from(detect.as_millis()).unwrap_or(u64::MAX);
    let heartbeat_interval = (detect_ms / 15).max(20);
    let election_timeout_min = (detect_ms / 6).max(heartbeat_interval * 2);
    let election_timeout_max = (detect_ms / 4).max(election_timeout_min + heartbeat_interval);
    Config {
        cluster_name: cluster.to_owned(),
        heartbeat_interval,
        election_timeout_min,
        election_timeout_max,
        enable_pre_vote: Some(true),
        // A restarted leader has to be elected: only an election tells how old the confirmations of others are.
        enable_leader_restore: Some(false),
        install_snapshot_timeout: u64::try_from(SNAPSHOT_TIMEOUT.as_millis()).unwrap_or(u64::MAX),
        max_payload_entries: ENTRIES_PER_MESSAGE as u64,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(limits.snapshot_after),
        max_in_snapshot_log_to_keep: limits.keep,
        replication_lag_threshold: limits.snapshot_after + limits.keep,
        backoff: format!("25ms 50ms ...{}ms", election_timeout_max.max(100)),
        ..Config::default()
    }
    .validate()
    .map_err(|e| StoreError::Settings(e.to_string()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use cluster::command::Change;

    /// A log that cannot be written any more ends the core, and the agent hears of it.
    #[tokio::test]
    async fn a_failing_disk_is_reported() {
        let dir = std::env::temp_dir().join(format!("pgkeel-failing-{}", std::process::id()));
        let node: NodeName = "n1".parse().unwrap();
        let options = StoreOptions {
            dir: dir.clone(),
            cluster: "c".into(),
            node: node.clone(),
            address: "127.0.0.1:1".into(),
            members: BTreeMap::from([(node.clone(), "127.0.0.1:1".into())]),
            detect: Duration::from_millis(300),
            founded: false,
            kind: Default::default(),
            opening: None,
            caller: Caller::plain(),
        };
        let store = Embedded::open(options, Limits::default()).await.unwrap();
        store.form().await.unwrap();
        store.standing().wait_for(|now| now.leading).await.unwrap();
        store.disk.close().await.unwrap();
        let command = Command { by: node, at: 0, change: Change::Note { epoch: 0 }, reasons: Vec::new() };
        assert!(store.propose(command).await.is_err());
        let why = tokio::time::timeout(Duration::from_secs(5), store.failed()).await.unwrap();
        assert!(why.contains("could not be written"), "{why}");
        drop(std::fs::remove_dir_all(dir));
    }

    #[test]
    fn time_outs_follow_detect() {
        for ms in [1, 100, 300, 1500, 10_000, 60_000] {
            let config = config("c", Duration::from_millis(ms), Limits::default()).unwrap();
            assert!(config.election_timeout_min >= config.heartbeat_interval * 2, "{ms}");
            assert!(ms < 300 || config.election_timeout_max * 2 <= ms / 2, "{ms}");
        }
    }
}
