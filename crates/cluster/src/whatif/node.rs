//! A node as it would go on: from its last heartbeat, doing each step it is told in the time that PostgreSQL needs.

use crate::basics::{Lsn, Millis, Moment, NodeName};
use crate::handover::{Progress, Stopped};
use crate::observe::{Observation, Promoted, Replica, Seal, Seen, Server, Standby, SyncApplied};
use crate::state::{Fork, Phase, State};
use crate::step::{Local, Step, Wait, step};
use std::collections::{BTreeMap, BTreeSet};

/// Emptying or setting `primary_conninfo`, reload, receiver gone: 15 ms (measured with PostgreSQL 15.18; design, chapter 3).
pub const RELOAD_MS: Millis = 15;
/// Promotion of a standby that has replayed all it has, until it takes a write: 100 ms (same source).
pub const PROMOTE_MS: Millis = 100;
/// Length of a shutdown checkpoint's record, rounded up (`CheckPoint` in src/include/catalog/pg_control.h).
const SHUTDOWN_RECORD_BYTES: u64 = 128;

/// A node of the supposed cluster.
pub(super) struct Node {
    /// Its last heartbeat: what is not supposed to change is taken from here.
    base: Observation,
    pub(super) local: Local,
    /// The step it does, and until when.
    busy: Option<(Moment, Step)>,
    forks: Vec<Fork>,
    stopped_at: Option<Lsn>,
}

impl Node {
    /// From its last heartbeat; `confirmed` is what the primary said that it has flushed.
    pub(super) fn new(state: &State, mut base: Observation, confirmed: Option<Lsn>) -> Node {
        if let Server::Standby(s) = &mut base.server {
            s.lsn = s.lsn.max(confirmed.unwrap_or_default());
        }
        let appointment = state.appointment();
        let is_primary = matches!(base.server, Server::Primary { .. }) && state.primary() == Some(&base.node);
        let follows = base.epoch == state.epoch && base.wal_silent_ms.is_some();
        let upstream = state.primary().filter(|p| follows && **p != base.node).cloned();
        // With an epoch open, one that has not sealed yet is still told to follow the last primary.
        let of_last = state.last_appointed.as_ref().filter(|a| match &base.server {
            Server::Standby(s) => appointment.is_none() && s.upstream.as_ref() == Some(&a.node),
            _ => false,
        });
        let of_present = appointment.filter(|_| is_primary || upstream.is_some()).or(of_last);
        let line = of_present.map(|a| a.promotion_id.clone());
        let local = Local {
            data: base.data.clone(),
            server: base.server.clone(),
            // A seal that it gave before it followed tells of the line before.
            line: line.or_else(|| base.seal.as_ref().and_then(|s| s.line.clone())),
            seal: base.seal.clone(),
            following: upstream.map(|p| (state.epoch, p)),
            copied: base.copied,
            promised: base.seal.as_ref().map_or(0, |s| s.epoch),
            promoted_for: if is_primary { state.epoch } else { 0 },
            sync_configured: is_primary.then(|| state.sync_target()),
            // What it has of the configuration changes nothing here.
            configured: u64::MAX,
            restarted: base.restarted.clone(),
            ..Local::default()
        };
        let forks = state.last_published().map(|(_, p)| p.forks.clone()).unwrap_or_default();
        Node { base, local, busy: None, forks, stopped_at: None }
    }

    /// When it ends what it does.
    pub(super) fn due(&self) -> Option<Moment> {
        self.busy.as_ref().map(|(due, _)| *due)
    }

