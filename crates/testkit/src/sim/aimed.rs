//! Faults at the moments that matter: just after a decision, between two messages that belong together. By chance alone
//! they would come too seldom there.

use super::node::{NodeId, Running};
use super::postgres::Process;
use super::random::Random;
use super::store::Message;
use super::world::{Event, FAULTS_FROM, FAULTS_UNTIL, World};
use cluster::NodeName;
use cluster::command::Change;
use cluster::observe::Observation;
use cluster::state::{Replication, SyncSet};

/// Faults from this number on were planned for a certain moment.
pub(super) const AIMED: u64 = 1000;
/// Faults from this number on too, counted by themselves: they shift no number of the others.
const APART: u64 = 1 << 20;
/// Faults from this number on likewise.
const BESIDE: u64 = 1 << 21;

/// What is to happen at such a moment.
#[derive(Clone, Copy, Debug)]
pub enum Aim {
    /// Any fault.
    Any,
    /// The node is cut off from all others.
    Isolate(NodeId),
    /// Its agent stands still.
    FreezeAgent(NodeId),
    /// Its agent ends and is back soon.
    KillAgent(NodeId),
    /// What its agent says does not reach the leader; WAL passes.
    Mute(NodeId),
    /// What its agent says reaches the leader late.
    SlowToLeader(NodeId),
    /// Its server ends.
    KillServer(NodeId),
    /// The leader is lost, and the stores of all others are slow.
    LoseLeader,
    /// An operator changes what the node may become.
    Bar(NodeId),
    /// An operator says that a newcomer of the sync set may not confirm; what the primary says then reaches the leader late.
    Recant(NodeId, NodeId),
    /// The links of a primary that is given up carry WAL again, and no word; the agent of a standby starts anew.
    WalOnly(NodeId, NodeId),
    /// A report that was kept back comes to whoever leads now.
    Late,
    /// The primary's agent starts with an older state and hears nobody.
    Forget(NodeId),
    /// Its host loses power for a long time.
    PowerOff(NodeId),
    /// Its host comes back with the disk of another cluster.
    SwapDisk(NodeId),
    /// The first, a primary, is cut off with the slowest clock that is allowed; the second, a leader, has the fastest.
    Drift(NodeId, NodeId),
    /// The leader hears neither a promoted node nor a standby of it, until it has appointed another, which fails at once.
    LeaveOut(NodeId),
    /// Of the sync set of this primary, one member lags and another loses its data, to be copied from the first.
    CopyBehind(NodeId),
    /// It loses its data.
    LoseData(NodeId),
    /// A primary that was just published is made a standby by hand, and its agent forgets that it was published.
    MakeStandby(NodeId),
    /// Its agent stands still for about as long as it takes to be given up, and is back before its lease ends.
    Doze(NodeId),
    /// Its server ends just when it is appointed, and conclusions from that are late.
    Relapse(NodeId),
    /// A newcomer of the sync set is barred at once, while the primary's server is slow to hear of the set.
    ThereAndBack(NodeId, NodeId),
}

impl World {
    /// A leader proposes `change`; nobody has heard of it yet.
    pub fn aim_at_proposal(&mut self, change: &Change) {
        if matches!(
            change,
            Change::OpenEpoch { .. }
                | Change::Appoint { .. }
                | Change::HandedOver { .. }
                | Change::Publish { .. }
        ) {
            self.aim(6, &[Aim::LoseLeader]);
        }
        if matches!(change, Change::HandedOver { .. }) {
            self.aim_apart(25, Aim::LoseLeader);
        }
        if let Change::SyncSetNext { next, .. } = change {
            let before = self.checks.agreed.sync_target();
            let newcomer = next.members.difference(&before.members).next().and_then(|n| self.id(n));
            let primary = self.checks.agreed.primary().and_then(|n| self.id(n));
            if let (Some(primary), Some(newcomer)) = (primary, newcomer) {
                self.aim_apart(12, Aim::ThereAndBack(primary, newcomer));
            }
        }
    }

