//! A model of the store: a log that is linearizable because only a leader whose term nobody has outlived adds to it.
//!
//! A leader proves itself by rounds: a message to every node, confirmed when a majority answered. A round also carries
//! how much of the log is agreed, so followers learn late. Elections are decided at one moment by those who can hear
//! each other; that a voter answers no older leader afterwards is what makes leases safe.

use super::agent::Agent;
use super::network::Fate;
use super::node::NodeId;
use super::world::{Event, World};
use cluster::command::{Change, Command, apply};
use cluster::observe::{Observation, Observations};
use cluster::reason::Reason;
use cluster::state::Phase;
use cluster::{Epoch, Lsn, Millis, Moment};
use std::collections::{BTreeMap, BTreeSet};

/// Time between two rounds, in microseconds.
const ROUND_EVERY: u64 = 50_000;
/// A node that heard a leader within this time elects no other one.
const LOYAL_FOR: u64 = 150_000;

/// A message between agents.
#[derive(Clone, Debug)]
pub enum Message {
    /// A leader's round: so many commands are agreed.
    Round { term: u64, number: u64, agreed: usize },
    /// An answer to it.
    RoundHeard { term: u64, number: u64 },
    /// The sender follows a later leader.
    Outdated { term: u64 },
    /// The leader asks the receiver to lead instead.
    TakeOver,
    /// A node's heartbeat, sent at this moment of its own clock.
    Heartbeat { observation: Box<Observation>, sent: Moment },
    /// The leader's answer: so much of the lease of this epoch remains.
    Answer { sent: Moment, lease: Option<(Epoch, Millis)> },
    /// Is your agent there?
    Ask {
        /// When, on the clock of the node that asks.
        sent: Moment,
    },
    /// Yes, and this is where my primary stands.
    Reply {
        /// What it has flushed, when it is the primary.
        lsn: Option<Lsn>,
        /// When it was asked, on the clock of the node that asked.
        sent: Moment,
    },
}

/// What all nodes together hold.
#[derive(Debug, Default)]
pub struct Store {
    /// Agreed commands.
    pub log: Vec<Command>,
    /// The term of the last election.
    pub term: u64,
    /// Who votes.
    pub voters: BTreeSet<NodeId>,
    /// Nodes that were struck out and are told all the same what is agreed.
    pub listeners: BTreeSet<NodeId>,
    /// Commands that were proposed and not agreed, in their order: a later leader may find the first of them in its log.
    pub left_over: Vec<Command>,
}

/// A command that is not agreed yet.
#[derive(Clone, Debug)]
struct Proposal {
    command: Command,
    in_round: u64,
}

/// What a node that believes to lead has in memory.
#[derive(Clone, Debug)]
pub struct Leading {
    /// The term it was elected for.
    pub term: u64,
    /// What it heard.
    pub seen: Observations,
    /// When it sent the last round that a majority confirmed.
    pub confirmed: Option<Moment>,
    rounds: BTreeMap<u64, (Moment, BTreeSet<NodeId>)>,
    next_round_at: u64,
    proposal: Option<Proposal>,
    /// Who votes, as far as it knows.
    voters: BTreeSet<NodeId>,
    /// Who is to vote, and the first round that speaks for it.
    voters_next: Option<(BTreeSet<NodeId>, u64)>,
    /// Commands of earlier leaders that are agreed with this one's first round, unknown to it until then.
    inherited: Vec<Command>,
    /// What it waits for, to tell when that changes.
    pub waits: Vec<Reason>,
}

impl Leading {
    /// Whether a command is under way.
    pub fn is_proposing(&self) -> bool {
        self.proposal.is_some()
    }
}

/// Whether these are more than half of the voters.
fn are_majority(heard: &BTreeSet<NodeId>, voters: &BTreeSet<NodeId>) -> bool {
    heard.intersection(voters).count() * 2 > voters.len()
}

impl World {
    /// What `node` has of the store moves on to `upto` commands.
    fn learn(&mut self, node: NodeId, upto: usize) {
        let now = self.clock(node);
        let mut learned = false;
        while self.nodes[node].replica.applied < upto.min(self.store.log.len()) {
            let replica = &mut self.nodes[node].replica;
            let command = &self.store.log[replica.applied];
            let applied = apply(&mut replica.state, command);
            replica.applied += 1;
            learned = true;
            let at = replica.applied - 1;
            self.say(|w| {
                let told: String = format!("{:?}", w.store.log[at].change).chars().take(300).collect();
                format!("{} learns {told} {applied:?}", w.nodes[node].name)
            });
        }
        let host = &mut self.nodes[node];
        if let Some(leading) = host.agent.as_mut().and_then(|a| a.leads.as_mut()) {
            leading.seen.see_state(&host.replica.state, now);
        }
        if learned {
            self.look(node);
        }
    }