    /// Begins what it is told, if it is idle and that can be foreseen.
    pub(super) fn begin(&mut self, state: &State, now: Moment) {
        if self.busy.is_some() {
            return;
        }
        let told = step(state, &self.base.node, &self.local, now);
        let cost = match &told {
            Step::Seal { .. } | Step::Follow { .. } | Step::SetSync { .. } => RELOAD_MS,
            Step::Promote { .. } => PROMOTE_MS,
            // Clients notice nothing of a checkpoint, and what follows it is short.
            Step::Checkpoint { .. } | Step::StopInOrder { .. } => 0,
            // How long these take, and whether they succeed, is not known beforehand.
            Step::Wait(_)
            | Step::Initialise
            | Step::Clone { .. }
            | Step::StartSealed
            | Step::StartPrimary
            | Step::Rewind { .. }
            | Step::Configure { .. }
            | Step::Restart { .. }
            | Step::RestartPrimary { .. }
            | Step::Fence { .. } => return,
        };
        self.busy = Some((now.plus(cost), told));
    }

    /// Ends what is due; says whether something was, and the position of a shutdown checkpoint.
    pub(super) fn end(&mut self, now: Moment) -> Option<Ended> {
        let (_, done) = self.busy.take_if(|(due, _)| *due <= now)?;
        let (timeline, lsn) = match &self.local.server {
            Server::Standby(s) => (s.timeline, s.lsn),
            Server::Primary { timeline, lsn } => (*timeline, *lsn),
            _ => return Some(Ended::Done),
        };
        match done {
            Step::Seal { epoch } => {
                self.local.server = standby(timeline, lsn, None);
                self.local.following = None;
                let line = self.local.line.clone();
                self.local.seal = Some(Seal { epoch, timeline, lsn, line, copied: self.local.copied });
            }
            Step::Follow { upstream, epoch, line } => {
                self.local.server = standby(timeline, lsn, Some(upstream.clone()));
                (self.local.line, self.local.following) = (Some(line), Some((epoch, upstream)));
                self.local.seal = None;
            }
            Step::Promote { epoch, line, sync } => {
                self.local.line = Some(line);
                self.local.promoted_for = epoch;
                self.local.sync_configured = Some(sync);
                self.forks.push(Fork { timeline, at: lsn });
                self.local.server = Server::Primary { timeline: timeline + 1, lsn };
                self.base.primary_lsn = Some(lsn);
            }
            Step::SetSync { sync, revision } => {
                self.local.sync_configured = Some(sync);
                self.local.sync_revision = revision;
            }
            Step::Checkpoint { id } => self.local.checkpointed = Some(id),
            Step::StopInOrder { .. } => {
                self.stopped_at = Some(lsn);
                self.local.server = Server::Stopped;
                return Some(Ended::StoppedAt(lsn));
            }
            _ => {}
        }
        Some(Ended::Done)
    }

    /// It streams from a server that stopped in order: it has all of it.
    pub(super) fn receive_all(&mut self, from: &NodeName, stopped_at: Lsn) {
        if let Server::Standby(s) = &mut self.local.server
            && s.upstream.as_ref() == Some(from)
        {
            s.lsn = Lsn(stopped_at.0 + SHUTDOWN_RECORD_BYTES);
            s.replay_lsn = s.lsn;
        }
    }

    /// Whether it receives WAL of `primary` in this epoch.
    pub(super) fn follows(&self, state: &State, primary: &NodeName) -> bool {
        let told = self.local.following.as_ref() == Some(&(state.epoch, primary.clone()));
        told && matches!(&self.local.server, Server::Standby(s) if s.upstream.as_ref() == Some(primary))
    }

    /// What it has flushed, as a standby.
    pub(super) fn flushed(&self) -> Option<Lsn> {
        match &self.local.server {
            Server::Standby(s) => Some(s.lsn),
            _ => None,
        }
    }

    /// The standbys that its server would list: those it listed before, as far as they are left, and those that follow.
    fn replicas(&self, following: &BTreeMap<NodeName, Lsn>) -> BTreeMap<NodeName, Replica> {
        if !matches!(self.local.server, Server::Primary { .. }) {
            return BTreeMap::new();
        }
        let seen = |node: &NodeName, lsn: &Lsn| match self.base.replicas.get(node) {
            Some(before) if before.flush_lsn >= *lsn => before.clone(),
            _ => Replica { streaming: true, flush_lsn: *lsn, replay_lsn: *lsn },
        };
        following.iter().map(|(node, lsn)| (node.clone(), seen(node, lsn))).collect()
    }

