//! The agent's loop: observe, decide, propose, step, act.
//!
//! Everything that happens is an [`Event`]; after each one the loop looks again at what follows from all it knows. It
//! keeps no plan: what it does next is recomputed by `cluster::step::step` (as a node) and `cluster::decide::decide` (as
//! the leader).

mod act;
mod asked;
mod cut_off;
mod drain;
mod lead;
mod leash;
mod leave;
mod moving;
mod observe;
mod server;
mod tell_hooks;

pub use asked::Known;
pub use leave::Purpose;
pub use moving::Over;

use crate::guard::GuardEvent;
use crate::hands::{Done, Hands};
use crate::heartbeat::{Leader, Outgoing};
use crate::hooks::Hooks;
use crate::messages::{self, HeartbeatAnswer, Pong};
use crate::postgres::probe::Probe;
use crate::probing;
use crate::reach;
use crate::stall;
use crate::store::moving::Opening;
use crate::store::{Standing, Store};
use crate::successor::{Ended, Process};
use cluster::copy::CloneCause;
use cluster::decide::Proposed;
use cluster::decide::switchover::Ordered;
use cluster::handover::Stopped;
use cluster::observe::{DataDir, Observation, Server};
use cluster::state::{Member, State};
use cluster::status::Status;
use cluster::step::Local;
use cluster::{Epoch, Millis, Moment, NodeName};
use identity::Caller;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};

/// Everything that can happen to an agent.
#[derive(Debug)]
pub enum Event {
    /// A node's heartbeat came; it is answered if this agent leads.
    Heartbeat {
        /// What it said.
        observation: Box<Observation>,
        /// Dropped without an answer when this agent does not lead.
        reply: oneshot::Sender<HeartbeatAnswer>,
    },
    /// The leader answered.
    Answered {
        /// When the heartbeat was sent, CLOCK_BOOTTIME.
        sent_at_ms: u64,
        /// The answer.
        answer: HeartbeatAnswer,
    },
    /// The guard holds a new deadline.
    LeaseHeld {
        /// The server that it was held for.
        generation: u64,
        /// For which epoch, and its end on this host's clock; `None`: the guard did not take it.
        lease: Option<(Epoch, Moment)>,
    },
    /// The guard was told that there is no deadline, for a pause; whether it took that.
    LeaseOff(bool),
    /// The server answered a probe, or did not.
    Probed {
        /// Which start of the server.
        generation: u64,
        /// The answer.
        found: Box<Result<Probe, String>>,
    },
    /// The data directory was looked at.
    Looked(Result<DataDir, String>),
    /// A step ended.
    StepDone(Box<Result<Done, String>>),
    /// What became of the server is known again, after its guard was lost.
    FoundAgain {
        /// Which search; a later one counts.
        search: u64,
        /// What was found.
        found: Done,
    },
    /// A proposal ended.
    Proposed(Result<(), String>),
    /// A leadership transfer ended.
    Transferred,
    /// Replication slots were kept.
    SlotsKept(Result<(), String>),
    /// The checkpoint after which commits surely wait for the sync set of this number, or why it was not made.
    CommitsWait(u64, Result<(), String>),
    /// A person wants this node copied anew.
    CloneOrdered {
        /// Who, and from where.
        cause: CloneCause,
        /// Whether the order could be written down.
        reply: oneshot::Sender<Result<(), String>>,
    },
    /// Why the server does not stream.
    CutOff(cut_off::Found),
    /// The data directory of a server that was stopped for this switchover was looked at.
    StoppedFor(String, Stopped),
    /// A person's order; answered if this agent leads.
    Order {
        /// What, from whom, and whether only to try.
        asked: messages::OrderAsked,
        /// `None`: nothing was done, as this agent does not lead or has not heard of all nodes yet. Dropped without an answer when it is not known whether it was recorded.
        reply: oneshot::Sender<Option<Ordered>>,
    },
    /// Somebody wants another process in the place of this one: whether that may be now, or why not.
    AskRoom {
        /// How long the program that would follow took to say that it can.
        checked: Duration,
        /// With which intention.
        purpose: Purpose,
        /// The answer.
        reply: oneshot::Sender<Result<(), String>>,
    },
    /// Another agent told that the record has moved while this one was away.
    Told(Box<Opening>),
    /// Leave the room that was given, as soon as it may be left.
    MakeRoom,
    /// Somebody asks what this process is.
    AskProcess(oneshot::Sender<Process>),
    /// Somebody asks.
    AskPing(oneshot::Sender<Pong>),
    /// Somebody asks for the status.
    AskStatus(oneshot::Sender<Status>),
    /// Somebody wants to think about all that the leader knows; `None`: this agent does not lead.
    AskKnown(oneshot::Sender<Option<Known>>),
}

