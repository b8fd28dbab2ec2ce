//! Does the steps of an agent: each takes time, and a crash may come in the middle.

use super::aimed::Aim;
use super::node::NodeId;
use super::postgres::{Data, Process};
use super::random::Random;
use super::world::{Event, World};
use cluster::command::first_promotion_id;
use cluster::mutant::{self, Mutant};
use cluster::observe::{RejoinWay, Rejoined, Seal};
use cluster::state::SyncSet;
use cluster::step::{Step, Unfinished, sync_of_standby};
use cluster::{Epoch, Moment, lineage};

/// The numbers of the random sequences that say from whom a copy is made.
const COPY_SOURCE: u64 = 1 << 42;

/// The numbers of the random sequences that say which promotions take long.
const LONG_PROMOTION: u64 = 1 << 43;
/// The numbers of those that say how long a start takes to be known.
const LAUNCH: u64 = 1 << 44;

impl World {
    /// Begins a step; what must be written down before it is written down here.
    pub fn begin_step(&mut self, node: NodeId, step: Step) {
        let name = self.nodes[node].name.clone();
        self.say(|_| format!("{name} begins {step:?}"));
        super::invariants::begins(self, node, &step);
        let host = &mut self.nodes[node];
        let (notes, postgres) = (&mut host.notes, &mut host.postgres);
        let (from, to) = match &step {
            Step::Wait(_) => return,
            Step::Initialise => {
                notes.unfinished = Some(Unfinished::Initialise);
                (300, 900)
            }
            Step::Clone { .. } => {
                self.kill_server(node);
                if self.random.chance(30) {
                    self.nodes[node].notes.unfinished = Some(Unfinished::Clone);
                }
                (400, 2500)
            }
            Step::Rewind { .. } => {
                self.kill_server(node);
                self.nodes[node].notes.unfinished = Some(Unfinished::Rewind);
                (200, 1500)
            }
            Step::StartSealed => {
                self.note_turn(node);
                let wait = self.start_sealed(node);
                return self.busy_for(node, wait, step);
            }
            Step::StartPrimary => (100, 400),
            Step::Configure { .. } => (2, 20),
            Step::Restart { .. } | Step::RestartPrimary { .. } => {
                let wait = self.begin_again(node, &step);
                return self.busy_for(node, wait, step);
            }
            Step::Seal { .. } => {
                postgres.upstream = None;
                (5, 60)
            }
            Step::Follow { upstream, epoch, line } => {
                notes.line = Some(line.clone());
                notes.following = Some((*epoch, upstream.clone()));
                notes.seal = None;
                (3, 20)
            }
            Step::Promote { epoch, line, sync } => {
                return self.begin_promotion(node, *epoch, line.clone(), sync.clone());
            }
            Step::SetSync { revision, .. } => {
                notes.sync_revision = notes.sync_revision.max(*revision);
                (2, 15)
            }
            Step::Checkpoint { .. } => (20, 200),
            Step::StopInOrder { .. } => (10, 120),
            Step::Fence { .. } => (1, 10),
        };
        let mut wait = self.random.ms(from, to);
        let (extra, until) = self.nodes[node].slow_set_sync;
        if matches!(step, Step::SetSync { .. }) && self.now < until {
            wait += extra;
        }
        self.busy_for(node, wait, step);
    }

    /// Returns how long it takes.
    pub(super) fn start_sealed(&mut self, node: NodeId) -> u64 {
        self.nodes[node].notes.following = None;
        self.nodes[node].postgres.upstream = None;
        self.start_server(node);
        // The agent knows of its server when the guard has told it; that may be later than the server is up.
        let mut own = Random::of_fault(self.seed, LAUNCH + self.number());
        if own.chance(10) { own.ms(60, 1500) } else { own.ms(2, 60) }
    }

    fn busy_for(&mut self, node: NodeId, wait: u64, step: Step) {
        if let Some(agent) = &mut self.nodes[node].agent {
            agent.busy = Some(step.clone());
            let life = agent.life;
            self.after(wait, Event::Done { node, life, step });
        }
    }

