//! WAL streams and synchronous commit. A stream keeps its order; each message of it arrives at any time or never.

use super::leader::sets_may_change;
use super::picture::{Broken, Names, NodeId, Picture, Process, Stream};
use super::wal::{Record, may_stream, timeline};
use super::{Cluster, Planted};

impl Picture {
    /// A client at `node` begins a commit.
    pub fn write(&mut self, node: NodeId, model: &Cluster) -> bool {
        let host = &mut self.nodes[node];
        if host.process != Process::Primary || self.used.writes == model.bounds.writes {
            return false;
        }
        self.used.writes += 1;
        host.wal.push(Record { epoch: host.promoted_for, timeline: timeline(&host.wal) });
        host.waiting.push(host.wal.len());
        if model.planted == Planted::NobodyConfirms {
            self.release(node, &Names::default());
        }
        true
    }

    /// A standby connects to the server that it was told of.
    pub fn connect(&mut self, node: NodeId) -> bool {
        let host = &self.nodes[node];
        let Some(from) = host.upstream.filter(|_| host.process == Process::Standby) else { return false };
        let source = &self.nodes[from];
        let open = host.stream.as_ref().is_some_and(|s| s.open);
        let serves = source.process != Process::Stopped && source.is_readable();
        if open || !serves || !may_stream(&source.wal, &host.wal) {
            return false;
        }
        let position = host.wal.len();
        let obeys = source.sync.clone();
        self.nodes[node].stream =
            Some(Stream { from, flushed: position, confirmed: position, obeys, open: true });
        true
    }

    /// The standby receives one record and flushes it.
    pub fn deliver(&mut self, node: NodeId) -> bool {
        let host = &self.nodes[node];
        let Some(stream) = host.stream.as_ref().filter(|s| s.open) else { return false };
        let source = &self.nodes[stream.from].wal;
        let at = host.wal.len();
        let Some(record) = source.get(at).copied() else { return false };
        let honest = source.get(..at) == Some(host.wal.as_slice());
        let host = &mut self.nodes[node];
        host.wal.push(record);
        if let Some(stream) = &mut host.stream {
            stream.flushed = host.wal.len();
        }
        if !honest {
            self.broken = self.broken.or(Some(Broken::Prefix));
        }
        true
    }

    /// The primary hears how far its standby has flushed, and tells the clients whose commits are confirmed.
    ///
    /// When no client waits and the leader does not ask how far the standbys are, a later confirmation says the same.
    pub fn confirm(&mut self, node: NodeId, model: &Cluster) -> bool {
        let asked = sets_may_change(&self.agreed(), self.used, &model.bounds);
        let awaited = |from: NodeId| asked || !self.nodes[from].waiting.is_empty();
        if !self.nodes[node].stream.as_ref().is_some_and(|s| awaited(s.from)) {
            return false;
        }
        let Some(stream) = &mut self.nodes[node].stream else { return false };
        if stream.confirmed == stream.flushed {
            return false;
        }
        stream.confirmed = stream.flushed;
        let (primary, mut obeys) = (stream.from, stream.obeys.clone());
        if model.planted == Planted::AnybodyConfirms {
            obeys.members = (0..self.nodes.len()).collect();
        }
        self.release(primary, &obeys);
        true
    }

    fn release(&mut self, primary: NodeId, obeys: &Names) {
        let streams = self.nodes.iter().enumerate().filter(|(id, _)| obeys.members.contains(id));
        let mut confirmed: Vec<usize> = streams
            .filter_map(|(_, n)| n.stream.as_ref().filter(|s| s.from == primary))
            .map(|s| s.confirmed)
            .collect();
        confirmed.sort_unstable_by(|a, b| b.cmp(a));
        let upto = match obeys.k {
            0 => usize::MAX,
            k => confirmed.get(k - 1).copied().unwrap_or(0),
        };
        while let Some(position) = self.nodes[primary].waiting.first().copied().filter(|p| *p <= upto) {
            self.nodes[primary].waiting.remove(0);
            self.acknowledge(primary, position);
        }
    }

    fn acknowledge(&mut self, primary: NodeId, position: usize) {
        let host = &self.nodes[primary];
        let Some(record) = host.wal.get(position - 1).copied() else { return };
        let held = |wal: &Vec<Record>| wal.get(position - 1) == Some(&record);
        if !self.began_with.range(host.promoted_for + 1..).all(|(_, wal)| held(wal)) {
            self.broken = self.broken.or(Some(Broken::Writer));
        }
        self.last_writer = self.last_writer.max(host.promoted_for);
        self.acknowledged.insert((position, record.epoch), record.timeline);
    }

    /// Invariant 3, when a server leaves recovery: it has what earlier primaries acknowledged. (A lease never ends here, so
    /// a node may promote when a later epoch serves already. Of that epoch it need not have anything.)
    pub fn holds_acknowledged(&self, node: NodeId) -> bool {
        let host = &self.nodes[node];
        let mut earlier = self.acknowledged.iter().filter(|((_, epoch), _)| *epoch < host.promoted_for);
        earlier.all(|(&(position, epoch), &timeline)| {
            host.wal.get(position - 1) == Some(&Record { epoch, timeline })
        })
    }

    /// A WAL sender re-reads the configuration.
    pub fn obey(&mut self, node: NodeId) -> bool {
        let Some(stream) = &self.nodes[node].stream else { return false };
        let sync = self.nodes[stream.from].sync.clone();
        if stream.obeys == sync {
            return false;
        }
        if let Some(stream) = &mut self.nodes[node].stream {
            stream.obeys = sync;
        }
        true
    }

    /// The primary notices that a receiver is gone; what was on the way is lost. Unless the leader asks who streams, that
    /// is the same as that what is on the way never arrives.
    pub fn notice(&mut self, node: NodeId, model: &Cluster) -> bool {
        let asked = sets_may_change(&self.agreed(), self.used, &model.bounds);
        let gone = asked && self.nodes[node].stream.as_ref().is_some_and(|s| !s.open);
        if gone {
            self.nodes[node].stream = None;
        }
        gone
    }

    /// A receiver loses its connection.
    pub fn break_stream(&mut self, node: NodeId) -> bool {
        match &mut self.nodes[node].stream {
            Some(stream) if stream.open => {
                stream.open = false;
                true
            }
            _ => false,
        }
    }

    /// Ends a server: what it had in memory is gone, what it flushed stays.
    pub fn kill(&mut self, node: NodeId) {
        let host = &mut self.nodes[node];
        host.process = Process::Stopped;
        host.waiting.clear();
        host.agent.sync_applied = None;
        if let Some(stream) = &mut host.stream {
            stream.open = false;
        }
        for other in &mut self.nodes {
            if other.stream.as_ref().is_some_and(|s| s.from == node) {
                other.stream = None;
            }
        }
    }
}
