//! Does the steps that `step` asks for. Where a crash in between matters they have two parts.

use super::picture::{Broken, Busy, Names, NodeId, Notes, Picture, Process, SealNote, id, name};
use super::wal::{Record, rewind_point, timeline};
use super::{Cluster, Planted};
use cluster::step::{Step, step, sync_of_standby};
use cluster::{Epoch, Moment, NodeName};

impl Picture {
    /// The node's next step, and what follows from it by itself where nothing that can still happen looks in between:
    /// the start of a server that it ended; when no more faults come, the second part of a step, but of a seal only if
    /// there is no receiver to disconnect; the connection to whom it follows.
    pub fn act_and_go_on(&mut self, node: NodeId, model: &Cluster) -> bool {
        if !self.act(node, model) {
            return false;
        }
        if self.nodes[node].process == Process::Stopped {
            self.act(node, model);
        }
        let host = &self.nodes[node];
        let receives = host.stream.as_ref().is_some_and(|s| s.open);
        let between = matches!(host.agent.busy, Some(Busy::Seal(_))) && receives;
        if self.used.faults == model.bounds.faults && !between {
            self.finish(node, model.planted);
        }
        self.connect(node);
        true
    }

    /// The node asks what to do next, and does it or begins it.
    fn act(&mut self, node: NodeId, model: &Cluster) -> bool {
        let host = &self.nodes[node];
        if host.agent.busy.is_some() || host.process == Process::Promoting {
            return false;
        }
        let state = self.known(node);
        let asked = step(&state, &name(node), &self.local(node), Moment(1));
        // Who comes back after the last choice is never chosen: it stays away.
        let last = state.epoch == model.bounds.epochs && state.primary().is_some();
        let host = &mut self.nodes[node];
        match asked {
            // The database exists in every state of the model, and nobody asks for a switchover or restarts.
            Step::Wait(_)
            | Step::Initialise
            | Step::StartPrimary
            | Step::Configure { .. }
            | Step::Restart { .. }
            | Step::RestartPrimary { .. }
            | Step::Checkpoint { .. }
            | Step::StopInOrder { .. } => return false,
            Step::Clone { .. } | Step::Rewind { .. } | Step::StartSealed if last => return false,
            Step::Clone { from, line, .. } => return self.copy(node, &from, line),
            Step::Rewind { from, epoch, line } => return self.rewind(node, &from, epoch, line),
            Step::StartSealed => {
                host.notes.following = None;
                host.upstream = None;
                host.sync = Names::of(&sync_of_standby(&state));
                host.process = Process::Standby;
            }
            Step::Seal { epoch } => {
                host.upstream = None;
                host.agent.busy = Some(Busy::Seal(epoch));
                if model.planted == Planted::SealedBeforeDisconnected {
                    self.note_seal(node, epoch);
                }
            }
            Step::Follow { upstream, epoch, line } => {
                let Some(upstream) = id(&upstream) else { return false };
                host.notes.line = Some(line);
                host.notes.following = Some((epoch, upstream));
                host.notes.seal = None;
                host.agent.busy = Some(Busy::Follow(upstream));
            }
            Step::Promote { epoch, line, sync } => {
                host.notes.line = Some(line);
                host.notes.promised = host.notes.promised.max(epoch);
                host.notes.following = None;
                host.notes.seal = None;
                host.upstream = None;
                host.sync = Names::of(&sync);
                host.process = Process::Promoting;
                host.promoted_for = epoch;
                host.agent.sync_configured = Some(sync);
                host.agent.sync_applied = None;
                self.break_stream(node);
                self.all_obey(node);
            }
            Step::SetSync { sync, .. } => {
                host.sync = Names::of(&sync);
                host.agent.sync_configured = Some(sync);
                host.agent.sync_applied = None;
            }
            Step::Fence { .. } => self.kill(node),
        }
        true
    }

    /// The second part of what was begun.
    pub fn finish(&mut self, node: NodeId, planted: Planted) -> bool {
        if self.nodes[node].process == Process::Promoting {
            self.leave_recovery(node);
            return true;
        }
        match self.nodes[node].agent.busy.take() {
            None => return false,
            Some(Busy::Follow(upstream)) => self.nodes[node].upstream = Some(upstream),
            Some(Busy::Seal(epoch)) => {
                if self.nodes[node].process == Process::Standby && self.nodes[node].is_readable() {
                    self.break_stream(node);
                    if planted != Planted::SealedBeforeDisconnected {
                        self.note_seal(node, epoch);
                    }
                }
            }
        }
        true
    }

    fn note_seal(&mut self, node: NodeId, epoch: Epoch) {
        let host = &mut self.nodes[node];
        host.notes.following = None;
        host.notes.promised = host.notes.promised.max(epoch);
        let line = host.notes.line.clone();
        host.notes.seal =
            Some(SealNote { epoch, timeline: timeline(&host.wal), records: host.wal.len(), line });
    }

    fn all_obey(&mut self, primary: NodeId) {
        let sync = self.nodes[primary].sync.clone();
        for stream in self.nodes.iter_mut().filter_map(|n| n.stream.as_mut()).filter(|s| s.from == primary) {
            stream.obeys = sync.clone();
        }
    }

    fn leave_recovery(&mut self, node: NodeId) {
        let epoch = self.nodes[node].promoted_for;
        let appointed = self.agreed().promotions.iter().any(|p| p.epoch == epoch && p.node == name(node));
        if !appointed {
            self.broken = self.broken.or(Some(Broken::Appointment));
        }
        if !self.holds_acknowledged(node) {
            self.broken = self.broken.or(Some(Broken::Durability));
        }
        let host = &mut self.nodes[node];
        self.began_with.insert(epoch, host.wal.clone());
        host.wal.push(Record { epoch, timeline: timeline(&host.wal) + 1 });
        host.process = Process::Primary;
    }

    /// A primary of the line that was asked for: data is copied from no other.
    fn source(&self, from: &NodeName, line: &str) -> Option<Vec<Record>> {
        let source = &self.nodes[id(from)?];
        let fits = source.process == Process::Primary && source.notes.line.as_deref() == Some(line);
        fits.then(|| source.wal.clone())
    }

    fn copy(&mut self, node: NodeId, from: &NodeName, line: String) -> bool {
        let Some(wal) = self.source(from, &line) else { return false };
        self.kill(node);
        let host = &mut self.nodes[node];
        host.wal = wal;
        host.notes = Notes { line: Some(line), ..Notes::default() };
        true
    }

    fn rewind(&mut self, node: NodeId, from: &NodeName, epoch: Epoch, line: String) -> bool {
        let Some(mut wal) = self.source(from, &line) else { return false };
        let Some(kept) = rewind_point(&self.nodes[node].wal, &wal) else { return false };
        self.kill(node);
        let host = &mut self.nodes[node];
        if host.wal.get(..kept) != wal.get(..kept) {
            self.broken = self.broken.or(Some(Broken::Prefix));
        }
        host.consistent_at = wal.len();
        wal.truncate(kept);
        host.wal = wal;
        host.notes.rewound_for = Some(epoch);
        host.notes.line = Some(line);
        true
    }
}