    pub(super) fn start_server(&mut self, node: NodeId) {
        let now = self.clock(node);
        let host = &mut self.nodes[node];
        host.postgres.kill();
        host.notes.seal = None;
        if let Some(agent) = &mut host.agent {
            agent.told_server = false;
            agent.server_since = now;
        }
        host.postgres.process = Process::Starting;
        host.postgres.configure_stopped(sync_of_standby(&host.replica.state));
        host.deadline = None;
        self.start_with_files(node, true);
        let host = &self.nodes[node];
        let life = host.postgres.life;
        let wait = self.random.ms(80, 700);
        self.after(wait, Event::Started { node, life });
    }

    fn begin_promotion(&mut self, node: NodeId, epoch: Epoch, line: String, sync: SyncSet) {
        let lease = self.nodes[node].agent.as_ref().and_then(|a| a.lease);
        let host = &mut self.nodes[node];
        host.notes.line = Some(line);
        host.notes.promised = host.notes.promised.max(epoch);
        host.notes.promoted_for = epoch;
        host.notes.copied = false;
        host.notes.following = None;
        host.notes.seal = None;
        host.postgres.upstream = None;
        host.postgres.receiver = None;
        host.postgres.sync = sync.clone();
        host.postgres.process = Process::Promoting;
        host.postgres.promoted_for = epoch;
        for sender in host.postgres.senders.values_mut() {
            sender.obeys = sync.clone();
        }
        let life = host.postgres.life;
        if let Some(agent) = &mut host.agent {
            agent.sync_configured = Some(sync);
            agent.sync_applied = None;
            agent.told_to_promote = Some((epoch, life));
        }
        self.wake_checkpointer(node);
        if let Some((_, until)) = lease.filter(|_| !mutant::is(Mutant::LeaseWithoutGuard)) {
            self.set_deadline(node, until);
        }
        self.aim_beside(3, 0, Aim::Isolate(node));
        let from = if self.random.chance(50) { 1 } else { 30 };
        let mut wait = self.random.ms(from, from * 10);
        // All that it holds is replayed first.
        let mut own = Random::of_fault(self.seed, LONG_PROMOTION + self.number());
        if own.chance(5) {
            wait = own.ms(500, 6000);
            self.aim_beside(60, 0, Aim::Doze(node));
        }
        self.after(wait, Event::Promoted { node, life });
    }

    /// The server has started; a copied or rewound one needs more WAL before it answers.
    pub fn server_started(&mut self, node: NodeId, life: u64) {
        let postgres = &mut self.nodes[node].postgres;
        if postgres.life == life && postgres.process == Process::Starting {
            postgres.process = Process::Recovering;
            // It opens at the last consistent point and replays the rest of its WAL afterwards.
            let records = postgres.data.as_ref().map_or(&[][..], |d| &d.records);
            let behind = records.len().saturating_sub(1 + self.random.index(40));
            let shown = records.get(behind).map(|r| r.end);
            let ends = self.now + self.random.ms(0, 900);
            postgres.replaying = shown.filter(|_| self.random.chance(40)).map(|lsn| (ends, lsn));
            self.become_consistent(node);
        }
    }

    /// A recovering server answers once it has enough WAL.
    pub fn become_consistent(&mut self, node: NodeId) {
        let host = &mut self.nodes[node];
        let enough = host.postgres.data.as_ref().is_some_and(|d| d.lsn() >= d.consistent_at);
        if host.postgres.process == Process::Recovering && enough {
            host.postgres.process = Process::Standby;
            host.notes.inconsistent = false;
            self.look(node);
        }
    }

