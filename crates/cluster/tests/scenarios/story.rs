//! The little language of the transcripts.
//!
//! ```text
//! cluster quorum 1: n1 n2 n3 w+        w+ is a witness; `cluster async 1000: ...` allows to lose 1000 bytes;
//!                                      `cluster available 1: ...` is quorum with degrade = available
//! n1 leads                             a new leader, who has heard nothing yet
//! n1 has served up to 1/500            skips the beginning: n1 is primary, the others follow and are its sync set
//! 500 ms                               time passes; every node that is not silent sends its heartbeats
//! n1 is lost | agent silent | back     nobody hears the host | its agent, while WAL flows | anybody hears it again
//! n2 still hears n1                    ... although n1 is silent to the others
//! n1 no data | stopped | starting | hangs 9000 | primary 2/500 | standby 2/500 [of n2]    its server, timeline/position
//! n1 data 77                           its data directory belongs to this system identifier
//! n1 lease                             it gets a lease for the present epoch
//! n1 done                              it has done the step it was told
//! n1 line p2 | unfinished | inconsistent | caught up | lags
//! n1 cut off at 2/500 | clone asked for its upstream has removed that WAL | a person wants it copied anew
//! n1 streams to n2 2/500, n3 2/400     pg_stat_replication of n1; nobody: `n1 streams to -`
//! n1 obeys n2 n3 since 2/500           every WAL sender of n1 obeys this set since then; `obeys any 2 of n2 n3 since ...`
//! n1 priority 5 | never primary | never sync    its tags
//! n1 leased again                      its guard holds a lease after the pause
//! n1 drained                           no client of it is in a transaction any more
//! order switchover [n2] | cancel ID | pause [fence] | resume    what a person asks the leader for
//! order failover n2 [accept TOKEN | accept shown] [stopped n1]    `shown`: the token of the last refusal
//! order maintain n2 [insist] | unmaintain n2
//! order set from 0 work_mem=8MB ... | restart [n2] [pending] [rolling] [insist]
//! n1 pending max_connections 100 300 | nothing pending      what its server takes on when it restarts: now, then
//! step of n2                           tells the step again, changed or not
//! history                              the last promotions and sync sets, as recorded
//! why | why not n2 | readiness         what the leader says of the present
//! what if n1 down | partition n1,n2 | switchover [n3]    what it says would happen
//! ```

use super::{asked, upkeep, words};
use cluster::command::{Change, Command, apply, first_promotion_id};
use cluster::configuration::Pending;
use cluster::copy::CloneCause;
use cluster::decide::switchover::{self, Order};
use cluster::decide::{Decision, Now, Proposed, decide};
use cluster::handover::{Obstacle, Progress, Stopped};
use cluster::membership::Seat;
use cluster::observe::{
    DataDir, Observation, Observations, Promoted, Replica, Seal, Seen, Server, Standby, SyncApplied,
};
use cluster::state::{
    Degrade, Fencing, Fork, Member, PgAddress, Phase, Replication, Settings, State, SyncSet, Tags,
};
use cluster::step::{Local, Step, Unfinished, step};
use cluster::word::Objection;
use cluster::{Lsn, Moment, NodeName, Timeline, lease, leash, status};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Voice {
    Heard,
    AgentSilent,
    Lost,
}

struct Node {
    local: Local,
    voice: Voice,
    silent_since: Moment,
    still_heard_by: BTreeSet<NodeName>,
    lags: bool,
    tags: Tags,
    drained: bool,
    stopped_at: Option<Lsn>,
    leased_again: Option<u64>,
    pending: Vec<Pending>,
    forks: Vec<Fork>,
    replicas: BTreeMap<NodeName, Replica>,
    sync_applied: Option<SyncApplied>,
    primary_lsn: Option<Lsn>,
    told: String,
}

#[derive(Default)]
pub struct Story {
    state: State,
    seen: Option<Observations>,
    proposed: Option<Proposed>,
    nodes: BTreeMap<NodeName, Node>,
    now: Moment,
    epoch_since: Moment,
    waits: String,
    view: String,
    shown: Option<String>,
    out: Vec<String>,
}

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

/// `2/500`: timeline 2, position 0/500.
fn position(text: &str) -> (Timeline, Lsn) {
    let (timeline, lsn) =
        text.split_once('/').unwrap_or_else(|| panic!("{text}: timeline/position, like 2/500"));
    (timeline.parse().unwrap(), Lsn(u64::from_str_radix(lsn, 16).unwrap()))
}

