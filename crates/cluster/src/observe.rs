//! What a node saw of itself and of others, and when it was heard.
//!
//! A node sends its [`Observation`] to the leader with every heartbeat. All times in it are ages, so that no two clocks
//! are ever compared.

use crate::basics::{Epoch, Lsn, Millis, Moment, NodeName, Timeline, WallMs};
use crate::brake::Brake;
use crate::configuration::Pending;
use crate::copy::{CloneCause, CopyProgress};
use crate::exposure::Exposure;
use crate::handover::{Hindrance, Progress, Stage};
use crate::mutant::{self, Mutant};
use crate::reason::Reason;
use crate::state::{FORM, Fork, Member, Phase, State, SyncSet};
use crate::word::Word;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The data directory of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum DataDir {
    /// Not looked at yet.
    #[default]
    Unknown,
    /// Missing or empty.
    Absent,
    /// A data directory.
    Present {
        /// From pg_control.
        system_identifier: u64,
    },
    /// This node is a witness.
    Witness,
}

/// The PostgreSQL server of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Server {
    /// Not looked at yet.
    #[default]
    Unknown,
    /// Its last process is gone: the guard saw it end, or no process of it exists.
    Stopped,
    /// It runs and does not take connections yet.
    Starting,
    /// It runs, and no query was answered for so long.
    Unresponsive {
        /// Age of the last answer.
        silent_ms: Millis,
    },
    /// In recovery.
    Standby(Standby),
    /// Not in recovery.
    Primary {
        /// The timeline it writes.
        timeline: Timeline,
        /// What it has flushed.
        lsn: Lsn,
    },
}

/// A server in recovery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standby {
    /// The timeline of the last WAL it holds.
    pub timeline: Timeline,
    /// The last position it holds on disk: the greater of received and replayed.
    pub lsn: Lsn,
    /// The last position it replayed.
    pub replay_lsn: Lsn,
    /// The node it is told to receive WAL from; `None`: sealed.
    pub upstream: Option<NodeName>,
    /// Whether its WAL receiver streams at this moment.
    pub streaming: bool,
    /// Age of the last transaction replayed, when it has not replayed all it received.
    pub replay_lag_ms: Option<Millis>,
}

/// A standby's promise, kept until it is told to follow a primary of this epoch or a later one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// The epoch it was given for.
    pub epoch: Epoch,
    /// The timeline of the last WAL flushed.
    pub timeline: Timeline,
    /// The last position flushed; its WAL receiver was gone when this was read.
    pub lsn: Lsn,
    /// The line of WAL that the data belongs to (see [`crate::lineage`]).
    pub line: Option<String>,
    /// The data was copied and did not catch up since (see [`crate::copy::caught_up`]): it does not count for what the
    /// node confirmed before.
    #[serde(default)]
    pub copied: bool,
}

/// A standby as the primary sees it (pg_stat_replication).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// Whether it streams (as opposed to catching up).
    pub streaming: bool,
    /// What it has confirmed as flushed.
    pub flush_lsn: Lsn,
    /// What it has confirmed as replayed.
    pub replay_lsn: Lsn,
}

/// The synchronous set that the primary's PostgreSQL obeys, every WAL sender of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncApplied {
    /// What `synchronous_standby_names` says.
    pub set: SyncSet,
    /// A position that the primary had flushed when every WAL sender obeyed it: commits after it need these members.
    pub since: Lsn,
}

/// A promotion that has happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promoted {
    /// For this epoch.
    pub epoch: Epoch,
    /// The timeline it writes.
    pub timeline: Timeline,
    /// Its history file.
    pub forks: Vec<Fork>,
    /// Identifier of the database system.
    pub system_identifier: u64,
}

/// How a node became a standby of the present primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RejoinWay {
    /// Its data was a prefix.
    Follow,
    /// It had diverged and was rewound (pg_rewind).
    Rewind,
    /// It was copied anew (pg_basebackup).
    Clone,
}

/// A finished rejoin, reported until it is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejoined {
    /// In this epoch.
    pub epoch: Epoch,
    /// How.
    pub way: RejoinWay,
    /// Where its own data stood before.
    pub from_timeline: Timeline,
    /// Position of that.
    pub from_lsn: Lsn,
    /// How long it took.
    pub took_ms: Millis,
    /// Why it was copied anew, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<CloneCause>,
    /// What it had and the cluster has not; `None`: nothing, or it is not known where its WAL parted from the cluster's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<Lost>,
}

