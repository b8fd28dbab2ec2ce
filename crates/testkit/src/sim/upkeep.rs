//! A person who changes the configuration and restarts servers, never careful about the moment; and what a server makes of it.
//!
//! Of all parameters one is modelled: `max_connections`, of which a standby must not have less than the primary whose WAL it
//! replays. What a primary has is in its WAL, in the records of `World::limits`.

use super::node::NodeId;
use super::postgres::{Data, Process};
use super::random::Random;
use super::world::{Event, FAULTS_FROM, FAULTS_UNTIL, World};
use cluster::configuration::Pending;
use cluster::decide::switchover::Order;
use cluster::mutant::{self, Mutant};
use cluster::state::{State, SyncSet};
use cluster::step::Step;

/// Which sequence of random numbers is this person's.
const SEQUENCE: u64 = 1 << 45;
/// The numbers of the random sequences that say how long a primary takes to start again.
const AGAIN: u64 = 1 << 46;
/// PostgreSQL's default.
const LIMIT: u64 = 100;
const NAME: &str = "max_connections";

/// What the files of a node say, by the state that it knows.
fn in_files(state: &State) -> u64 {
    let set = state.configuration.content().parameters.get(NAME);
    set.and_then(|text| text.parse().ok()).unwrap_or(LIMIT)
}

impl World {
    /// In most runs nobody is there; seeds that once failed stay what they were.
    pub fn plan_upkeep(&mut self) {
        let recorded = super::recorded_seeds().any(|seed| seed == self.seed);
        if !recorded && Random::of_fault(self.seed, SEQUENCE).chance(25) {
            self.at(FAULTS_FROM, Event::Upkeep);
        }
    }

    /// The person does something.
    pub fn keep_up(&mut self) {
        self.upkept += 1;
        let mut own = Random::of_fault(self.seed, SEQUENCE + self.upkept);
        let pause = own.ms(200, 3000);
        if self.now + pause < FAULTS_UNTIL - 5_000_000 {
            self.after(pause, Event::Upkeep);
        }
        match own.below(10) {
            0..=3 => self.edit(&mut own),
            4..=8 => {
                let node = self.nodes[own.index(self.nodes.len())].name.clone();
                let order = Order::Restart {
                    node: Some(node).filter(|_| own.chance(40)),
                    pending: own.chance(40),
                    rolling: own.chance(50),
                    insist: own.chance(30),
                };
                self.ask_leader(&order);
            }
            _ => {
                if let Some(restart) = &self.checks.agreed.restart {
                    let id = restart.id.clone();
                    self.ask_leader(&Order::Cancel { id });
                }
            }
        }
    }

    /// From what some node knows, which may be old, or from the version before.
    fn edit(&mut self, own: &mut Random) {
        let state = &self.nodes[own.index(self.nodes.len())].replica.state;
        let known = state.configuration.number();
        let from = if own.chance(20) { known.saturating_sub(1) } else { known };
        let mut content = state.configuration.content().clone();
        let limit = [60, 100, 150, 200][own.index(4)];
        content.parameters.insert(NAME.to_owned(), format!("{limit}"));
        if own.chance(30) {
            content.parameters.insert("work_mem".to_owned(), format!("{}MB", own.between(1, 64)));
        }
        self.ask_leader(&Order::Configure { from, content, back_to: None });
    }

    /// As much as a standby must have to replay this WAL.
    fn needed_for(&self, data: &Data) -> u64 {
        if self.limits.is_empty() {
            return LIMIT;
        }
        data.records.iter().rev().find_map(|r| self.limits.get(&r.id)).copied().unwrap_or(LIMIT)
    }

    /// The server starts with what its files say; a standby with what its WAL asks for, if that is more.
    pub(super) fn start_with_files(&mut self, node: NodeId, standby: bool) {
        let host = &self.nodes[node];
        let state = &host.replica.state;
        let files = in_files(state);
        let needed = host.postgres.data.as_ref().filter(|_| standby).map_or(0, |d| self.needed_for(d));
        let version = state.configuration.number();
        let host = &mut self.nodes[node];
        host.notes.configured = version;
        host.notes.limit = Some(files);
        host.postgres.limit = files.max(needed);
    }