fn standby(timeline: Timeline, lsn: Lsn, upstream: Option<NodeName>) -> Server {
    let streaming = upstream.is_some();
    Server::Standby(Standby { timeline, lsn, replay_lsn: lsn, upstream, streaming, replay_lag_ms: None })
}

impl Story {
    /// Plays one line of the script and returns what came of it.
    pub fn play(&mut self, input: &str) -> Vec<String> {
        let words: Vec<&str> = input.split_whitespace().collect();
        match words.as_slice() {
            ["cluster", mode, amount, nodes @ ..] => self.form(mode, amount.trim_end_matches(':'), nodes),
            [ms, "ms"] => self.pass(ms.parse().unwrap()),
            [node, "leads"] => self.seen = Some(Observations::new(name(node), self.now)),
            [node, "has", "served", "up", "to", at] => self.begin_serving(&name(node), position(at)),
            ["step", "of", node] => self.node(node).told.clear(),
            ["history"] => self.tell_history(),
            ["why" | "what" | "readiness", ..] => self.ask(&words),
            ["order", order @ ..] => self.give_order(order),
            [node, what @ ..] => self.change(node, what),
            [] => panic!("an empty line of script"),
        }
        self.settle();
        std::mem::take(&mut self.out)
    }

    fn node(&mut self, node: &str) -> &mut Node {
        self.nodes.get_mut(&name(node)).unwrap_or_else(|| panic!("{node} is no node of this story"))
    }

    fn form(&mut self, mode: &str, amount: &str, nodes: &[&str]) {
        let amount: u64 = amount.parse().unwrap();
        let replication = match mode {
            "async" => Replication::Async { max_loss_bytes: amount, loss_bound_bytes: None },
            "available" => Replication::Quorum { k: amount as usize, degrade: Degrade::Available },
            _ => Replication::Quorum { k: amount as usize, degrade: Degrade::Strict },
        };
        self.now = Moment(100_000);
        for text in nodes {
            let witness = text.ends_with('+');
            let data = if witness { DataDir::Witness } else { DataDir::Absent };
            let server = if witness { Server::Unknown } else { Server::Stopped };
            let node = Node {
                local: Local { data, server, ..Local::default() },
                voice: Voice::Heard,
                silent_since: Moment(0),
                still_heard_by: BTreeSet::new(),
                lags: false,
                tags: Tags::default(),
                drained: false,
                stopped_at: None,
                leased_again: None,
                pending: Vec::new(),
                forks: Vec::new(),
                replicas: BTreeMap::new(),
                sync_applied: None,
                primary_lsn: None,
                told: String::new(),
            };
            self.nodes.insert(name(text.trim_end_matches('+')), node);
        }
        let settings = Settings { replication, detect_ms: 1500, drift_ppm: 20_000 };
        let names = self.nodes.keys().cloned().collect();
        self.proposed = Some(Proposed {
            cluster: "story".into(),
            settings,
            names,
            record: Default::default(),
            adopt: None,
        });
    }

    /// The state and the nodes as `bootstrap.txt` leaves them.
    fn begin_serving(&mut self, primary: &NodeName, (timeline, lsn): (Timeline, Lsn)) {
        let proposed = self.proposed.clone().unwrap();
        let line = first_promotion_id(primary);
        let others: BTreeSet<NodeName> = self
            .nodes
            .iter()
            .filter(|(who, node)| *who != primary && node.local.data != DataDir::Witness)
            .map(|(who, _)| who.clone())
            .collect();
        let proposed_mode = proposed.settings.replication;
        let mut changes = vec![Change::Configure { cluster: proposed.cluster, settings: proposed.settings }];
        for (who, node) in &self.nodes {
            let member = self.observe(who, node).member.unwrap();
            changes.push(Change::Register { node: who.clone(), member });
        }
        let promoted = Promoted { epoch: 1, timeline, forks: Vec::new(), system_identifier: 7 };
        changes.push(Change::Initialise { node: primary.clone(), replication_password: String::new() });
        changes.push(Change::Publish { epoch: 1, promoted, promotion_id: line.clone() });
        let k = match proposed_mode {
            Replication::Quorum { k, .. } => k,
            Replication::Async { .. } => 0,
        };
        let sync = SyncSet { k, members: if k > 0 { others.clone() } else { BTreeSet::new() } };
        if k > 0 {
            changes.push(Change::SyncSetNext { epoch: 1, next: sync.clone() });
        }
        for change in changes {
            apply(&mut self.state, &Command { by: primary.clone(), at: 0, change, reasons: Vec::new() })
                .unwrap();
        }
        for (who, node) in self.nodes.iter_mut().filter(|(_, n)| n.local.data != DataDir::Witness) {
            node.local.data = DataDir::Present { system_identifier: 7 };
            node.local.line = Some(line.clone());
            node.primary_lsn = Some(lsn);
            node.local.sync_configured = Some(sync.clone());
            if who == primary {
                let replica = Replica { streaming: true, flush_lsn: lsn, replay_lsn: lsn };
                node.local.server = Server::Primary { timeline, lsn };
                node.replicas = others.iter().map(|other| (other.clone(), replica.clone())).collect();
                node.sync_applied = Some(SyncApplied { set: sync.clone(), since: lsn });
            } else {
                node.local.following = Some((1, primary.clone()));
                node.local.server = standby(timeline, lsn, Some(primary.clone()));
            }
        }
    }

