//! Carries out what `step` says: one step at a time; only a fence interrupts.

use super::{Event, Run, now};
use crate::hands::{Done, Hands};
use crate::postgres::sync::Sessions;
use crate::postgres::{aside, configuration, slots};
use cluster::copy::CloneCause;
use cluster::handover::Stopped;
use cluster::observe::{RejoinWay, Rejoined, Server};
use cluster::state::State;
use cluster::step::{self, Step, Wait};
use cluster::{Epoch, Lsn, Millis, Moment, NodeName, Timeline};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::AbortHandle;

/// Pause after a failed step before the same one is tried again; doubled up to the maximum.
const RETRY_MS: Millis = 200;
const RETRY_MS_MAX: Millis = 5000;
/// Pause between two rounds of slot keeping.
const SLOTS_MS: Millis = 5000;
/// How long an orderly stop may take before it becomes an immediate one.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// The step that is under way, and what became of earlier ones.
#[derive(Default)]
pub(super) struct Acting {
    running: Option<Running>,
    /// The guard is being looked for: no step meanwhile.
    holding: bool,
    /// Counts the searches.
    search: u64,
    /// The data directory was exchanged and is being looked at: what is known of it is of the old one.
    pub(super) looking: bool,
    failure: Option<Failure>,
    /// Why the last step is a wait.
    waiting: Option<Wait>,
    rejoin: Option<Rejoin>,
    /// Why the last clone was made.
    cause: Option<CloneCause>,
    /// The last rejoin that ended well, told until it is recorded.
    pub(super) rejoined: Option<Rejoined>,
    /// How this node's server stopped for a switchover.
    pub(super) stopped: Option<(String, Stopped)>,
    /// What was set aside has been looked at since the last change of the data.
    aside_noted: bool,
    slots_kept_at: Option<Moment>,
    slots_running: bool,
    slots_problem: Option<String>,
}

/// A step under way. It stays until it has really ended: no two steps ever work at once.
struct Running {
    step: Step,
    abort: AbortHandle,
    given_up: bool,
}

impl Running {
    fn give_up(&mut self) {
        self.given_up = true;
        self.abort.abort();
    }
}

struct Failure {
    step: Step,
    said: String,
    pause_ms: Millis,
    again_at: Moment,
}

/// A rejoin under way.
struct Rejoin {
    epoch: Epoch,
    way: RejoinWay,
    from_timeline: Timeline,
    from_lsn: Lsn,
    began: Moment,
}

impl Acting {
    /// No step before the search of this number has ended.
    pub(super) fn hold_for_guard(&mut self) -> u64 {
        self.holding = true;
        self.search += 1;
        self.search
    }

    /// It is not known what became of its server.
    pub(super) fn seeks_server(&self) -> bool {
        self.holding
    }

    /// Its server is about to run: that it does not run yet is no word to rely on. A leader that heard it would take the lease
    /// for returned, and the server could be promoted meanwhile.
    pub(super) fn starts_server(&self) -> bool {
        self.does(|step| {
            matches!(
                step,
                Step::StartPrimary | Step::StartSealed | Step::Restart { .. } | Step::RestartPrimary { .. }
            )
        })
    }

    fn does(&self, which: impl FnOnce(&Step) -> bool) -> bool {
        self.running.as_ref().is_some_and(|running| which(&running.step))
    }

    pub(super) fn is_idle(&self) -> bool {
        self.running.is_none() && self.failure.is_none()
    }

    /// The step that is under way, for people.
    pub(super) fn under_way(&self) -> Option<String> {
        self.running.as_ref().map(|running| describe_step(&running.step))
    }

    /// For people: what is being done, and what went wrong.
    pub(super) fn describe(&self) -> (String, Option<String>) {
        let doing = match (&self.running, &self.waiting) {
            (Some(running), _) => describe_step(&running.step),
            (None, Some(wait)) => wait.to_string(),
            (None, None) => "starting".to_owned(),
        };
        let failed = self.failure.as_ref().map(|f| format!("{} failed: {}", describe_step(&f.step), f.said));
        (doing, failed.or_else(|| self.slots_problem.clone()))
    }
}

/// A copy for a primary that is none any more: what this node has may be needed meanwhile.
fn in_vain(state: &State, running: &Step) -> bool {
    let line = state.appointment().map(|appointment| &appointment.promotion_id);
    matches!(running, Step::Clone { line: copied, .. } if line != Some(copied))
}

