//! The event queue, and the way of each event to the part that handles it.

use super::aimed::Aim;
use super::invariants::Checks;
use super::network::Network;
use super::node::{Clock, Node, NodeId, Notes, Replica, Running};
use super::postgres::Postgres;
use super::random::Random;
use super::store::{Message, Store};
use super::streaming::StreamMessage;
use super::{Report, Trace};
use cluster::decide::Proposed;
use cluster::observe::Observation;
use cluster::state::{Degrade, Replication, Settings, Tags};
use cluster::step::Step;
use cluster::{Moment, NodeName};
use std::collections::{BTreeMap, BTreeSet};

/// Faults begin after this time, in microseconds.
pub const FAULTS_FROM: u64 = 6_000_000;
/// Faults end at this time.
pub const FAULTS_UNTIL: u64 = 40_000_000;
/// A cluster that has not recovered by this time is stuck.
pub const STUCK_AT: u64 = 100_000_000;

/// The number of the random sequence that `vary` draws from.
const MODE: u64 = u64::MAX - 1;

/// Something that happens.
#[derive(Clone, Debug)]
pub enum Event {
    /// The agent's regular look at everything.
    Tick { node: NodeId, life: u64 },
    /// A message between agents.
    Message { from: NodeId, to: NodeId, message: Message },
    /// A step of the agent has ended.
    Done { node: NodeId, life: u64, step: Step },
    /// An agent starts again.
    AgentStart { node: NodeId, boots: u64 },
    /// The server has started.
    Started { node: NodeId, life: u64 },
    /// The server has left recovery.
    Promoted { node: NodeId, life: u64 },
    /// The checkpointer re-reads the configuration.
    Checkpointer { node: NodeId, life: u64 },
    /// A WAL sender has re-read the configuration.
    Obeys { node: NodeId, standby: NodeId, connection: u64 },
    /// A message of a WAL stream.
    Stream { from: NodeId, to: NodeId, message: StreamMessage },
    /// The server's regular work: keepalives, attempts to connect, time-outs.
    ServerTick { node: NodeId, boots: u64 },
    /// The guard's timer.
    Guard { node: NodeId, boots: u64 },
    /// A client writes, if this node lets it.
    Write { node: NodeId },
    /// A person asks the cluster for something.
    Order,
    /// A person decides what nothing automatic may, or services something.
    Operator,
    /// A person changes the configuration, or restarts servers.
    Upkeep,
    /// A person lets nodes in and out.
    Membership,
    /// Something breaks: the fault of this number.
    Fault { index: u64, aim: Aim },
    /// A hung server goes on.
    ServerThaws { node: NodeId, life: u64 },
    /// A person moves a foreign data directory away.
    Cleared { node: NodeId },
    /// A frozen host goes on.
    HostThaws { node: NodeId, boots: u64 },
    /// A frozen agent goes on.
    AgentThaws { node: NodeId, life: u64 },
    /// A host gets power again.
    PowerOn { node: NodeId, boots: u64 },
    /// Everything that was broken from outside is repaired.
    Heal,
}

/// Which process an event is for.
enum For {
    Agent(NodeId),
    Server(NodeId),
    Nature,
}

impl Event {
    /// Whether the server itself must do something about it.
    fn needs_server(&self) -> bool {
        matches!(
            self,
            Event::Started { .. }
                | Event::Promoted { .. }
                | Event::Checkpointer { .. }
                | Event::Obeys { .. }
                | Event::Stream { .. }
                | Event::ServerTick { .. }
        )
    }

    fn is_for(&self) -> For {
        match self {
            Event::Tick { node, .. } | Event::Message { to: node, .. } | Event::Done { node, .. } => {
                For::Agent(*node)
            }
            Event::Started { node, .. }
            | Event::Promoted { node, .. }
            | Event::Checkpointer { node, .. }
            | Event::Obeys { node, .. }
            | Event::Stream { to: node, .. }
            | Event::ServerTick { node, .. }
            | Event::Guard { node, .. }
            | Event::AgentStart { node, .. }
            | Event::Write { node } => For::Server(*node),
            Event::Order
            | Event::Operator
            | Event::Upkeep
            | Event::Membership
            | Event::Fault { .. }
            | Event::ServerThaws { .. }
            | Event::Cleared { .. }
            | Event::HostThaws { .. }
            | Event::AgentThaws { .. }
            | Event::PowerOn { .. }
            | Event::Heal => For::Nature,
        }
    }
}