    /// The server has left recovery.
    pub fn server_promoted(&mut self, node: NodeId, life: u64) {
        let id = self.number();
        let postgres = &mut self.nodes[node].postgres;
        if postgres.life != life || postgres.process != Process::Promoting {
            return;
        }
        if self.is_stuck(node) {
            // promotion is not possible because of insufficient parameter settings
            self.kill_server(node);
            return self.look(node);
        }
        super::invariants::before_promotion(self, node);
        self.aim_at_promotion(node);
        self.nodes[node].postgres.finish_promotion(id);
        self.tell_limit(node);
        let name = self.nodes[node].name.clone();
        self.say(|w| format!("{name}: promoted at {}", w.nodes[node].postgres.lsn()));
        self.push_wal(node);
        self.look(node);
    }

    /// A step has ended.
    pub fn step_done(&mut self, node: NodeId, life: u64, step: Step) {
        let host = &mut self.nodes[node];
        let Some(agent) = host.agent.as_mut().filter(|a| a.life == life) else { return };
        let needs_answer = matches!(step, Step::Seal { .. } | Step::Follow { .. } | Step::SetSync { .. });
        let replays = host.postgres.replaying.is_some_and(|(until, _)| self.now < until)
            && !mutant::is(Mutant::SealBeforeReplayed);
        if needs_answer && host.postgres.hung_since.is_some() || replays && matches!(step, Step::Seal { .. })
        {
            return self.after(50_000, Event::Done { node, life, step });
        }
        agent.busy = None;
        match step {
            Step::Initialise | Step::StartPrimary => self.become_first_primary(node),
            Step::Clone { from, line, .. } => self.finish_copy(node, &from, line),
            Step::Rewind { from, epoch, line } => self.finish_rewind(node, &from, epoch, line),
            Step::Seal { epoch } => self.finish_seal(node, epoch),
            Step::Follow { upstream, .. } => {
                let upstream = self.id(&upstream);
                let host = &mut self.nodes[node];
                host.postgres.upstream = upstream;
                if let Some(agent) = &mut host.agent {
                    agent.told_server = true;
                }
                self.note_rejoin(node, RejoinWay::Follow);
            }
            Step::SetSync { sync, .. } => self.finish_set_sync(node, sync),
            Step::Configure { .. } => self.finish_configure(node),
            Step::RestartPrimary { token, sync } => self.serve_again(node, token, sync),
            Step::Checkpoint { id } => {
                if let Some(agent) = &mut self.nodes[node].agent {
                    agent.checkpointed = Some(id);
                }
            }
            Step::StopInOrder { id } => self.finish_stop(node, id),
            Step::Fence { .. } => self.kill_server(node),
            Step::Wait(_) | Step::StartSealed | Step::Restart { .. } | Step::Promote { .. } => {}
        }
        self.look(node);
    }

    fn become_first_primary(&mut self, node: NodeId) {
        let id = self.number();
        let until = self.nodes[node].agent.as_ref().and_then(|a| a.lease).map(|(_, until)| until);
        if self.nodes[node].postgres.data.is_none() {
            super::invariants::initialised(self, node);
        }
        let host = &mut self.nodes[node];
        if host.postgres.data.is_none() {
            host.postgres.data = Some(Data::new(1000 + id));
            host.notes.line = Some(first_promotion_id(&host.name));
        }
        host.notes.unfinished = None;
        host.postgres.kill();
        host.postgres.configure_stopped(host.replica.state.sync_target());
        host.postgres.process = Process::Primary;
        host.postgres.promoted_for = host.replica.state.epoch;
        self.set_deadline(node, until.unwrap_or_default());
    }

    fn finish_copy(&mut self, node: NodeId, from: &cluster::NodeName, line: String) {
        let Some(source) = self.copied_source(node, from, &line) else { return };
        if self.random.chance(15) {
            self.nodes[node].notes.unfinished = Some(Unfinished::Clone);
            return;
        }
        super::invariants::replaced(self, node, &line, source.system_identifier);
        let notes = &mut self.nodes[node].notes;
        let (promised, leased_again) = (notes.promised, notes.leased_again);
        *notes = super::node::Notes {
            line: Some(line),
            inconsistent: true,
            copied: true,
            promised,
            leased_again,
            ..Default::default()
        };
        self.nodes[node].postgres.data = Some(source);
        self.note_rejoin(node, RejoinWay::Clone);
        self.aim_at_copy(node);
    }

