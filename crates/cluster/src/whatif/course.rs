//! The supposed course: heartbeats, decisions and steps, on copies, until nothing changes any more.

use super::Decided;
use super::node::{Before, Ended, Node};
use super::sides::{Deciders, Leadership};
use crate::basics::{Lsn, Millis, Moment, NodeName};
use crate::command::{Command, apply};
use crate::decide::{Now, Proposed, decide};
use crate::lease;
use crate::observe::Observations;
use crate::reason::Reason;
use crate::state::{Settings, State};
use std::collections::{BTreeMap, BTreeSet};

/// Nothing real needs more looks; it bounds what a question costs.
const LOOKS_MAX: usize = 2_000;
/// Commands that may follow from each other in one moment.
const AT_ONCE_MAX: usize = 30;
/// Without settings nothing is decided but who is here.
const HEARTBEAT_DEFAULT_MS: Millis = 187;

/// The supposed cluster.
pub(super) struct Course {
    pub(super) state: State,
    seen: Observations,
    proposed: Proposed,
    nodes: BTreeMap<NodeName, Node>,
    before: Option<NodeName>,
    cut: bool,
    /// Nodes whose agents are silent already: their servers may stream on.
    unheard: BTreeSet<NodeName>,
    began: Now,
    now: Moment,
    changed_at: Moment,
    pub(super) decided: Vec<Decided>,
    pub(super) waits: Vec<Reason>,
}

impl Course {
    pub(super) fn new(
        state: State,
        seen: &Observations,
        proposed: &Proposed,
        deciders: &Deciders,
        unheard: BTreeSet<NodeName>,
        now: &Now,
    ) -> Course {
        let before = state.primary().cloned();
        let cut = before.as_ref().is_some_and(|p| !deciders.with.contains(p));
        let confirmed = |node: &NodeName| -> Option<Lsn> {
            let primary = seen.nodes.get(before.as_ref()?)?;
            primary.observation.replicas.get(node).map(|r| r.flush_lsn)
        };
        let left = seen.nodes.iter().filter(|(name, _)| deciders.with.contains(*name));
        let nodes = left
            .map(|(name, heard)| {
                (name.clone(), Node::new(&state, heard.observation.clone(), confirmed(name)))
            })
            .collect();
        let (seen, at) = match &deciders.leadership {
            Leadership::Elected { leader, .. } => {
                // At most `detect / 2` (agent/src/store/embedded.rs, `config`).
                let elected = now.at.plus(state.settings.as_ref().map_or(0, |s| s.detect_ms / 2));
                let mut fresh = Observations::new(leader.clone(), elected);
                fresh.see_state(&state, elected);
                (fresh, elected)
            }
            Leadership::Kept { .. } | Leadership::None => (seen.clone(), now.at),
        };
        let mut course = Course {
            seen,
            proposed: proposed.clone(),
            nodes,
            before,
            cut,
            unheard,
            began: now.clone(),
            now: at,
            changed_at: at,
            decided: Vec::new(),
            waits: Vec::new(),
            state,
        };
        course.lease_before();
        course
    }

    /// The worst case: the primary has just been given a lease.
    fn lease_before(&mut self) {
        let (Some(settings), Some(_)) = (&self.state.settings, &self.before) else { return };
        let left = settings.lease_ms();
        lease::remember(&mut self.seen, &self.state, left, self.began.at);
    }

    /// Goes on until nothing changes for as long as any of the rules may wait.
    pub(super) fn run(&mut self) {
        let heartbeat = self.state.settings.as_ref().map_or(HEARTBEAT_DEFAULT_MS, Settings::heartbeat_ms);
        let mut next_heartbeat = self.now;
        for _ in 0..LOOKS_MAX {
            self.settle();
            if self.now.since(self.changed_at) > self.patience_ms() {
                break;
            }
            while next_heartbeat <= self.now {
                next_heartbeat = next_heartbeat.plus(heartbeat);
            }
            let due = self.nodes.values().filter_map(Node::due).min();
            self.now = due.map_or(next_heartbeat, |due| due.min(next_heartbeat)).max(self.now.plus(1));
        }
    }

    /// The longest that a rule waits for silence, a lease or a node that starts.
    fn patience_ms(&self) -> Millis {
        let Some(settings) = &self.state.settings else { return 0 };
        let serves = super::status_primary(&self.state).is_some_and(|p| self.nodes.contains_key(&p));
        if serves && self.state.handover.is_none() {
            2 * settings.detect_ms
        } else {
            settings.lease_surely_over_ms() + 3 * settings.detect_ms
        }
    }

    /// All that follows in this moment.
    fn settle(&mut self) {
        for _ in 0..AT_ONCE_MAX {
            let ended = self.end_steps();
            self.begin_steps();
            let leased = self.hear();
            let at = self.now;
            let wall = self.began.wall.saturating_add(at.since(self.began.at));
            let nonce = format!("what-if-{}", self.state.epoch + 1);
            let decision = decide(&self.state, &self.seen, &self.proposed, &Now { at, wall, nonce });
            self.waits = decision.waits;
            let decided = decision.command.is_some();
            if let Some(command) = decision.command {
                self.record(&command);
            }
            if !ended && !leased && !decided {
                return;
            }
            self.changed_at = self.now;
        }
    }

    /// Records a command, as the store would.
    pub(super) fn record(&mut self, command: &Command) {
        if apply(&mut self.state, command).is_err() {
            return; // the store refuses it, and it changes nothing there either
        }
        let after_ms = self.now.since(self.began.at);
        self.decided.extend(command.reasons.iter().map(|r| Decided { after_ms, reason: r.clone() }));
        self.seen.see_state(&self.state, self.now);
    }

    fn end_steps(&mut self) -> bool {
        let now = self.now;
        let ended: Vec<(NodeName, Ended)> =
            self.nodes.iter_mut().filter_map(|(name, n)| Some((name.clone(), n.end(now)?))).collect();
        for (from, what) in &ended {
            if let Ended::StoppedAt(lsn) = what {
                self.nodes.values_mut().for_each(|n| n.receive_all(from, *lsn));
            }
        }
        !ended.is_empty()
    }

    fn begin_steps(&mut self) {
        for node in self.nodes.values_mut() {
            node.begin(&self.state, self.now);
        }
    }

    /// Every node that is left sends its heartbeat, and the primary among them gets its lease; says whether that is new.
    fn hear(&mut self) -> bool {
        let mut leased = false;
        let cut_ms = self.cut.then(|| self.now.since(self.began.at));
        let following: BTreeMap<NodeName, Lsn> = match self.state.primary() {
            Some(primary) => self
                .nodes
                .iter()
                .filter(|(_, n)| n.follows(&self.state, primary))
                .filter_map(|(name, n)| Some((name.clone(), n.flushed()?)))
                .collect(),
            None => BTreeMap::new(),
        };
        let before = Before { primary: self.before.as_ref(), cut_ms, unheard: &self.unheard };
        let reports: Vec<_> =
            self.nodes.values().map(|n| n.report(&self.state, &before, &following)).collect();
        for report in reports {
            if let Some(left) = lease::grant(&self.state, &report, Some(0)) {
                lease::remember(&mut self.seen, &self.state, left, self.now);
                if let Some(node) = self.nodes.get_mut(&report.node) {
                    let lease = Some((self.state.epoch, Moment(u64::MAX)));
                    leased |= node.local.lease != lease;
                    node.local.lease = lease;
                }
            }
            self.seen.hear(&self.state, report, self.now);
        }
        leased
    }
}