    /// The turn of restarts for which a server of `node` that starts now counts.
    pub(super) fn note_turn(&mut self, node: NodeId) {
        let host = &mut self.nodes[node];
        let token = host.replica.state.restart.as_ref().and_then(|r| r.token_of(&host.name));
        host.notes.restarted = token.or(host.notes.restarted.take());
    }

    /// A running server has read its files again.
    pub(super) fn finish_configure(&mut self, node: NodeId) {
        let host = &mut self.nodes[node];
        host.notes.configured = host.replica.state.configuration.number();
        host.notes.limit = Some(in_files(&host.replica.state));
    }

    /// A primary tells its standbys what it has, when that is something else than before.
    pub(super) fn tell_limit(&mut self, node: NodeId) {
        let postgres = &self.nodes[node].postgres;
        let needed = postgres.data.as_ref().map_or(LIMIT, |data| self.needed_for(data));
        if postgres.process != Process::Primary || postgres.limit == needed {
            return;
        }
        let (id, limit) = (self.number(), postgres_limit(self, node));
        self.limits.insert(id, limit);
        if let Some(data) = &mut self.nodes[node].postgres.data {
            data.write(id, 60);
        }
        self.push_wal(node);
    }

    /// Its replay has stopped: the primary has more than it.
    pub(super) fn is_stuck(&self, node: NodeId) -> bool {
        let postgres = &self.nodes[node].postgres;
        let recovers =
            matches!(postgres.process, Process::Recovering | Process::Standby | Process::Promoting);
        let needed = || postgres.data.as_ref().map_or(0, |data| self.needed_for(data));
        recovers && !self.limits.is_empty() && needed() > postgres.limit
    }

    /// What waits for a restart.
    pub(super) fn pending(&self, node: NodeId) -> Vec<Pending> {
        let host = &self.nodes[node];
        let runs = matches!(host.postgres.process, Process::Standby | Process::Promoting | Process::Primary);
        let other = host.notes.limit.filter(|files| runs && *files != host.postgres.limit);
        let pending = |files: u64| Pending {
            name: NAME.to_owned(),
            running: host.postgres.limit.to_string(),
            configured: files.to_string(),
        };
        other.map(pending).into_iter().collect()
    }

    /// The server ends in order; a standby's starts again at once. Returns how long that takes.
    pub(super) fn begin_again(&mut self, node: NodeId, step: &Step) -> u64 {
        if let Step::Restart { token } = step {
            self.kill_server(node);
            let notes = &mut self.nodes[node].notes;
            notes.restarted = token.clone().or(notes.restarted.take());
            return self.start_sealed(node);
        }
        // A primary's shutdown checkpoint reaches whoever is connected.
        let record = self.number();
        if let Some(data) = &mut self.nodes[node].postgres.data {
            data.write(record, 120);
        }
        self.push_wal(node);
        self.kill_server(node);
        self.aim_beside(10, 0, super::aimed::Aim::Isolate(node));
        let mut own = Random::of_fault(self.seed, AGAIN + record);
        if own.chance(25) { own.ms(500, 5000) } else { own.ms(100, 600) }
    }

    /// And starts again, if it may: in the right of the lease that the old one had.
    pub(super) fn serve_again(&mut self, node: NodeId, token: String, sync: SyncSet) {
        let now = self.clock(node);
        let host = &self.nodes[node];
        let wanted = host.replica.state.handover.as_ref().is_some_and(|h| h.id == token && h.is_in_place());
        let leased = host.deadline.is_some_and(|deadline| now < deadline);
        let may = leased || mutant::is(Mutant::RestartUnleased);
        if !wanted || !may || host.postgres.process != Process::Stopped {
            return;
        }
        super::invariants::serves_again(self, node);
        let until = now.plus(self.proposed.settings.lease_ms());
        self.start_with_files(node, false);
        let host = &mut self.nodes[node];
        host.notes.restarted = Some(token);
        host.postgres.kill();
        host.postgres.configure_stopped(sync);
        host.postgres.process = Process::Primary;
        if let Some(agent) = &mut host.agent {
            (agent.sync_configured, agent.sync_applied) = (None, None);
            agent.server_since = now;
        }
        if !leased {
            self.set_deadline(node, until);
        }
        self.tell_limit(node);
        let name = self.nodes[node].name.clone();
        self.say(|_| format!("{name}: takes writes again"));
    }
}

fn postgres_limit(world: &World, node: NodeId) -> u64 {
    world.nodes[node].postgres.limit
}
