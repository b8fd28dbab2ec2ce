//! What breaks, when, and for how long.

use super::aimed::{AIMED, Aim};
use super::node::{NodeId, Running};
use super::postgres::{Data, Process};
use super::random::Random;
use super::world::{Event, FAULTS_UNTIL, World};
use cluster::state::{Degrade, Replication};

/// The system identifier of data that is not the cluster's.
const FOREIGN: u64 = 7;

/// Breaks something at a node; what, for the report.
type Kind = fn(&mut World, NodeId) -> &'static str;

impl World {
    /// Breaks something, and plans the next fault. Each fault draws from a sequence of its own, so that one can be left
    /// out (`skip`) without changing the others.
    pub fn make_fault(&mut self, index: u64, aim: Aim) {
        let own = Random::of_fault(self.seed, index);
        let common = std::mem::replace(&mut self.random, own);
        if index < AIMED {
            let pause = self.random.ms(100, 3500);
            if self.now + pause < FAULTS_UNTIL {
                self.after(pause, Event::Fault { index: index + 1, aim: Aim::Any });
            }
        }
        if !self.skip.contains(&index) && self.now < FAULTS_UNTIL {
            self.report.made.push(index);
            let node = self.victim(index);
            let (kind, node) = self.hit(aim, node);
            let name = self.nodes[node].name.clone();
            *self.report.faults.entry(kind).or_default() += 1;
            self.say(|_| format!("FAULT {index}: {kind} ({name})"));
        }
        self.random = common;
    }

    /// Each kind with its weight; of each seed some kinds are more frequent and some are missing, so that rare meetings of
    /// two of them are less rare in some seeds.
    const KINDS: [(u64, Kind); 20] = [
        (20, World::kill_postmaster),
        (12, |w, node| w.kill_agent(node, 4000)),
        (14, World::power_off),
        (8, World::freeze_host),
        (8, World::freeze_agent),
        (10, World::cut_one_way),
        (12, World::isolate),
        (10, World::slow_link),
        (6, World::restart_all),
        (8, World::unreliable_network),
        (6, World::slow_store),
        (6, World::change_speed),
        (6, World::hang_server),
        (4, World::lose_data),
        (10, World::part),
        (5, World::only_leader_hears),
        (5, World::streams_dry_up),
        (3, World::swap_disk),
        (6, World::bar),
        (4, World::leave_behind),
    ];