    /// `change` was agreed just now.
    pub fn aim_at_change(&mut self, change: &Change) {
        let anybody = self.anybody_for_aim();
        let last = self.checks.agreed.last_appointed.as_ref().map(|a| a.node.clone());
        let old = self.named(last.as_ref(), anybody);
        let primary = self.named(self.checks.agreed.primary().cloned().as_ref(), anybody);
        match change {
            Change::Initialise { node, .. } => {
                let node = self.named(Some(node), anybody);
                self.aim_early(&[Aim::KillAgent(node), Aim::KillServer(node), Aim::PowerOff(node)]);
            }
            Change::OpenEpoch { .. } => {
                let (kill, mute) = (Aim::KillAgent(anybody), Aim::Mute(anybody));
                let wal = Aim::WalOnly(old, anybody);
                self.aim(30, &[Aim::Any, Aim::Isolate(old), Aim::FreezeAgent(old), kill, mute, wal]);
            }
            Change::Appoint { .. } | Change::HandedOver { .. } => {
                let (kill, mute) = (Aim::KillAgent(anybody), Aim::Mute(anybody));
                if old == primary {
                    self.aim(30, &[Aim::KillServer(primary)]);
                }
                let new = [Aim::Isolate(primary), Aim::FreezeAgent(primary), Aim::KillServer(primary)];
                if let Some(standby) = self.left_out.take() {
                    self.network.unmute(standby);
                    self.aim_apart(90, Aim::KillServer(primary));
                }
                self.aim_beside(5, 0, Aim::Relapse(primary));
                if std::mem::take(&mut self.leaves_behind) {
                    self.aim(80, &[Aim::PowerOff(primary)]);
                }
                self.aim(25, &[&[Aim::Any, kill, mute], new.as_slice()].concat());
            }
            Change::Publish { .. } => {
                self.aim_beside(3, 200_000, Aim::MakeStandby(primary));
                self.aim(
                    20,
                    &[Aim::Any, Aim::Isolate(primary), Aim::KillServer(primary), Aim::Mute(anybody)],
                );
            }
            Change::SyncSetNext { next, .. } => {
                self.keep_report(primary, next);
                let sets = &self.checks.agreed.sync.in_force;
                let before = sets.len().checked_sub(2).and_then(|i| sets.get(i));
                let newcomer =
                    next.members.iter().find(|n| before.is_some_and(|set| !set.members.contains(*n)));
                let recant = Aim::Recant(primary, self.named(newcomer, anybody));
                self.aim(
                    20,
                    &[Aim::Any, Aim::SlowToLeader(primary), Aim::KillServer(primary), recant, recant],
                );
            }
            Change::SyncSetDone { .. } => {
                self.aim(12, &[Aim::Any, Aim::KillServer(primary), Aim::Bar(anybody)]);
                if self.checks.agreed.sync_target().k >= 2 {
                    self.aim_apart(15, Aim::CopyBehind(primary));
                }
            }
            Change::LeasedAgain { .. } => drop(self.aim(60, &[Aim::Forget(primary)])),
            Change::Resume => drop(self.aim(25, &[Aim::Isolate(primary), Aim::FreezeAgent(primary)])),
            _ => {}
        }
    }

    /// The sync set has just changed to `next`. What the primary said before is kept; if the set changes back to what that
    /// named, it comes late, perhaps to another leader.
    fn keep_report(&mut self, primary: NodeId, next: &SyncSet) {
        let names = |o: &Observation| o.sync_applied.as_ref().is_some_and(|a| a.set == *next);
        let epoch = self.checks.agreed.epoch;
        let back = self.kept.as_ref().is_some_and(|(n, o, _)| *n == primary && o.epoch == epoch && names(o));
        if back {
            if let Some(leader) = self.leader() {
                self.aim(40, &[Aim::KillAgent(leader)]);
            }
            self.aim(50, &[Aim::Late]);
        } else {
            let sent = self.nodes[primary].agent.as_ref().and_then(|a| a.sent.clone());
            let sent = sent.filter(|(o, _)| o.epoch == epoch && o.sync_applied.is_some());
            self.kept = sent.map(|(o, at)| (primary, o, at));
        }
    }

