//! WAL streams between servers, and synchronous commit.

use super::node::NodeId;
use super::postgres::{Postgres, Process, Receiver, Record, Sender};
use super::world::{Event, World};
use cluster::Lsn;
use cluster::state::{Fork, SyncSet};

/// Both ends give up a silent stream after this time (wal_sender_timeout, wal_receiver_timeout), in microseconds.
const STREAM_TIMEOUT: u64 = 2_000_000;
/// Time between two looks of a server at its streams.
const SERVER_TICK: u64 = 100_000;
/// A standby that lacks no more than this many bytes counts as streaming, not as catching up.
const CATCHING_UP_BYTES: u64 = 5_000;

/// A message of a WAL stream.
#[derive(Clone, Debug)]
pub enum StreamMessage {
    /// A standby wants WAL from where it stands.
    Connect { connection: u64 },
    /// Records from index `first` on; `after` is the identity of the one before.
    Wal { connection: u64, first: usize, after: Option<u64>, records: Vec<Record>, forks: Vec<Fork> },
    /// The standby has flushed up to here.
    Confirm { connection: u64, flush_lsn: Lsn },
    /// The other end is gone, or refused.
    Close { connection: u64 },
}

/// Whether pg_stat_replication would say "streaming".
pub fn streams_well(postgres: &Postgres, flush_lsn: Lsn) -> bool {
    postgres.lsn().bytes_after(flush_lsn) <= CATCHING_UP_BYTES
}

impl World {
    /// The server's regular work.
    pub fn server_tick(&mut self, node: NodeId, boots: u64) {
        if self.nodes[node].boots != boots {
            return;
        }
        self.after(SERVER_TICK, Event::ServerTick { node, boots });
        let now = self.now;
        let postgres = &mut self.nodes[node].postgres;
        postgres.senders.retain(|_, s| s.heard_at + STREAM_TIMEOUT > now);
        if let Some(receiver) = postgres.receiver
            && (receiver.heard_at + STREAM_TIMEOUT <= now || postgres.upstream != Some(receiver.upstream))
        {
            postgres.receiver = None;
        }
        let receives = matches!(postgres.process, Process::Standby | Process::Recovering);
        if let (true, None, Some(upstream)) = (receives, postgres.receiver, postgres.upstream) {
            let connection = self.number();
            let receiver = Receiver { connection, upstream, heard_at: now };
            self.nodes[node].postgres.receiver = Some(receiver);
            self.send_stream(node, upstream, StreamMessage::Connect { connection });
        }
        self.push_wal(node);
    }

    /// Sends every standby what it lacks; an empty message keeps the stream alive.
    pub fn push_wal(&mut self, node: NodeId) {
        let postgres = &mut self.nodes[node].postgres;
        let Some(data) = &postgres.data else { return };
        let mut messages = Vec::new();
        for (standby, sender) in &mut postgres.senders {
            let first = sender.sent.min(data.records.len());
            let after = first.checked_sub(1).and_then(|i| data.records.get(i)).map(|r| r.id);
            let records = data.records.get(first..).unwrap_or_default().to_vec();
            sender.sent = data.records.len();
            let (connection, forks) = (sender.connection, data.forks.clone());
            messages.push((*standby, StreamMessage::Wal { connection, first, after, records, forks }));
        }
        for (standby, message) in messages {
            self.send_stream(node, standby, message);
        }
    }

    /// A message of a stream arrives.
    pub fn hear_stream(&mut self, from: NodeId, to: NodeId, message: StreamMessage) {
        match message {
            StreamMessage::Connect { connection } => self.accept_stream(from, to, connection),
            StreamMessage::Wal { .. } => self.receive_wal(from, to, message),
            StreamMessage::Confirm { connection, flush_lsn } => {
                let now = self.now;
                let sender = self.nodes[to].postgres.senders.get_mut(&from);
                let Some(sender) = sender.filter(|s| s.connection == connection) else { return };
                sender.heard_at = now;
                sender.flush_lsn = sender.flush_lsn.max(flush_lsn);
                let obeys = sender.obeys.clone();
                self.release(to, &obeys);
            }
            StreamMessage::Close { connection } => {
                let postgres = &mut self.nodes[to].postgres;
                if postgres.receiver.is_some_and(|r| r.connection == connection) {
                    postgres.receiver = None;
                }
                postgres.senders.retain(|_, s| s.connection != connection);
            }
        }
    }