    pub(super) fn break_something(&mut self, node: NodeId) -> &'static str {
        let mut mix = Random::of_fault(self.seed, u64::MAX - 1);
        let plain = mix.chance(40);
        let weigh = |weight: u64, mix: &mut Random| match mix.below(6) {
            _ if plain => weight,
            0..=1 => 0,
            2 => weight * 4,
            _ => weight,
        };
        let weights = Self::KINDS.map(|(weight, _)| weigh(weight, &mut mix));
        let mut left = self.random.below(weights.iter().sum());
        for (weight, (_, make)) in weights.into_iter().zip(Self::KINDS) {
            if left < weight {
                return make(self, node);
            }
            left -= weight;
        }
        self.kill_postmaster(node)
    }

    /// Mostly whoever is primary, sometimes the leader, sometimes anybody.
    fn victim(&mut self, index: u64) -> NodeId {
        let anybody = self.random.index(self.nodes.len());
        let primary = self.nodes.iter().position(|n| n.postgres.process == Process::Primary);
        let leader = self.leader();
        match self.random.below(if index < AIMED { 10 } else { 6 }) {
            0..=3 => primary.unwrap_or(anybody),
            4..=5 => leader.unwrap_or(anybody),
            _ => anybody,
        }
    }

    pub(super) fn kill_postmaster(&mut self, node: NodeId) -> &'static str {
        self.kill_server(node);
        self.look(node);
        "postmaster killed"
    }

    pub(super) fn kill_agent(&mut self, node: NodeId, back_within_ms: u64) -> &'static str {
        let host = &mut self.nodes[node];
        host.agent = None;
        host.agent_process = Running::Yes;
        host.backlog
            .retain(|e| !matches!(e, Event::Tick { .. } | Event::Message { .. } | Event::Done { .. }));
        let boots = host.boots;
        let wait = self.random.ms(50, back_within_ms);
        self.after(wait, Event::AgentStart { node, boots });
        "agent killed"
    }

    pub(super) fn power_off(&mut self, node: NodeId) -> &'static str {
        let wait = self.random.ms(300, 12_000);
        self.lose_power(node, wait);
        "host lost"
    }

    pub(super) fn lose_power(&mut self, node: NodeId, back_after: u64) {
        let host = &mut self.nodes[node];
        if !host.has_power() {
            return;
        }
        host.boots += 1;
        host.agent = None;
        host.host = Running::Yes;
        host.agent_process = Running::Yes;
        host.deadline = None;
        host.backlog.clear();
        host.server_backlog.clear();
        host.postgres.kill();
        let boots = host.boots;
        self.after(back_after, Event::PowerOn { node, boots });
    }

    /// A host starts: its agent comes up, its server waits to be told.
    pub fn power_on(&mut self, node: NodeId, boots: u64) {
        if self.nodes[node].boots != boots || self.nodes[node].has_power() {
            return;
        }
        self.nodes[node].boots += 1;
        let boots = self.nodes[node].boots;
        self.start_agent(node, boots);
        self.after(0, Event::ServerTick { node, boots });
        if boots == 1 && !self.nodes[node].witness {
            self.after(0, Event::Write { node });
        }
    }

    fn restart_all(&mut self, _: NodeId) -> &'static str {
        for node in 0..self.nodes.len() {
            let wait = self.random.ms(200, 6000);
            self.lose_power(node, wait);
        }
        "all hosts restarted"
    }

    fn freeze_host(&mut self, node: NodeId) -> &'static str {
        let wait = self.random.ms(300, 7000);
        let host = &mut self.nodes[node];
        if host.has_power() {
            host.host = Running::Frozen;
            let boots = host.boots;
            self.after(wait, Event::HostThaws { node, boots });
        }
        "host frozen"
    }

    /// A frozen host goes on: the guard's timer is the first to notice how late it is.
    pub fn thaw_host(&mut self, node: NodeId, boots: u64) {
        if self.nodes[node].boots == boots {
            self.nodes[node].host = Running::Yes;
            self.keep_deadline(node);
            self.replay_backlog(node);
        }
    }

    /// A frozen agent goes on.
    pub fn thaw_agent(&mut self, node: NodeId, life: u64) {
        if self.nodes[node].agent.as_ref().is_some_and(|a| a.life == life) {
            self.nodes[node].agent_process = Running::Yes;
            self.replay_backlog(node);
        }
    }

    fn replay_backlog(&mut self, node: NodeId) {
        for event in std::mem::take(&mut self.nodes[node].backlog) {
            self.after(0, event);
        }
    }

    fn cut_one_way(&mut self, node: NodeId) -> &'static str {
        let other = self.random.index(self.nodes.len());
        let until = self.now + self.random.ms(300, 9000);
        if self.random.chance(50) {
            self.network.cut(node, other, until);
        } else {
            self.network.cut(other, node, until);
        }
        "link cut one way"
    }

    pub(super) fn isolate(&mut self, node: NodeId) -> &'static str {
        let until = self.now + self.random.ms(300, 9000);
        for other in (0..self.nodes.len()).filter(|o| *o != node) {
            self.network.cut(node, other, until);
            self.network.cut(other, node, until);
        }
        "node isolated"
    }

    /// Two halves that cannot hear each other; the leader and the victim are in the same one.
    fn part(&mut self, node: NodeId) -> &'static str {
        let until = self.now + self.random.ms(1000, 12_000);
        let leads = |n: &super::node::Node| n.agent.as_ref().is_some_and(|a| a.leads.is_some());
        let mut here = vec![false; self.nodes.len()];
        for (other, side) in here.iter_mut().enumerate() {
            *side = other == node || leads(&self.nodes[other]) || self.random.chance(20);
        }
        for a in 0..here.len() {
            for b in (0..here.len()).filter(|b| here[a] != here[*b]) {
                self.network.cut(a, b, until);
            }
        }
        "network parted"
    }

    fn slow_link(&mut self, node: NodeId) -> &'static str {
        let other = self.random.index(self.nodes.len());
        let until = self.now + self.random.ms(1000, 9000);
        let extra = self.random.ms(10, 1500);
        self.network.slow(node, other, extra, until);
        "link slowed"
    }

    fn unreliable_network(&mut self, _: NodeId) -> &'static str {
        let (percent, until) = (self.random.between(5, 60), self.now + self.random.ms(1000, 9000));
        self.network.unreliable(percent, until);
        "messages lost, repeated, overtaken"
    }

    fn slow_store(&mut self, node: NodeId) -> &'static str {
        let (extra, until) = (self.random.ms(20, 900), self.now + self.random.ms(1000, 9000));
        self.network.slow_store(node, extra, until);
        "store slowed"
    }

    /// Every clock goes on at another speed, within the allowance.
    fn change_speed(&mut self, _: NodeId) -> &'static str {
        let most = self.proposed.settings.drift_ppm;
        for node in 0..self.nodes.len() {
            let error = i64::try_from(self.random.below(3) * most).unwrap_or(0);
            self.set_speed(node, error - i64::try_from(most).unwrap_or(0));
        }
        "clocks change their speed"
    }

    /// The clock of `node` is wrong by `ppm` from now on.
    pub(super) fn set_speed(&mut self, node: NodeId, ppm: i64) {
        let host = &mut self.nodes[node];
        host.clock.change_speed(self.now, ppm);
        if let Some(until) = host.deadline {
            self.set_deadline(node, until);
        }
    }

    fn hang_server(&mut self, node: NodeId) -> &'static str {
        let wait = self.random.ms(300, 9000);
        let (now, host) = (self.now, &mut self.nodes[node]);
        if host.postgres.process != Process::Stopped && host.postgres.hung_since.is_none() {
            host.postgres.hung_since = Some(now);
            let life = host.postgres.life;
            self.after(wait, Event::ServerThaws { node, life });
        }
        "server hung"
    }

    /// A hung server goes on.
    pub fn thaw_server(&mut self, node: NodeId, life: u64) {
        if self.nodes[node].postgres.life == life {
            self.nodes[node].postgres.hung_since = None;
            self.replay_server_backlog(node);
        }
    }

    /// What waited for a hung server comes to it, or to the one that was started after it.
    pub fn replay_server_backlog(&mut self, node: NodeId) {
        for event in std::mem::take(&mut self.nodes[node].server_backlog) {
            self.after(0, event);
        }
    }

    /// A disk is lost, where the cluster promises to survive that without a person: the primary's in quorum mode, or that
    /// of a standby that confirms nothing.
    pub(super) fn lose_data(&mut self, node: NodeId) -> &'static str {
        let agreed = &self.checks.agreed;
        // With degrade = available the primary may be the only one that has a commit.
        let quorum = matches!(
            self.proposed.settings.replication,
            Replication::Quorum { degrade: Degrade::Strict, .. }
        );
        let is_primary = agreed.primary() == Some(&self.nodes[node].name);
        let serves = self
            .nodes
            .iter()
            .any(|n| agreed.primary() == Some(&n.name) && n.postgres.process == Process::Primary);
        // A member that is being copied or rewound has lost what it had already: two copies would be lost.
        let line = agreed.appointment().map(|a| &a.promotion_id);
        let whole = |n: &super::node::Node| {
            let same = n.own_data().is_some() && n.notes.line.as_ref() == line;
            same && n.notes.unfinished.is_none() && !n.notes.inconsistent && !n.notes.copied
        };
        let in_doubt = self.nodes.iter().any(|n| agreed.sync.contains(&n.name) && !whole(n));
        // What it confirmed still counts for a sender that has not noticed yet, also in a set that it is added to now.
        let still_counts = self.nodes.iter().any(|n| n.postgres.senders.contains_key(&node));
        let counts = agreed.sync.contains(&self.nodes[node].name)
            || still_counts && matches!(self.proposed.settings.replication, Replication::Quorum { .. });
        let fewer_than_k = agreed.sync.in_force.iter().all(|set| set.k >= 2);
        if counts && (in_doubt || !fewer_than_k)
            || !serves
            || is_primary && in_doubt
            || is_primary
                && !(quorum
                    && agreed.sync.in_force.last().is_some_and(|set| set.members.len() >= set.k.max(1)))
            || self.nodes[node].witness
        {
            return "data kept";
        }
        // A person may be quick to put in a new disk.
        let wait = if self.random.chance(40) { self.random.ms(30, 300) } else { self.random.ms(300, 12_000) };
        self.lose_power(node, wait);
        self.nodes[node].postgres.data = None;
        self.nodes[node].shelf = None;
        if counts { "data of a member lost" } else { "data lost" }
    }

    /// A host starts with the disk of another cluster's node, until a person brings its own back.
    pub(super) fn swap_disk(&mut self, node: NodeId) -> &'static str {
        let records = self.random.below(300);
        let back = self.random.ms(2000, 15_000);
        let up = self.random.ms(100, 1500);
        let host = &mut self.nodes[node];
        let usable = host.postgres.data.is_some() && host.shelf.is_none() && host.notes.unfinished.is_none();
        if !usable || self.checks.agreed.system_identifier.is_none() || !host.has_power() {
            return "disk kept";
        }
        self.lose_power(node, up);
        let mut foreign = Data::new(FOREIGN);
        for _ in 0..records {
            let (id, bytes) = (self.number(), self.random.between(40, 300));
            foreign.write(id, bytes);
        }
        let host = &mut self.nodes[node];
        host.shelf = host.postgres.data.replace(foreign);
        host.postgres.upstream = None;
        self.after(back, Event::Cleared { node });
        "disk swapped"
    }

    /// An operator says that a node may not be primary, or may not confirm, and takes it back the next time.
    pub(super) fn bar(&mut self, node: NodeId) -> &'static str {
        let tagged = |n: &super::node::Node| n.tags.never_primary || n.tags.never_sync;
        let primary = self.nodes[node].postgres.process == Process::Primary;
        let never_primary = self.random.chance(50) && !primary;
        if self.nodes[node].barred {
            self.unbar(node);
            return "node unbarred";
        }
        if self.nodes[node].witness || self.nodes.iter().any(tagged) {
            return "nobody barred";
        }
        let host = &mut self.nodes[node];
        host.barred = true;
        host.tags.never_primary = never_primary;
        host.tags.never_sync = !never_primary;
        "node barred"
    }

    fn unbar(&mut self, node: NodeId) {
        let host = &mut self.nodes[node];
        if std::mem::take(&mut host.barred) {
            (host.tags.never_primary, host.tags.never_sync) = (false, false);
        }
    }

    /// In some runs a node comes with data of another database, until a person moves it away.
    pub fn plan_foreign_data(&mut self) {
        let mut own = Random::of_fault(self.seed, u64::MAX);
        let node = own.index(self.nodes.len());
        if own.chance(5) && !self.nodes[node].witness {
            self.nodes[node].postgres.data = Some(Data::new(FOREIGN));
            let wait = own.ms(1000, 30_000);
            self.after(wait, Event::Cleared { node });
        }
    }

    /// A person moves the data of another database away, with its server stopped, and brings back what was there before.
    pub fn clear_foreign(&mut self, node: NodeId) {
        let host = &self.nodes[node];
        if host.postgres.data.as_ref().is_some_and(|d| d.system_identifier == FOREIGN) {
            self.kill_server(node);
            let host = &mut self.nodes[node];
            host.postgres.data = host.shelf.take();
            host.postgres.upstream = None;
        }
    }

    /// The world repairs what it broke; the rest is for the cluster to do.
    pub fn heal(&mut self) {
        self.say(|_| "HEAL all links, hosts and agents".to_owned());
        self.network.heal();
        for node in 0..self.nodes.len() {
            self.clear_foreign(node);
            self.unbar(node);
            let boots = self.nodes[node].boots;
            // Nobody has set it up.
            if boots == 0 {
                continue;
            }
            self.power_on(node, boots);
            let boots = self.nodes[node].boots;
            self.thaw_host(node, boots);
            if let Some(life) = self.nodes[node].agent.as_ref().map(|a| a.life) {
                self.thaw_agent(node, life);
            }
            self.start_agent(node, boots);
            let life = self.nodes[node].postgres.life;
            self.thaw_server(node, life);
        }
        self.heal_orders();
        self.checks.healed(self.now);
    }
}