/// What the loop is made with.
pub struct Parts {
    /// This node.
    pub me: NodeName,
    /// A text that no other run of this agent has.
    pub run: String,
    /// Its addresses.
    pub member: Member,
    /// What its configuration file says of the cluster.
    pub proposed: Proposed,
    /// How other agents are called.
    pub caller: Caller,
    /// The store.
    pub store: Store,
    /// Its PostgreSQL; `None`: a witness.
    pub hands: Option<Arc<Hands>>,
    /// Kept at the newest epoch that was seen, for the log of the process.
    pub epoch_seen: Arc<AtomicU64>,
    /// A person's commands.
    pub hooks: Hooks,
    /// How long this process took from its start to here.
    pub started_in: Duration,
}

/// The loop's state.
pub struct Run {
    parts: Parts,
    events: mpsc::Sender<Event>,
    state: Arc<State>,
    standing: Standing,
    local: Local,
    server: server::ServerSight,
    acting: act::Acting,
    cut_off: cut_off::CutOff,
    lead: lead::Lead,
    heard: reach::Shared,
    observed: observe::Last,
    drain: drain::Drain,
    leash: leash::Leash,
    telling: Option<tell_hooks::Telling>,
    /// Since when it is known that this node was removed.
    struck_out_since: Option<Moment>,
    leave: leave::Leave,
    moving: Option<moving::Moving>,
    tasks: Tasks,
}

/// Ends of the channels to the tasks around the loop.
struct Tasks {
    probe: watch::Sender<Option<probing::Target>>,
    hurry: Arc<Notify>,
    reach: watch::Sender<Option<reach::Target>>,
    leader: watch::Sender<Leader>,
    outgoing: watch::Sender<Option<Outgoing>>,
}

/// How long a node that was removed is still there. It votes until the leader has taken it out of the store, and where there are two,
/// that takes both: without it the other one could never record anything again.
const STRUCK_OUT_MS: Millis = 3000;

fn now() -> Moment {
    Moment(crate::clock::boottime_ms())
}

