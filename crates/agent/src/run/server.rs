//! What the loop knows of its own server: from the guard (certain) and from probes (what the server says).

use super::{Event, Run, now};
use crate::guard::{GuardEvent, GuardHandle};
use crate::hands::Done;
use crate::marker::Facts;
use crate::postgres::probe::Probe;
use crate::postgres::sync::{Replies, Sessions, SyncWatch};
use crate::postgres::{PgError, prepare};
use crate::probing;
use crate::reach;
use cluster::brake;
use cluster::configuration::Pending;
use cluster::copy;
use cluster::exposure::Written;
use cluster::handover::Hindrance;
use cluster::observe::{DataDir, Replica, Server};
use cluster::state::{Degrade, Replication};
use cluster::step::Local;
use cluster::{Moment, NodeName};
use std::collections::BTreeMap;
use std::time::Duration;

/// Pause between two probes of a server that starts.
const PROBE_STARTING: Duration = Duration::from_millis(20);
/// Of both servers of a switchover while clients wait for what they do.
const PROBE_AWAITED: Duration = Duration::from_millis(5);
/// Pause between two looks for a server whose guard was lost; doubled up to the maximum.
const FIND_AGAIN_EVERY: Duration = Duration::from_millis(200);
const FIND_AGAIN_EVERY_MAX: Duration = Duration::from_secs(5);

/// Besides `Local`.
pub(super) struct ServerSight {
    /// Grows with each start.
    pub generation: u64,
    /// Whether a guard is attached.
    pub guarded: bool,
    /// When the last server was known to have ended.
    pub ended_at: Option<Moment>,
    /// Whether it answered since it started: not answering afterwards is no starting.
    was_up: bool,
    /// When it last answered (or was found).
    pub answered_at: Moment,
    /// When it was started (or was found).
    since: Moment,
    /// Since when it has streamed at every answer.
    streaming_since: Option<Moment>,
    /// Age of the last WAL message at `answered_at`.
    pub wal_silent_ms: Option<u64>,
    /// A primary's standbys.
    pub replicas: BTreeMap<NodeName, Replica>,
    /// When they last answered.
    replies: Replies,
    /// How far it has written as a primary.
    pub written: Written,
    /// Where its sessions are told not to wait for standbys.
    pub opted_out: Vec<String>,
    /// Whether it obeys the sync set.
    pub sync: SyncWatch,
    /// What speaks against stopping or promoting it.
    pub hindrances: Vec<Hindrance>,
    /// What it takes on only when it starts again.
    pub pending: Vec<Pending>,
    /// For people.
    pub problem: Option<String>,
}

impl ServerSight {
    pub(super) fn new(attached: bool, now: Moment) -> ServerSight {
        ServerSight {
            generation: 0,
            guarded: attached,
            ended_at: None,
            was_up: attached,
            answered_at: now,
            since: now,
            streaming_since: None,
            wal_silent_ms: None,
            replicas: BTreeMap::new(),
            replies: Replies::default(),
            written: Written::default(),
            opted_out: Vec::new(),
            sync: SyncWatch::default(),
            hindrances: Vec::new(),
            pending: Vec::new(),
            problem: None,
        }
    }
}

/// Takes what the marker remembers into `local`, where it concerns the present data directory.
pub(super) fn recall(local: &mut Local, facts: &Facts) {
    let same = match (&local.data, facts.system_identifier) {
        (DataDir::Present { system_identifier }, Some(known)) => *system_identifier == known,
        _ => true,
    };
    local.promised = facts.promised;
    local.promoted_for = facts.promoted_for;
    local.unfinished = facts.unfinished;
    local.line = facts.line.clone().filter(|_| same);
    local.following = facts.following.clone().filter(|_| same);
    local.must_clone = facts.clone_ordered.clone().or(local.must_clone.take());
    local.inconsistent = facts.inconsistent;
    local.copied = facts.copied;
    local.rewound_for = facts.rewound_for;
    local.sync_revision = facts.sync_revision;
    local.restarted = facts.restarted.clone();
    local.configured = facts.configured;
}

impl Run {
    pub(super) fn recall_facts(&mut self) {
        if let Some(hands) = &self.parts.hands {
            recall(&mut self.local, &hands.facts());
        }
    }

    /// Looks at the data directory, in a task of its own.
    pub(super) fn look_at_data(&self) {
        let Some(hands) = self.parts.hands.clone() else { return };
        let events = self.events.clone();
        tokio::spawn(async move {
            let found = hands.look().await.map_err(|e| e.to_string());
            let _ = events.send(Event::Looked(found)).await;
        });
    }

    pub(super) fn on_looked(&mut self, found: Result<DataDir, String>) {
        self.acting.looking = false;
        match found {
            Ok(data) => {
                self.local.data = data.clone();
                self.server.problem = None;
                if let (DataDir::Present { system_identifier }, Some(hands)) = (data, &self.parts.hands)
                    && hands.facts().system_identifier.is_none()
                    && let Err(e) = hands.remember(|f| f.system_identifier = Some(system_identifier))
                {
                    tracing::error!("{e}");
                }
                self.recall_facts();
            }
            Err(problem) => {
                tracing::error!("cannot look at the data directory: {problem}");
                self.server.problem = Some(problem);
            }
        }
        self.aim_probe();
    }