/// A fence waits for nothing, and a copy of what is the primary's no more is in vain: what the node has may be needed.
fn overtakes(wanted: &Step, running: &Step) -> bool {
    match (wanted, running) {
        (Step::Fence { .. }, Step::Fence { .. }) => false,
        (Step::Fence { .. }, _) => true,
        (Step::Clone { line: a, .. }, Step::Clone { line: b, .. }) => a != b,
        (Step::Seal { .. } | Step::Follow { .. }, Step::Clone { .. }) => true,
        _ => false,
    }
}

fn describe_step(step: &Step) -> String {
    match step {
        Step::Wait(wait) => wait.to_string(),
        Step::Initialise => "makes the database, or takes over the one that is there".to_owned(),
        Step::Clone { from, cause, .. } => format!("clones {from} (pg_basebackup), because {cause}"),
        Step::StartSealed => "starts its server as a sealed standby".to_owned(),
        Step::StartPrimary => "starts its server as primary".to_owned(),
        Step::Seal { epoch } => format!("seals for epoch {epoch}"),
        Step::Follow { upstream, .. } => format!("turns to {upstream}"),
        Step::Rewind { from, .. } => format!("rewinds to {from} (pg_rewind)"),
        Step::Promote { epoch, .. } => format!("promotes for epoch {epoch}"),
        Step::SetSync { .. } => "configures its synchronous standbys".to_owned(),
        Step::Configure { version } => format!("takes on version {version} of the configuration"),
        Step::Restart { token: Some(_) } => "restarts its server".to_owned(),
        Step::Restart { token: None } => {
            "restarts its server, which has fewer connections, workers or locks than its primary".to_owned()
        }
        Step::RestartPrimary { .. } => "restarts its server as primary".to_owned(),
        Step::Checkpoint { .. } => "makes a checkpoint before it hands over".to_owned(),
        Step::StopInOrder { .. } => "stops its server in order, to hand over".to_owned(),
        Step::Fence { epoch } => format!("ends its server: it is not the primary of epoch {epoch}"),
    }
}

impl Run {
    pub(super) fn act(&mut self) {
        let Some(hands) = self.parts.hands.clone() else {
            self.acting.waiting = Some(Wait::Witness);
            return;
        };
        if self.acting.holding || self.acting.looking {
            return;
        }
        let wanted = step::step(&self.state, &self.parts.me, &self.local, now());
        if let Some(running) = &mut self.acting.running {
            let overtaken = overtakes(&wanted, &running.step) || in_vain(&self.state, &running.step);
            if overtaken && !running.given_up {
                tracing::warn!("gives up: {}", describe_step(&running.step));
                running.give_up();
                // A fence waits for nothing, not for a step that hangs at a disk either.
                if let (Step::Fence { .. }, Some(guard)) = (&wanted, hands.guard()) {
                    tokio::spawn(async move { guard.kill().await });
                }
            }
            return;
        }
        if let Step::Wait(wait) = wanted {
            self.acting.waiting = Some(wait);
            self.keep_slots(hands);
            return;
        }
        // It begins where the record is now. A server that must end, ends.
        if self.is_moving() && !matches!(wanted, Step::Fence { .. }) {
            return;
        }
        if self.leave.is_going() {
            // Whoever comes begins it. A server that must end is no reason to go.
            if let Step::Fence { .. } = &wanted {
                self.leave.stay(describe_step(&wanted));
            } else {
                return;
            }
        }
        if let Some(failure) = &self.acting.failure
            && failure.step == wanted
            && now() < failure.again_at
        {
            return;
        }
        self.begin(hands, wanted);
    }

    fn begin(&mut self, hands: Arc<Hands>, wanted: Step) {
        tracing::info!("{}", describe_step(&wanted));
        self.note_rejoin_begin(&wanted);
        if let Step::SetSync { sync, .. } | Step::Promote { sync, .. } = &wanted {
            let setting = configuration::sync_setting(sync);
            // On a standby sessions are made to wait from its start on (`step::sync_of_standby`).
            let promotes = matches!(wanted, Step::Promote { .. });
            let before = if promotes { Sessions::Wait } else { self.sessions() };
            self.server.sync.configured(sync.clone(), setting, before);
        }
        // From here on the promotion cannot be taken back.
        if let Step::Promote { epoch, .. } = &wanted {
            self.local.told_to_promote = Some(*epoch);
        }
        let leased = self.local.lease.filter(|_| matches!(wanted, Step::Promote { .. }));
        let deadline = leased.map(|(_, until)| self.deadline_of(until));
        let events = self.events.clone();
        let step = wanted.clone();
        let work = tokio::spawn(async move {
            let held = match (deadline, hands.guard()) {
                (None, _) => Ok(()),
                // It was told so when the lease came; a primary begins only under a deadline that is surely in force.
                (Some(deadline), Some(guard)) => {
                    let told = hands.hold_to(&guard, hands.turn(), Some(deadline)).await;
                    told.map_err(|e| format!("the guard does not hold the lease: {e}"))
                }
                (Some(_), None) => Err("the server has no guard that could hold the lease".to_owned()),
            };
            held?;
            hands.carry_out(&step).await.map_err(|e| e.to_string())
        });
        self.acting.running = Some(Running { step: wanted, abort: work.abort_handle(), given_up: false });
        tokio::spawn(async move {
            // Given up, or a defect of ours.
            let outcome = work.await.unwrap_or_else(|e| Err(e.to_string()));
            let _ = events.send(Event::StepDone(Box::new(outcome))).await;
        });
    }