/// Everything.
#[derive(Debug)]
pub struct World {
    /// Microseconds since the beginning.
    pub now: u64,
    pub random: Random,
    queue: BTreeMap<(u64, u64), Event>,
    pushed: u64,
    pub nodes: Vec<Node>,
    /// Their names, in the same order.
    pub names: Vec<NodeName>,
    pub network: Network,
    pub store: Store,
    pub proposed: Proposed,
    pub checks: Checks,
    pub report: Report,
    /// Numbers for records, connections and identities: never the same twice.
    pub last_number: u64,
    /// The seed.
    pub seed: u64,
    /// Faults that are not made, by number.
    pub skip: BTreeSet<u64>,
    /// Faults planned for a moment that matters, so far.
    pub aimed: u64,
    /// Those that are counted apart, so far.
    pub aimed_apart: u64,
    /// Whose next agent hears at once who leads, without the entries that it lacks.
    pub hears_leader: Option<NodeId>,
    /// And those beside them.
    pub aimed_beside: u64,
    /// A report that is kept back, to arrive late.
    pub kept: Option<(NodeId, Observation, Moment)>,
    /// A standby is being left behind, so that it is to be the only one left.
    pub leaves_behind: bool,
    /// A standby of a promoted node that is not heard until the next one is appointed.
    pub left_out: Option<NodeId>,
    /// This node is to be copied from one that lags.
    pub copied_behind: Option<NodeId>,
    /// What the person who decides has been shown.
    pub operator: super::operator::Operator,
    /// What the person who looks after servers has done so far.
    pub upkept: u64,
    /// What the person who lets nodes in and out remembers.
    pub invited: super::membership::Invited,
    /// Records that tell how many connections their primary has.
    pub limits: BTreeMap<u64, u64>,
    trace: Trace,
}

impl World {
    /// An empty cluster whose hosts have just got power.
    pub fn new(seed: u64, trace: Trace, skip: &BTreeSet<u64>) -> World {
        let mut random = Random::new(seed);
        let count = random.between(3, 5);
        let witness = random.chance(30);
        let settings = vary(seed, settings(&mut random, count - u64::from(witness)));
        let names: Vec<NodeName> =
            (1..=count).filter_map(|i| NodeName::try_from(format!("n{i}")).ok()).collect();
        let ppm = i64::try_from(settings.drift_ppm).unwrap_or(0);
        let nodes = names.iter().enumerate().map(|(i, name)| {
            let error = i64::try_from(random.below(2 * settings.drift_ppm + 1)).unwrap_or(0) - ppm;
            // The worst is the most instructive.
            let error = if random.chance(50) { error.signum() * ppm } else { error };
            let clock = Clock { since: 0, shown: random.ms(1_000_000, 9_000_000), ppm: error };
            empty_node(name.clone(), witness && i + 1 == names.len(), clock)
        });
        let nodes = nodes.collect();
        let proposed = Proposed {
            cluster: "sim".to_owned(),
            settings,
            names: names.iter().cloned().collect(),
            record: Default::default(),
            adopt: None,
        };
        let mut world = World {
            now: 0,
            random,
            queue: BTreeMap::new(),
            pushed: 0,
            nodes,
            names,
            network: Network::default(),
            store: Store::default(),
            proposed,
            checks: Checks::default(),
            report: Report::default(),
            last_number: 0,
            seed,
            skip: skip.clone(),
            aimed: 0,
            aimed_apart: 0,
            aimed_beside: 0,
            hears_leader: None,
            kept: None,
            leaves_behind: false,
            left_out: None,
            copied_behind: None,
            operator: super::operator::Operator::default(),
            upkept: 0,
            invited: super::membership::Invited::default(),
            limits: BTreeMap::new(),
            trace,
        };
        world.say(|w| format!("seed {seed}: {count} nodes, witness {witness}, {:?}", w.proposed.settings));
        for node in 0..world.nodes.len() {
            let after = world.random.ms(0, 300);
            world.after(after, Event::PowerOn { node, boots: 0 });
        }
        world.choose_tags(count - u64::from(witness));
        world.at(FAULTS_FROM, Event::Order);
        world.plan_foreign_data();
        world.plan_operator();
        world.plan_upkeep();
        world.store.voters = (0..world.nodes.len()).collect();
        world.plan_membership();
        world.at(FAULTS_FROM, Event::Fault { index: 0, aim: Aim::Any });
        world.at(FAULTS_UNTIL, Event::Heal);
        world
    }

    /// Runs to the end, or to the first broken invariant.
    pub fn run(mut self) -> Report {
        while let Some(((at, _), event)) = self.queue.pop_first() {
            self.now = at;
            self.report.events += 1;
            self.digest(&event);
            self.deliver(event);
            super::invariants::after_event(&mut self);
            if self.checks.violation.is_some() || self.checks.recovered() {
                break;
            }
        }
        self.report.violation = self.checks.violation.take();
        self.report
    }

    /// Lets `event` happen at `at`.
    pub fn at(&mut self, at: u64, event: Event) {
        self.pushed += 1;
        self.queue.insert((at.max(self.now), self.pushed), event);
    }

    /// Lets `event` happen after `wait` microseconds.
    pub fn after(&mut self, wait: u64, event: Event) {
        self.at(self.now + wait, event);
    }