    fn finish_rewind(&mut self, node: NodeId, from: &cluster::NodeName, epoch: Epoch, line: String) {
        let Some(mut source) = self.readable_source(node, from, &line) else { return };
        if self.random.chance(15) {
            return; // it failed half-way
        }
        super::invariants::replaced(self, node, &line, source.system_identifier);
        let host = &mut self.nodes[node];
        let Some(data) = &host.postgres.data else { return };
        let Some(point) = data.rewind_point(&source) else { return };
        let kept = data.records_up_to(point);
        let honest = data.records.get(..kept) == source.records.get(..kept);
        source.records.truncate(kept);
        if let Some(last) = source.records.last() {
            source.timeline = last.timeline;
            source.forks.retain(|f| f.timeline < last.timeline);
        }
        host.postgres.data = Some(source);
        host.notes.unfinished = None;
        host.notes.inconsistent = true;
        host.notes.rewound_for = Some(epoch);
        host.notes.line = Some(line);
        if !honest {
            super::invariants::prefix_broken(self, node, "pg_rewind kept WAL that its source never had");
        }
        self.note_rejoin(node, RejoinWay::Rewind);
    }

    /// What a copy is made of: the primary, or a standby that streams from it and may have less (`cluster::copy::choose`).
    fn copied_source(&mut self, node: NodeId, from: &cluster::NodeName, line: &str) -> Option<Data> {
        let id = self.number();
        let mut own = Random::of_fault(self.seed, COPY_SOURCE + id);
        let primary = self.readable_source(node, from, line)?;
        let of = self.id(from)?;
        let streams = |id: &NodeId| {
            let host = &self.nodes[*id];
            let receives = host.postgres.receiver.is_some_and(|r| r.upstream == of);
            let same = host.postgres.data.as_ref().is_some_and(|d| d.timeline == primary.timeline);
            receives
                && same
                && host.postgres.process == Process::Standby
                && host.notes.line.as_deref() == Some(line)
                && self.network.connected(node, *id, self.now)
                && host.server_runs()
        };
        let standbys: Vec<NodeId> = (0..self.nodes.len()).filter(|id| *id != node).filter(streams).collect();
        let any = standbys.get(own.index(standbys.len() + 1));
        let last = standbys.iter().min_by_key(|id| self.nodes[**id].postgres.lsn());
        let wanted = if self.copied_behind == Some(node) { last } else { any };
        let Some(source) = wanted else { return Some(primary) };
        let mut data = self.nodes[*source].postgres.data.clone()?;
        data.consistent_at = data.lsn();
        Some(data)
    }

    /// What a primary that can be reached has, readable from its present end on. A copy breaks when its source is
    /// restarted, so it never holds WAL of a later line than the one it was begun for.
    fn readable_source(&self, node: NodeId, from: &cluster::NodeName, line: &str) -> Option<Data> {
        let source = self.id(from).filter(|id| self.nodes[*id].notes.line.as_deref() == Some(line))?;
        let reached = self.network.connected(node, source, self.now) && self.nodes[source].server_runs();
        let postgres = &self.nodes[source].postgres;
        let mut data = postgres.data.clone().filter(|_| reached && postgres.process == Process::Primary)?;
        data.consistent_at = data.lsn();
        Some(data)
    }

    fn finish_seal(&mut self, node: NodeId, epoch: Epoch) {
        let now = self.now;
        let host = &mut self.nodes[node];
        if host.postgres.process != Process::Standby {
            return;
        }
        host.postgres.receiver = None;
        host.notes.following = None;
        host.notes.promised = host.notes.promised.max(epoch);
        if let Some(data) = &host.postgres.data {
            // A directory that was changed behind the node's back is of no line any more.
            let (state, at) = (&host.replica.state, host.postgres.shown_lsn(now));
            let noted = host.notes.line.take();
            let known = |line: &String| lineage::written_by(state, line, data.timeline, at).is_some();
            let line = noted.filter(known);
            host.notes.line.clone_from(&line);
            let (timeline, lsn, copied) = (data.timeline, host.postgres.shown_lsn(now), host.notes.copied);
            host.notes.seal = Some(Seal { epoch, timeline, lsn, line, copied });
        }
    }

