//! Carries out one [`Step`] on PostgreSQL. It has no choices: what to do was decided in `cluster::step`; a step that no
//! longer fits the recorded state is given up.

mod adopting;
mod copying;
mod lost;
mod starting;

use crate::fence::Fence;
use crate::guard::{GuardError, GuardEvent, GuardHandle, StopMode};
use crate::marker::{Facts, FileId, Marker};
use crate::postgres::configuration::{self, Managed, Upstream};
use crate::postgres::probe::Prober;
use crate::postgres::process::{self, Kind};
use crate::postgres::session::Session;
use crate::postgres::{PgError, Place, control, follow, history, initialise, prepare, promote, rewind, room};
use crate::store::Store;
use cluster::command::first_promotion_id;
use cluster::copy::CopyProgress;
use cluster::lineage;
use cluster::observe::{RejoinWay, Seal, Server, Standby};
use cluster::state::{State, SyncSet};
use cluster::step::{Step, Unfinished, sync_of_standby};
use cluster::{Epoch, Lsn, NodeName, Timeline};
use identity::Caller;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;

const STOP_LIMIT: Duration = Duration::from_secs(60);
const SILENT_GUARD_LIMIT: Duration = Duration::from_secs(10);
const PROBE_LIMIT: Duration = Duration::from_secs(5);
const START_LIMIT: Duration = Duration::from_secs(300);

/// What a step came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Done {
    /// Nothing more to tell.
    Plain,
    /// The server was started; a new guard watches it.
    Started,
    /// The server is known to have ended.
    Ended,
    /// Sealed.
    Sealed(Seal),
    /// The synchronous standbys are configured.
    Configured(SyncSet),
    /// The checkpoint for this switchover is made.
    Checkpointed(String),
    /// Promoted: what the server is now, and which synchronous standbys it has.
    Promoted(Server, SyncSet),
    /// The node was told to follow, after this preparation.
    Following(RejoinWay),
    /// The directory was replaced or changed: look at it again.
    DataChanged(RejoinWay),
}

/// The node's hands.
pub struct Hands {
    /// Its PostgreSQL.
    pub place: Place,
    /// For questions to its server.
    pub session: Arc<Session>,
    /// Its name.
    pub me: NodeName,
    /// The store, to see whether a step still fits.
    pub store: Store,
    /// How other agents are called.
    pub caller: Caller,
    /// What closes its port when its lease ends.
    pub fence: Option<Arc<Fence>>,
    marker: Mutex<Marker>,
    guard: Mutex<Option<GuardHandle>>,
    guard_events: mpsc::UnboundedSender<GuardEvent>,
    segment_bytes: Mutex<u64>,
    progress: Mutex<Option<CopyProgress>>,
    /// The sync set that the server has been told with its seal, while it was told nothing else since.
    sealed_with: Mutex<Option<SyncSet>>,
    /// Somebody had set `synchronous_standby_names` on the running server, and it was taken back, without a checkpoint since;
    /// a number for each time, 0 otherwise.
    sync_taken_back: Arc<AtomicU64>,
    /// Whoever writes the files that the user has a say in; the server must not read what is only tried.
    writing: tokio::sync::Mutex<()>,
    /// The deadline that the guard and the fence were last told, 0: none.
    held_until: AtomicU64,
    /// The number of the next word to the guard, and of the last one that it was told.
    words: AtomicU64,
    last_word: tokio::sync::Mutex<u64>,
}

