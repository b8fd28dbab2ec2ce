//! A person who decides what nothing automatic may: fails over and accepts what is lost, pauses without fencing, maintains
//! nodes. Never careful about the moment, but honest: that a server is stopped is said only when it is.

use super::node::{Node, NodeId};
use super::postgres::Process;
use super::random::Random;
use super::world::{Event, FAULTS_FROM, FAULTS_UNTIL, World};
use cluster::NodeName;
use cluster::command::{Change, Command};
use cluster::decide::switchover::Order;
use cluster::handover::Obstacle;
use cluster::reason::Reason;
use cluster::state::{Fencing, Phase};
use cluster::word::{Objection, Word};
use std::collections::BTreeSet;

/// Which sequence of random numbers is the person's.
const SEQUENCE: u64 = 1 << 40;

/// What the person remembers.
#[derive(Debug, Default)]
pub struct Operator {
    deeds: u64,
    /// The loss that was shown last: the node that was asked for, and the token.
    shown: Option<(NodeName, String)>,
    /// Every token that was ever shown.
    pub all_shown: BTreeSet<String>,
    /// The node of which it was asked to vouch.
    doubtful: Option<NodeName>,
}

fn needs_a_person(wait: &Reason) -> bool {
    matches!(
        wait,
        Reason::WaitLoss { .. }
            | Reason::WaitLease { .. }
            | Reason::WaitSeals { .. }
            | Reason::WaitPromotion { .. }
            | Reason::NotConfirmed { .. }
            | Reason::Word { word: Word::WaitLeased { .. } }
    )
}

impl World {
    /// In some runs nobody is there.
    pub fn plan_operator(&mut self) {
        if Random::of_fault(self.seed, SEQUENCE).chance(60) {
            self.at(FAULTS_FROM, Event::Operator);
        }
    }

    /// The person looks at what the leader waits for, and does something.
    pub fn operate(&mut self) {
        self.operator.deeds += 1;
        let mut own = Random::of_fault(self.seed, SEQUENCE + self.operator.deeds);
        let leaders = self.nodes.iter().filter_map(|n| n.agent.as_ref()?.leads.as_ref());
        let waits: Vec<&Reason> = leaders.flat_map(|l| &l.waits).collect();
        let trouble = waits.iter().any(|wait| needs_a_person(wait));
        // It could be done with in a moment.
        let hurry = waits.iter().any(|wait| matches!(wait, Reason::WaitLease { .. }));
        let pause = match (hurry, trouble) {
            (true, _) => own.ms(20, 250),
            (false, true) => own.ms(100, 900),
            (false, false) => own.ms(200, 2500),
        };
        if self.now + pause >= FAULTS_UNTIL - 5_000_000 {
            return; // what is asked for at the very end could be recorded after the repair
        }
        self.after(pause, Event::Operator);
        if trouble && own.chance(80) || own.chance(5) {
            self.force(&mut own);
        } else if self.checks.agreed.paused.is_some() && own.chance(40) {
            self.ask_leader(&Order::Resume);
        } else {
            self.service(&mut own);
        }
    }

    fn force(&mut self, own: &mut Random) {
        let sealed = |n: &NodeId| self.nodes[*n].notes.seal.is_some();
        let sealed: Vec<NodeId> = (0..self.nodes.len()).filter(sealed).collect();
        let node = match sealed.get(own.index(sealed.len().max(1))) {
            Some(node) if own.chance(85) => *node,
            _ => own.index(self.nodes.len()),
        };
        let shown = self.operator.shown.take().filter(|_| own.chance(80));
        let (to, accept) = match shown {
            Some((to, token)) => (to, Some(token)),
            None => (self.nodes[node].name.clone(), None),
        };
        let stopped =
            self.operator.doubtful.take().filter(|n| self.id(n).is_some_and(|n| self.is_stopped(n)));
        for obstacle in self.ask_leader(&Order::Failover { to: to.clone(), accept, stopped }) {
            match obstacle {
                Obstacle::Objected { objection: Objection::WouldLose { token, .. } } => {
                    self.operator.all_shown.insert(token.clone());
                    self.operator.shown = Some((to.clone(), token));
                }
                Obstacle::Objected { objection: Objection::Unleased { node, .. } } => {
                    self.operator.doubtful = Some(node);
                }
                _ => {}
            }
        }
    }

    fn cancel(&mut self, own: &mut Random) {
        let agreed = &self.checks.agreed;
        let underway = agreed.handover.iter().map(|h| h.id.clone());
        let ids: Vec<String> = underway.chain(agreed.planned.iter().map(|p| p.id.clone())).collect();
        if let Some(id) = ids.get(own.index(ids.len())) {
            self.ask_leader(&Order::Cancel { id: id.clone() });
        }
    }

    /// The primary's server is restarted by hand with a standby.signal, so fast that its agent sees it only afterwards.
    pub(super) fn make_standby_by_hand(&mut self, forgets_percent: u64, own: &mut Random) {
        let serves = |n: &Node| {
            let knows = matches!(&n.replica.state.phase, Phase::Serving { appointment } if appointment.node == n.name);
            knows && n.postgres.process == Process::Primary
        };
        if let Some(node) = self.nodes.iter().position(serves) {
            let name = self.nodes[node].name.clone();
            self.say(|_| format!("{name}: its server is made a standby by hand"));
            self.kill_server(node);
            self.start_server(node);
            *self.report.faults.entry("primary made a standby by hand").or_default() += 1;
            if own.chance(forgets_percent) {
                self.start_without_publication(node, own);
            }
        }
    }

    /// The agent starts anew with a state in which the node is appointed and not published, and does not learn more for a while.
    pub(super) fn start_without_publication(&mut self, node: NodeId, own: &mut Random) {
        let published = |c: &Command| matches!(c.change, Change::Publish { .. });
        let Some(index) = self.store.log.iter().rposition(published) else { return };
        std::mem::swap(&mut self.random, own);
        self.kill_agent(node, 80);
        let (extra, until) = (self.random.ms(300, 2500), self.now + self.random.ms(1000, 6000));
        self.network.slow_store(node, extra, until);
        std::mem::swap(&mut self.random, own);
        self.forget_from(node, index);
    }

    fn is_stopped(&self, node: NodeId) -> bool {
        !matches!(self.nodes[node].postgres.process, Process::Primary | Process::Promoting)
    }

    fn service(&mut self, own: &mut Random) {
        let node = own.index(self.nodes.len());
        let name = self.nodes[node].name.clone();
        let maintained = self.checks.agreed.maintenance.contains_key(&name);
        match own.below(10) {
            0..=1 => {
                let fencing = if own.chance(75) { Fencing::Suspended } else { Fencing::Kept };
                self.ask_leader(&Order::Pause { fencing });
            }
            2 if maintained => drop(self.ask_leader(&Order::Unmaintain { node: name })),
            3..=6 if maintained && self.nodes[node].postgres.process == Process::Standby => {
                self.say(|_| format!("{name}: its server is stopped by hand"));
                self.kill_server(node);
                self.look(node);
            }
            7 => drop(self.ask_leader(&Order::Maintain { node: name, text: None, insist: own.chance(20) })),
            8 => self.cancel(own),
            9 => self.make_standby_by_hand(50, own),
            _ => {}
        }
    }
}