/// WAL that a node had beyond the point where it parted from the cluster's, kept beside its data directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// Where the node left the cluster's WAL.
    pub from_lsn: Lsn,
    /// Where its own ended.
    pub to_lsn: Lsn,
    /// What is between the two.
    pub bytes: u64,
    /// Transactions that committed there; `None`: the WAL was not analysed.
    pub transactions: Option<u64>,
    /// When the first of them committed.
    pub first_commit: Option<WallMs>,
    /// When the last of them committed.
    pub last_commit: Option<WallMs>,
    /// What is wrong with the copy or the analysis, for people.
    pub problem: Option<String>,
}

/// How much of its epoch a node has seen recorded: what it says of its server was true then, and may be overtaken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seen {
    /// Nobody is appointed yet.
    #[default]
    Open,
    /// A node is appointed.
    Appointed,
    /// It is published.
    Published,
}

impl Seen {
    /// What `state` shows.
    #[must_use]
    pub fn of(state: &State) -> Seen {
        match state.phase {
            Phase::Empty | Phase::Initialising { .. } | Phase::Sealing { .. } => Seen::Open,
            Phase::Promoting { .. } => Seen::Appointed,
            Phase::Serving { .. } => Seen::Published,
        }
    }
}

/// What a node tells the leader with each heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// Who.
    pub node: NodeName,
    /// Which run of its agent this is, and the how-manieth observation of that run: a late one is recognised. Of two runs
    /// the name of the later one is the greater.
    pub serial: (String, u64),
    /// The epoch of the state it has seen.
    pub epoch: Epoch,
    /// The revision of that state.
    #[serde(default)]
    pub revision: u64,
    /// The form of the record that its program reads (see [`crate::state::FORM`]).
    #[serde(default)]
    pub reads: u32,
    /// How much of that epoch it has seen.
    #[serde(default)]
    pub seen: Seen,
    /// Where it is reached, from its own configuration.
    pub member: Option<Member>,
    /// Its data directory.
    pub data: DataDir,
    /// Its server.
    pub server: Server,
    /// Its seal, if it has given one.
    pub seal: Option<Seal>,
    /// Its data was copied and has not caught up since.
    #[serde(default)]
    pub copied: bool,
    /// Its promotion, if it promoted.
    pub promoted: Option<Promoted>,
    /// Age of the last answer from the primary's agent. `None`: never heard in this epoch, or it is the primary.
    pub primary_agent_silent_ms: Option<Millis>,
    /// Age of the last message in its WAL stream from the primary; `None`: it has no such stream.
    pub wal_silent_ms: Option<Millis>,
    /// The furthest position of the primary it has heard of.
    pub primary_lsn: Option<Lsn>,
    /// The primary's view of its standbys.
    pub replicas: BTreeMap<NodeName, Replica>,
    /// The primary's synchronous set.
    pub sync_applied: Option<SyncApplied>,
    /// Why the primary's commits wait in asynchronous mode (`loss_bound`).
    #[serde(default)]
    pub brake: Option<Brake>,
    /// What only the primary has.
    #[serde(default)]
    pub exposure: Option<Exposure>,
    /// Where the primary's database lets commits not wait for standbys (`synchronous_commit` lowered), for people.
    #[serde(default)]
    pub opted_out: Vec<String>,
    /// A rejoin that ended well.
    pub rejoined: Option<Rejoined>,
    /// What it has done for the switchover under way, on the primary.
    #[serde(default)]
    pub handover: Option<Progress>,
    /// What speaks against stopping or promoting its server.
    #[serde(default)]
    pub hindrances: Vec<Hindrance>,
    /// The version of the cluster-wide configuration that its server has.
    #[serde(default)]
    pub configured: u64,
    /// What its server takes on only when it starts again.
    #[serde(default)]
    pub pending: Vec<Pending>,
    /// The restart for which its server was started last (see [`crate::restart::Restart::token`]).
    #[serde(default)]
    pub restarted: Option<String>,
    /// The number of the pause after which it runs under a lease again (see [`crate::leash`]).
    #[serde(default)]
    pub leased_again: Option<u64>,
    /// How far its copy is, while one is made.
    #[serde(default)]
    pub copying: Option<CopyProgress>,
    /// What remains of its lease, if it has one.
    pub lease_left_ms: Option<Millis>,
    /// What is left of its certificate's time, once that is less than a third and it should have been renewed; 0: others refuse it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_left_ms: Option<Millis>,
    /// What it is doing, for people.
    pub doing: String,
    /// What hinders it, for people.
    pub problem: Option<String>,
}

