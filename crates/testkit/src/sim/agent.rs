//! The agent's shell around `step`: looks at its server, does the step, tells the leader.

use super::node::{NodeId, Running};
use super::postgres::Process;
use super::random::Random;
use super::store::{Leading, Message};
use super::streaming::streams_well;
use super::world::{Event, World};
use cluster::brake;
use cluster::command::first_promotion_id;
use cluster::mutant::{self, Mutant};
use cluster::observe::{
    DataDir, Observation, Promoted, Rejoined, Replica, Seen, Server, Standby, SyncApplied,
};
use cluster::state::{Member, PgAddress, Phase, SyncSet};
use cluster::step::{Local, Step, step};
use cluster::{Epoch, Lsn, Millis, Moment, NodeName, copy, lease, leash};
use std::collections::BTreeMap;

/// What an agent has in memory.
#[derive(Clone, Debug, Default)]
pub struct Agent {
    /// Tells two agents of one node apart.
    pub life: u64,
    /// The step that is being done.
    pub busy: Option<Step>,
    /// Its lease.
    pub lease: Option<(Epoch, Moment)>,
    /// When its last server ended.
    pub ended_at: Option<Moment>,
    /// The epoch for which its server was told to promote, and which start of the server that is.
    pub told_to_promote: Option<(Epoch, u64)>,
    /// The primary whose agent it asks, of which epoch, and when that last answered (or when it began to ask).
    pub asks: Option<(NodeName, Epoch, Moment)>,
    /// When the primary was asked for what it answered last, if that told how far it is.
    pub primary_lsn_asked: Option<Moment>,
    /// When the server was started, or found.
    pub server_since: Moment,
    /// It has told its server whom to follow.
    pub told_server: bool,
    /// The furthest position of the primary it has heard of.
    pub primary_lsn: Option<Lsn>,
    /// The synchronous standbys it configured.
    pub sync_configured: Option<SyncSet>,
    /// What its standbys have confirmed to its server.
    pub standbys: BTreeMap<NodeName, Replica>,
    /// The switchover for which a checkpoint was made.
    pub checkpointed: Option<String>,
    /// The switchover for which the server stopped in order, and where.
    pub stopped_at: Option<(String, Lsn)>,
    /// Since when the server obeys them.
    pub sync_applied: Option<SyncApplied>,
    /// A rejoin that ended well.
    pub rejoined: Option<Rejoined>,
    /// Whom it believes to lead.
    pub leader: Option<NodeId>,
    /// What it has in mind as the leader.
    pub leads: Option<Leading>,
    /// When it last heard a leader's round, and when it wants an election; microseconds of the simulation.
    pub heard_round_at: u64,
    /// See above.
    pub elects_at: u64,
    /// When it will first have looked at its server.
    pub looks_at: u64,
    /// The last heartbeat that it sent, and when.
    pub sent: Option<(Observation, Moment)>,
    next_heartbeat: Moment,
    told: Option<Observation>,
}

const TICK: u64 = 25_000;
/// The numbers of the random sequences that say when an agent has looked.
const FIRST_LOOK: u64 = 1 << 41;
/// A server that answers nothing for so long is called unresponsive.
const NO_ANSWER_MS: u64 = 500;

impl World {
    /// A new agent: what the last one had in memory is gone.
    pub fn start_agent(&mut self, node: NodeId, boots: u64) {
        if self.nodes[node].boots != boots || self.nodes[node].agent.is_some() {
            return;
        }
        let life = self.number();
        self.forget_some(node);
        let elects_at = self.now + self.random.ms(150, 500);
        let looks_at = self.now + Random::of_fault(self.seed, FIRST_LOOK + life).ms(0, 150);
        let server_since = self.clock(node);
        let leader = self.hears_leader.take_if(|n| *n == node).and_then(|_| self.leader());
        let host = &mut self.nodes[node];
        host.agent_process = Running::Yes;
        host.notes.seal = None;
        let (promoted_for, promised) = (host.notes.promoted_for, host.notes.promised);
        let told = host.deadline.is_some() && promoted_for == promised && promoted_for > 0;
        let told_to_promote = told.then_some((promoted_for, host.postgres.life));
        let agent =
            Agent { life, elects_at, looks_at, server_since, told_to_promote, leader, ..Agent::default() };
        host.agent = Some(agent);
        let name = host.name.clone();
        self.say(|_| format!("{name}: agent starts"));
        self.tick(node, life);
    }

