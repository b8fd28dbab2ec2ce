//! Operators: they ask for switchovers and pauses at moments that suit nobody, and have given nodes their tags.

use super::node::NodeId;
use super::postgres::Process;
use super::world::{Event, FAULTS_UNTIL, World};
use cluster::decide::Now;
use cluster::decide::switchover::{Order, order};
use cluster::handover::{Obstacle, Progress, Stage, Stopped};
use cluster::state::{Fencing, Replication};

impl World {
    /// Gives the nodes priorities, and to one of them sometimes a place in which it never acts.
    pub fn choose_tags(&mut self, data_nodes: u64) {
        let k = match self.proposed.settings.replication {
            Replication::Quorum { k, .. } => k as u64,
            Replication::Async { .. } => 0,
        };
        for node in 0..self.nodes.len() {
            self.nodes[node].tags.priority = u32::try_from(self.random.below(3)).unwrap_or(0);
        }
        // One node fewer must still be enough for a primary and k others.
        if data_nodes > k + 2 && self.random.chance(40) {
            let node = self.random.index(usize::try_from(data_nodes).unwrap_or(1));
            self.nodes[node].tags.never_primary = self.random.chance(50);
            self.nodes[node].tags.never_sync = !self.nodes[node].tags.never_primary;
        }
    }

    /// Somebody asks whoever leads for something.
    pub fn give_order(&mut self) {
        if self.now >= FAULTS_UNTIL {
            return self.heal_orders();
        }
        let pause = self.random.ms(500, 12_000);
        // What is asked for at the very end could be recorded after the repair.
        if self.now + pause < FAULTS_UNTIL - 5_000_000 {
            self.after(pause, Event::Order);
        }
        let to = self.random.index(self.nodes.len());
        let to = self.random.chance(60).then(|| self.nodes[to].name.clone());
        let at = self.random.chance(20).then(|| self.now / 1000 + self.random.below(8000));
        let asked = match self.random.below(10) {
            0 => Order::Pause { fencing: Fencing::Kept },
            1..=2 => Order::Resume,
            _ => Order::Switchover { to, at },
        };
        self.ask_leader(&asked);
    }

    /// The world leaves nothing paused, also what a slow store records only now.
    pub fn heal_orders(&mut self) {
        if self.checks.agreed.paused.is_some() {
            self.ask_leader(&Order::Resume);
        } else if let Some(node) = self.checks.agreed.maintenance.keys().next().cloned() {
            self.ask_leader(&Order::Unmaintain { node });
        } else if let Some(node) = self.checks.agreed.leaving.keys().next().cloned() {
            self.ask_leader(&Order::Keep { node });
        } else {
            self.let_in_enough();
        }
        self.after(500_000, Event::Order);
    }

    /// Asks whoever leads; what speaks against it, if anything does.
    pub fn ask_leader(&mut self, asked: &Order) -> Vec<Obstacle> {
        let nonce = format!("{:08}", self.number());
        let Some(node) = self.leader() else { return Vec::new() };
        let now = Now { at: self.clock(node), wall: self.now / 1000, nonce };
        let host = &self.nodes[node];
        let Some(leading) = host.agent.as_ref().and_then(|a| a.leads.as_ref()) else { return Vec::new() };
        if leading.is_proposing() || !host.agent_runs() {
            return Vec::new();
        }
        let (kind, because) =
            match order(&host.replica.state, &leading.seen, &self.proposed, asked, "operator", &now) {
                Ok((command, _)) => {
                    for reason in &command.reasons {
                        super::rules::count_reason(&mut self.report.rules, reason);
                    }
                    self.propose(node, command);
                    let kind = match asked {
                        Order::Switchover { .. } => "switchover ordered",
                        Order::Cancel { .. } => "switchover cancelled",
                        Order::Pause { fencing: Fencing::Kept } => "paused",
                        Order::Pause { fencing: Fencing::Suspended } => "paused without fencing",
                        Order::Resume => "resumed",
                        Order::Failover { stopped: Some(_), .. } => "failover ordered with a stopped node",
                        Order::Failover { .. } => "failover ordered",
                        Order::Maintain { .. } => "maintained",
                        Order::Unmaintain { .. } => "maintained no more",
                        Order::Configure { .. } => "configured",
                        Order::Restart { .. } => "restarts ordered",
                        Order::Admit { .. } => "let in",
                        Order::Remove { .. } => "removed",
                        Order::Keep { .. } => "kept",
                        Order::Invite { .. } => "invited",
                        Order::Uninvite { .. } => "invitation taken back",
                        Order::Redeem { .. } => "invitation used",
                        Order::AddUser { .. } => "user added",
                        Order::RemoveUser { .. } => "user removed",
                        Order::MoveStore { .. } => "record moved",
                    };
                    (kind, Vec::new())
                }
                Err(because) => ("order refused", because),
            };
        *self.report.faults.entry(kind).or_default() += 1;
        because
    }

    /// What the primary's agent tells of a switchover.
    pub fn handover_progress(&self, node: NodeId) -> Option<Progress> {
        let host = &self.nodes[node];
        let handover = host.replica.state.handover.as_ref().filter(|h| h.from == host.name)?;
        let agent = host.agent.as_ref()?;
        let stopped = agent.stopped_at.as_ref().filter(|(id, _)| *id == handover.id);
        Some(Progress {
            id: handover.id.clone(),
            checkpointed: agent.checkpointed.as_ref() == Some(&handover.id),
            drained: handover.stage == Stage::Holding && self.now.is_multiple_of(3),
            open_transactions: 0,
            stopped: stopped.map(|(_, at)| Stopped::InOrder { at: *at }),
        })
    }

    /// The server has written its shutdown checkpoint and sent it to whoever was connected; then it ends.
    pub fn finish_stop(&mut self, node: NodeId, id: String) {
        let record = self.number();
        let postgres = &mut self.nodes[node].postgres;
        if postgres.process != Process::Primary {
            return;
        }
        let Some(data) = &mut postgres.data else { return };
        let at = data.lsn();
        data.write(record, 120);
        self.push_wal(node);
        self.kill_server(node);
        if let Some(agent) = &mut self.nodes[node].agent {
            agent.stopped_at = Some((id, at));
        }
    }
}