/// Runs until `stop` turns true, then stops the server in order; or until another process is to take its place, or the record is
/// kept in another store.
///
/// # Errors
/// When the store died: the process must end and be started again.
pub async fn run(
    parts: Parts,
    events: (mpsc::Sender<Event>, mpsc::Receiver<Event>),
    guard_events: mpsc::UnboundedReceiver<GuardEvent>,
    mut stop: watch::Receiver<bool>,
) -> Result<Over, String> {
    let (sender, mut inbox) = events;
    let mut guard_events = guard_events;
    let mut states = parts.store.watch();
    let mut standings = parts.store.standing();
    let store = parts.store.clone();
    let mut run = Run::new(parts, sender);
    let pause = Duration::from_millis((run.detect_ms() / 30).clamp(10, 100));
    let mut ticks = tokio::time::interval(pause);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let lease = Duration::from_millis(run.settings().lease_ms());
    let quiet_after = Duration::from_millis(run.detect_ms());
    let leads = run.parts.store.clone();
    let rounds = stall::watch(lease, quiet_after, move |may| leads.may_lead(may))
        .map_err(|e| format!("cannot make a thread: {e}"))?;
    run.look_at_data();
    let mut ended = Ended::Stopped;
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(|s| *s) => break,
            cause = store.failed() => return Err(cause),
            Some(event) = guard_events.recv() => run.on_guard(event),
            changed = states.changed() => if changed.is_ok() { run.on_state(states.borrow_and_update().clone()) },
            changed = standings.changed() => {
                if changed.is_ok() { run.on_standing(standings.borrow_and_update().clone()) }
            }
            Some(event) = inbox.recv() => run.on(event),
            _ = ticks.tick() => {}
        }
        if let Some(opening) = run.moves_on() {
            run.telling.take().map(|telling| tokio::spawn(telling.finish()));
            return Ok(Over::Moved(opening));
        }
        if let Some(ended) = run.leaves() {
            return Ok(Over::Ended(ended));
        }
        if run.is_struck_out() {
            ended = Ended::Removed;
            break;
        }
        run.turn();
        rounds.count();
    }
    drop(rounds);
    run.stop_in_order(&mut inbox, &mut guard_events).await;
    if let Some(telling) = run.telling.take() {
        telling.finish().await;
    }
    Ok(Over::Ended(ended))
}

impl Run {
    fn new(parts: Parts, events: mpsc::Sender<Event>) -> Run {
        let settings = &parts.proposed.settings;
        let every = Duration::from_millis(settings.heartbeat_ms());
        let limit = Duration::from_millis(settings.detect_ms / 2);
        let heard = reach::Shared::default();
        let (probe, probe_targets) = watch::channel(None);
        let (reach, reach_targets) = watch::channel(None);
        let (leader, leaders) = watch::channel(Leader::None);
        let (outgoing, outgoing_out) = watch::channel(None);
        let hurry = Arc::new(Notify::new());
        if let Some(hands) = &parts.hands {
            let probe_limit = Duration::from_millis(settings.detect_ms.max(1000));
            let session = Arc::clone(&hands.session);
            tokio::spawn(probing::probe(session, probe_targets, hurry.clone(), events.clone(), probe_limit));
        }
        tokio::spawn(reach::ask(parts.caller.clone(), reach_targets, heard.clone(), every, limit));
        tokio::spawn(crate::heartbeat::send(
            parts.caller.clone(),
            outgoing_out,
            leaders,
            events.clone(),
            every,
            limit,
        ));
        let mut local = Local::default();
        match &parts.hands {
            Some(hands) => server::recall(&mut local, &hands.facts()),
            None => local.data = DataDir::Witness,
        }
        let attached = parts.hands.as_ref().is_some_and(|h| h.guard().is_some());
        local.server = if attached { Server::Unknown } else { Server::Stopped };
        local.told_to_promote = parts.hands.as_ref().and_then(|hands| server::pending_promotion(hands));
        let mut run = Run {
            state: parts.store.state(),
            standing: parts.store.standing().borrow().clone(),
            server: server::ServerSight::new(attached, now()),
            acting: act::Acting::default(),
            cut_off: cut_off::CutOff::default(),
            lead: lead::Lead::default(),
            observed: observe::Last::default(),
            drain: drain::Drain::default(),
            leash: leash::Leash::default(),
            struck_out_since: None,
            leave: leave::Leave::default(),
            moving: None,
            telling: tell_hooks::Telling::start(&parts.hooks, &parts.store.state()),
            tasks: Tasks { probe, hurry, reach, leader, outgoing },
            parts,
            events,
            local,
            heard,
        };
        run.parts.epoch_seen.fetch_max(run.state.epoch, Ordering::Relaxed);
        run.on_standing(run.standing.clone());
        run.mind_seal();
        run.aim();
        run
    }

    fn me(&self) -> &NodeName {
        &self.parts.me
    }

    fn settings(&self) -> &cluster::state::Settings {
        self.state.settings.as_ref().unwrap_or(&self.parts.proposed.settings)
    }