/// The place of a word to the guard among all others: the later one is the one that holds, whichever task is faster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Turn(u64);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hands {
    /// Hands for one node; events of every guard go to `guard_events`.
    #[must_use]
    pub fn new(
        place: Place,
        me: NodeName,
        store: Store,
        caller: Caller,
        marker: Marker,
        fence: Option<Arc<Fence>>,
        guard_events: mpsc::UnboundedSender<GuardEvent>,
    ) -> Hands {
        Hands {
            session: Arc::new(Session::new(place.clone())),
            place,
            me,
            store,
            caller,
            fence,
            marker: Mutex::new(marker),
            guard: Mutex::new(None),
            guard_events,
            segment_bytes: Mutex::new(16 * 1024 * 1024),
            progress: Mutex::new(None),
            sealed_with: Mutex::new(None),
            sync_taken_back: Arc::default(),
            writing: tokio::sync::Mutex::new(()),
            held_until: AtomicU64::new(0),
            words: AtomicU64::new(1),
            last_word: tokio::sync::Mutex::new(0),
        }
    }

    /// What is remembered of the data directory.
    #[must_use]
    pub fn facts(&self) -> Facts {
        lock(&self.marker).facts().clone()
    }

    /// Changes what is remembered.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn remember(&self, change: impl FnOnce(&mut Facts)) -> Result<(), PgError> {
        lock(&self.marker).change(change)
    }

    /// The guard of the running server.
    #[must_use]
    pub fn guard(&self) -> Option<GuardHandle> {
        lock(&self.guard).clone()
    }

    /// The size of a WAL segment, in bytes.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        *lock(&self.segment_bytes)
    }

    /// Looks at the data directory.
    ///
    /// # Errors
    /// When it cannot be read or is none.
    pub async fn look(&self) -> Result<cluster::observe::DataDir, PgError> {
        let (data, control) = control::look(&self.place).await?;
        if let Some(control) = control {
            *lock(&self.segment_bytes) = control.wal_segment_bytes;
            self.notice_exchange()?;
        }
        Ok(data)
    }

    /// A directory that a person put in the place of the node's own may lack what the node has confirmed, or written as the
    /// primary: until it has caught up it counts no more than a copy. PostgreSQL writes pg_control in place
    /// (`update_controlfile`, src/common/controldata_utils.c), and so does pg_rewind.
    fn notice_exchange(&self) -> Result<(), PgError> {
        let path = self.place.data().join("global/pg_control");
        let found = FileId::of(&path).map_err(PgError::file("look at", &path))?;
        let known = self.facts().control_file;
        let exchanged = known.is_some_and(|known| !known.may_be(found));
        if exchanged {
            tracing::warn!(
                "{} is not the directory that this node knows: somebody has exchanged it; what it holds is not relied on \
                 before it has caught up with a primary",
                self.place.data().display()
            );
        }
        self.remember(|f| {
            f.copied |= exchanged;
            f.control_file = Some(found);
        })
    }

    /// Takes over a guard and passes its events on.
    pub fn adopt(&self, guard: GuardHandle, mut events: mpsc::Receiver<GuardEvent>) {
        *lock(&self.guard) = Some(guard);
        let out = self.guard_events.clone();
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                if out.send(event).is_err() {
                    return;
                }
            }
        });
    }

    /// Takes the next turn, at the moment at which what the guard is to be told is decided.
    pub fn turn(&self) -> Turn {
        Turn(self.words.fetch_add(1, Ordering::Relaxed))
    }

    /// Tells the fence, if there is one, and the guard until when the server may run; `None`: without an end. When this
    /// returns `Ok`, both are in force.
    ///
    /// # Errors
    /// When one of them refuses, or has been told a later word already.
    pub async fn hold_to(
        &self,
        guard: &GuardHandle,
        Turn(number): Turn,
        deadline_ms: Option<u64>,
    ) -> Result<(), PgError> {
        let mut last = self.last_word.lock().await;
        if number < *last {
            return Err(PgError::Unexpected("a later word has overtaken this one".to_owned()));
        }
        *last = number;
        self.fence_until(deadline_ms).await?;
        guard.set_deadline(deadline_ms).await?;
        self.held_until.store(deadline_ms.unwrap_or(0), Ordering::Relaxed);
        Ok(())
    }

    async fn fence_until(&self, deadline_ms: Option<u64>) -> Result<(), PgError> {
        let Some(fence) = &self.fence else { return Ok(()) };
        let told = match deadline_ms {
            None => fence.open().await,
            Some(deadline_ms) => fence.close_at(deadline_ms).await,
        };
        told.map_err(|e| PgError::Unexpected(e.to_string()))
    }

    /// The guard has ended.
    pub fn drop_guard(&self) {
        *lock(&self.guard) = None;
    }

    /// Carries out `step`.
    ///
    /// # Errors
    /// Whatever went wrong; the step may be tried again.
    pub async fn carry_out(&self, step: &Step) -> Result<Done, PgError> {
        match step {
            Step::Wait(_) => Ok(Done::Plain),
            Step::Initialise => self.initialise().await,
            Step::StartPrimary => self.start(Kind::Primary).await,
            Step::StartSealed => self.start(Kind::Standby).await,
            Step::Seal { epoch } => self.seal(*epoch).await,
            Step::Follow { upstream, epoch, line } => self.follow(upstream, *epoch, line).await,
            Step::Promote { epoch, line, sync } => self.promote(*epoch, line, sync).await,
            Step::SetSync { sync, revision } => {
                self.remember(|f| f.sync_revision = f.sync_revision.max(*revision))?;
                self.set_sync(sync).await
            }
            Step::Configure { version } => self.take_on(*version).await,
            Step::Restart { token } => self.restart(token.as_deref()).await,
            Step::RestartPrimary { token, sync } => self.restart_primary(token, sync).await,
            Step::Clone { from, line, cause } => self.clone_from(from, line, cause).await,
            Step::Rewind { from, epoch, line } => self.rewind(from, *epoch, line).await,
            Step::Checkpoint { id } => self.prepare(id).await,
            Step::StopInOrder { .. } => self.stop(STOP_LIMIT).await.map(|()| Done::Plain),
            Step::Fence { .. } => self.fence().await,
        }
    }

    fn upstream(&self, node: &NodeName) -> Result<Upstream, PgError> {
        let state = self.store.state();
        let address = state.members.get(node).and_then(|m| m.postgres.clone());
        let address = address.ok_or_else(|| {
            PgError::Unexpected(format!("the address of {node}'s PostgreSQL is not recorded"))
        })?;
        Ok(Upstream { node: node.clone(), address, password: state.replication_password.clone() })
    }

    /// A step of an older epoch must not change anything any more.
    fn still_in(&self, epoch: Epoch) -> Result<(), PgError> {
        let present = self.store.state().epoch;
        if present == epoch {
            return Ok(());
        }
        Err(PgError::Unexpected(format!("given up: it was for epoch {epoch}, the cluster is at {present}")))
    }

    /// Tells the server.
    async fn configure(&self, upstream: Option<Upstream>, sync: SyncSet) -> Result<(), PgError> {
        *lock(&self.sealed_with) = None;
        let managed = Managed { upstream, sync: Some(sync), needed: Vec::new() };
        let taken = configuration::write_managed(&self.place, self.place.data(), &self.me, &managed)?;
        let taken = taken.iter().any(|name| name == "synchronous_standby_names");
        let Turn(number) = self.turn();
        if taken {
            self.sync_taken_back.store(number, Ordering::Relaxed);
        }
        self.reload().await?;
        if taken {
            let (place, last) = (self.place.clone(), Arc::clone(&self.sync_taken_back));
            tokio::spawn(async move {
                match prepare::checkpoint(&place).await {
                    // Whether sessions wait follows the setting again (see `postgres::sync`).
                    Ok(()) => drop(last.compare_exchange(number, 0, Ordering::Relaxed, Ordering::Relaxed)),
                    Err(e) => {
                        tracing::warn!("no checkpoint after synchronous_standby_names was taken back: {e}")
                    }
                }
            });
        }
        Ok(())
    }

    /// Whether another `synchronous_standby_names` has been in force on the running server since this was last asked.
    pub fn sync_was_taken_back(&self) -> bool {
        self.sync_taken_back.swap(0, Ordering::Relaxed) != 0
    }

    async fn reload(&self) -> Result<(), PgError> {
        if self.session.open().is_none() {
            process::wait_until_it_takes_signals(&self.place).await?;
        }
        match self.guard() {
            Some(guard) => Ok(guard.reload().await?),
            None => Err(PgError::Unexpected("the server has no guard to reload it".into())),
        }
    }

    async fn initialise(&self) -> Result<Done, PgError> {
        if self.adopts() && self.facts().unfinished.is_none() {
            self.take_over_primary().await?;
        }
        self.remember(|f| {
            f.unfinished = Some(Unfinished::Initialise);
            f.control_file = None;
        })?;
        if self.look().await? == cluster::observe::DataDir::Absent {
            if self.adopts() {
                return Err(PgError::Unexpected("the database that was to be taken over is gone".to_owned()));
            }
            initialise::initdb(&self.place).await?;
        }
        if self.guard().is_none() {
            self.start(Kind::Primary).await?;
        }
        let password = self.store.state().replication_password.clone();
        let began = std::time::Instant::now();
        while let Err(e) = initialise::create_roles(&self.place, &password).await {
            if began.elapsed() > Duration::from_secs(30) || self.guard().is_none() {
                return Err(e);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let line = first_promotion_id(&self.me);
        let adopted = self.place.settings.adopt;
        self.remember(|f| {
            f.unfinished = None;
            f.line = Some(line);
            f.adopted = adopted;
        })?;
        Ok(Done::DataChanged(RejoinWay::Follow))
    }

    async fn seal(&self, epoch: Epoch) -> Result<Done, PgError> {
        self.still_in(epoch)?;
        let sync = sync_of_standby(&self.store.state());
        self.configure(None, sync.clone()).await?;
        follow::wait_until_sealed(&self.session).await?;
        *lock(&self.sealed_with) = Some(sync);
        self.remember(|f| {
            f.following = None;
            f.promised = f.promised.max(epoch);
        })?;
        match self.probe().await? {
            Server::Standby(s) => {
                if self.adopts() {
                    self.adopt_line(&s).await?;
                }
                let line = self.checked_line(&s)?;
                let copied = self.facts().copied;
                Ok(Done::Sealed(Seal { epoch, timeline: s.timeline, lsn: s.lsn, line, copied }))
            }
            other => Err(PgError::Unexpected(format!("cannot seal: the server is no standby but {other:?}"))),
        }
    }

    /// The line of this sealed standby's data. A directory that was promoted or exchanged by hand has none.
    fn checked_line(&self, standby: &Standby) -> Result<Option<String>, PgError> {
        let Some(line) = self.facts().line else { return Ok(None) };
        let (timeline, at) = (standby.timeline, standby.replay_lsn);
        let state = self.store.state();
        if let Some(writer) = lineage::written_by(&state, &line, timeline, at)
            && (writer == line || self.has_history_of(&state, writer, timeline))
        {
            return Ok(Some(line));
        }
        tracing::warn!(
            "its data stands at {at} on timeline {timeline}, which is not what this node has written or received: it was \
             promoted or exchanged by somebody else, and does not count"
        );
        self.remember(|f| f.strayed = f.line.take())?;
        Ok(None)
    }

    /// Whether the history file of the server's timeline is that of the promotion `line`. A person may have promoted this
    /// server to a timeline of the same number: it then left the one before at another position.
    fn has_history_of(&self, state: &State, line: &str, timeline: Timeline) -> bool {
        let promotion = state.promotions.iter().find(|p| p.promotion_id == line);
        let published = promotion.and_then(|p| p.published.as_ref()).filter(|p| p.timeline == timeline);
        // What a promotion that was not published wrote is not known.
        published.is_none_or(|p| history::read_forks(&self.place, timeline).is_ok_and(|own| own == p.forks))
    }

    async fn probe(&self) -> Result<Server, PgError> {
        let mut prober = Prober::new(Arc::clone(&self.session), self.segment_bytes());
        Ok(prober.ask(PROBE_LIMIT).await?.server)
    }

    async fn follow(&self, node: &NodeName, epoch: Epoch, line: &str) -> Result<Done, PgError> {
        let upstream = self.upstream(node)?;
        self.still_in(epoch)?;
        self.remember(|f| {
            f.line = Some(line.to_owned());
            f.strayed = None;
            f.following = Some((epoch, node.clone()));
        })?;
        self.configure(Some(upstream), sync_of_standby(&self.store.state())).await?;
        Ok(Done::Following(RejoinWay::Follow))
    }

    async fn set_sync(&self, sync: &SyncSet) -> Result<Done, PgError> {
        self.configure(None, sync.clone()).await?;
        Ok(Done::Configured(sync.clone()))
    }

    async fn promote(&self, epoch: Epoch, line: &str, sync: &SyncSet) -> Result<Done, PgError> {
        self.still_in(epoch)?;
        self.remember(|f| {
            f.line = Some(line.to_owned());
            f.following = None;
            f.promised = f.promised.max(epoch);
            f.promoted_for = epoch;
            // It was chosen with all that counts, or somebody accepted what is lost by it.
            f.copied = false;
            f.clone_ordered = None;
        })?;
        // Clients wait for this: what was seen to be obeyed is not said again.
        let said = lock(&self.sealed_with).as_ref() == Some(sync);
        if !said || promote::sync_names(&self.session).await? != configuration::sync_setting(sync) {
            self.configure(None, sync.clone()).await?;
        }
        // Whether sessions wait may still follow what was taken back (see `postgres::sync`).
        if self.sync_taken_back.load(Ordering::Relaxed) != 0 && !sync.is_open() {
            prepare::checkpoint(&self.place).await?;
            self.sync_taken_back.store(0, Ordering::Relaxed);
        }
        let server = promote::promote(&self.session).await?;
        promote::checkpoint_soon(self.place.clone());
        Ok(Done::Promoted(server, sync.clone()))
    }

    async fn prepare(&self, id: &str) -> Result<Done, PgError> {
        prepare::checkpoint(&self.place).await?;
        prepare::begin_segment(&self.place, self.segment_bytes()).await?;
        Ok(Done::Checkpointed(id.to_owned()))
    }

    /// Where the shutdown checkpoint begins, when the server has stopped in order.
    ///
    /// # Errors
    /// When the data directory cannot be read.
    pub async fn shut_down_at(&self) -> Result<Option<Lsn>, PgError> {
        Ok(control::look(&self.place).await?.1.and_then(|c| c.shut_down_at))
    }

    /// Ends the server at once and returns when its last process is gone.
    async fn fence(&self) -> Result<Done, PgError> {
        if let Some(guard) = self.guard() {
            if let Err(e) = guard.kill().await {
                tracing::error!("the guard does not end its server, so it is ended itself: {e}");
                guard.end_guard();
            }
            self.wait_for_end(STOP_LIMIT).await?;
        }
        self.end_orphan().await?;
        Ok(Done::Plain)
    }

    /// Stops the server in order; at once when that takes too long, or when it has no guard.
    ///
    /// # Errors
    /// When it cannot be stopped.
    pub async fn stop(&self, limit: Duration) -> Result<(), PgError> {
        let Some(guard) = self.guard() else { return self.end_orphan().await };
        let told = guard.stop(StopMode::Fast).await;
        // A guard that is short of time has told the server nevertheless; one that is stopped has not.
        let silent = matches!(told, Err(GuardError::Timeout { .. }));
        let limit = if silent { limit.min(SILENT_GUARD_LIMIT) } else { limit };
        if self.wait_for_end(limit).await.is_err() {
            let why =
                told.err().map_or_else(|| format!("not within {} s", limit.as_secs()), |e| e.to_string());
            tracing::warn!("the server did not stop in order ({why}); ended at once");
            self.fence().await?;
        }
        // The guard may have been lost rather than at its end.
        process::end_orphan(&self.place).await
    }

    /// The loop drops the guard when it hears that the last process is gone.
    async fn wait_for_end(&self, limit: Duration) -> Result<(), PgError> {
        let began = std::time::Instant::now();
        while self.guard().is_some() {
            if began.elapsed() > limit {
                return Err(PgError::Slow { doing: "stopping the server".into(), limit_s: limit.as_secs() });
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    async fn rewind(&self, from: &NodeName, epoch: Epoch, line: &str) -> Result<Done, PgError> {
        let upstream = self.upstream(from)?;
        let timeline = self.store.state().last_published().map_or(0, |(_, published)| published.timeline);
        self.keep_lost(line).await?;
        rewind::wait_for_checkpoint(&upstream, timeline).await?;
        self.stop(START_LIMIT).await?;
        self.still_in(epoch)?;
        self.remember(|f| f.unfinished = Some(Unfinished::Rewind))?;
        let mut telling = self.telling(from);
        let rewinding = async {
            let noting = |done, total| telling.note(done, total);
            let rewound = rewind::rewind(&self.place, &upstream, timeline, noting).await;
            rewound.map_err(|e| room::explain(&self.place, e, None))?;
            self.remember(|f| {
                f.unfinished = None;
                f.inconsistent = true;
                f.rewound_for = Some(epoch);
                f.line = Some(line.to_owned());
            })
        };
        // What the cluster lost may take long to examine: cut short by then, the rewind has ended all the same.
        let (rewound, ()) = tokio::join!(rewinding, self.examine_lost());
        rewound?;
        drop(telling);
        Ok(Done::DataChanged(RejoinWay::Rewind))
    }
}
