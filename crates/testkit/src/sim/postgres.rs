//! A model of PostgreSQL's WAL, timelines and synchronous commit, as far as a failover can see them.
//!
//! A record has an identity that no other record ever has, so two histories that went different ways are known to
//! differ even where timeline and position are equal. PostgreSQL itself cannot see that: it compares timeline numbers and
//! positions only, and so do the checks here that stand for PostgreSQL's own (`may_stream`, `rewind_point`).

use super::node::NodeId;
use cluster::state::{Fork, SyncSet};
use cluster::{Epoch, Lsn, Timeline};
use std::collections::{BTreeMap, VecDeque};

/// Where WAL begins after initdb.
pub const FIRST_LSN: Lsn = Lsn(0x100_0000);

/// A piece of WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Unlike any other.
    pub id: u64,
    /// The timeline it was written on.
    pub timeline: Timeline,
    /// Where it ends.
    pub end: Lsn,
}

/// What is on disk: flushed, so a crash loses none of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data {
    /// From initdb.
    pub system_identifier: u64,
    /// All WAL from the beginning.
    pub records: Vec<Record>,
    /// The timelines before the present one.
    pub forks: Vec<Fork>,
    /// The timeline of the last WAL.
    pub timeline: Timeline,
    /// A copy or a rewound directory is readable only from here on.
    pub consistent_at: Lsn,
    /// WAL of another history was streamed onto it, and PostgreSQL could not see that.
    pub spoiled: bool,
}

impl Data {
    /// What initdb makes.
    pub fn new(system_identifier: u64) -> Data {
        Data {
            system_identifier,
            records: Vec::new(),
            forks: Vec::new(),
            timeline: 1,
            consistent_at: FIRST_LSN,
            spoiled: false,
        }
    }

    /// The end of the WAL held.
    pub fn lsn(&self) -> Lsn {
        self.records.last().map_or(FIRST_LSN, |r| r.end)
    }

    /// Writes a record of `bytes` on the present timeline.
    pub fn write(&mut self, id: u64, bytes: u64) {
        let record = Record { id, timeline: self.timeline, end: Lsn(self.lsn().0 + bytes) };
        self.records.push(record);
    }

    /// Takes in WAL that was streamed, with the history of the server it came from.
    pub fn receive(&mut self, records: &[Record], forks: &[Fork]) {
        self.records.extend_from_slice(records);
        if let Some(last) = records.last() {
            self.timeline = last.timeline;
        }
        self.forks = forks.iter().filter(|f| f.timeline < self.timeline).copied().collect();
    }

    /// How many records end at or before `lsn`.
    pub fn records_up_to(&self, lsn: Lsn) -> usize {
        self.records.partition_point(|r| r.end <= lsn)
    }

    /// Where the timeline numbered `timeline` ends in this history; `None`: it is not part of it.
    fn end_of(&self, timeline: Timeline) -> Option<Lsn> {
        if timeline == self.timeline {
            return Some(Lsn(u64::MAX));
        }
        self.forks.iter().find(|f| f.timeline == timeline).map(|f| f.at)
    }

    /// Whether PostgreSQL streams to a standby that holds `standby`: its timeline must be in the history, its position
    /// neither behind the fork nor ahead of what there is (StartReplication, src/backend/replication/walsender.c).
    pub fn may_stream(&self, standby: &Data) -> bool {
        standby.system_identifier == self.system_identifier
            && standby.lsn() <= self.lsn()
            && self.end_of(standby.timeline).is_some_and(|end| standby.lsn() <= end)
    }

    /// The last position that both histories share by timeline number and by where each timeline began
    /// (findCommonAncestorTimeline, src/bin/pg_rewind/pg_rewind.c).
    pub fn rewind_point(&self, source: &Data) -> Option<Lsn> {
        let ends = |data: &Data| -> Vec<Fork> {
            let last = Fork { timeline: data.timeline, at: data.lsn() };
            data.forks.iter().copied().chain([last]).collect()
        };
        let mut common = None;
        let mut began = (FIRST_LSN, FIRST_LSN);
        for (mine, theirs) in ends(self).into_iter().zip(ends(source)) {
            if mine.timeline != theirs.timeline || began.0 != began.1 {
                break;
            }
            common = Some(mine.at.min(theirs.at));
            began = (mine.at, theirs.at);
        }
        common
    }
}

