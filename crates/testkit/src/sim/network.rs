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
    unreliable: Option<(u64, u64)>,
    slow_store: BTreeMap<NodeId, (u64, u64)>,
    mute: BTreeMap<Way, u64>,
    dry: BTreeMap<Way, u64>,
}

/// What becomes of a message between agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrives.
    Arrives,
    /// It is lost.
    Lost,
    /// It arrives twice.
    Twice,
    /// It arrives after so many microseconds more, behind later ones.
    Late(u64),
}

impl Network {
    /// Lets nothing through from `from` to `to` before `until`.
    pub fn cut(&mut self, from: NodeId, to: NodeId, until: u64) {
        let end = self.cut.entry((from, to)).or_default();
        *end = until.max(*end);
    }

    /// Ends all cuts of the links of `node`.
    pub fn reconnect(&mut self, node: NodeId) {
        self.cut.retain(|(from, to), _| *from != node && *to != node);
    }

    /// Lets nothing of what agents say through from `from` to `to` before `until`; WAL still passes.
    pub fn mute(&mut self, from: NodeId, to: NodeId, until: u64) {
        self.mute.insert((from, to), until);
    }

    /// What the agent of `node` says gets through again.
    pub fn unmute(&mut self, node: NodeId) {
        self.mute.retain(|(from, _), _| *from != node);
    }

    /// Lets no WAL through from `from` to `to` before `until`; what agents say still passes.
    pub fn dry_up(&mut self, from: NodeId, to: NodeId, until: u64) {
        self.dry.insert((from, to), until);
    }

    /// Whether what an agent says now arrives.
    pub fn carries_words(&self, from: NodeId, to: NodeId, now: u64) -> bool {
        self.passes(from, to, now) && self.mute.get(&(from, to)).is_none_or(|until| *until <= now)
    }

    /// Whether WAL, or what belongs to its stream, arrives if sent now.
    pub fn carries_wal(&self, from: NodeId, to: NodeId, now: u64) -> bool {
        self.passes(from, to, now) && self.dry.get(&(from, to)).is_none_or(|until| *until <= now)
    }

    /// Delays everything from `from` to `to` by `extra` microseconds until `until`.
    pub fn slow(&mut self, from: NodeId, to: NodeId, extra: u64, until: u64) {
        self.slow.insert((from, to), (extra, until));
    }

    /// Loses, repeats and overtakes `percent` of all messages between agents until `until`.
    pub fn unreliable(&mut self, percent: u64, until: u64) {
        self.unreliable = Some((percent, until));
    }

    /// What happens to a message sent now.
    pub fn fate(&self, now: u64, random: &mut Random) -> Fate {
        let Some((percent, _)) = self.unreliable.filter(|(_, until)| *until > now) else {
            return Fate::Arrives;
        };
        if !random.chance(percent) {
            return Fate::Arrives;
        }
        match random.below(3) {
            0 => Fate::Lost,
            1 => Fate::Twice,
            _ if random.chance(80) => Fate::Late(random.ms(5, 600)),
            _ => Fate::Late(random.ms(500, 3000)),
        }
    }

    /// Delays what the store of `node` says and hears by `extra` microseconds until `until`.
    pub fn slow_store(&mut self, node: NodeId, extra: u64, until: u64) {
        self.slow_store.insert(node, (extra, until));
    }

    /// The delay of a message of the store.
    pub fn store_delay(&self, from: NodeId, to: NodeId, now: u64) -> u64 {
        let extra = |node| self.slow_store.get(node).filter(|(_, until)| *until > now).map_or(0, |(e, _)| *e);
        extra(&from) + extra(&to)
    }

    /// All faults end.
    pub fn heal(&mut self) {
        self.unreliable = None;
        self.slow_store.clear();
        self.cut.clear();
        self.slow.clear();
        self.mute.clear();
        self.dry.clear();
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