    /// The agent's regular work.
    pub fn tick(&mut self, node: NodeId, life: u64) {
        if self.nodes[node].agent.as_ref().is_none_or(|a| a.life != life) {
            return;
        }
        self.after(TICK, Event::Tick { node, life });
        self.seek_election(node);
        self.lead_rounds(node);
        self.reconcile_voters(node);
        self.look(node);
        self.decide(node);
    }

    /// Looks at everything, begins the next step, tells the leader.
    pub fn look(&mut self, node: NodeId) {
        if !self.nodes[node].agent_runs() {
            return;
        }
        self.watch_primary(node);
        self.watch_sync(node);
        self.mind_leash(node);
        self.watch_copy(node);
        // Out of recovery: nothing is pending any more.
        if matches!(self.server(node), Server::Primary { .. })
            && let Some(agent) = &mut self.nodes[node].agent
        {
            agent.told_to_promote = None;
        }
        let local = self.local(node);
        let now = self.clock(node);
        let host = &self.nodes[node];
        if host.agent.as_ref().is_some_and(|a| a.busy.is_none()) {
            let next = step(&host.replica.state, &host.name, &local, now);
            // Only a fence interrupts a promotion.
            let promotes = host.postgres.process == Process::Promoting && !matches!(next, Step::Fence { .. });
            super::rules::count_step(&mut self.report.rules, &next);
            if !promotes && !matches!(next, Step::Wait(_)) {
                self.begin_step(node, next);
            }
        }
        super::invariants::looked(self, node);
        self.heartbeat(node);
    }

    /// What the agent knows of its own node.
    pub fn local(&self, node: NodeId) -> Local {
        let host = &self.nodes[node];
        let (notes, agent) = (&host.notes, host.agent.as_ref());
        Local {
            data: self.data_dir(node),
            server: self.server(node),
            seal: notes.seal.clone(),
            line: notes.line.clone(),
            following: notes.following.clone(),
            told: agent.is_some_and(|a| a.told_server),
            lease: agent.and_then(|a| a.lease),
            promised: notes.promised,
            promoted_for: notes.promoted_for,
            told_to_promote: agent
                .and_then(|a| a.told_to_promote)
                .filter(|(_, life)| *life == host.postgres.life && !mutant::is(Mutant::PromotionForgotten))
                .map(|(epoch, _)| epoch),
            unfinished: notes.unfinished,
            must_clone: None,
            inconsistent: notes.inconsistent,
            copied: notes.copied,
            rewound_for: notes.rewound_for,
            checkpointed: agent.and_then(|a| a.checkpointed.clone()),
            restarted: notes.restarted.clone(),
            configured: notes.configured,
            stuck: self.is_stuck(node),
            sync_configured: agent.and_then(|a| a.sync_configured.clone()),
            sync_revision: notes.sync_revision,
            standbys: agent.map(|a| a.standbys.clone()).unwrap_or_default(),
        }
    }

    fn data_dir(&self, node: NodeId) -> DataDir {
        let host = &self.nodes[node];
        match &host.postgres.data {
            _ if host.witness => DataDir::Witness,
            Some(data) => DataDir::Present { system_identifier: data.system_identifier },
            None => DataDir::Absent,
        }
    }

    fn server(&self, node: NodeId) -> Server {
        if self.nodes[node].agent.as_ref().is_some_and(|a| self.now < a.looks_at) {
            return Server::Unknown;
        }
        // Until the step has ended, its agent knows nothing of a server that it starts.
        let starts = |step: &Option<Step>| matches!(step, Some(Step::StartSealed | Step::Restart { .. }));
        if self.nodes[node].agent.as_ref().is_some_and(|a| starts(&a.busy)) {
            return Server::Stopped;
        }
        let postgres = &self.nodes[node].postgres;
        let timeline = postgres.data.as_ref().map_or(1, |d| d.timeline);
        let lsn = postgres.shown_lsn(self.now);
        let silent_ms = postgres.hung_since.map_or(0, |since| (self.now - since) / 1000);
        if silent_ms >= NO_ANSWER_MS && postgres.process != Process::Stopped {
            return Server::Unresponsive { silent_ms };
        }
        match postgres.process {
            Process::Stopped => Server::Stopped,
            Process::Starting | Process::Recovering => Server::Starting,
            Process::Primary => Server::Primary { timeline, lsn },
            Process::Standby | Process::Promoting => Server::Standby(Standby {
                timeline,
                lsn,
                replay_lsn: lsn,
                upstream: postgres.upstream.map(|u| self.nodes[u].name.clone()),
                streaming: postgres.receiver.is_some(),
                replay_lag_ms: None,
            }),
        }
    }