    /// An agent that hears no leader tries to become one.
    pub fn seek_election(&mut self, node: NodeId) {
        let now = self.now;
        let patience = self.random.ms(250, 500);
        let Some(agent) = &mut self.nodes[node].agent else { return };
        if agent.leads.is_some() || now < agent.elects_at {
            return;
        }
        agent.elects_at = now + patience;
        self.elect(node, LOYAL_FOR);
    }

    fn elect(&mut self, node: NodeId, loyal_for: u64) {
        let term = self.store.term + 1;
        let votes = |voter: &NodeId| {
            let host = &self.nodes[*voter];
            let heard_at = host.agent.as_ref().map_or(0, |a| a.heard_round_at);
            let leads = host.agent.as_ref().is_some_and(|a| a.leads.is_some());
            host.agent_runs()
                && self.network.connected(node, *voter, self.now)
                && (*voter == node || loyal_for == 0 || !leads && heard_at + loyal_for <= self.now)
        };
        // One without a vote lacks the entry that took it, or knows that it has none yet: nobody votes for it.
        if !self.store.voters.contains(&node) {
            return;
        }
        let voters: BTreeSet<NodeId> = self.store.voters.iter().copied().filter(votes).collect();
        if !are_majority(&voters, &self.store.voters) {
            return;
        }
        self.store.term = term;
        for voter in voters {
            self.nodes[voter].replica.promised = term;
            if voter != node {
                self.step_down(voter);
            }
        }
        let all = self.store.voters.clone();
        let (clock, name) = (self.clock(node), self.nodes[node].name.clone());
        self.say(|_| format!("{name} leads term {term}"));
        self.aim_at_election();
        let mut inherited = self.store.left_over.clone();
        if !inherited.is_empty() && self.random.chance(40) {
            // It stood only in the logs of those who did not vote.
            inherited.truncate(self.random.index(inherited.len()));
        }
        self.store.left_over.clone_from(&inherited);
        if let Some(agent) = &mut self.nodes[node].agent {
            agent.leader = Some(node);
            agent.leads = Some(Leading {
                term,
                seen: Observations::new(name, clock),
                confirmed: None,
                rounds: BTreeMap::new(),
                next_round_at: self.now,
                proposal: None,
                voters: all,
                voters_next: None,
                inherited,
                waits: Vec::new(),
            });
        }
        self.learn(node, self.store.log.len());
        self.send_round(node);
    }

    fn step_down(&mut self, node: NodeId) {
        if let Some(agent) = &mut self.nodes[node].agent
            && agent.leads.take().is_some()
        {
            agent.leader = None;
        }
    }

    /// A leader's regular rounds.
    pub fn lead_rounds(&mut self, node: NodeId) {
        let leading = self.nodes[node].agent.as_ref().and_then(|a| a.leads.as_ref());
        if leading.is_some_and(|l| l.next_round_at <= self.now) {
            self.send_round(node);
        }
    }

    fn send_round(&mut self, node: NodeId) {
        let (clock, number, now) = (self.clock(node), self.number(), self.now);
        let agreed = self.nodes[node].replica.applied;
        let Some(leading) = self.nodes[node].agent.as_mut().and_then(|a| a.leads.as_mut()) else { return };
        leading.next_round_at = now + ROUND_EVERY;
        leading.rounds.insert(number, (clock, BTreeSet::from([node])));
        while leading.rounds.len() > 60 {
            leading.rounds.pop_first();
        }
        let term = leading.term;
        let alone = are_majority(&BTreeSet::from([node]), &leading.voters);
        if alone {
            // Nobody else may ever answer.
            self.send(node, node, Message::RoundHeard { term, number });
        }
        let told = |to: &NodeId| *to != node && self.is_told(node, *to);
        let told: Vec<NodeId> = (0..self.nodes.len()).filter(told).collect();
        for to in told {
            self.send(node, to, Message::Round { term, number, agreed });
        }
    }

