//! Leaves out what no rule looks at any more, so that pictures which differ only in it are one: without this there are
//! too many of them to see all. Each line says why it changes nothing.

use super::Bounds;
use super::leader::matters;
use super::picture::{Names, Node, Picture, Process, name};
use cluster::Epoch;

impl Picture {
    /// See the module.
    pub fn normalise(&mut self, bounds: &Bounds) {
        for node in 0..self.nodes.len() {
            while self.next_is_alike(node) {
                self.nodes[node].knows += 1;
            }
        }
        self.forget_reports(bounds);
        // Nobody goes back to a state that all nodes have left.
        let oldest = self.nodes.iter().map(|n| n.knows).min().unwrap_or(0);
        self.log.drain(..oldest);
        for host in &mut self.nodes {
            host.knows -= oldest;
        }
        for node in 0..self.nodes.len() {
            let epoch = self.known(node).epoch;
            forget_old(&mut self.nodes[node], epoch);
        }
        self.forget_streams();
    }

    /// What a rule of the leader does not look at any more, or what it can find as well with the node silent.
    fn forget_reports(&mut self, bounds: &Bounds) {
        let (agreed, used) = (self.agreed(), self.used);
        for (node, heard) in self.heard.iter_mut().enumerate() {
            if heard.as_ref().is_some_and(|h| !matters(&agreed, node, &h.value, used, bounds)) {
                *heard = None;
            }
        }
    }

    /// Whether what `node` learns next changes only the sync sets, which none but the primary's node looks at.
    fn next_is_alike(&self, node: usize) -> bool {
        let knows = self.nodes[node].knows;
        let (Some(now), Some(next)) = (self.log.get(knows), self.log.get(knows + 1)) else { return false };
        now.value.phase == next.value.phase
            && now.value.epoch == next.value.epoch
            && now.value.primary() != Some(&name(node))
    }

    /// Only a primary hears confirmations, and only it obeys a set: a promotion tells all its senders anew.
    fn forget_streams(&mut self) {
        for node in 0..self.nodes.len() {
            let Some(stream) = &self.nodes[node].stream else { continue };
            let from = self.nodes[stream.from].process;
            let Some(stream) = &mut self.nodes[node].stream else { continue };
            if !matches!(from, Process::Primary | Process::Promoting) {
                stream.obeys = Names::default();
                stream.confirmed = stream.flushed;
                if !stream.open {
                    self.nodes[node].stream = None;
                }
            }
        }
    }
}

/// What a node that sees a state of `epoch` does not need. States never go back here, so what belongs to an older epoch
/// is not looked at again, and a promise for this one is kept by itself.
fn forget_old(host: &mut Node, epoch: Epoch) {
    if host.is_readable() {
        host.consistent_at = 0;
    }
    let notes = &mut host.notes;
    notes.seal = notes.seal.take().filter(|seal| seal.epoch >= epoch);
    notes.following = notes.following.filter(|(of, _)| *of >= epoch);
    notes.rewound_for = notes.rewound_for.filter(|of| *of >= epoch);
    if notes.promised <= epoch {
        notes.promised = 0;
    }
    let leads = matches!(host.process, Process::Primary | Process::Promoting);
    // A lease is looked at before a promotion.
    host.agent.lease = host.agent.lease.filter(|of| *of >= epoch && !leads);
    if !leads {
        // A promotion sets these.
        host.promoted_for = 0;
        host.sync = Names::default();
        host.agent.sync_configured = None;
    }
    if host.process == Process::Stopped {
        // A start sets this.
        host.upstream = None;
    }
}