    /// Somebody leads since just now and has heard nothing yet.
    pub fn aim_at_election(&mut self) {
        let target = self.checks.agreed.sync_target();
        let names = |o: &Observation| o.sync_applied.as_ref().is_some_and(|a| a.set == target);
        if self.kept.as_ref().is_some_and(|(_, o, _)| names(o)) {
            self.aim(60, &[Aim::Late]);
        }
    }

    /// A leader has just made another one. No other election comes so soon after the last lease was given.
    pub fn aim_at_take_over(&mut self, former: NodeId, to: NodeId) {
        self.aim(12, &[Aim::Isolate(former), Aim::FreezeAgent(former)]);
        let primary = self.checks.agreed.primary().and_then(|n| self.id(n));
        let elected = self.nodes[to].agent.as_ref().is_some_and(|a| a.leads.is_some());
        if let Some(primary) = primary.filter(|p| elected && *p != to && self.drift_matters(*p)) {
            self.aim_apart(30, Aim::Drift(primary, to));
        }
    }

    /// Whether the lease of `primary` is so new that a clock at the slow edge of the allowance ends it after one at the fast
    /// edge has counted a whole lease from now on.
    fn drift_matters(&self, primary: NodeId) -> bool {
        let settings = &self.proposed.settings;
        let lease = self.nodes[primary].agent.as_ref().and_then(|a| a.lease);
        let left = lease.map_or(0, |(_, until)| until.since(self.clock(primary)));
        matches!(settings.replication, Replication::Async { .. })
            && left * (1_000_000 + settings.drift_ppm)
                > settings.lease_ms() * (1_000_000 - settings.drift_ppm)
    }

    /// A server has just left recovery.
    pub fn aim_at_promotion(&mut self, node: NodeId) {
        self.aim(15, &[Aim::Mute(node), Aim::Isolate(node)]);
        if matches!(self.proposed.settings.replication, Replication::Async { .. }) {
            self.aim_apart(10, Aim::LeaveOut(node));
        }
    }

    fn named(&self, name: Option<&NodeName>, otherwise: NodeId) -> NodeId {
        name.and_then(|n| self.id(n)).unwrap_or(otherwise)
    }

    fn anybody_for_aim(&self) -> NodeId {
        Random::of_fault(self.seed, !(AIMED + self.aimed + (1 << 40))).index(self.nodes.len())
    }

    /// Plans, in `percent` of 100 cases, one of `aims` for a moment from now on.
    fn aim(&mut self, percent: u64, aims: &[Aim]) -> bool {
        let index = AIMED + self.aimed;
        self.aimed += 1;
        let mut own = Random::of_fault(self.seed, !index);
        if self.now <= FAULTS_FROM || self.now >= FAULTS_UNTIL || !own.chance(percent) {
            return false;
        }
        let aim = aims.get(own.index(aims.len())).copied().unwrap_or(Aim::Any);
        // Between two messages, or a little later.
        let wait = if own.chance(50) { own.ms(0, 12) } else { own.ms(0, 400) };
        self.after(wait, Event::Fault { index, aim });
        true
    }

    /// Plans `aim` for this very moment in `percent` of 100 cases.
    fn aim_apart(&mut self, percent: u64, aim: Aim) {
        let index = APART + self.aimed_apart;
        self.aimed_apart += 1;
        let mut own = Random::of_fault(self.seed, !index);
        if self.now > FAULTS_FROM && self.now < FAULTS_UNTIL && own.chance(percent) {
            self.after(0, Event::Fault { index, aim });
        }
    }

    /// As [`World::aim_apart`], after `wait`.
    pub(super) fn aim_beside(&mut self, percent: u64, wait: u64, aim: Aim) {
        let index = BESIDE + self.aimed_beside;
        self.aimed_beside += 1;
        let mut own = Random::of_fault(self.seed, !index);
        if self.now > FAULTS_FROM && self.now < FAULTS_UNTIL && own.chance(percent) {
            self.after(wait, Event::Fault { index, aim });
        }
    }