    /// Asks the primary's agent whether it is there.
    fn watch_primary(&mut self, node: NodeId) {
        let now = self.clock(node);
        let host = &mut self.nodes[node];
        let state = &host.replica.state;
        let target = state.primary().filter(|p| **p != host.name).cloned().map(|p| (p, state.epoch));
        let Some(agent) = &mut host.agent else { return };
        match (&agent.asks, target) {
            (Some((asked, epoch, _)), Some((p, e))) if *asked == p && *epoch == e => {}
            (_, Some((p, e))) => {
                agent.asks = Some((p, e, now));
                agent.primary_lsn_asked = None;
            }
            (_, None) => agent.asks = None,
        }
    }

    /// Notes when copied data has caught up.
    fn watch_copy(&mut self, node: NodeId) {
        if !self.nodes[node].notes.copied {
            return;
        }
        let local = self.local(node);
        let host = &mut self.nodes[node];
        let Some(agent) = &host.agent else { return };
        let since = agent.primary_lsn_asked.is_some_and(|asked| asked > agent.server_since);
        let of_present = agent.asks.as_ref().is_some_and(|(_, epoch, _)| *epoch == host.replica.state.epoch);
        let primary_lsn = agent.primary_lsn.filter(|_| since && of_present);
        if copy::caught_up(&host.replica.state, &local, primary_lsn) {
            host.notes.copied = false;
        }
    }

    /// Notes since when every WAL sender obeys the configured set.
    fn watch_sync(&mut self, node: NodeId) {
        let replicas = self.replicas(node);
        let host = &mut self.nodes[node];
        let postgres = &host.postgres;
        let Some(agent) = &mut host.agent else { return };
        if postgres.process != Process::Primary {
            agent.sync_applied = None;
            agent.standbys.clear();
            return;
        }
        brake::remember(&mut agent.standbys, &replicas);
        let set = agent.sync_configured.as_ref() == Some(&postgres.sync);
        // The agent has a checkpoint made and sees it end: then the flag is set.
        let seen_to = postgres.sync.is_open() || postgres.commits_wait;
        let obeyed = postgres.senders.values().all(|s| s.obeys == postgres.sync)
            && (seen_to || mutant::is(Mutant::CheckpointerNotAwaited));
        if set && obeyed && agent.sync_applied.is_none() {
            agent.sync_applied = Some(SyncApplied { set: postgres.sync.clone(), since: postgres.lsn() });
        }
    }

    /// Takes the lease off for a pause, and promises not to when it is over (`cluster::leash`).
    fn mind_leash(&mut self, node: NodeId) {
        let now = self.clock(node);
        let host = &mut self.nodes[node];
        let (state, promised) = (&host.replica.state, host.notes.leased_again);
        let promises = host.notes.promises();
        let Some(agent) = host.agent.as_mut().filter(|_| host.postgres.process == Process::Primary) else {
            return;
        };
        if leash::off(state, &host.name, promises) {
            host.deadline = None;
            agent.lease = None;
        } else if let Some(number) = leash::owed(state, &host.name) {
            let held = agent.lease.is_some_and(|(epoch, until)| epoch == state.epoch && now < until);
            if held && host.deadline.is_some_and(|deadline| now < deadline) {
                host.notes.leased_again = promised.max(number);
            }
        }
    }

    fn heartbeat(&mut self, node: NodeId) {
        let now = self.clock(node);
        let mut observation = self.observe(node);
        let every = self.proposed.settings.heartbeat_ms();
        let Some(agent) = &mut self.nodes[node].agent else { return };
        let urgent = agent.told.as_ref().is_none_or(|told| tells_more(&observation, told));
        if !urgent && now < agent.next_heartbeat {
            return;
        }
        agent.told = Some(observation.clone());
        agent.next_heartbeat = now.plus(every);
        let (leader, asks, life) = (agent.leader, agent.asks.clone(), agent.life);
        if let Some(leader) = leader {
            // Two heartbeats of one moment, of a host that was frozen, are still one after the other.
            observation.serial = (format!("{life:012}"), self.number());
            observation.member = Some(self.member(node));
            if let Some(agent) = &mut self.nodes[node].agent {
                agent.sent = Some((observation.clone(), now));
            }
            let message = Message::Heartbeat { observation: Box::new(observation), sent: now };
            self.send(node, leader, message);
        }
        if let Some(primary) = asks.and_then(|(name, ..)| self.id(&name)) {
            self.send(node, primary, Message::Ask { sent: now });
        }
    }