    fn pass(&mut self, ms: u64) {
        let end = self.now.plus(ms);
        while self.now < end {
            self.now = self.now.plus(187).min(end);
            self.settle();
        }
    }

    fn change(&mut self, who: &str, what: &[&str]) {
        let (now, state) = (self.now, self.state.clone());
        let node = self.node(who);
        match what {
            ["is", "lost"] => (node.voice, node.silent_since) = (Voice::Lost, now),
            ["agent", "silent"] => (node.voice, node.silent_since) = (Voice::AgentSilent, now),
            ["is", "back"] => {
                node.voice = Voice::Heard;
                node.still_heard_by.clear();
            }
            ["still", "hears", other] => drop(self.node(other).still_heard_by.insert(name(who))),
            ["no", "data"] => (node.local.data, node.local.server) = (DataDir::Absent, Server::Stopped),
            ["data", id] => node.local.data = DataDir::Present { system_identifier: id.parse().unwrap() },
            ["stopped"] => {
                node.local.server = Server::Stopped;
                node.replicas.clear();
                node.sync_applied = None;
            }
            ["starting"] => node.local.server = Server::Starting,
            ["hangs", ms] => node.local.server = Server::Unresponsive { silent_ms: ms.parse().unwrap() },
            ["primary", at] => {
                let (timeline, lsn) = position(at);
                node.local.server = Server::Primary { timeline, lsn };
                node.primary_lsn = Some(lsn);
            }
            ["standby", at] => node.local.server = standby(position(at).0, position(at).1, None),
            ["standby", at, "of", other] => {
                node.local.server = standby(position(at).0, position(at).1, Some(name(other)));
            }
            ["knows", "primary", "at", at] => node.primary_lsn = Some(position(at).1),
            ["lease"] => node.local.lease = Some((state.epoch, now.plus(2250))),
            ["line", line] => node.local.line = Some((*line).to_owned()),
            ["unfinished"] => node.local.unfinished = Some(Unfinished::Clone),
            ["inconsistent"] => node.local.inconsistent = true,
            ["cut", "off", "at", at] => {
                let (needs, upstream) = (position(at).1, state.primary().unwrap().clone());
                node.local.must_clone = Some(CloneCause::CutOff { needs, upstream });
            }
            ["clone", "asked", "for"] => {
                node.local.must_clone = Some(CloneCause::Ordered { by: "ada".to_owned(), from: None });
            }
            ["caught", "up"] => node.local.copied = false,
            ["lags"] => node.lags = true,
            ["priority", number] => node.tags.priority = number.parse().unwrap(),
            ["never", "primary"] => node.tags.never_primary = true,
            ["never", "sync"] => node.tags.never_sync = true,
            ["drained"] => node.drained = true,
            ["pending", name, running, configured] => {
                let [name, running, configured] = [name, running, configured].map(|w| (*w).to_owned());
                node.pending.push(Pending { name, running, configured });
            }
            ["nothing", "pending"] => node.pending.clear(),
            ["leased", "again"] => node.leased_again = leash::owed(&state, &name(who)),
            ["streams", "to", list @ ..] => node.replicas = replicas(list),
            ["obeys", members @ .., "since", at] => {
                let full_k = state.confirmations().unwrap_or(0);
                let (k, members) = match members {
                    ["any", k, "of", members @ ..] => (k.parse().unwrap(), members),
                    members => (full_k, members),
                };
                let members = members.iter().filter(|m| **m != "-").map(|m| name(m)).collect();
                let set = SyncSet { k, members };
                node.sync_applied = Some(SyncApplied { set, since: position(at).1 });
            }
            ["done"] => self.finish_step(who),
            other => panic!("{other:?}: not a word of this language"),
        }
    }

