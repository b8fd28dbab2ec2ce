//! A person who lets nodes in and out, never careful about the moment. Nodes that were struck out go on running, with what
//! they know, and some are still told what is agreed. Some of them ask to be let in again, in vain.

use super::node::{Clock, Node, NodeId, Notes, Replica};
use super::random::Random;
use super::world::{Event, FAULTS_FROM, FAULTS_UNTIL, World, empty_node};
use cluster::NodeName;
use cluster::command::Change;
use cluster::decide::switchover::Order;
use cluster::membership::{Seat, TokenRole};
use cluster::users::UserRole;

/// Which sequence of random numbers is this person's.
const SEQUENCE: u64 = 1 << 47;
/// The numbers of the random sequences that say who is told after it was struck out.
const LISTENS: u64 = 1 << 48;

/// What the person remembers.
#[derive(Debug, Default)]
pub struct Invited {
    deeds: u64,
    /// The invitations that were made: their names.
    ids: Vec<String>,
    struck_out: u64,
}

/// The hash of the secret of the invitation of this name.
fn hash(id: &str) -> String {
    format!("{:0>64}", id.bytes().map(|byte| format!("{byte:02x}")).collect::<String>())
}

impl World {
    /// In most runs nobody is there; seeds that once failed stay what they were.
    pub fn plan_membership(&mut self) {
        let mut own = Random::of_fault(self.seed, SEQUENCE);
        let recorded = super::recorded_seeds().any(|seed| seed == self.seed);
        if recorded || !own.chance(30) {
            return;
        }
        let count = self.nodes.len();
        for number in 1..=own.between(1, 3) {
            let Ok(name) = NodeName::try_from(format!("n{}", count as u64 + number)) else { continue };
            let clock = Clock { since: 0, shown: own.ms(1_000_000, 9_000_000), ppm: 0 };
            self.nodes.push(empty_node(name.clone(), own.chance(20), clock));
            self.names.push(name);
        }
        self.at(FAULTS_FROM, Event::Membership);
    }

    /// The person does something.
    pub fn change_members(&mut self) {
        self.invited.deeds += 1;
        let mut own = Random::of_fault(self.seed, SEQUENCE + self.invited.deeds);
        let pause = own.ms(100, 2500);
        if self.now + pause < FAULTS_UNTIL - 5_000_000 {
            self.after(pause, Event::Membership);
        }
        match own.below(12) {
            0..=3 => self.let_in(&mut own),
            4..=7 if self.can_spare() => {
                let node = self.nodes[own.index(self.nodes.len())].name.clone();
                self.ask_leader(&Order::Remove { node, insist: own.chance(30) });
            }
            4..=8 => {
                let leaving = self.checks.agreed.leaving.keys().next().cloned();
                let node = leaving.unwrap_or_else(|| self.nodes[own.index(self.nodes.len())].name.clone());
                self.ask_leader(&Order::Keep { node });
            }
            _ => self.knock(&mut own),
        }
    }

    /// Whether others could take the place of one more that goes: names are not given again, so hosts run out.
    fn can_spare(&self) -> bool {
        let agreed = &self.checks.agreed;
        let able = |n: &&Node| !n.witness && !n.tags.never_primary && !n.tags.never_sync;
        let stay = |n: &&Node| agreed.has_seat(&n.name) && !agreed.leaving.contains_key(&n.name);
        let new = |n: &&Node| !agreed.has_seat(&n.name) && !agreed.removed.contains(&n.name);
        let count = |is: &dyn Fn(&&Node) -> bool| self.nodes.iter().filter(able).filter(|n| is(n)).count();
        count(&stay) + count(&new) > 2 + agreed.confirmations().unwrap_or(1)
    }

    /// Somebody insisted, and too few nodes are left for commits to go on: the world lets others in.
    pub(super) fn let_in_enough(&mut self) {
        let needed = 1 + self.checks.agreed.confirmations().unwrap_or(1);
        let able = |n: &Node| !n.witness && !n.tags.never_primary && !n.tags.never_sync;
        let belongs = |n: &Node| self.checks.agreed.has_seat(&n.name);
        let enough = self.nodes.iter().filter(|n| able(n) && belongs(n)).count() >= needed;
        let new = |n: &Node| !belongs(n) && !self.checks.agreed.removed.contains(&n.name);
        let outside = self.nodes.iter().position(|n| able(n) && new(n));
        if let (false, Some(node), true) = (enough, outside, self.invited.struck_out > 0) {
            self.set_up_and_ask(node);
        }
    }