    /// The server of a node that was chosen just now ends; whoever leads may be slow to draw a conclusion, or not reach it.
    fn relapse(&mut self, node: NodeId) -> &'static str {
        let mut own = Random::of_fault(self.seed, !(BESIDE + self.aimed_beside + (1 << 40)));
        let (soon, later) = (own.ms(0, 10), own.ms(20, 500));
        if own.chance(50) {
            self.aim_beside(100, soon, Aim::LoseLeader);
        } else {
            self.aim_beside(100, later, Aim::Isolate(node));
        }
        self.kill_postmaster(node)
    }

    /// Plans one of `aims` for the first moments of some clusters.
    fn aim_early(&mut self, aims: &[Aim]) {
        let index = APART + self.aimed_apart;
        self.aimed_apart += 1;
        let mut own = Random::of_fault(self.seed, !index);
        if let Some(aim) = aims.get(own.index(aims.len())).copied().filter(|_| own.chance(10)) {
            let wait = own.ms(0, 1500);
            self.after(wait, Event::Fault { index, aim });
        }
    }

    /// Does what was planned.
    pub(super) fn hit(&mut self, aim: Aim, anybody: NodeId) -> (&'static str, NodeId) {
        match aim {
            Aim::Any => (self.break_something(anybody), anybody),
            Aim::Isolate(node) => (self.isolate(node), node),
            Aim::FreezeAgent(node) => (self.freeze_agent(node), node),
            Aim::KillAgent(node) => (self.kill_agent(node, 400), node),
            Aim::KillServer(node) => (self.kill_postmaster(node), node),
            Aim::Mute(node) => (self.mute(node), node),
            Aim::SlowToLeader(node) => (self.slow_to_leader(node), node),
            Aim::LoseLeader => self.lose_leader(anybody),
            Aim::Bar(node) => (self.bar(node), node),
            Aim::Recant(primary, newcomer) => (self.recant(primary, newcomer), newcomer),
            Aim::WalOnly(old, standby) => (self.wal_only(old, standby), old),
            Aim::Late => self.late(anybody),
            Aim::Forget(node) => {
                self.forget_since_pause(node);
                ("agent killed, and it hears nobody", node)
            }
            Aim::PowerOff(node) => (self.power_off(node), node),
            Aim::SwapDisk(node) => (self.swap_disk(node), node),
            Aim::Drift(primary, leader) => (self.drift(primary, leader), primary),
            Aim::LeaveOut(node) => (self.leave_out(node), node),
            Aim::CopyBehind(primary) => (self.copy_behind(primary), primary),
            Aim::LoseData(node) => (self.lose_data(node), node),
            Aim::Relapse(node) => (self.relapse(node), node),
            Aim::MakeStandby(node) => {
                let mut own = Random::of_fault(self.seed, !(BESIDE + self.aimed_beside + (1 << 42)));
                self.make_standby_by_hand(0, &mut own);
                self.start_without_publication(node, &mut own);
                self.hears_leader = Some(node);
                ("made a standby by hand after its publication", node)
            }
            Aim::Doze(node) => {
                let ms =
                    Random::of_fault(self.seed, !(BESIDE + self.aimed_beside + (1 << 41))).ms(1500, 2200);
                (self.freeze_agent_for(node, ms), node)
            }
            Aim::ThereAndBack(primary, newcomer) => (self.there_and_back(primary, newcomer), newcomer),
        }
    }

    pub(super) fn leader(&self) -> Option<NodeId> {
        let leads = |n: &super::node::Node| n.agent.as_ref().is_some_and(|a| a.leads.is_some());
        self.nodes.iter().position(leads)
    }

    fn mute(&mut self, node: NodeId) -> &'static str {
        let until = self.now + self.random.ms(300, 4000);
        if let Some(leader) = self.leader().filter(|l| *l != node) {
            self.network.mute(node, leader, until);
        }
        "words to the leader lost"
    }

    fn slow_to_leader(&mut self, node: NodeId) -> &'static str {
        let until = self.now + self.random.ms(1000, 6000);
        let extra = self.random.ms(100, 1400);
        if let Some(leader) = self.leader().filter(|l| *l != node) {
            self.network.slow(node, leader, extra, until);
        }
        "words to the leader late"
    }

    fn forget_since_pause(&mut self, node: NodeId) {
        self.kill_agent(node, 80);
        let pause = self.store.log.iter().rposition(|c| matches!(c.change, Change::Pause { .. }));
        if let Some(pause) = pause.filter(|_| self.random.chance(60)) {
            self.forget_from(node, pause + 1);
        }
        let until = self.now + self.random.ms(3000, 9000);
        for other in (0..self.nodes.len()).filter(|o| *o != node) {
            self.network.cut(node, other, until);
            self.network.cut(other, node, until);
        }
    }

    fn late(&mut self, anybody: NodeId) -> (&'static str, NodeId) {
        let (Some(leader), Some((from, observation, sent))) = (self.leader(), self.kept.clone()) else {
            return ("nothing was late", anybody);
        };
        let message = Message::Heartbeat { observation: Box::new(observation), sent };
        self.after(0, Event::Message { from, to: leader, message });
        ("a report came late", from)
    }

    /// A standby hears nothing of the primary for a while; then the primary comes back with another disk. Whoever is appointed
    /// is to be lost as well.
    pub(super) fn leave_behind(&mut self, anybody: NodeId) -> &'static str {
        let Some(primary) = self.nodes.iter().position(|n| n.postgres.process == Process::Primary) else {
            return "nobody to leave behind";
        };
        let others: Vec<NodeId> = (0..self.nodes.len()).filter(|n| *n != primary).collect();
        let behind = others.get(anybody % others.len().max(1)).copied().unwrap_or(anybody);
        let until = self.now + self.random.ms(3000, 7000);
        for other in (0..self.nodes.len()).filter(|o| *o != behind) {
            self.network.cut(behind, other, until);
            self.network.cut(other, behind, until);
        }
        self.leaves_behind = true;
        let at = self.now + self.random.ms(500, 2000);
        let index = AIMED + self.aimed;
        self.aimed += 1;
        self.at(at, Event::Fault { index, aim: Aim::SwapDisk(primary) });
        "standby left behind"
    }

    fn leave_out(&mut self, node: NodeId) -> &'static str {
        let Some(leader) = self.leader().filter(|l| *l != node) else { return "nobody to leave out" };
        let follows = |n: &super::node::Node| n.postgres.upstream == Some(node);
        let standby = (0..self.nodes.len()).find(|n| *n != leader && follows(&self.nodes[*n]));
        let until = self.now + self.random.ms(4000, 8000);
        for muted in standby.into_iter().chain([node]) {
            for other in (0..self.nodes.len()).filter(|o| *o != muted) {
                self.network.mute(muted, other, until);
            }
        }
        self.left_out = standby;
        "promoted node left out"
    }

    /// Commits of the next moments are on the others only: one member gets no WAL, one gives up what it had.
    fn copy_behind(&mut self, primary: NodeId) -> &'static str {
        let set = self.checks.agreed.sync_target();
        let members: Vec<NodeId> = set.members.iter().filter_map(|n| self.id(n)).collect();
        let first = self.random.index(members.len());
        let at = |i: usize| members.get((first + i) % members.len().max(1)).copied();
        let (Some(behind), Some(lost)) = (at(0), at(1)) else { return "nobody to copy from" };
        let until = self.now + self.random.ms(2000, 5000);
        self.network.dry_up(primary, behind, until);
        self.copied_behind = Some(lost);
        let wait = self.random.ms(200, 1200);
        let index = APART + self.aimed_apart;
        self.aimed_apart += 1;
        self.after(wait, Event::Fault { index, aim: Aim::LoseData(lost) });
        "member copied from one that lags"
    }

    /// `node` was copied just now. Whoever has more than it is to be lost before it gets that.
    pub(super) fn aim_at_copy(&mut self, node: NodeId) {
        if self.copied_behind.take_if(|n| *n == node).is_none() {
            return;
        }
        let held = self.nodes[node].postgres.lsn();
        for other in (0..self.nodes.len()).filter(|o| *o != node) {
            if self.nodes[other].postgres.lsn() > held {
                self.aim_apart(90, Aim::PowerOff(other));
            }
        }
    }

    fn recant(&mut self, primary: NodeId, newcomer: NodeId) -> &'static str {
        self.slow_to_leader(primary);
        self.bar(newcomer);
        "newcomer barred"
    }

    fn drift(&mut self, primary: NodeId, leader: NodeId) -> &'static str {
        let most = i64::try_from(self.proposed.settings.drift_ppm).unwrap_or(0);
        self.set_speed(primary, -most);
        self.set_speed(leader, most);
        let until = self.now + self.random.ms(2500, 5000);
        for other in (0..self.nodes.len()).filter(|o| *o != primary) {
            self.network.cut(primary, other, until);
            self.network.cut(other, primary, until);
        }
        "primary isolated, clocks apart"
    }

    /// Of the old set, too few get WAL to confirm anything without the newcomer.
    fn there_and_back(&mut self, primary: NodeId, newcomer: NodeId) -> &'static str {
        let (extra, until) = (self.random.ms(150, 500), self.now + self.random.ms(600, 1200));
        self.nodes[primary].slow_set_sync = (extra, until);
        let old = self.checks.agreed.sync_target();
        let members: Vec<NodeId> = old.members.iter().filter_map(|n| self.id(n)).collect();
        for member in members.into_iter().skip(old.k.saturating_sub(1)) {
            self.network.dry_up(primary, member, until);
        }
        if self.bar(newcomer) == "node barred" {
            let wait = self.random.ms(1000, 5000);
            let index = APART + self.aimed_apart;
            self.aimed_apart += 1;
            self.after(wait, Event::Fault { index, aim: Aim::Bar(newcomer) });
        }
        "newcomer barred, settings slow"
    }

    fn wal_only(&mut self, old: NodeId, standby: NodeId) -> &'static str {
        let until = self.now + self.random.ms(500, 4000);
        self.network.reconnect(old);
        for other in (0..self.nodes.len()).filter(|o| *o != old) {
            self.network.mute(old, other, until);
            self.network.mute(other, old, until);
        }
        if standby != old {
            self.kill_agent(standby, 300);
        }
        "a given-up primary sends WAL again"
    }

    fn lose_leader(&mut self, anybody: NodeId) -> (&'static str, NodeId) {
        let node = self.leader().unwrap_or(anybody);
        let until = self.now + self.random.ms(1000, 5000);
        for other in 0..self.nodes.len() {
            let extra = self.random.ms(50, 900);
            self.network.slow_store(other, extra, until);
        }
        if self.random.chance(50) {
            self.power_off(node);
        } else {
            self.kill_agent(node, 4000);
        }
        ("leader lost, store slow", node)
    }

    /// Only the leader's agent still hears the primary's; no standby gets WAL. Sometimes the server ends soon after.
    pub(super) fn only_leader_hears(&mut self, _: NodeId) -> &'static str {
        let primary = self.nodes.iter().position(|n| n.postgres.process == Process::Primary);
        let (Some(primary), Some(leader)) = (primary, self.leader()) else { return "nobody to part" };
        let until = self.now + self.random.ms(400, 4000);
        for other in (0..self.nodes.len()).filter(|o| *o != primary) {
            self.network.dry_up(primary, other, until);
            if other != leader {
                self.network.mute(primary, other, until);
            }
        }
        if self.random.chance(60) {
            let at = self.now + self.random.ms(100, 2500);
            let index = AIMED + self.aimed;
            self.aimed += 1;
            self.at(at, Event::Fault { index, aim: Aim::KillServer(primary) });
        }
        "only the leader hears the primary"
    }

    /// Agents hear each other, but one primary's WAL goes nowhere.
    pub(super) fn streams_dry_up(&mut self, node: NodeId) -> &'static str {
        let until = self.now + self.random.ms(300, 5000);
        for other in (0..self.nodes.len()).filter(|o| *o != node) {
            if self.random.chance(70) {
                self.network.dry_up(node, other, until);
                self.network.dry_up(other, node, until);
            }
        }
        "WAL streams cut"
    }

    pub(super) fn freeze_agent(&mut self, node: NodeId) -> &'static str {
        let wait = self.random.ms(300, 7000);
        self.freeze_agent_for(node, wait)
    }

    fn freeze_agent_for(&mut self, node: NodeId, wait: u64) -> &'static str {
        let host = &mut self.nodes[node];
        if let Some(agent) = &host.agent {
            host.agent_process = Running::Frozen;
            let life = agent.life;
            self.after(wait, Event::AgentThaws { node, life });
        }
        "agent frozen"
    }
}