impl Observation {
    /// An observation of a node that has not looked at anything yet.
    #[must_use]
    pub fn blank(node: NodeName) -> Observation {
        Observation {
            node,
            serial: (String::new(), 0),
            epoch: 0,
            revision: 0,
            reads: FORM,
            seen: Seen::Open,
            member: None,
            data: DataDir::Unknown,
            server: Server::Unknown,
            seal: None,
            copied: false,
            promoted: None,
            primary_agent_silent_ms: None,
            wal_silent_ms: None,
            primary_lsn: None,
            replicas: BTreeMap::new(),
            sync_applied: None,
            brake: None,
            exposure: None,
            opted_out: Vec::new(),
            rejoined: None,
            handover: None,
            hindrances: Vec::new(),
            configured: 0,
            pending: Vec::new(),
            restarted: None,
            leased_again: None,
            copying: None,
            lease_left_ms: None,
            certificate_left_ms: None,
            doing: String::new(),
            problem: None,
        }
    }
}

/// An observation and when it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// When the leader got it, on the leader's clock.
    pub at: Moment,
    /// What it said.
    pub observation: Observation,
}

/// All that the leader knows besides the recorded state. Kept in memory only: a new leader starts with none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observations {
    /// The leader itself.
    pub leader: NodeName,
    /// Since when it leads.
    pub leading_since: Moment,
    /// The last heartbeat of each node.
    pub nodes: BTreeMap<NodeName, Heard>,
    /// The epoch that this leader found open, and when it first did.
    pub open_since: Option<(Epoch, Moment)>,
    /// The epoch that this leader found served, and when it first did.
    pub serving_since: Option<(Epoch, Moment)>,
    /// The stage of the switchover that this leader found, and when it first did.
    pub stage_since: Option<(String, Stage, Moment)>,
    /// The turn of the restarts that this leader found, whether it had begun, and when it first did.
    pub turn_since: Option<(String, bool, Moment)>,
    /// A position that the primary had reported when that turn had come up: it includes what it wrote at a restart before.
    pub turn_reached: Option<Lsn>,
    /// The latest moment at which a lease given by this leader may still be in force.
    pub lease_given_until: Option<Moment>,
    /// When the primary was last seen to stream to each standby.
    pub streamed_at: BTreeMap<NodeName, Moment>,
    /// The furthest position that the primary of this epoch reported; its later reports may not know it any more.
    pub primary_reached: Option<(Epoch, Lsn)>,
    /// Who votes in the store: the leadership can be handed to nobody else. `None`: to any node.
    pub voters: Option<BTreeSet<NodeName>>,
}

impl Observations {
    /// What a new leader knows: nothing.
    #[must_use]
    pub fn new(leader: NodeName, now: Moment) -> Observations {
        Observations {
            leader,
            leading_since: now,
            nodes: BTreeMap::new(),
            open_since: None,
            serving_since: None,
            stage_since: None,
            turn_since: None,
            turn_reached: None,
            lease_given_until: None,
            streamed_at: BTreeMap::new(),
            primary_reached: None,
            voters: None,
        }
    }

    /// Takes in a heartbeat; one that was overtaken by a later one says only how far a primary had come.
    pub fn hear(&mut self, state: &State, observation: Observation, now: Moment) {
        // Its last word may come when the next epoch is open already.
        if let (Some(last), Server::Primary { lsn, .. }) = (state.promotions.last(), &observation.server)
            && last.node == observation.node
            && observation.epoch >= last.epoch
        {
            self.primary_reached = self.primary_reached.max(Some((last.epoch, *lsn)));
        }
        // Whatever it still believes, it does not belong any more.
        if state.removed.contains(&observation.node) && !mutant::is(Mutant::RemovedSeals) {
            return;
        }
        if self.is_overtaken(state, &observation, now) && !mutant::is(Mutant::LateReportAccepted) {
            return;
        }
        if state.primary() == Some(&observation.node) {
            for (node, replica) in &observation.replicas {
                if replica.streaming && !state.removed.contains(node) {
                    self.streamed_at.insert(node.clone(), now);
                }
            }
            if self.turn_since.is_some() && self.turn_reached.is_none() {
                self.turn_reached = written(&observation);
            }
        }
        self.nodes.insert(observation.node.clone(), Heard { at: now, observation });
    }