    /// A number that was never given before.
    pub fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// What the clock of `node` shows.
    pub fn clock(&self, node: NodeId) -> Moment {
        self.nodes[node].clock.read(self.now)
    }

    /// The index of a name.
    pub fn id(&self, name: &NodeName) -> Option<NodeId> {
        self.nodes.iter().position(|n| n.name == *name)
    }

    /// Tells the story, if anybody listens.
    pub fn say(&self, line: impl FnOnce(&World) -> String) {
        if self.trace == Trace::Print {
            println!("{:>9.3} s  {}", self.now as f64 / 1e6, line(self));
        }
    }

    fn digest(&mut self, event: &Event) {
        let kind = match event.is_for() {
            For::Agent(n) => n as u64 * 3 + 1,
            For::Server(n) => n as u64 * 3 + 2,
            For::Nature => 0,
        };
        let mixed = self.report.digest ^ self.now.wrapping_mul(31) ^ kind;
        self.report.digest = mixed.wrapping_mul(0x0000_0100_0000_01B3);
    }

    /// Hands an event to its process; a frozen one gets it later, one without power never.
    fn deliver(&mut self, event: Event) {
        let (node, agent) = match event.is_for() {
            For::Agent(node) => (node, true),
            For::Server(node) => (node, false),
            For::Nature => return self.happen(event),
        };
        let host = &mut self.nodes[node];
        if !host.has_power() {
            if let Event::Write { .. } = event {
                self.happen(event);
            }
            return;
        }
        let frozen = host.host == Running::Frozen || agent && host.agent_process == Running::Frozen;
        if frozen && !matches!(event, Event::Write { .. }) {
            host.backlog.push(event);
        } else if host.postgres.hung_since.is_some() && event.needs_server() {
            host.server_backlog.push(event);
        } else {
            self.happen(event);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Tick { node, life } => self.tick(node, life),
            Event::Message { from, to, message } => self.hear_message(from, to, message),
            Event::Done { node, life, step } => self.step_done(node, life, step),
            Event::AgentStart { node, boots } => self.start_agent(node, boots),
            Event::Started { node, life } => self.server_started(node, life),
            Event::Promoted { node, life } => self.server_promoted(node, life),
            Event::Checkpointer { node, life } => self.checkpointer_reads(node, life),
            Event::Obeys { node, standby, connection } => self.obey(node, standby, connection),
            Event::Stream { from, to, message } => self.hear_stream(from, to, message),
            Event::ServerTick { node, boots } => self.server_tick(node, boots),
            Event::Guard { node, boots } => self.guard(node, boots),
            Event::Write { node } => self.client_writes(node),
            Event::Order => self.give_order(),
            Event::Operator => self.operate(),
            Event::Upkeep => self.keep_up(),
            Event::Membership => self.change_members(),
            Event::Fault { index, aim } => self.make_fault(index, aim),
            Event::ServerThaws { node, life } => self.thaw_server(node, life),
            Event::Cleared { node } => self.clear_foreign(node),
            Event::HostThaws { node, boots } => self.thaw_host(node, boots),
            Event::AgentThaws { node, life } => self.thaw_agent(node, life),
            Event::PowerOn { node, boots } => self.power_on(node, boots),
            Event::Heal => self.heal(),
        }
    }
}

fn settings(random: &mut Random, data_nodes: u64) -> Settings {
    let replication = match random.below(4) {
        0 => Replication::Async { max_loss_bytes: random.below(4) * 500, loss_bound_bytes: None },
        1 if data_nodes > 2 => Replication::Quorum { k: 2, degrade: Degrade::Strict },
        _ => Replication::Quorum { k: 1, degrade: Degrade::Strict },
    };
    Settings { replication, detect_ms: 1500, drift_ppm: 20_000 }
}

/// What commits do when standbys are missing, drawn from a sequence of its own.
fn vary(seed: u64, mut settings: Settings) -> Settings {
    let mut own = Random::of_fault(seed, MODE);
    match &mut settings.replication {
        Replication::Quorum { degrade, .. } if own.chance(40) => *degrade = Degrade::Available,
        Replication::Async { max_loss_bytes, loss_bound_bytes } if own.chance(40) => {
            *loss_bound_bytes = Some(own.between(100, 500).min(*max_loss_bytes)).filter(|bound| *bound > 0);
        }
        Replication::Quorum { .. } | Replication::Async { .. } => {}
    }
    settings
}

pub(super) fn empty_node(name: NodeName, witness: bool, clock: Clock) -> Node {
    Node {
        name,
        witness,
        tags: Tags::default(),
        barred: false,
        clock,
        boots: 0,
        host: Running::Yes,
        agent_process: Running::Yes,
        agent: None,
        notes: Notes::default(),
        replica: Replica::default(),
        postgres: Postgres::new(),
        shelf: None,
        slow_set_sync: (0, 0),
        deadline: None,
        backlog: Vec::new(),
        server_backlog: Vec::new(),
    }
}