    fn observe(&self, node: NodeId) -> Observation {
        let host = &self.nodes[node];
        let now = self.clock(node);
        let mut observation = Observation::blank(host.name.clone());
        let Some(agent) = &host.agent else { return observation };
        let state = &host.replica.state;
        let local = self.local(node);
        if host.postgres.process == Process::Primary {
            observation.brake = brake::brake(state, &host.name, &local);
        }
        let follows = host.notes.following.as_ref().is_some_and(|(epoch, _)| *epoch == state.epoch);
        let age = |at: u64| -> Millis { (self.now - at) / 1000 };
        observation.epoch = state.epoch;
        observation.revision = state.revision;
        observation.seen = Seen::of(state);
        observation.data = local.data;
        observation.server = match local.server {
            Server::Stopped if starts_server(agent) => Server::Starting,
            server => server,
        };
        observation.seal = local.seal.filter(|s| s.epoch == state.epoch);
        observation.copied = local.copied;
        observation.promoted = self.promoted(node);
        observation.primary_agent_silent_ms = agent.asks.as_ref().map(|(_, _, at)| now.since(*at));
        let receiver = host.postgres.receiver.filter(|_| follows);
        observation.wal_silent_ms = receiver.map(|r| age(r.heard_at));
        observation.primary_lsn = agent.primary_lsn;
        if host.postgres.process == Process::Primary {
            observation.primary_lsn = Some(host.postgres.lsn());
            observation.replicas = self.replicas(node);
        }
        observation.sync_applied.clone_from(&agent.sync_applied);
        observation.rejoined.clone_from(&agent.rejoined);
        observation.leased_again = Some(host.notes.leased_again);
        observation.handover = self.handover_progress(node);
        observation.pending = self.pending(node);
        observation.configured = host.notes.configured;
        observation.restarted.clone_from(&host.notes.restarted);
        observation
    }

    fn member(&self, node: NodeId) -> Member {
        let host = &self.nodes[node];
        Member {
            agent: format!("{}:1", host.name),
            postgres: (!host.witness).then(|| PgAddress { host: host.name.to_string(), port: 5432 }),
            tags: host.tags,
            data_dir: None,
        }
    }

    fn replicas(&self, node: NodeId) -> BTreeMap<NodeName, Replica> {
        let postgres = &self.nodes[node].postgres;
        let replica = |flush_lsn| Replica {
            streaming: streams_well(postgres, flush_lsn),
            flush_lsn,
            replay_lsn: flush_lsn,
        };
        postgres.senders.iter().map(|(id, s)| (self.nodes[*id].name.clone(), replica(s.flush_lsn))).collect()
    }

    fn promoted(&self, node: NodeId) -> Option<Promoted> {
        let host = &self.nodes[node];
        let data = host.postgres.data.as_ref().filter(|_| host.postgres.process == Process::Primary)?;
        let expected = match &host.replica.state.phase {
            Phase::Initialising { node } if *node == host.name => first_promotion_id(node),
            Phase::Promoting { appointment } if appointment.node == host.name => {
                appointment.promotion_id.clone()
            }
            _ => return None,
        };
        (host.notes.line.as_ref() == Some(&expected) && host.notes.unfinished.is_none()).then(|| Promoted {
            epoch: host.replica.state.epoch,
            timeline: data.timeline,
            forks: data.forks.clone(),
            system_identifier: data.system_identifier,
        })
    }

    /// A message arrives at an agent.
    pub fn hear_message(&mut self, from: NodeId, to: NodeId, message: Message) {
        if self.nodes[to].agent.is_none() {
            return;
        }
        match message {
            Message::Heartbeat { observation, sent } => self.hear_heartbeat(from, to, *observation, sent),
            Message::Answer { sent, lease } => self.hear_answer(to, sent, lease),
            Message::Ask { sent } => {
                let host = &self.nodes[to];
                let primary = host.postgres.process == Process::Primary
                    && host.replica.state.primary() == Some(&host.name);
                let lsn = primary.then(|| host.postgres.lsn());
                self.send(to, from, Message::Reply { lsn, sent });
            }
            Message::Reply { lsn, sent } => self.hear_reply(from, to, lsn, sent),
            store => self.hear_store(from, to, store),
        }
    }