    /// Whether the leader `node` tells `to` what is agreed: one that was let in learns before it votes.
    fn is_told(&self, node: NodeId, to: NodeId) -> bool {
        let admitted = self.nodes[node].replica.state.admitted.contains_key(&self.nodes[to].name);
        self.store.voters.contains(&to) || self.store.listeners.contains(&to) || admitted
    }

    /// The leader gives votes and takes them, one at a time, as the record says who belongs. What it follows is recorded
    /// already.
    pub fn reconcile_voters(&mut self, node: NodeId) {
        if !self.leads_last_term(node) {
            return;
        }
        let host = &self.nodes[node];
        let Some(leading) = host.agent.as_ref().and_then(|a| a.leads.as_ref()) else { return };
        let names = host.replica.state.names(&self.proposed.names);
        if leading.voters_next.is_some() || !names.contains(&host.name) {
            return;
        }
        let mut voters = leading.voters.clone();
        let caught_up = |id: &NodeId| {
            let other = &self.nodes[*id];
            other.agent_runs() && other.replica.applied + 3 >= host.replica.applied
        };
        let gone = voters.iter().copied().find(|id| !names.contains(&self.nodes[*id].name));
        let comes = || {
            let ids = names.iter().filter_map(|name| self.id(name));
            ids.filter(|id| !voters.contains(id)).find(caught_up)
        };
        match gone {
            Some(gone) => drop(voters.remove(&gone)),
            None => match comes() {
                Some(comes) => drop(voters.insert(comes)),
                None => return,
            },
        }
        let in_round = self.last_number + 1;
        if let Some(leading) = self.nodes[node].agent.as_mut().and_then(|a| a.leads.as_mut()) {
            leading.voters_next = Some((voters, in_round));
            self.send_round(node);
        }
    }

    /// The old voters and the new have agreed to a change of voters.
    fn settle_voters(&mut self, node: NodeId, term: u64, number: u64) {
        let last = self.store.term == term;
        let Some(leading) = self.nodes[node].agent.as_mut().and_then(|a| a.leads.as_mut()) else { return };
        let Some((next, in_round)) = &leading.voters_next else { return };
        let heard = leading.rounds.get(&number).map(|(_, heard)| heard);
        if number < *in_round || !last || !heard.is_some_and(|heard| are_majority(heard, next)) {
            return;
        }
        let next = next.clone();
        leading.voters_next = None;
        leading.voters.clone_from(&next);
        self.say(|w| {
            let list: Vec<&str> = next.iter().map(|id| w.nodes[*id].name.as_str()).collect();
            format!("VOTERS {}", list.join(", "))
        });
        *self.report.faults.entry("voters changed").or_default() += 1;
        self.store.voters = next;
    }

    /// Asks the others to agree to `command`.
    pub fn propose(&mut self, node: NodeId, command: Command) {
        let in_round = self.last_number + 1;
        super::invariants::proposed(self, node, &command);
        if self.leads_last_term(node) {
            self.store.left_over.push(command.clone());
            self.aim_at_proposal(&command.change);
        }
        if let Some(leading) = self.nodes[node].agent.as_mut().and_then(|a| a.leads.as_mut()) {
            leading.proposal = Some(Proposal { command, in_round });
            self.send_round(node);
        }
    }

    /// Whether `node` leads and nobody was elected after it.
    pub fn leads_last_term(&self, node: NodeId) -> bool {
        let leads = self.nodes[node].agent.as_ref().and_then(|a| a.leads.as_ref());
        leads.is_some_and(|l| l.term == self.store.term)
    }

    /// A message of the store arrives.
    pub fn hear_store(&mut self, from: NodeId, to: NodeId, message: Message) {
        match message {
            Message::Round { term, number, agreed } => self.hear_round(from, to, (term, number, agreed)),
            Message::RoundHeard { term, number } => self.count_round(from, to, term, number),
            Message::Outdated { term } => {
                let later = |a: &Agent| a.leads.as_ref().is_some_and(|l| l.term < term);
                if self.nodes[to].agent.as_ref().is_some_and(later) {
                    self.step_down(to);
                }
            }
            Message::TakeOver => {
                self.elect(to, 0);
                self.aim_at_take_over(from, to);
            }
            Message::Heartbeat { .. }
            | Message::Answer { .. }
            | Message::Ask { .. }
            | Message::Reply { .. } => {}
        }
    }