    fn give_order(&mut self, words: &[&str]) {
        let order = match words {
            ["switchover"] => Order::Switchover { to: None, at: None },
            ["switchover", "at", ms] => Order::Switchover { to: None, at: Some(ms.parse().unwrap()) },
            ["switchover", to] => Order::Switchover { to: Some(name(to)), at: None },
            ["cancel", id] => Order::Cancel { id: (*id).to_owned() },
            ["pause"] => Order::Pause { fencing: Fencing::Suspended },
            ["pause", "fence"] => Order::Pause { fencing: Fencing::Kept },
            ["failover", to, rest @ ..] => self.failover(to, rest),
            ["maintain", node, rest @ ..] => {
                Order::Maintain { node: name(node), text: None, insist: rest == ["insist"] }
            }
            ["unmaintain", node] => Order::Unmaintain { node: name(node) },
            ["resume"] => Order::Resume,
            ["admit", node, address] => {
                // Each address has a store of its own.
                let raft_id = address.bytes().fold(1, |sum, byte| sum * 31 + u64::from(byte));
                Order::Admit { node: name(node), seat: Seat { address: (*address).to_owned(), raft_id } }
            }
            ["remove", node, rest @ ..] => Order::Remove { node: name(node), insist: rest == ["insist"] },
            ["keep", node] => Order::Keep { node: name(node) },
            ["set" | "restart", ..] => upkeep::order(words),
            other => panic!("{other:?}: no order"),
        };
        let seen = self.seen.as_ref().unwrap();
        let now = Now { at: self.now, wall: self.now.0, nonce: format!("s{}", self.state.epoch) };
        let proposed = self.proposed.as_ref().unwrap();
        match switchover::order(&self.state, seen, proposed, &order, "ada", &now) {
            Ok((command, _)) => self.record(&command),
            Err(because) => {
                self.out.extend(because.iter().map(|o| format!("refused: {o}")));
                self.shown = because.iter().find_map(|o| match o {
                    Obstacle::Objected { objection: Objection::WouldLose { token, .. } } => {
                        Some(token.clone())
                    }
                    _ => None,
                });
            }
        }
    }

    fn failover(&self, to: &str, rest: &[&str]) -> Order {
        let after = |word: &str| rest.iter().position(|w| *w == word).and_then(|at| rest.get(at + 1));
        let accept = after("accept").map(|token| match *token {
            "shown" => self.shown.clone().unwrap_or_default(),
            token => token.to_owned(),
        });
        Order::Failover { to: name(to), accept, stopped: after("stopped").map(|n| name(n)) }
    }