    /// What is asked for one after the other over one connection is answered so: an overtaken answer is none.
    fn hear_reply(&mut self, from: NodeId, to: NodeId, lsn: Option<Lsn>, sent: Moment) {
        let name = self.nodes[from].name.clone();
        let Some(agent) = &mut self.nodes[to].agent else { return };
        let Some((asked, _, at)) = &mut agent.asks else { return };
        if *asked != name || sent < *at {
            return;
        }
        *at = sent;
        if lsn.is_some() {
            agent.primary_lsn = lsn;
            agent.primary_lsn_asked = Some(sent);
        }
    }

    fn hear_answer(&mut self, node: NodeId, sent: Moment, lease: Option<(Epoch, Millis)>) {
        let present = self.nodes[node].replica.state.epoch;
        let Some((epoch, left)) = lease.filter(|(epoch, _)| *epoch == present) else {
            return self.free_standby_from_deadline(node);
        };
        let until = sent.plus(left);
        let server = self.server(node);
        let host = &mut self.nodes[node];
        let Some(agent) = &mut host.agent else { return };
        let guarded = server != Server::Stopped;
        if !lease::may_take(&host.replica.state, guarded, sent, agent.ended_at) {
            return;
        }
        if leash::off(&host.replica.state, &host.name, host.notes.promises()) {
            return;
        }
        let later = agent.lease.is_none_or(|(e, u)| (epoch, until) > (e, u));
        if later {
            agent.lease = Some((epoch, until));
            if matches!(host.postgres.process, Process::Primary | Process::Promoting) {
                self.set_deadline(node, until);
            }
            self.look(node);
        }
    }

    /// A standby needs no lease: its guard must not end it when an old one runs out.
    fn free_standby_from_deadline(&mut self, node: NodeId) {
        let local = self.local(node);
        let host = &mut self.nodes[node];
        let may_promote =
            host.replica.state.lease_holder() == Some(&host.name) || local.told_to_promote.is_some();
        if matches!(local.server, Server::Standby(_)) && !may_promote {
            host.deadline = None;
        }
    }
}

/// Whether it is starting its server: that it does not run yet is no word to rely on.
fn starts_server(agent: &Agent) -> bool {
    let sealed = !mutant::is(Mutant::StartTakenForStopped);
    match agent.busy {
        Some(Step::StartPrimary) => true,
        Some(Step::StartSealed | Step::Restart { .. } | Step::RestartPrimary { .. }) => sealed,
        _ => false,
    }
}

/// Whether `now` says something that `then` did not, apart from what changes all the time.
fn tells_more(now: &Observation, then: &Observation) -> bool {
    let late = |ms: Option<Millis>| ms.map(|ms| ms >= 1500);
    let servers = match (&now.server, &then.server) {
        (Server::Standby(a), Server::Standby(b)) => {
            (a.timeline, &a.upstream, a.streaming) == (b.timeline, &b.upstream, b.streaming)
        }
        (Server::Primary { timeline: a, .. }, Server::Primary { timeline: b, .. }) => a == b,
        (Server::Unresponsive { .. }, Server::Unresponsive { .. }) => true,
        (a, b) => a == b,
    };
    let brakes = match (&now.brake, &then.brake) {
        (Some(a), Some(b)) => {
            let (mut a, mut b) = (a.clone(), b.clone());
            (a.nearest, b.nearest) = (None, None);
            a == b
        }
        (a, b) => a == b,
    };
    let streaming = now.replicas.iter().map(|(n, r)| (n, r.streaming));
    !(servers
        && brakes
        && (now.epoch, now.seen) == (then.epoch, then.seen)
        && now.data == then.data
        && now.seal == then.seal
        && now.promoted == then.promoted
        && late(now.primary_agent_silent_ms) == late(then.primary_agent_silent_ms)
        && late(now.wal_silent_ms) == late(then.wal_silent_ms)
        && streaming.eq(then.replicas.iter().map(|(n, r)| (n, r.streaming)))
        && now.sync_applied == then.sync_applied
        && now.rejoined == then.rejoined
        && now.handover == then.handover
        && (now.configured, &now.pending, &now.restarted)
            == (then.configured, &then.pending, &then.restarted))
}