    fn hear_round(&mut self, from: NodeId, to: NodeId, (term, number, agreed): (u64, u64, usize)) {
        let promised = self.nodes[to].replica.promised;
        if term < promised {
            return self.send(to, from, Message::Outdated { term: promised });
        }
        if term > promised {
            self.nodes[to].replica.promised = term;
            self.step_down(to);
        }
        let patience = self.random.ms(250, 500);
        let now = self.now;
        if let Some(agent) = &mut self.nodes[to].agent {
            agent.leader = Some(from);
            agent.heard_round_at = now;
            agent.elects_at = now + patience;
        }
        self.learn(to, agreed);
        self.send(to, from, Message::RoundHeard { term, number });
    }

    fn count_round(&mut self, from: NodeId, to: NodeId, term: u64, number: u64) {
        let Some(leading) = self.nodes[to].agent.as_mut().and_then(|a| a.leads.as_mut()) else { return };
        if leading.term != term {
            return;
        }
        let Some((sent, heard)) = leading.rounds.get_mut(&number) else { return };
        heard.insert(from);
        if !are_majority(heard, &leading.voters) {
            return;
        }
        leading.confirmed = leading.confirmed.max(Some(*sent));
        self.settle_voters(to, term, number);
        let Some(leading) = self.nodes[to].agent.as_mut().and_then(|a| a.leads.as_mut()) else { return };
        let inherited = std::mem::take(&mut leading.inherited);
        if self.store.term == term && !inherited.is_empty() {
            self.store.left_over.drain(..inherited.len().min(self.store.left_over.len()));
            inherited.into_iter().for_each(|command| self.append(command));
            self.learn(to, self.store.log.len());
        }
        let Some(leading) = self.nodes[to].agent.as_mut().and_then(|a| a.leads.as_mut()) else { return };
        let agreed = leading.proposal.take_if(|p| p.in_round <= number);
        if let Some(Proposal { command, .. }) = agreed {
            if self.store.term == term {
                self.store.left_over.clear();
                self.append(command);
                self.learn(to, self.store.log.len());
                self.send_round(to);
            } else {
                self.step_down(to);
            }
        }
    }

    fn append(&mut self, command: Command) {
        let before = self.checks.agreed.epoch;
        let applied = apply(&mut self.checks.agreed, &command);
        if let (Change::Appoint { appointment, .. }, Ok(_)) = (&command.change, &applied) {
            self.checks.knowledge.appoint(&appointment.promotion_id);
        }
        if self.checks.agreed.epoch > before && matches!(self.checks.agreed.phase, Phase::Sealing { .. }) {
            self.report.epochs += 1;
        }
        self.say(|_| {
            let why: Vec<String> = command.reasons.iter().map(ToString::to_string).collect();
            format!("AGREED {} {applied:?}", why.join(" | "))
        });
        if applied.is_ok() {
            super::invariants::agreed(self, &command.change);
            self.members_changed(&command.change);
            self.aim_at_change(&command.change);
        }
        self.store.log.push(command);
    }

    /// Sends a message between agents; lost when the link is cut.
    pub fn send(&mut self, from: NodeId, to: NodeId, message: Message) {
        if !self.network.carries_words(from, to, self.now) {
            return;
        }
        let mut delay = self.network.delay(from, to, self.now, &mut self.random);
        if matches!(message, Message::Round { .. } | Message::RoundHeard { .. }) {
            delay += self.network.store_delay(from, to, self.now);
        }
        let fate = if from == to { Fate::Arrives } else { self.network.fate(self.now, &mut self.random) };
        match fate {
            Fate::Lost => return,
            Fate::Arrives => {}
            Fate::Late(extra) => delay += extra,
            Fate::Twice => {
                let again = delay + self.random.ms(1, 400);
                self.after(again, Event::Message { from, to, message: message.clone() });
            }
        }
        self.after(delay, Event::Message { from, to, message });
    }

    /// The store of a node starts again: of what was agreed last it may know less than before, until it hears a leader.
    pub fn forget_some(&mut self, node: NodeId) {
        if !self.random.chance(40) {
            return;
        }
        let back = self.random.index(6);
        self.forget_from(node, self.nodes[node].replica.applied.saturating_sub(back));
    }

    /// Its state is again what it was after so many commands, if it has seen more.
    pub fn forget_from(&mut self, node: NodeId, applied: usize) {
        let replica = &mut self.nodes[node].replica;
        replica.applied = replica.applied.min(applied);
        replica.state = Default::default();
        for command in self.store.log.iter().take(replica.applied) {
            // What was refused then is refused now.
            let _ = apply(&mut replica.state, command);
        }
    }
}