    fn set_up_and_ask(&mut self, node: NodeId) {
        if self.nodes[node].boots == 0 {
            self.after(0, Event::PowerOn { node, boots: 0 });
        }
        let name = self.nodes[node].name.clone();
        let seat = Seat { address: format!("{name}:1"), raft_id: node as u64 + 1 };
        self.ask_leader(&Order::Admit { node: name, seat });
    }

    /// A node that does not belong is set up, and let in, if it is new: one that was removed is refused.
    fn let_in(&mut self, own: &mut Random) {
        let outside = |id: &NodeId| !self.checks.agreed.has_seat(&self.nodes[*id].name);
        let outside: Vec<NodeId> = (0..self.nodes.len()).filter(outside).collect();
        let Some(node) = outside.get(own.index(outside.len())).copied() else { return };
        if self.nodes[node].boots > 0 && own.chance(60) {
            self.set_up_anew(node, own);
        }
        self.set_up_and_ask(node);
    }

    /// Its host is exchanged for an empty one. Not while it votes: a vote that is forgotten could be given twice, so a store
    /// that begins anew has another name there. Nor while a server still counts what it had confirmed.
    fn set_up_anew(&mut self, node: NodeId, own: &mut Random) {
        let counts = self.nodes.iter().any(|n| n.postgres.senders.contains_key(&node));
        if self.store.voters.contains(&node) || counts {
            return;
        }
        self.lose_power(node, own.ms(50, 1000));
        let host = &mut self.nodes[node];
        (host.notes, host.replica) = (Notes::default(), Replica::default());
        (host.postgres.data, host.shelf) = (None, None);
        host.postgres.upstream = None;
        self.store.listeners.remove(&node);
        *self.report.faults.entry("node set up anew").or_default() += 1;
        self.say(|w| format!("{}: set up anew", w.nodes[node].name));
    }

    /// Somebody makes an invitation, takes one back, or shows one that is good or not; or a user of the API comes or goes.
    fn knock(&mut self, own: &mut Random) {
        let roles = [TokenRole::Data, TokenRole::Witness, TokenRole::Proxy];
        let role = roles[own.index(2)];
        let known = self.invited.ids.get(own.index(self.invited.ids.len())).cloned();
        let id = known.filter(|_| own.chance(90)).unwrap_or_else(|| "never".to_owned());
        match own.below(8) {
            0..=1 => {
                let id = format!("t{}", self.invited.deeds);
                let until = self.now / 1000 + own.between(500, 12_000);
                let uses = u32::try_from(own.between(1, 2)).unwrap_or(1);
                self.invited.ids.push(id.clone());
                self.ask_leader(&Order::Invite { hash: hash(&id), id, role, until, uses });
            }
            2 => drop(self.ask_leader(&Order::Uninvite { id })),
            3 => {
                let name = format!("u{}", self.invited.deeds % 4);
                self.ask_leader(&Order::AddUser { hash: hash(&name), name, role: UserRole::Viewer });
            }
            4 => {
                let name = format!("u{}", self.invited.deeds % 4);
                self.ask_leader(&Order::RemoveUser { name });
            }
            _ => {
                let secret = if own.chance(20) { "wrong" } else { &id };
                let node = self.nodes[own.index(self.nodes.len())].name.clone();
                let hash = hash(secret);
                self.ask_leader(&Order::Redeem { id, hash, role, node });
            }
        }
    }

    /// A change of who belongs was agreed.
    pub fn members_changed(&mut self, change: &Change) {
        if let Change::Remove { node } = change
            && let Some(id) = self.id(node)
        {
            self.invited.struck_out += 1;
            if Random::of_fault(self.seed, LISTENS + self.invited.struck_out).chance(50) {
                self.store.listeners.insert(id);
            }
        }
    }
}
