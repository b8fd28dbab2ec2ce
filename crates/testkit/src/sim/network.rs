//! Links between hosts: each direction can be cut or slow by itself.

use super::node::NodeId;
use super::random::Random;
use std::collections::BTreeMap;

/// One direction of a link.
type Way = (NodeId, NodeId);

/// All links.
#[derive(Clone, Debug, Default)]
pub struct Network {
    cut: BTreeMap<Way, u64>,
    slow: BTreeMap<Way, (u64, u64)>,
    last_in_stream: BTreeMap<Way, u64>,
}

impl Network {
    /// Lets nothing through from `from` to `to` before `until`.
    pub fn cut(&mut self, from: NodeId, to: NodeId, until: u64) {
        let end = self.cut.entry((from, to)).or_default();
        *end = until.max(*end);
    }

    /// Delays everything from `from` to `to` by `extra` microseconds until `until`.
    pub fn slow(&mut self, from: NodeId, to: NodeId, extra: u64, until: u64) {
        self.slow.insert((from, to), (extra, until));
    }

    /// All faults end.
    pub fn heal(&mut self) {
        self.cut.clear();
        self.slow.clear();
    }

    /// Whether something sent now arrives.
    pub fn passes(&self, from: NodeId, to: NodeId, now: u64) -> bool {
        from == to || self.cut.get(&(from, to)).is_none_or(|until| *until <= now)
    }

    /// Whether both directions are open.
    pub fn connected(&self, a: NodeId, b: NodeId, now: u64) -> bool {
        self.passes(a, b, now) && self.passes(b, a, now)
    }

    /// How long a message sent now takes, in microseconds.
    pub fn delay(&self, from: NodeId, to: NodeId, now: u64, random: &mut Random) -> u64 {
        if from == to {
            return 1;
        }
        let extra =
            self.slow.get(&(from, to)).filter(|(_, until)| *until > now).map_or(0, |(extra, _)| *extra);
        random.between(200, 2500) + extra
    }

    /// When a message of a stream that is sent now arrives: never before the one sent before it.
    pub fn arrival_in_order(&mut self, from: NodeId, to: NodeId, now: u64, random: &mut Random) -> u64 {
        let at = now + self.delay(from, to, now, random);
        let last = self.last_in_stream.entry((from, to)).or_default();
        *last = at.max(*last + 1);
        *last
    }
}