    /// What it would tell the leader.
    pub(super) fn report(
        &self,
        state: &State,
        before: &Before<'_>,
        following: &BTreeMap<NodeName, Lsn>,
    ) -> Observation {
        let primary = state.primary();
        let mut o = self.base.clone();
        o.serial = ("what if".to_owned(), 0);
        (o.epoch, o.seen) = (state.epoch, Seen::of(state));
        o.server = self.local.server.clone();
        o.seal = self.local.seal.clone().filter(|s| s.epoch == state.epoch);
        o.promoted = self.promoted(state);
        o.rejoined = None;
        o.replicas = self.replicas(following);
        if before.primary == Some(&o.node) && state.primary() == before.primary {
            let unheard = self.base.replicas.iter().filter(|(node, _)| before.unheard.contains(*node));
            o.replicas.extend(unheard.map(|(node, replica)| (node.clone(), replica.clone())));
        }
        o.revision = state.revision;
        o.sync_applied = self.sync_applied(state);
        o.handover = self.progress(state);
        let same = primary == before.primary;
        let age = |known: Option<Millis>| match (same, before.cut_ms) {
            (true, Some(cut)) => Some(known.unwrap_or(0) + cut),
            (true, None) => known,
            (false, _) => Some(0),
        };
        o.primary_agent_silent_ms =
            primary.filter(|p| **p != o.node).and_then(|_| age(o.primary_agent_silent_ms));
        let follows = primary.is_some_and(|p| self.follows(state, p));
        o.wal_silent_ms = if follows { age(o.wal_silent_ms) } else { None };
        o
    }

    fn promoted(&self, state: &State) -> Option<Promoted> {
        let Phase::Promoting { appointment } = &state.phase else { return None };
        let Server::Primary { timeline, .. } = self.local.server else { return None };
        let done = appointment.node == self.base.node
            && self.local.line.as_deref() == Some(appointment.promotion_id.as_str());
        let system_identifier = state.system_identifier.filter(|_| done)?;
        Some(Promoted { epoch: state.epoch, timeline, forks: self.forks.clone(), system_identifier })
    }

    /// Its server obeys what it was told.
    fn sync_applied(&self, state: &State) -> Option<SyncApplied> {
        let Server::Primary { lsn, .. } = self.local.server else { return None };
        let wanted = step(state, &self.base.node, &self.local, Moment(0));
        let before = self.base.sync_applied.clone();
        match wanted {
            Step::Wait(Wait::Primary) => {
                let set = self.local.sync_configured.clone()?;
                Some(before.filter(|b| b.set == set).unwrap_or(SyncApplied { set, since: lsn }))
            }
            _ => before,
        }
    }

    fn progress(&self, state: &State) -> Option<Progress> {
        let handover = state.handover.as_ref().filter(|h| h.from == self.base.node)?;
        Some(Progress {
            id: handover.id.clone(),
            checkpointed: self.local.checkpointed.as_ref() == Some(&handover.id),
            drained: true,
            open_transactions: 0,
            stopped: self.stopped_at.map(|at| Stopped::InOrder { at }),
        })
    }
}

/// What was before the event.
pub(super) struct Before<'a> {
    /// The primary.
    pub(super) primary: Option<&'a NodeName>,
    /// It has been cut off for so long.
    pub(super) cut_ms: Option<Millis>,
    /// Nodes whose agents were silent already.
    pub(super) unheard: &'a BTreeSet<NodeName>,
}

/// What ended.
pub(super) enum Ended {
    /// A step.
    Done,
    /// The server, in order, with its shutdown checkpoint here.
    StoppedAt(Lsn),
}

fn standby(timeline: u32, lsn: Lsn, upstream: Option<NodeName>) -> Server {
    let streaming = upstream.is_some();
    Server::Standby(Standby { timeline, lsn, replay_lsn: lsn, upstream, streaming, replay_lag_ms: None })
}
