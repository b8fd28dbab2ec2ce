//! The recorded state: commands from the log are applied to it, one after the other, by [`apply`] alone. It lives in
//! memory; a snapshot of it is kept on disk, and after a restart the log is applied to that again.

use super::disk::{Change, Disk, Kept, Key, SharedSnapshot, encode};
use super::types::{LogId, Membership, SnapshotMeta, Types};
use cluster::command::apply;
use cluster::state::State;
use futures::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine, Snapshot};
use openraft::type_config::alias::SnapshotOf;
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use std::io;
use std::sync::{Arc, PoisonError};
use tokio::sync::watch;

/// The state, and how far the log is applied to it.
pub(super) struct Machine {
    state: watch::Sender<Arc<State>>,
    applied: Option<LogId>,
    membership: Membership,
    snapshot: SharedSnapshot,
    disk: Disk,
}

impl Machine {
    /// Begins with the snapshot that the disk holds; the library then applies the log behind it.
    pub(super) fn new(disk: Disk, kept: Option<Kept>) -> Self {
        let (meta, state) =
            kept.map_or_else(Default::default, |kept| (Some(kept.meta), Arc::new(kept.state)));
        Machine {
            state: watch::Sender::new(state.clone()),
            applied: meta.as_ref().and_then(|m| m.last_log_id),
            membership: meta.as_ref().map(|m| m.last_membership.clone()).unwrap_or_default(),
            snapshot: Arc::new(std::sync::Mutex::new(meta.map(|m| (m, state)))),
            disk,
        }
    }

    /// Follows the state.
    pub(super) fn watch(&self) -> watch::Receiver<Arc<State>> {
        self.state.subscribe()
    }
}

/// Makes a snapshot of the state as it was when the builder was made.
pub(super) struct Builder {
    meta: SnapshotMeta,
    state: Arc<State>,
    snapshot: SharedSnapshot,
    disk: Disk,
}

async fn keep(disk: &Disk, shared: &SharedSnapshot, meta: SnapshotMeta, state: Arc<State>) -> io::Result<()> {
    let kept = Kept { meta, state: State::clone(&state) };
    disk.write(vec![Change::Set(Key::Snapshot, encode(&kept)?)]).await?;
    *shared.lock().unwrap_or_else(PoisonError::into_inner) = Some((kept.meta, state));
    Ok(())
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = Arc<State>;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types, Arc<State>>, io::Error> {
        keep(&self.disk, &self.snapshot, self.meta.clone(), self.state.clone()).await?;
        Ok(Snapshot { meta: self.meta.clone(), snapshot: self.state.clone() })
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = Arc<State>;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            self.applied = Some(entry.log_id);
            let outcome = match entry.payload {
                EntryPayload::Blank => Ok(()),
                EntryPayload::Membership(membership) => {
                    self.membership = Membership::new(Some(entry.log_id), membership);
                    Ok(())
                }
                EntryPayload::Normal(proposal) => {
                    let mut state = State::clone(&self.state.borrow());
                    let outcome = apply(&mut state, &proposal.0);
                    // Published before the proposer is answered, so that it sees its own command.
                    self.state.send_replace(Arc::new(state));
                    outcome
                }
            };
            if let Some(responder) = responder {
                responder.send(outcome);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            meta: SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() },
            state: self.state.borrow().clone(),
            snapshot: self.snapshot.clone(),
            disk: self.disk.clone(),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, state: Arc<State>) -> Result<(), io::Error> {
        keep(&self.disk, &self.snapshot, meta.clone(), state.clone()).await?;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.state.send_replace(state);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<Types, Arc<State>>>, io::Error> {
        let shared = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(shared.as_ref().map(|(meta, state)| Snapshot { meta: meta.clone(), snapshot: state.clone() }))
    }
}