    pub(super) fn on_step_done(&mut self, outcome: Result<Done, String>) {
        let running = self.acting.running.take();
        let given_up = running.as_ref().is_some_and(|running| running.given_up);
        let step = running.map(|running| running.step);
        self.recall_facts();
        match outcome {
            Ok(done) => {
                self.acting.failure = None;
                self.on_done(done);
            }
            Err(_) if given_up => self.look_at_data(),
            Err(said) => {
                let Some(step) = step else {
                    tracing::error!("{said}");
                    return;
                };
                tracing::warn!("{} failed: {said}", describe_step(&step));
                let before = self.acting.failure.take().filter(|f| f.step == step).map_or(0, |f| f.pause_ms);
                let pause_ms = (before * 2).clamp(RETRY_MS, RETRY_MS_MAX);
                let again_at = now().plus(pause_ms);
                self.acting.failure = Some(Failure { step, said, pause_ms, again_at });
                self.look_at_data();
            }
        }
        // A server may have been started by a step that failed later.
        if !self.server.guarded && self.parts.hands.as_ref().is_some_and(|h| h.guard().is_some()) {
            self.server_started();
        }
        self.aim_probe();
        self.tasks.hurry.notify_one();
    }

    /// Steps are taken again.
    pub(super) fn on_found_again(&mut self, search: u64, found: Done) {
        if search != self.acting.search {
            return;
        }
        self.acting.holding = false;
        self.on_done(found);
        self.aim_probe();
        self.tasks.hurry.notify_one();
    }

    fn on_done(&mut self, done: Done) {
        match done {
            Done::Plain => {}
            // The server of which they speak has ended, or was lost: the guard's word was handled first.
            Done::Sealed(_) | Done::Promoted(..) if !self.server.guarded => {}
            Done::Started => self.server_started(),
            Done::Ended => self.server_ended(),
            Done::Sealed(seal) => {
                if let Server::Standby(standby) = &mut self.local.server {
                    standby.upstream = None;
                    standby.streaming = false;
                    standby.lsn = seal.lsn;
                    standby.timeline = seal.timeline;
                }
                self.server.wal_silent_ms = None;
                self.local.seal = Some(seal);
            }
            Done::Configured(sync) => {
                self.server.sync.told(now());
                self.local.sync_configured = Some(sync);
            }
            Done::Checkpointed(id) => self.local.checkpointed = Some(id),
            Done::Promoted(server, sync) => {
                self.local.server = server;
                self.local.told_to_promote = None;
                self.server.sync.told(now());
                self.local.sync_configured = Some(sync);
                // The standbys need their slots here before they can stream.
                self.acting.slots_kept_at = None;
            }
            Done::Following(_) => {
                self.local.told = true;
                if let (Server::Standby(standby), Some((_, node))) =
                    (&mut self.local.server, &self.local.following)
                {
                    standby.upstream = Some(node.clone());
                }
            }
            Done::DataChanged(way) => {
                self.acting.looking = way == RejoinWay::Clone;
                self.local.must_clone = None;
                self.look_at_data();
            }
        }
    }

    fn note_rejoin_begin(&mut self, step: &Step) {
        let way = match step {
            Step::Follow { .. } => RejoinWay::Follow,
            Step::Rewind { .. } => RejoinWay::Rewind,
            Step::Clone { .. } => RejoinWay::Clone,
            _ => return,
        };
        if let Step::Clone { cause, .. } = step {
            self.acting.cause = Some(cause.clone());
        }
        let epoch = self.state.epoch;
        self.acting.aside_noted = false;
        let known = self.acting.rejoin.as_ref().is_some_and(|r| r.epoch == epoch);
        if known && way == RejoinWay::Follow {
            return; // the end of a rewind or a clone
        }
        let own = match (&self.local.seal, &self.local.server) {
            (Some(seal), _) => (seal.timeline, seal.lsn),
            (None, Server::Standby(standby)) => (standby.timeline, standby.lsn),
            (None, _) => (0, Lsn(0)),
        };
        let began = self.acting.rejoin.as_ref().filter(|_| known).map_or_else(now, |r| r.began);
        self.acting.rejoin = Some(Rejoin { epoch, way, from_timeline: own.0, from_lsn: own.1, began });
    }