    /// A server was started, or a running one was found.
    pub(super) fn server_started(&mut self) {
        // The guard's own word that it has ended came first.
        if self.parts.hands.as_ref().is_none_or(|hands| hands.guard().is_none()) {
            return;
        }
        self.server.generation += 1;
        self.server.guarded = true;
        self.server.was_up = false;
        self.server.answered_at = now();
        self.server.since = now();
        self.server.streaming_since = None;
        self.forget_standbys();
        self.local.server = Server::Starting;
        self.local.told = false;
        self.local.seal = None;
        self.local.sync_configured = None;
        self.local.told_to_promote = self.parts.hands.as_ref().and_then(|hands| pending_promotion(hands));
        self.aim_probe();
    }

    pub(super) fn on_guard(&mut self, event: GuardEvent) {
        let Some(hands) = self.parts.hands.clone() else { return };
        hands.drop_guard();
        self.leash.guard_is_gone();
        match event {
            GuardEvent::Ended { code, fenced } => {
                // First, as whatever takes the log may hang.
                self.server_ended();
                let how = if fenced { "fenced: its lease had ended" } else { "ended" };
                tracing::warn!("the server {how} ({code:?}); its last process is gone");
            }
            GuardEvent::Lost => {
                tracing::error!("the guard is gone; looking for what became of the server");
                self.local.server = Server::Unknown;
                self.server.guarded = false;
                self.aim_probe();
                let events = self.events.clone();
                let search = self.acting.hold_for_guard();
                tokio::spawn(async move {
                    let found = find_again(&hands).await;
                    let _ = events.send(Event::FoundAgain { search, found }).await;
                });
            }
        }
    }

    pub(super) fn server_ended(&mut self) {
        self.server.guarded = false;
        self.note_orderly_stop();
        self.server.replicas.clear();
        self.server.wal_silent_ms = None;
        self.server.pending.clear();
        self.local.stuck = false;
        self.server.sync.server_ended();
        self.forget_standbys();
        self.local.server = Server::Stopped;
        self.local.seal = None;
        self.local.lease = None;
        self.local.told_to_promote = None;
        self.server.ended_at = Some(now());
        self.aim_probe();
    }

    pub(super) fn aim_probe(&mut self) {
        let Some(hands) = &self.parts.hands else { return };
        let starting = matches!(self.local.server, Server::Starting | Server::Unknown);
        let every = Duration::from_millis(self.settings().heartbeat_ms());
        let draining = self.draining();
        let target = self.server.guarded.then(|| probing::Target {
            generation: self.server.generation,
            segment_bytes: hands.segment_bytes(),
            watch_clients: draining,
            configured: self.local.configured,
            every: match (starting, draining || self.taking_over()) {
                (true, _) => PROBE_STARTING,
                (_, true) => PROBE_AWAITED,
                _ => every,
            },
        });
        self.tasks.probe.send_if_modified(|t| std::mem::replace(t, target.clone()) != target);
    }

    pub(super) fn on_probed(&mut self, generation: u64, found: Result<Probe, String>) {
        if generation != self.server.generation || !self.server.guarded {
            return;
        }
        match found {
            Ok(probe) if probe.server != Server::Starting => self.on_answer_of_server(probe),
            other => {
                let silent_ms = now().since(self.server.answered_at);
                self.local.server = match (self.server.was_up, &other) {
                    (true, _) if silent_ms < self.settings().heartbeat_ms() => return,
                    (true, _) => Server::Unresponsive { silent_ms },
                    (false, _) => Server::Starting,
                };
                self.server.problem = other.err().filter(|_| self.server.was_up);
            }
        }
        self.aim_probe();
    }

    /// What the standbys have, and how far the primary is ahead of them.
    fn see_standbys(&mut self, probe: &Probe) {
        self.server.replicas.clone_from(&probe.replicas);
        let Server::Primary { lsn, .. } = &probe.server else { return self.forget_standbys() };
        brake::remember(&mut self.local.standbys, &probe.replicas);
        if let Some(next_xid) = probe.next_xid {
            self.server.written.note(now(), *lsn, next_xid);
        }
    }

    fn forget_standbys(&mut self) {
        self.local.standbys.clear();
        self.server.written = Written::default();
    }

    /// Whether sessions of the primary wait for standbys, before the next set is configured.
    pub(super) fn sessions(&self) -> Sessions {
        match self.state.settings.as_ref().map(|s| s.replication) {
            Some(Replication::Quorum { degrade: Degrade::Available, .. }) => Sessions::MayNotWait,
            _ => Sessions::Wait,
        }
    }

