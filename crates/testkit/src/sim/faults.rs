//! What breaks, when, and for how long.

use super::node::{NodeId, Running};
use super::postgres::Process;
use super::world::{Event, FAULTS_UNTIL, World};

impl World {
    /// Breaks something, and plans the next fault.
    pub fn make_fault(&mut self) {
        let pause = self.random.ms(100, 3500);
        if self.now + pause < FAULTS_UNTIL {
            self.after(pause, Event::Fault);
        }
        let node = self.victim();
        let kind = match self.random.below(100) {
            0..=19 => self.kill_postmaster(node),
            20..=31 => self.kill_agent(node),
            32..=45 => self.power_off(node),
            46..=53 => self.freeze_host(node),
            54..=61 => self.freeze_agent(node),
            62..=71 => self.cut_one_way(node),
            72..=83 => self.isolate(node),
            84..=93 => self.slow_link(node),
            _ => self.restart_all(),
        };
        *self.report.faults.entry(kind).or_default() += 1;
        let name = self.nodes[node].name.clone();
        self.say(|_| format!("FAULT {kind} ({name})"));
    }

    /// Mostly whoever is primary, sometimes the leader, sometimes anybody.
    fn victim(&mut self) -> NodeId {
        let anybody = self.random.index(self.nodes.len());
        let primary = self.nodes.iter().position(|n| n.postgres.process == Process::Primary);
        let leader = self.nodes.iter().position(|n| n.agent.as_ref().is_some_and(|a| a.leads.is_some()));
        match self.random.below(10) {
            0..=3 => primary.unwrap_or(anybody),
            4..=5 => leader.unwrap_or(anybody),
            _ => anybody,
        }
    }

    fn kill_postmaster(&mut self, node: NodeId) -> &'static str {
        self.kill_server(node);
        self.look(node);
        "postmaster killed"
    }

    fn kill_agent(&mut self, node: NodeId) -> &'static str {
        let host = &mut self.nodes[node];
        host.agent = None;
        host.agent_process = Running::Yes;
        host.backlog
            .retain(|e| !matches!(e, Event::Tick { .. } | Event::Message { .. } | Event::Done { .. }));
        let boots = host.boots;
        let wait = self.random.ms(50, 4000);
        self.after(wait, Event::AgentStart { node, boots });
        "agent killed"
    }

    fn power_off(&mut self, node: NodeId) -> &'static str {
        let wait = self.random.ms(300, 12_000);
        self.lose_power(node, wait);
        "host lost"
    }

    fn lose_power(&mut self, node: NodeId, back_after: u64) {
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

    fn restart_all(&mut self) -> &'static str {
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

    fn freeze_agent(&mut self, node: NodeId) -> &'static str {
        let wait = self.random.ms(300, 7000);
        let host = &mut self.nodes[node];
        if let Some(agent) = &host.agent {
            host.agent_process = Running::Frozen;
            let life = agent.life;
            self.after(wait, Event::AgentThaws { node, life });
        }
        "agent frozen"
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

    fn isolate(&mut self, node: NodeId) -> &'static str {
        let until = self.now + self.random.ms(300, 9000);
        for other in (0..self.nodes.len()).filter(|o| *o != node) {
            self.network.cut(node, other, until);
            self.network.cut(other, node, until);
        }
        "node isolated"
    }

    fn slow_link(&mut self, node: NodeId) -> &'static str {
        let other = self.random.index(self.nodes.len());
        let until = self.now + self.random.ms(1000, 9000);
        let extra = self.random.ms(10, 1500);
        self.network.slow(node, other, extra, until);
        "link slowed"
    }

    /// The world repairs what it broke; the rest is for the cluster to do.
    pub fn heal(&mut self) {
        self.say(|_| "HEAL all links, hosts and agents".to_owned());
        self.network.heal();
        for node in 0..self.nodes.len() {
            let boots = self.nodes[node].boots;
            self.power_on(node, boots);
            let boots = self.nodes[node].boots;
            self.thaw_host(node, boots);
            if let Some(life) = self.nodes[node].agent.as_ref().map(|a| a.life) {
                self.thaw_agent(node, life);
            }
            self.start_agent(node, boots);
        }
        self.heal_orders();
        self.checks.healed(self.now);
    }
}