    fn accept_stream(&mut self, from: NodeId, to: NodeId, connection: u64) {
        let (standby, upstream) = (&self.nodes[from].postgres, &self.nodes[to].postgres);
        let serves = matches!(upstream.process, Process::Standby | Process::Promoting | Process::Primary);
        // A server that stood still may hear of it long after the other end has given up.
        let waits = standby.receiver.is_some_and(|r| r.connection == connection);
        let position = match (&standby.data, &upstream.data) {
            (Some(mine), Some(theirs)) if serves && waits && theirs.may_stream(mine) => {
                Some((theirs.records_up_to(mine.lsn()), mine.lsn()))
            }
            _ => None,
        };
        let Some((sent, flush_lsn)) = position else {
            return self.send_stream(to, from, StreamMessage::Close { connection });
        };
        let now = self.now;
        let upstream = &mut self.nodes[to].postgres;
        let obeys = upstream.sync.clone();
        upstream.senders.insert(from, Sender { connection, sent, flush_lsn, heard_at: now, obeys });
        self.push_wal(to);
    }

    fn receive_wal(&mut self, from: NodeId, to: NodeId, message: StreamMessage) {
        let StreamMessage::Wal { connection, first, after, records, forks } = message else { return };
        let now = self.now;
        let postgres = &mut self.nodes[to].postgres;
        let receives = matches!(postgres.process, Process::Standby | Process::Recovering);
        let Some(receiver) = postgres.receiver.as_mut().filter(|r| r.connection == connection && receives)
        else {
            return;
        };
        receiver.heard_at = now;
        super::invariants::received(self, from, to);
        let postgres = &mut self.nodes[to].postgres;
        let Some(data) = &mut postgres.data else { return };
        if first != data.records.len() {
            postgres.receiver = None;
            return;
        }
        let honest = data.records.last().map(|r| r.id) == after;
        data.receive(&records, &forks);
        let flush_lsn = data.lsn();
        data.spoiled |= !honest;
        if !honest {
            super::invariants::spoiled(self, from, to);
        }
        self.send_stream(to, from, StreamMessage::Confirm { connection, flush_lsn });
        self.become_consistent(to);
        self.push_wal(to);
    }

    /// Tells the clients of commits that are confirmed well enough, as a process with the configuration `sync` sees it.
    pub fn release(&mut self, node: NodeId, sync: &SyncSet) {
        // A WAL sender that waits for nobody leaves it to others to tell the clients.
        if sync.is_open() {
            return;
        }
        let names = &self.names;
        let postgres = &self.nodes[node].postgres;
        let mut flushed: Vec<Lsn> = postgres
            .senders
            .iter()
            .filter(|(id, _)| names.get(**id).is_some_and(|n| sync.members.contains(n)))
            .map(|(_, s)| s.flush_lsn)
            .collect();
        flushed.sort_unstable_by(|a, b| b.cmp(a));
        let upto = flushed.get(sync.k - 1).copied().unwrap_or(Lsn(0));
        self.release_up_to(node, upto);
    }

    /// Tells all clients: nothing is waited for.
    pub fn release_all(&mut self, node: NodeId) {
        self.release_up_to(node, Lsn(u64::MAX));
    }

    fn release_up_to(&mut self, node: NodeId, upto: Lsn) {
        let postgres = &mut self.nodes[node].postgres;
        let mut released = Vec::new();
        while let Some(waiting) = postgres.waiting.front().filter(|w| w.lsn <= upto) {
            released.push(*waiting);
            postgres.waiting.pop_front();
        }
        for commit in released {
            self.report.acknowledged += 1;
            super::invariants::acknowledged(self, node, commit);
        }
    }

    /// Ends the server at once; who can notice notices.
    pub fn kill_server(&mut self, node: NodeId) {
        let postgres = &self.nodes[node].postgres;
        let mut ends: Vec<(NodeId, u64)> =
            postgres.senders.iter().map(|(id, s)| (*id, s.connection)).collect();
        ends.extend(postgres.receiver.map(|r| (r.upstream, r.connection)));
        self.nodes[node].postgres.kill();
        let now = self.clock(node);
        if let Some(agent) = &mut self.nodes[node].agent {
            (agent.lease, agent.ended_at) = (None, Some(now));
        }
        self.replay_server_backlog(node);
        for (other, connection) in ends {
            self.send_stream(node, other, StreamMessage::Close { connection });
        }
    }

    /// A stream keeps its order; what is lost breaks it, which both ends notice by silence.
    fn send_stream(&mut self, from: NodeId, to: NodeId, message: StreamMessage) {
        if self.network.carries_wal(from, to, self.now) {
            let at = self.network.arrival_in_order(from, to, self.now, &mut self.random);
            self.at(at, Event::Stream { from, to, message });
        }
    }
}