    /// The node has done what it was told: the least that an honest executor leaves behind.
    fn finish_step(&mut self, who: &str) {
        let (me, now, state) = (name(who), self.now, self.state.clone());
        let told = step(&state, &me, &self.node(who).local, now);
        let node = self.node(who);
        let at = match &node.local.server {
            Server::Standby(s) => Some((s.timeline, s.lsn)),
            _ => None,
        };
        match told {
            Step::Initialise | Step::StartPrimary => {
                node.local.data = DataDir::Present { system_identifier: 7 };
                node.local.line = Some(first_promotion_id(&me));
                node.local.server = Server::Primary { timeline: 1, lsn: Lsn(0x100) };
            }
            Step::Clone { line, .. } => {
                node.local.data = DataDir::Present { system_identifier: state.system_identifier.unwrap() };
                (node.local.line, node.local.inconsistent, node.local.copied) = (Some(line), true, true);
                (node.local.must_clone, node.local.following) = (None, None);
                (node.local.unfinished, node.local.server, node.local.seal) = (None, Server::Stopped, None);
            }
            Step::StartSealed => {
                upkeep::started(&mut node.local, &state, &me);
                node.local.following = None;
                node.local.server = Server::Starting;
            }
            Step::Seal { epoch } => {
                let (timeline, lsn) = at.unwrap_or_else(|| panic!("{who} is no standby"));
                node.local.server = standby(timeline, lsn, None);
                node.local.following = None;
                let (line, copied) = (node.local.line.clone(), node.local.copied);
                node.local.seal = Some(Seal { epoch, timeline, lsn, line, copied });
            }
            Step::Follow { upstream, epoch, line } => {
                (node.local.line, node.local.following) = (Some(line), Some((epoch, upstream.clone())));
                node.local.told = true;
                node.local.seal = None;
                if let Some((timeline, lsn)) = at {
                    node.local.server = standby(timeline, lsn, Some(upstream));
                }
            }
            Step::Rewind { epoch, line, .. } => {
                (node.local.line, node.local.rewound_for) = (Some(line), Some(epoch));
                (node.local.inconsistent, node.local.server) = (true, Server::Stopped);
            }
            Step::Promote { line, sync, .. } => {
                let (timeline, lsn) = at.unwrap();
                node.local.line = Some(line);
                node.local.sync_configured = Some(sync);
                node.forks = state.last_published().map(|(_, p)| p.forks.clone()).unwrap_or_default();
                node.forks.push(Fork { timeline, at: lsn });
                node.local.server = Server::Primary { timeline: timeline + 1, lsn: Lsn(lsn.0 + 0x10) };
                node.primary_lsn = Some(Lsn(lsn.0 + 0x10));
            }
            Step::SetSync { sync, revision } => {
                (node.local.sync_configured, node.local.sync_revision) = (Some(sync), revision);
            }
            told @ (Step::Configure { .. } | Step::Restart { .. } | Step::RestartPrimary { .. }) => {
                upkeep::done(&mut node.local, &told, state.configuration.number());
            }
            Step::Checkpoint { id } => node.local.checkpointed = Some(id),
            Step::StopInOrder { .. } => {
                node.stopped_at = node.primary_lsn;
                node.local.server = Server::Stopped;
                node.replicas.clear();
            }
            Step::Fence { .. } => node.local.server = Server::Stopped,
            Step::Wait(wait) => self.out.push(format!("{who} was told nothing to do: {wait}")),
        }
    }

    /// Heartbeats, decisions, steps: until nothing more follows from what is known.
    fn settle(&mut self) {
        let Some(mut seen) = self.seen.take() else { return };
        for _ in 0..20 {
            for observation in self.heartbeats() {
                if let Some(left) = lease::grant(&self.state, &observation, Some(10)) {
                    lease::remember(&mut seen, &self.state, left, self.now);
                }
                seen.hear(&self.state, observation, self.now);
            }
            let nonce = format!("p{}", self.state.epoch);
            let now = Now { at: self.now, wall: self.now.0, nonce };
            let Decision { command, waits, transfer } =
                decide(&self.state, &seen, self.proposed.as_ref().unwrap(), &now);
            self.tell_waits(&waits.iter().map(ToString::to_string).collect::<Vec<_>>(), command.is_some());
            if let Some(to) = transfer {
                let lives_with_primary = self.state.primary() == Some(&seen.leader);
                let why = if lives_with_primary { "the leader is primary" } else { "it hears the primary" };
                self.out.push(format!("leader {}: leadership goes to {to}, because {why}", seen.leader));
                seen = Observations::new(to, self.now);
            }
            let Some(command) = command else { break };
            self.record(&command);
            seen.see_state(&self.state, self.now);
        }
        self.seen = Some(seen);
        self.tell_view();
        self.tell_steps();
    }

    fn record(&mut self, command: &Command) {
        let epoch = self.state.epoch;
        if let Err(refusal) = apply(&mut self.state, command) {
            self.out.push(format!("REFUSED: {refusal}"));
        }
        for reason in &command.reasons {
            self.out.push(format!("recorded: {reason}"));
        }
        if self.state.epoch != epoch {
            self.epoch_since = self.now;
        }
    }

    fn tell_waits(&mut self, waits: &[String], decided: bool) {
        let text = waits.join(" | ");
        let kind: String = text.chars().filter(|c| !c.is_ascii_digit()).collect();
        if !decided && kind != self.waits {
            self.out.push(format!("leader, after {} ms: {text}", self.now.0 - 100_000));
        }
        self.waits = kind;
    }

    fn tell_view(&mut self) {
        let text = words::view(&status::view(&self.state));
        if text != self.view {
            self.out.push(text.clone());
            self.view = text;
        }
    }

    fn tell_steps(&mut self) {
        for (who, node) in &mut self.nodes {
            let told = words::step(&step(&self.state, who, &node.local, self.now));
            if node.voice != Voice::Lost && told != node.told {
                self.out.push(format!("{who}: {told}"));
                node.told = told;
            }
        }
    }