    fn make_commits_wait(&mut self) {
        let Some(hands) = self.parts.hands.clone() else { return };
        let Some(number) = self.server.sync.begin_checkpoint() else { return };
        tracing::info!("makes a checkpoint, after which commits surely wait for standbys again");
        let events = self.events.clone();
        tokio::spawn(async move {
            let outcome = prepare::checkpoint(&hands.place).await.map_err(|e| e.to_string());
            let _ = events.send(Event::CommitsWait(number, outcome)).await;
        });
    }

    pub(super) fn on_commits_wait(&mut self, number: u64, outcome: &Result<(), String>) {
        if let Err(said) = outcome {
            tracing::warn!("no checkpoint, so commits may still not wait for standbys: {said}");
        }
        self.server.sync.checkpoint_ended(number, outcome.is_ok());
    }

    fn on_answer_of_server(&mut self, mut probe: Probe) {
        self.server.replies.see(&probe.senders, &mut probe.replicas, now(), self.detect_ms());
        self.server.was_up = true;
        self.server.answered_at = now();
        self.server.problem = None;
        self.server.wal_silent_ms = probe.wal_silent_ms;
        self.see_standbys(&probe);
        self.server.opted_out.clone_from(&probe.opted_out);
        self.server.hindrances = probe.hindrances;
        self.server.pending = probe.pending;
        self.local.stuck = probe.stuck;
        self.drain.see(self.state.handover.as_ref(), probe.clients, now());
        if let Server::Primary { lsn, .. } = &probe.server {
            self.local.told_to_promote = None;
            if self.parts.hands.as_ref().is_some_and(|hands| hands.sync_was_taken_back()) {
                self.server.sync.lapse();
            }
            self.server.sync.see(&probe.sync_names, &probe.senders, *lsn, now());
            self.mind_overridden_sync(&probe.sync_names);
            self.make_commits_wait();
        }
        if let Server::Standby(_) = &probe.server
            && self.local.inconsistent
            && let Some(hands) = &self.parts.hands
        {
            match hands.remember(|f| f.inconsistent = false) {
                Ok(()) => self.local.inconsistent = false,
                Err(e) => tracing::error!("{e}"),
            }
        }
        let streams = matches!(&probe.server, Server::Standby(standby) if standby.streaming);
        let since = streams.then(|| self.server.streaming_since.unwrap_or_else(now));
        self.server.streaming_since = since;
        self.local.server = probe.server;
        // A WAL receiver says so before it has received anything; where its upstream has removed the WAL, it ends at once.
        if let Some(since) = since.filter(|since| now().since(*since) >= self.detect_ms() / 2) {
            self.note_streaming(since);
        }
        self.note_caught_up();
    }

    fn mind_overridden_sync(&mut self, shown: &str) {
        if !self.server.sync.overridden() || self.local.sync_configured.is_none() {
            return;
        }
        tracing::error!(
            "synchronous_standby_names = '{shown}' is not what pgkeel has set; it is set again. Until then commits may have \
             been acknowledged that no standby has"
        );
        self.local.sync_configured = None;
    }

    /// What the primary had is compared with what this server has shown later.
    fn note_caught_up(&mut self) {
        let Some(hands) = self.parts.hands.as_ref().filter(|_| self.local.copied) else { return };
        let heard = reach::heard(&self.heard);
        let of_present = heard.target.as_ref().is_some_and(|t| t.epoch == self.state.epoch);
        let since = heard.lsn_asked_ms.is_some_and(|asked| asked > self.server.since.0);
        let primary_lsn = heard.lsn.filter(|_| of_present && since);
        if !copy::caught_up(&self.state, &self.local, primary_lsn) {
            return;
        }
        match hands.remember(|f| f.copied = false) {
            Ok(()) => self.local.copied = false,
            Err(e) => tracing::error!("{e}"),
        }
    }
}

/// The epoch for which a running server that was found may have been told to promote: it was under a lease when it was found,
/// and what the node did last was to promote it. Nobody takes the deadline off a server that was told to.
pub(super) fn pending_promotion(hands: &crate::hands::Hands) -> Option<cluster::Epoch> {
    let facts = hands.facts();
    let leased = hands.guard()?.deadline_at_attach_ms().is_some();
    (leased && facts.promoted_for == facts.promised && facts.promoted_for > 0).then_some(facts.promoted_for)
}

/// The guard was killed: attach again if it lives after all, else make sure that its server is gone. Until one of them
/// succeeds nothing may be done with the server.
async fn find_again(hands: &crate::hands::Hands) -> Done {
    let mut pause = FIND_AGAIN_EVERY;
    loop {
        match try_to_find(hands).await {
            Ok(found) => return found,
            Err(e) => tracing::error!("it is not known what became of the server: {e}; tries again"),
        }
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(FIND_AGAIN_EVERY_MAX);
    }
}

async fn try_to_find(hands: &crate::hands::Hands) -> Result<Done, PgError> {
    if let Some((guard, events)) = GuardHandle::attach(&hands.place.guard_socket()).await? {
        hands.adopt(guard, events);
        return Ok(Done::Started);
    }
    crate::postgres::process::end_orphan(&hands.place).await?;
    Ok(Done::Ended)
}