    fn finish_set_sync(&mut self, node: NodeId, sync: SyncSet) {
        let postgres = &mut self.nodes[node].postgres;
        postgres.sync = sync.clone();
        let senders: Vec<(NodeId, u64)> =
            postgres.senders.iter().map(|(id, s)| (*id, s.connection)).collect();
        if let Some(agent) = &mut self.nodes[node].agent {
            agent.sync_configured = Some(sync);
            agent.sync_applied = None;
        }
        self.wake_checkpointer(node);
        for (standby, connection) in senders {
            // One that is busy sending looks at its configuration late.
            let slow = if self.random.chance(20) { 3000 } else { 80 };
            let wait = self.random.ms(0, slow);
            self.after(wait, Event::Obeys { node, standby, connection });
        }
    }

    /// The checkpointer will see whether sessions must wait for standbys; one that is busy does so late.
    fn wake_checkpointer(&mut self, node: NodeId) {
        let postgres = &self.nodes[node].postgres;
        if postgres.commits_wait == postgres.sync.is_open() {
            let life = postgres.life;
            let slow = if self.random.chance(30) { 3000 } else { 40 };
            let wait = self.random.ms(0, slow);
            self.after(wait, Event::Checkpointer { node, life });
        }
    }

    /// The checkpointer re-reads the configuration. If sessions need not wait any more, it wakes those that do.
    pub fn checkpointer_reads(&mut self, node: NodeId, life: u64) {
        let postgres = &mut self.nodes[node].postgres;
        if postgres.life != life {
            return;
        }
        postgres.commits_wait = !postgres.sync.is_open();
        if !postgres.commits_wait {
            self.release_all(node);
        }
        self.look(node);
    }

    /// A WAL sender re-reads the configuration.
    pub fn obey(&mut self, node: NodeId, standby: NodeId, connection: u64) {
        let postgres = &mut self.nodes[node].postgres;
        let sender = postgres.senders.get_mut(&standby);
        if let Some(sender) = sender.filter(|s| s.connection == connection) {
            sender.obeys = postgres.sync.clone();
        }
    }

    fn note_rejoin(&mut self, node: NodeId, way: RejoinWay) {
        let name = match way {
            RejoinWay::Follow => "follow",
            RejoinWay::Rewind => "rewind",
            RejoinWay::Clone => "clone",
        };
        *self.report.rejoins.entry(name).or_default() += 1;
        let host = &mut self.nodes[node];
        let epoch = host.replica.state.epoch;
        let (from_timeline, from_lsn) = (1, host.postgres.lsn());
        if let Some(agent) = &mut host.agent {
            agent.rejoined =
                Some(Rejoined { epoch, way, from_timeline, from_lsn, took_ms: 1, cause: None, lost: None });
        }
    }

    /// The guard will kill the server at `until`.
    pub fn set_deadline(&mut self, node: NodeId, until: Moment) {
        let host = &mut self.nodes[node];
        host.deadline = host.deadline.max(Some(until));
        let (at, boots) = (host.clock.when(until, self.now), host.boots);
        self.at(at, Event::Guard { node, boots });
    }

    /// The guard's timer went off.
    pub fn guard(&mut self, node: NodeId, boots: u64) {
        if self.nodes[node].boots == boots {
            self.keep_deadline(node);
        }
    }

    /// Kills a primary whose lease is over.
    pub fn keep_deadline(&mut self, node: NodeId) {
        let now = self.clock(node);
        let host = &self.nodes[node];
        let primary = matches!(host.postgres.process, Process::Primary | Process::Promoting);
        if primary && host.deadline.is_some_and(|deadline| deadline <= now) {
            let name = host.name.clone();
            self.say(|_| format!("{name}: the guard ends the server, its lease is over"));
            self.kill_server(node);
            self.look(node);
        }
    }
}
