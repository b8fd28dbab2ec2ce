//! The leader's shell around `decide`: hears heartbeats, grants leases, records decisions.

use super::node::NodeId;
use super::store::Message;
use super::world::World;
use cluster::Moment;
use cluster::decide::{Now, decide};
use cluster::lease;
use cluster::observe::Observation;

impl World {
    /// The leader hears a heartbeat: takes it in, answers, decides.
    pub fn hear_heartbeat(&mut self, from: NodeId, to: NodeId, observation: Observation, sent: Moment) {
        let now = self.clock(to);
        let host = &mut self.nodes[to];
        let state = &host.replica.state;
        let Some(leading) = host.agent.as_mut().and_then(|a| a.leads.as_mut()) else { return };
        let quorum_age = leading.confirmed.map(|sent| now.since(sent));
        let left = lease::grant(state, &observation, quorum_age);
        if let Some(left) = left {
            lease::remember(&mut leading.seen, state, left, now);
        }
        let belongs_no_more = state.removed.contains(&observation.node);
        let (epoch, term) = (state.epoch, leading.term);
        leading.seen.hear(state, observation.clone(), now);
        let promoted_for = self.nodes[from].postgres.promoted_for;
        if !belongs_no_more {
            self.checks.knowledge.hear(term, promoted_for, &observation, now);
        }
        self.send(to, from, Message::Answer { sent, lease: left.map(|left| (epoch, left)) });
        self.decide(to);
    }

    /// Looks at what is known and does what follows.
    pub fn decide(&mut self, node: NodeId) {
        let nonce = format!("id{}", self.number());
        let now = Now { at: self.clock(node), wall: self.now / 1000, nonce };
        let host = &self.nodes[node];
        let Some(leading) = host.agent.as_ref().and_then(|a| a.leads.as_ref()) else { return };
        if leading.is_proposing() {
            return;
        }
        let decision = decide(&host.replica.state, &leading.seen, &self.proposed, &now);
        let same = |a: &[_], b: &[_]| {
            let kinds = |list: &[cluster::reason::Reason]| -> Vec<_> {
                list.iter().map(std::mem::discriminant).collect()
            };
            kinds(a) == kinds(b)
        };
        if !same(&leading.waits, &decision.waits) {
            let why: Vec<String> = decision.waits.iter().map(ToString::to_string).collect();
            let name = host.name.clone();
            self.say(|_| format!("leader {name}: {}", why.join(" | ")));
            if let Some(leading) = self.nodes[node].agent.as_mut().and_then(|a| a.leads.as_mut()) {
                leading.waits.clone_from(&decision.waits);
            }
        }
        for reason in &decision.waits {
            super::rules::count_reason(&mut self.report.rules, reason);
        }
        if let Some(command) = decision.command {
            self.propose(node, command);
        }
        if let Some(to) = decision.transfer.and_then(|name| self.id(&name)) {
            self.send(node, to, Message::TakeOver);
        }
    }
}