/// What the server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    /// No process of it exists.
    Stopped,
    /// Not ready.
    Starting,
    /// Up, receives WAL, and not consistent yet: answers nobody.
    Recovering,
    /// In recovery.
    Standby,
    /// In recovery, told to promote.
    Promoting,
    /// Takes writes.
    Primary,
}

/// A WAL sender, with its own idea of the synchronous set: each one re-reads the configuration for itself.
#[derive(Clone, Debug)]
pub struct Sender {
    /// The connection it serves.
    pub connection: u64,
    /// Records sent.
    pub sent: usize,
    /// What its standby confirmed as flushed.
    pub flush_lsn: Lsn,
    /// When its standby was last heard, microseconds of the simulation.
    pub heard_at: u64,
    /// The configuration it obeys.
    pub obeys: SyncSet,
}

/// The receiving end of a stream.
#[derive(Clone, Copy, Debug)]
pub struct Receiver {
    /// The connection.
    pub connection: u64,
    /// To whom.
    pub upstream: NodeId,
    /// When the upstream was last heard, microseconds of the simulation.
    pub heard_at: u64,
}

/// A commit whose client waits.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    /// The commit record.
    pub id: u64,
    /// Where it ends.
    pub lsn: Lsn,
}

/// A server.
#[derive(Clone, Debug)]
pub struct Postgres {
    /// Its data directory.
    pub data: Option<Data>,
    /// What it does.
    pub process: Process,
    /// Counts starts, so that what concerns an earlier life is dropped.
    pub life: u64,
    /// `primary_conninfo`.
    pub upstream: Option<NodeId>,
    /// Its WAL receiver.
    pub receiver: Option<Receiver>,
    /// Its WAL senders.
    pub senders: BTreeMap<NodeId, Sender>,
    /// `synchronous_standby_names`, as in the configuration file.
    pub sync: SyncSet,
    /// Whether sessions wait for standbys: a flag that follows `sync` when the checkpointer gets round to it.
    pub commits_wait: bool,
    /// Commits that wait for confirmation.
    pub waiting: VecDeque<Waiting>,
    /// The epoch for which it was last promoted.
    pub promoted_for: Epoch,
    /// Since when it does nothing, microseconds of the simulation.
    pub hung_since: Option<u64>,
    /// A standby that was just started replays what it has on disk: until when, and what it shows meanwhile.
    pub replaying: Option<(u64, Lsn)>,
    /// How many connections it was started with.
    pub limit: u64,
}

impl Postgres {
    /// No data, no server.
    pub fn new() -> Postgres {
        Postgres {
            data: None,
            process: Process::Stopped,
            life: 0,
            upstream: None,
            receiver: None,
            senders: BTreeMap::new(),
            sync: SyncSet { k: 1, members: Default::default() },
            commits_wait: true,
            waiting: VecDeque::new(),
            promoted_for: 0,
            hung_since: None,
            replaying: None,
            limit: 100,
        }
    }

    /// The end of the WAL held.
    pub fn lsn(&self) -> Lsn {
        self.data.as_ref().map_or(FIRST_LSN, Data::lsn)
    }

    /// What a standby says of its position: what it has received, or replayed so far of what was there at its start.
    pub fn shown_lsn(&self, now: u64) -> Lsn {
        self.replaying.filter(|(until, _)| now < *until).map_or(self.lsn(), |(_, lsn)| lsn)
    }

    /// A server starts with this configuration: its checkpointer reads it first.
    pub fn configure_stopped(&mut self, sync: SyncSet) {
        self.commits_wait = !sync.is_open();
        self.sync = sync;
    }

    /// Ends every process: what was in memory is gone, what was flushed stays.
    pub fn kill(&mut self) {
        self.life += 1;
        self.hung_since = None;
        self.replaying = None;
        self.process = Process::Stopped;
        self.receiver = None;
        self.senders.clear();
        self.waiting.clear();
    }

    /// Ends recovery: opens the timeline after the last one this server knows of.
    pub fn finish_promotion(&mut self, record_id: u64) {
        if let Some(data) = &mut self.data {
            data.forks.push(Fork { timeline: data.timeline, at: data.lsn() });
            data.timeline += 1;
            data.write(record_id, 100);
        }
        self.process = Process::Primary;
        self.receiver = None;
    }
}