    /// The server streams, for long enough: a rejoin has ended well, and what was set aside for it may go when it is pruned.
    pub(super) fn note_streaming(&mut self, since: Moment) {
        let Server::Standby(standby) = &self.local.server else { return };
        // Its data are about to be replaced: that it streams until then ends nothing.
        let replacing = self.acting.does(|step| matches!(step, Step::Clone { .. } | Step::Rewind { .. }));
        if replacing || self.local.must_clone.is_some() {
            return;
        }
        let follows = self.local.following.as_ref().is_some_and(|(epoch, _)| *epoch == self.state.epoch);
        if !standby.streaming || !follows {
            return;
        }
        let Some(hands) = self.parts.hands.clone() else { return };
        let lost = hands.facts().lost;
        if !std::mem::replace(&mut self.acting.aside_noted, true) {
            tokio::task::spawn_blocking(move || {
                if let Err(e) = aside::note_replaced(&hands.place) {
                    tracing::warn!("what was set aside could not be put in order: {e}");
                }
            });
        }
        let cause = self.acting.cause.take();
        let Some(rejoin) = self.acting.rejoin.take() else { return };
        if rejoin.epoch != self.state.epoch {
            return;
        }
        self.acting.rejoined = Some(Rejoined {
            epoch: rejoin.epoch,
            way: rejoin.way,
            from_timeline: rejoin.from_timeline,
            from_lsn: rejoin.from_lsn,
            took_ms: since.since(rejoin.began),
            cause: cause.filter(|_| rejoin.way == RejoinWay::Clone),
            lost,
        });
    }

    fn keep_slots(&mut self, hands: Arc<Hands>) {
        let up = matches!(self.local.server, Server::Standby(_) | Server::Primary { .. });
        let due = self.acting.slots_kept_at.is_none_or(|at| now().since(at) >= SLOTS_MS);
        if !up || !due || self.acting.slots_running || self.local.inconsistent {
            return;
        }
        self.acting.slots_running = true;
        self.acting.slots_kept_at = Some(now());
        let others = self.state.data_nodes().map(|(n, _)| n.clone()).collect();
        let heard = crate::reach::heard(&self.heard);
        let mut flushed = heard.flushed;
        // The primary has all that this node has: should it come back as a standby, it needs nothing older.
        if let (Some(target), Server::Standby(s)) = (&heard.target, &self.local.server) {
            flushed.insert(target.node.clone(), s.replay_lsn);
        }
        let (me, events): (NodeName, _) = (self.parts.me.clone(), self.events.clone());
        tokio::spawn(async move {
            let outcome = slots::keep(&hands.place, &me, &others, &flushed).await.map_err(|e| e.to_string());
            let _ = events.send(Event::SlotsKept(outcome)).await;
        });
    }

    pub(super) fn on_slots_kept(&mut self, outcome: Result<(), String>) {
        self.acting.slots_running = false;
        self.acting.slots_problem = outcome.err().map(|e| format!("replication slots: {e}"));
    }

    /// The process ends: stop the server in order and tell the leader that it is gone.
    pub(super) async fn stop_in_order(
        &mut self,
        inbox: &mut tokio::sync::mpsc::Receiver<Event>,
        guard_events: &mut tokio::sync::mpsc::UnboundedReceiver<crate::guard::GuardEvent>,
    ) {
        if let Some(running) = &mut self.acting.running {
            running.give_up();
        }
        let sought = self.acting.seeks_server();
        let Some(hands) = self.parts.hands.clone().filter(|h| h.guard().is_some() || sought) else { return };
        tracing::info!("stops its server");
        self.acting.holding = true;
        let stopping = tokio::spawn(async move { hands.stop(STOP_LIMIT).await });
        tokio::pin!(stopping);
        let mut told = None;
        loop {
            tokio::select! {
                ended = &mut stopping, if told.is_none() => {
                    match ended {
                        Ok(Ok(())) if sought => self.server_ended(),
                        Ok(Err(e)) => tracing::error!("{e}"),
                        Ok(Ok(())) | Err(_) => {}
                    }
                    // A moment for the last heartbeat: the others then need not find out by themselves.
                    told = Some(tokio::time::Instant::now() + Duration::from_millis(300));
                }
                Some(event) = guard_events.recv() => self.on_guard(event),
                Some(event) = inbox.recv() => self.on(event),
                () = sleep_until(told), if told.is_some() => return,
            }
            self.decide();
            self.tell();
            self.tell_hooks();
        }
    }
}

async fn sleep_until(moment: Option<tokio::time::Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