    fn detect_ms(&self) -> Millis {
        self.settings().detect_ms
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::Heartbeat { observation, reply } => self.on_heartbeat(*observation, reply),
            Event::Answered { sent_at_ms, answer } => self.on_answer(sent_at_ms, &answer),
            Event::LeaseHeld { generation, lease } => self.on_lease_held(generation, lease),
            Event::LeaseOff(taken) => self.leash.on_off(taken),
            Event::Probed { generation, found } => self.on_probed(generation, *found),
            Event::Looked(found) => self.on_looked(found),
            Event::StepDone(outcome) => self.on_step_done(*outcome),
            Event::FoundAgain { search, found } => self.on_found_again(search, found),
            Event::Proposed(outcome) => self.on_proposed(outcome),
            Event::Transferred => self.lead.transferring = false,
            Event::SlotsKept(outcome) => self.on_slots_kept(outcome),
            Event::CommitsWait(number, outcome) => self.on_commits_wait(number, &outcome),
            Event::CutOff(found) => self.on_cut_off(found),
            Event::CloneOrdered { cause, reply } => drop(reply.send(self.on_clone_ordered(cause))),
            Event::StoppedFor(id, how) => self.acting.stopped = Some((id, how)),
            Event::Order { asked, reply } => self.on_order(&asked, reply),
            Event::AskRoom { checked, purpose, reply } => {
                drop(reply.send(self.on_ask_room(checked, purpose)));
            }
            Event::MakeRoom => self.leave.call(),
            Event::Told(opening) => self.on_told(*opening),
            Event::AskProcess(reply) => drop(reply.send(self.process())),
            Event::AskPing(reply) => drop(reply.send(self.pong())),
            Event::AskStatus(reply) => drop(reply.send(self.status())),
            Event::AskKnown(reply) => drop(reply.send(self.known())),
        }
    }

    /// Whether this node was removed, and may end by now. As a name is never given again, nothing can change that.
    fn is_struck_out(&mut self) -> bool {
        if !self.standing.removed && !self.state.removed.contains(&self.parts.me) {
            return false;
        }
        let since = *self.struck_out_since.get_or_insert(now());
        now().since(since) >= STRUCK_OUT_MS
    }

    /// What follows from all that is known now.
    fn turn(&mut self) {
        self.mind_leash();
        self.mind_silent_guard();
        self.watch_for_cut_off();
        self.act();
        self.decide();
        self.tell();
        self.tell_hooks();
    }

    fn on_state(&mut self, state: Arc<State>) {
        self.log_history(&state);
        let epoch_changed = state.epoch != self.state.epoch;
        self.state = state;
        self.parts.epoch_seen.fetch_max(self.state.epoch, Ordering::Relaxed);
        if epoch_changed {
            tracing::info!(
                "epoch {}: {}",
                self.state.epoch,
                cluster::status::view(&self.state).waiting.unwrap_or_default()
            );
        }
        self.lead.see_state(&self.state, now());
        self.mind_seal();
        self.aim();
    }

    /// Points the tasks around the loop at what the state says.
    fn aim(&mut self) {
        let me = self.me().clone();
        let is_gone = self.state.removed.contains(&me);
        let target = self.state.primary().filter(|p| **p != me && !is_gone).and_then(|p| {
            let agent = self.state.members.get(p)?.agent.clone();
            Some(reach::Target { epoch: self.state.epoch, node: p.clone(), agent })
        });
        self.tasks.reach.send_if_modified(|t| std::mem::replace(t, target.clone()) != target);
        self.aim_probe();
    }

    fn log_history(&self, state: &State) {
        let known = self.state.history.last();
        let fresh: Vec<_> = state.history.iter().rev().take_while(|e| Some(*e) != known).take(20).collect();
        for entry in fresh.into_iter().rev() {
            tracing::info!(epoch = entry.epoch, by = %entry.by, "{}", entry.reason);
        }
    }
}