    /// Whether a later report of the same node was heard: of the same run, or of a run that began later. Runs are told
    /// apart by a wall clock, so a run that seems to be earlier counts again once the other was silent for `detect`.
    fn is_overtaken(&self, state: &State, observation: &Observation, now: Moment) -> bool {
        let Some(heard) = self.nodes.get(&observation.node) else { return false };
        let (last_run, last_number) = &heard.observation.serial;
        let (run, number) = &observation.serial;
        if run == last_run {
            return number < last_number;
        }
        let detect_ms = state.settings.as_ref().map_or(0, |s| s.detect_ms);
        run < last_run && now.since(heard.at) < detect_ms
    }

    /// Takes in a change of the recorded state.
    pub fn see_state(&mut self, state: &State, now: Moment) {
        // One that comes back under the name is another one: what was heard of the first says nothing of it.
        if !mutant::is(Mutant::RemovedSeals) {
            // But of how far the primary had come it was a witness.
            let last = state.promotions.last().map_or(0, |promotion| promotion.epoch);
            let gone = self.nodes.iter().filter(|(node, _)| state.removed.contains(*node));
            let told = gone.filter_map(|(_, heard)| heard.observation.primary_lsn).max();
            self.primary_reached = self.primary_reached.max(told.map(|lsn| (last, lsn)));
            self.nodes.retain(|node, _| !state.removed.contains(node));
            self.streamed_at.retain(|node, _| !state.removed.contains(node));
        }
        let open = matches!(state.phase, Phase::Sealing { .. });
        match self.open_since {
            Some((epoch, _)) if open && epoch == state.epoch => {}
            _ if open => self.open_since = Some((state.epoch, now)),
            _ => self.open_since = None,
        }
        let serving = matches!(state.phase, Phase::Serving { .. });
        if self.serving_since.is_none_or(|(epoch, _)| !serving || epoch != state.epoch) {
            self.serving_since = serving.then_some((state.epoch, now));
        }
        let stage = state.handover.as_ref().map(|h| (h.id.clone(), h.stage));
        let known = self.stage_since.as_ref().map(|(id, stage, _)| (id.clone(), *stage));
        if stage != known {
            self.stage_since = stage.map(|(id, stage)| (id, stage, now));
        }
        let turn = state.restart.as_ref().map(|r| (r.token(), r.going));
        let known = self.turn_since.as_ref().map(|(token, going, _)| (token.clone(), *going));
        if turn != known {
            self.turn_since = turn.map(|(token, going)| (token, going, now));
            let primary = state.primary().and_then(|primary| self.nodes.get(primary));
            self.turn_reached = primary.and_then(|heard| written(&heard.observation));
        }
    }

    /// How far the last primary is known to have come by its own word. One that was appointed since and was never
    /// published has replaced nothing of that: what it lacked may have been little, and what the next one lacks of *it*,
    /// too, but both together are lost. What a person has accepted counts no more.
    #[must_use]
    pub fn last_primary_lsn(&self, state: &State) -> Option<Lsn> {
        let (epoch, lsn) = self.primary_reached?;
        let last = state.promotions.last()?.epoch;
        let published = state.last_published().map_or(last, |(promotion, _)| promotion.epoch);
        let is_word = |reason: &Reason| matches!(reason, Reason::Word { word: Word::Forced { .. } });
        let accepted = state.history.iter().rev().find(|entry| is_word(&entry.reason));
        let since = published.max(accepted.map_or(0, |entry| entry.epoch));
        (since..=last).contains(&epoch).then_some(lsn)
    }

    /// The last observation of `node`, if it is younger than `age_max` at `now`.
    #[must_use]
    pub fn fresh(&self, node: &NodeName, now: Moment, age_max: Millis) -> Option<&Observation> {
        self.nodes.get(node).filter(|h| now.since(h.at) < age_max).map(|h| &h.observation)
    }
}

fn written(primary: &Observation) -> Option<Lsn> {
    match primary.server {
        Server::Primary { lsn, .. } => Some(lsn),
        _ => None,
    }
}