    fn ask(&mut self, words: &[&str]) {
        let (seen, proposed) = (self.seen.as_ref().unwrap(), self.proposed.as_ref().unwrap());
        let now = Now { at: self.now, wall: self.now.0, nonce: "asked".into() };
        self.out.extend(asked::answer(words, &self.state, seen, proposed, &now));
    }

    fn tell_history(&mut self) {
        for p in &self.state.promotions {
            let parent = p.parent.as_deref().unwrap_or("nothing");
            let opened = match &p.published {
                Some(published) => format!("opened timeline {}", published.timeline),
                None => "was never published".into(),
            };
            self.out.push(format!(
                "epoch {}: {} continued {parent} as {} and {opened}",
                p.epoch, p.node, p.promotion_id
            ));
        }
        for set in &self.state.sync.in_force {
            let names: Vec<&str> = set.members.iter().map(NodeName::as_str).collect();
            let full = Some(set.k) == self.state.confirmations();
            let k = if full { String::new() } else { format!("{} of ", set.k) };
            self.out.push(format!("in force: {k}{{{}}}", names.join(", ")));
        }
    }

    fn heartbeats(&self) -> Vec<Observation> {
        let heard = self.nodes.iter().filter(|(_, node)| node.voice == Voice::Heard);
        heard.map(|(who, node)| self.observe(who, node)).collect()
    }

    fn observe(&self, who: &NodeName, node: &Node) -> Observation {
        let mut o = Observation::blank(who.clone());
        let witness = node.local.data == DataDir::Witness;
        o.epoch = if node.lags { 0 } else { self.state.epoch };
        o.revision = self.state.revision;
        o.seen = Seen::of(&self.state);
        o.member = Some(Member {
            agent: format!("{who}:1"),
            postgres: (!witness).then(|| PgAddress { host: who.to_string(), port: 5432 }),
            tags: node.tags,
            data_dir: None,
        });
        o.data = node.local.data.clone();
        o.server = node.local.server.clone();
        o.seal = node.local.seal.clone().filter(|s| s.epoch == self.state.epoch);
        o.promoted = self.promoted(who, node);
        o.replicas = node.replicas.clone();
        o.sync_applied = node.sync_applied.clone();
        o.leased_again = node.leased_again;
        o.pending = node.pending.clone();
        (o.configured, o.restarted) = (node.local.configured, node.local.restarted.clone());
        o.primary_lsn = node.primary_lsn;
        o.handover = self.state.handover.as_ref().filter(|h| h.from == *who).map(|h| Progress {
            id: h.id.clone(),
            checkpointed: node.local.checkpointed.as_ref() == Some(&h.id),
            drained: node.drained,
            open_transactions: usize::from(!node.drained),
            stopped: node.stopped_at.map(|at| Stopped::InOrder { at }),
        });
        if let Some((primary, p)) = self.state.primary().and_then(|p| self.nodes.get_key_value(p)) {
            let silent = if p.voice == Voice::Heard || p.still_heard_by.contains(who) {
                0
            } else {
                self.now.since(p.silent_since.max(self.epoch_since))
            };
            o.primary_agent_silent_ms = (primary != who).then_some(silent);
            let streams = matches!(&o.server, Server::Standby(s) if s.upstream.as_ref() == Some(primary));
            let wal = if p.voice == Voice::Lost { self.now.since(p.silent_since) } else { 0 };
            o.wal_silent_ms = streams.then_some(wal);
        }
        o
    }

    fn promoted(&self, who: &NodeName, node: &Node) -> Option<Promoted> {
        let expected = match &self.state.phase {
            Phase::Initialising { node } if node == who => first_promotion_id(node),
            Phase::Promoting { appointment } if appointment.node == *who => appointment.promotion_id.clone(),
            _ => return None,
        };
        let Server::Primary { timeline, .. } = node.local.server else { return None };
        (node.local.line.as_ref() == Some(&expected)).then(|| Promoted {
            epoch: self.state.epoch,
            timeline,
            forks: node.forks.clone(),
            system_identifier: 7,
        })
    }
}

/// `n2 2/500, n3 2/400`
fn replicas(list: &[&str]) -> BTreeMap<NodeName, Replica> {
    let pairs = list.chunks_exact(2).map(|pair| {
        let lsn = position(pair[1].trim_end_matches(',')).1;
        (name(pair[0]), Replica { streaming: true, flush_lsn: lsn, replay_lsn: lsn })
    });
    pairs.collect()
}
