//! What this node does next.
//!
//! `step` is recomputed from the recorded state and from what the node knows of itself after every event, so a crash at
//! any point needs no other recovery than asking again. It leaves the executor no choices, and it never harms data: the
//! steps that replace a data directory set it aside.

mod wait;

pub use wait::Wait;

use crate::basics::{Epoch, Moment, NodeName};
use crate::brake;
use crate::copy::CloneCause;
use crate::handover::Stage;
use crate::lineage::{self, Relation};
use crate::mutant::{self, Mutant};
use crate::observe::{DataDir, Replica, Seal, Server, Standby};
use crate::restart::Way;
use crate::state::{Appointment, Phase, State, SyncSet};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Work on the data directory that a crash may have cut short; recorded outside of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unfinished {
    /// initdb.
    Initialise,
    /// A copy, or the exchange of the old directory for it.
    Clone,
    /// pg_rewind.
    Rewind,
}

/// What a node knows of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Local {
    /// Its data directory.
    pub data: DataDir,
    /// Its server.
    pub server: Server,
    /// Its seal.
    pub seal: Option<Seal>,
    /// The line of WAL that its data belongs to (see [`crate::lineage`]).
    pub line: Option<String>,
    /// The primary it was told to follow, and for which epoch.
    pub following: Option<(Epoch, NodeName)>,
    /// This run of the agent has told its server so. One that does not answer yet cannot be asked whom it follows.
    pub told: bool,
    /// Its lease: for which epoch, and until when on its own clock.
    pub lease: Option<(Epoch, Moment)>,
    /// The latest epoch for which it sealed or promoted: a promise that outlives a state that is older.
    pub promised: Epoch,
    /// The latest epoch for which it was told to promote.
    pub promoted_for: Epoch,
    /// The epoch for which the server that runs was told to promote: until it ends, it may leave recovery at any moment.
    pub told_to_promote: Option<Epoch>,
    /// Work that was cut short.
    pub unfinished: Option<Unfinished>,
    /// Its data was rewound or copied and has not been seen consistent since.
    pub inconsistent: bool,
    /// Its data was copied and has not caught up since (see [`crate::copy::caught_up`]).
    pub copied: bool,
    /// The epoch for which a rewind was done.
    pub rewound_for: Option<Epoch>,
    /// Why its data must be replaced although it runs: found by its agent, or asked for.
    pub must_clone: Option<CloneCause>,
    /// The switchover for which it has made a checkpoint.
    pub checkpointed: Option<String>,
    /// The restart for which its server was started last (see [`crate::restart::Restart::token`]).
    pub restarted: Option<String>,
    /// The version of the cluster-wide configuration that its server has, as far as this run of the agent knows.
    pub configured: u64,
    /// Its server cannot replay on before it starts again: the primary has more of something than it.
    pub stuck: bool,
    /// What its standbys have confirmed to it, since it is primary (see [`crate::brake::remember`]).
    pub standbys: BTreeMap<NodeName, Replica>,
    /// The synchronous standbys in its server's configuration; `None`: not configured since the agent started.
    pub sync_configured: Option<SyncSet>,
    /// The revision of the state whose sync set its server was last told: a promise that outlives a state that is older.
    pub sync_revision: u64,
}

/// The next thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing, and why.
    Wait(Wait),
    /// Make the database, or take over the one that is there, and start it as primary.
    Initialise,
    /// Copy the cluster's data; an old directory is set aside first.
    Clone {
        /// The primary; the copy may come from a standby of it.
        from: NodeName,
        /// The line its data will belong to.
        line: String,
        /// Why.
        cause: CloneCause,
    },
    /// Start the server as a standby that receives from nobody.
    StartSealed,
    /// Start the server as the primary it is (only the node that made the database, before it is published).
    StartPrimary,
    /// Disconnect the WAL receiver, wait until it is gone, read the position.
    Seal {
        /// For this epoch.
        epoch: Epoch,
    },
    /// Receive WAL from the primary.
    Follow {
        /// The primary.
        upstream: NodeName,
        /// Of this epoch.
        epoch: Epoch,
        /// Its line.
        line: String,
    },
    /// Stop the server, undo what went another way, start it again as a standby.
    Rewind {
        /// The primary.
        from: NodeName,
        /// Of this epoch.
        epoch: Epoch,
        /// Its line.
        line: String,
    },
    /// Become the primary.
    Promote {
        /// Of this epoch.
        epoch: Epoch,
        /// The identity of this promotion: the line from now on.
        line: String,
        /// The synchronous standbys, configured before.
        sync: SyncSet,
    },
    /// Tell the server which standbys confirm commits.
    SetSync {
        /// The standbys.
        sync: SyncSet,
        /// The revision of the state that asks for it, to be noted before.
        revision: u64,
    },
    /// Take on the cluster-wide configuration, as far as a running server can.
    Configure {
        /// Its version.
        version: u64,
    },
    /// Stop the server of a standby in order and start it again, sealed.
    Restart {
        /// Its turn; `None`: it cannot go on otherwise.
        token: Option<String>,
    },
    /// Stop the primary's server in order and start it again as the primary it is, while its lease lasts.
    RestartPrimary {
        /// Its turn.
        token: String,
        /// The synchronous standbys, configured before.
        sync: SyncSet,
    },
    /// Make a checkpoint, so that the stop that follows is short; begin a new WAL segment where that saves time later.
    Checkpoint {
        /// For this switchover.
        id: String,
    },
    /// Stop the server in order: standbys get all of its WAL, the shutdown checkpoint too.
    StopInOrder {
        /// For this switchover.
        id: String,
    },
    /// End the server at once: this node is not the primary.
    Fence {
        /// The present epoch.
        epoch: Epoch,
    },
}

/// What `me` does next at `now`.
#[must_use]
pub fn step(state: &State, me: &NodeName, local: &Local, now: Moment) -> Step {
    let next = match wanted(state, me, local, now) {
        Step::Wait(wait @ (Wait::Primary | Wait::Following { .. })) => {
            upkeep(state, me, local).unwrap_or(Step::Wait(wait))
        }
        other => other,
    };
    if !state.maintenance.contains_key(me) {
        return next;
    }
    // Whoever maintains a node may stop its server. While it runs it keeps its promises: it seals, follows, is fenced.
    match next {
        Step::StartSealed | Step::Clone { .. } | Step::Rewind { .. } | Step::Restart { .. } => {
            Step::Wait(Wait::Maintained)
        }
        other => other,
    }
}

/// What a node does that has nothing more urgent to do.
fn upkeep(state: &State, me: &NodeName, local: &Local) -> Option<Step> {
    if let Server::Standby(_) = local.server {
        let turn = state.restart.as_ref().filter(|r| r.turn().is_some_and(|t| t.way == Way::Standby));
        let token = turn.and_then(|r| r.token_of(me)).filter(|token| local.restarted.as_ref() != Some(token));
        if token.is_some() || local.stuck {
            return Some(Step::Restart { token });
        }
    }
    let version = state.configuration.number();
    (version > local.configured).then_some(Step::Configure { version })
}

fn wanted(state: &State, me: &NodeName, local: &Local, now: Moment) -> Step {
    let system_identifier = match local.data {
        DataDir::Unknown => return Step::Wait(Wait::Looking),
        DataDir::Witness => return Step::Wait(Wait::Witness),
        DataDir::Absent => None,
        DataDir::Present { system_identifier } => Some(system_identifier),
    };
    // To a node that was struck out, what was recorded since counts as ever: it must not be primary.
    let removed = state.removed.contains(me) && !mutant::is(Mutant::RemovedSeals);
    if !state.members.contains_key(me) && !state.removed.contains(me) {
        return Step::Wait(Wait::NotRecorded);
    }
    // It has promoted in this epoch, and its state does not know of the appointment yet: what it sees is from before.
    let unheard = local.line.as_ref().is_some_and(|l| !state.promotions.iter().any(|p| p.promotion_id == *l));
    let before_promotion = state.epoch > 0 && state.epoch == local.promoted_for && unheard;
    if (state.epoch < local.promised || before_promotion) && !mutant::is(Mutant::PromiseForgotten) {
        return Step::Wait(Wait::StateIsOld { promised: local.promised });
    }
    if removed {
        return struck_out(state, local);
    }
    if let Phase::Initialising { node } = &state.phase
        && node == me
    {
        return initialising(state, local, now);
    }
    if let Some(mine) = system_identifier
        && state.system_identifier != Some(mine)
        && local.unfinished.is_none()
        && !mutant::is(Mutant::ForeignDataUsed)
    {
        return Step::Wait(Wait::ForeignData { mine, cluster: state.system_identifier });
    }
    if promotes_too_late(state, me, local) {
        return Step::Fence { epoch: state.epoch };
    }
    match &state.phase {
        Phase::Empty | Phase::Initialising { .. } => Step::Wait(Wait::NoDatabase),
        Phase::Sealing { .. } => sealing(state, local),
        Phase::Promoting { appointment } if appointment.node == *me => {
            promoting(state, local, appointment, now)
        }
        Phase::Serving { appointment } if appointment.node == *me => serving(state, me, local, now),
        Phase::Promoting { appointment } | Phase::Serving { appointment } => {
            other_is_primary(state, local, appointment)
        }
    }
}

/// It does not belong any more: its server takes no writes and follows nobody. It may go on running, with all that it has.
fn struck_out(state: &State, local: &Local) -> Step {
    match &local.server {
        Server::Unknown => Step::Wait(Wait::Looking),
        Server::Primary { .. } => Step::Fence { epoch: state.epoch },
        Server::Unresponsive { .. } if was_primary(state, local) => Step::Fence { epoch: state.epoch },
        Server::Standby(_) if local.told_to_promote.is_some() => Step::Fence { epoch: state.epoch },
        Server::Standby(standby) if standby.upstream.is_some() => Step::Seal { epoch: state.epoch },
        Server::Standby(_) | Server::Stopped | Server::Starting | Server::Unresponsive { .. } => {
            Step::Wait(Wait::Removed)
        }
    }
}

/// Whether its server, still in recovery, was told to promote for an appointment that does not hold any more. That cannot be
/// taken back: it would become a primary of an epoch that is over, whatever it has sealed for meanwhile.
fn promotes_too_late(state: &State, me: &NodeName, local: &Local) -> bool {
    let (Some(epoch), Server::Standby(_)) = (local.told_to_promote, &local.server) else { return false };
    let appointed = matches!(&state.phase, Phase::Promoting { appointment } if appointment.node == *me && state.epoch == epoch);
    !appointed && !mutant::is(Mutant::PromotionForgotten)
}

fn has_lease(state: &State, local: &Local, now: Moment) -> bool {
    mutant::is(Mutant::PromoteWithoutLease)
        || local.lease.is_some_and(|(epoch, until)| epoch == state.epoch && now < until)
}

/// What a server that is no primary is told of the synchronous standbys.
///
/// In quorum mode never that commits need not wait: whether they do is a flag that PostgreSQL's checkpointer sets when it
/// gets round to it (SyncRepUpdateSyncStandbysDefined, src/backend/replication/syncrep.c), and on a standby that is
/// promoted it must be set already.
#[must_use]
pub fn sync_of_standby(state: &State) -> SyncSet {
    let mut sync = state.sync_target();
    if state.confirmations().is_some() {
        sync.k = sync.k.max(1);
    }
    sync
}

fn initialising(state: &State, local: &Local, now: Moment) -> Step {
    match &local.server {
        Server::Unknown => Step::Wait(Wait::Looking),
        Server::Primary { .. } if local.unfinished.is_some() => Step::Initialise,
        Server::Primary { .. } => {
            set_sync(state, local, state.sync_target()).unwrap_or(Step::Wait(Wait::Primary))
        }
        Server::Starting => Step::Wait(Wait::Starting),
        Server::Unresponsive { .. } => Step::Wait(Wait::NoAnswer),
        Server::Standby(_) => Step::Wait(Wait::Looking),
        Server::Stopped if !has_lease(state, local, now) => Step::Wait(Wait::NoLease),
        Server::Stopped if local.data == DataDir::Absent || local.unfinished.is_some() => Step::Initialise,
        // What is of no line was there before the cluster: it is to be taken over.
        Server::Stopped if local.line.is_none() => Step::Initialise,
        Server::Stopped => Step::StartPrimary,
    }
}

/// A server that was told a later set goes on obeying that one: the sets before it may not be in force any more.
fn set_sync(state: &State, local: &Local, sync: SyncSet) -> Option<Step> {
    let old = state.revision < local.sync_revision;
    let told = local.sync_configured.as_ref() == Some(&sync);
    (!told && !old).then_some(Step::SetSync { sync, revision: state.revision })
}

/// Common to every phase in which this node is not the primary: the server as a sealed standby, or a reason why not.
fn as_sealed_standby<'a>(state: &State, local: &'a Local) -> Result<&'a Standby, Step> {
    if local.data == DataDir::Absent || local.unfinished.is_some() {
        return Err(Step::Wait(Wait::NoDatabase));
    }
    let standby = match &local.server {
        Server::Unknown => return Err(Step::Wait(Wait::Looking)),
        Server::Stopped => return Err(Step::StartSealed),
        Server::Starting => return Err(Step::Wait(Wait::Starting)),
        Server::Unresponsive { .. } if was_primary(state, local) => {
            return Err(Step::Fence { epoch: state.epoch });
        }
        Server::Unresponsive { .. } => return Err(Step::Wait(Wait::NoAnswer)),
        Server::Primary { .. } if mutant::is(Mutant::NeverFenced) => return Err(Step::Wait(Wait::Primary)),
        Server::Primary { .. } => return Err(Step::Fence { epoch: state.epoch }),
        Server::Standby(standby) => standby,
    };
    let sealed = standby.upstream.is_none() && local.seal.as_ref().is_some_and(|s| s.epoch == state.epoch);
    if sealed { Ok(standby) } else { Err(Step::Seal { epoch: state.epoch }) }
}

/// A server that does not answer cannot say whether it still takes writes: if it ever was told to, it must end.
fn was_primary(state: &State, local: &Local) -> bool {
    state.last_appointed.as_ref().is_some_and(|a| local.line.as_ref() == Some(&a.promotion_id))
        && local.following.is_none()
}

/// The line that wrote the last WAL this node holds.
fn settled_line<'a>(state: &'a State, local: &'a Local, standby: &Standby) -> Option<&'a str> {
    local.line.as_deref().and_then(|line| lineage::written_by(state, line, standby.timeline, standby.lsn))
}

fn sealing(state: &State, local: &Local) -> Step {
    match as_sealed_standby(state, local) {
        Ok(standby) => Step::Wait(Wait::Sealed { epoch: state.epoch, lsn: standby.lsn }),
        Err(step) => step,
    }
}

fn promoting(state: &State, local: &Local, appointment: &Appointment, now: Moment) -> Step {
    let sync = || brake::primary_sync(state, &appointment.node, local);
    match &local.server {
        Server::Primary { .. } => set_sync(state, local, sync()).unwrap_or(Step::Wait(Wait::Primary)),
        Server::Stopped => Step::Wait(Wait::ServerGone),
        Server::Starting => Step::Wait(Wait::Starting),
        Server::Unknown => Step::Wait(Wait::Looking),
        Server::Unresponsive { .. } => Step::Wait(Wait::NoAnswer),
        Server::Standby(_) if !has_lease(state, local, now) => Step::Wait(Wait::NoLease),
        Server::Standby(standby) => match local.seal.as_ref().filter(|s| s.epoch == state.epoch) {
            Some(seal) if standby.upstream.is_none() => {
                if !lineage::as_appointed(state, seal, appointment) && !mutant::is(Mutant::PromotedTwice) {
                    return Step::Wait(Wait::NotAsAppointed);
                }
                let line = appointment.promotion_id.clone();
                Step::Promote { epoch: state.epoch, line, sync: sync() }
            }
            _ => Step::Seal { epoch: state.epoch },
        },
    }
}

fn hand_over(state: &State, me: &NodeName, local: &Local, now: Moment) -> Option<Step> {
    let handover = state.handover.as_ref()?;
    match handover.stage {
        Stage::Preparing if local.checkpointed.as_ref() != Some(&handover.id) => {
            Some(Step::Checkpoint { id: handover.id.clone() })
        }
        Stage::Preparing | Stage::Holding => None,
        Stage::Stopping if handover.is_in_place() => restart_primary(state, me, local, &handover.id, now),
        Stage::Stopping => Some(Step::StopInOrder { id: handover.id.clone() }),
    }
}

/// A primary's new server serves in the right of the old one: under the lease that it had.
fn restart_primary(state: &State, me: &NodeName, local: &Local, id: &str, now: Moment) -> Option<Step> {
    let done = local.restarted.as_deref() == Some(id);
    // A later state than this one has told its server which standbys confirm commits.
    let old = state.revision < local.sync_revision;
    if done || old || !has_lease(state, local, now) {
        return None;
    }
    // In quorum mode nobody is acknowledged anything before it is told again how many need not confirm.
    let sync = match state.confirmations() {
        Some(_) => sync_of_standby(state),
        None => {
            let alone = Local { server: local.server.clone(), ..Local::default() };
            brake::primary_sync(state, me, &alone)
        }
    };
    Some(Step::RestartPrimary { token: id.to_owned(), sync })
}

fn serving(state: &State, me: &NodeName, local: &Local, now: Moment) -> Step {
    let sync = || brake::primary_sync(state, me, local);
    match &local.server {
        Server::Primary { .. } => hand_over(state, me, local, now)
            .or_else(|| set_sync(state, local, sync()))
            .unwrap_or(Step::Wait(Wait::Primary)),
        Server::Stopped | Server::Standby(_) => Step::Wait(Wait::ServerGone),
        Server::Starting => Step::Wait(Wait::Starting),
        Server::Unknown => Step::Wait(Wait::Looking),
        Server::Unresponsive { .. } => Step::Wait(Wait::NoAnswer),
    }
}

fn other_is_primary(state: &State, local: &Local, appointment: &Appointment) -> Step {
    let primary = &appointment.node;
    let line = &appointment.promotion_id;
    let serves = matches!(state.phase, Phase::Serving { .. }) || mutant::is(Mutant::CloneUnpublished);
    let follow = || Step::Follow { upstream: primary.clone(), epoch: state.epoch, line: line.clone() };
    let clone = |cause| {
        if serves {
            Step::Clone { from: primary.clone(), line: line.clone(), cause }
        } else {
            Step::Wait(Wait::Promotion { of: primary.clone() })
        }
    };
    if local.data == DataDir::Absent || local.unfinished.is_some() {
        return match local.server {
            Server::Unknown => Step::Wait(Wait::Looking),
            Server::Stopped if local.unfinished.is_none() => clone(CloneCause::NoData),
            Server::Stopped => clone(CloneCause::CutShort),
            Server::Starting | Server::Unresponsive { .. } | Server::Standby(_) | Server::Primary { .. } => {
                Step::Fence { epoch: state.epoch }
            }
        };
    }
    // A standby that noted whom to follow and was cut short before it was told to: it is told again.
    let untold = matches!(&local.server, Server::Standby(s) if s.upstream.as_ref() != Some(primary));
    if local.following == Some((state.epoch, primary.clone())) && !untold {
        let cause = local.must_clone.as_ref().filter(|_| serves);
        return match (&local.server, cause) {
            (Server::Stopped, _) => Step::StartSealed,
            (Server::Primary { .. }, _) => Step::Fence { epoch: state.epoch },
            (Server::Unknown, _) => Step::Wait(Wait::Looking),
            // Only what follows is replaced: until then it may be needed, and it confirms commits while it waits for room.
            (Server::Starting, Some(cause)) if local.inconsistent => clone(cause.clone()),
            (Server::Standby(_), Some(cause)) => clone(cause.clone()),
            // It opens only with WAL of the primary, and an earlier run may have been cut short before it told it.
            (Server::Starting, None) if local.inconsistent && !local.told => follow(),
            (Server::Starting, _) => Step::Wait(Wait::Starting),
            (Server::Unresponsive { .. }, _) => Step::Wait(Wait::NoAnswer),
            (Server::Standby(_), _) => Step::Wait(Wait::Following { upstream: primary.clone() }),
        };
    }
    if local.inconsistent && local.server == Server::Starting {
        // Rewound or copied data becomes readable only with WAL of the primary it came from.
        return if local.line.as_ref() == Some(line) { follow() } else { clone(CloneCause::CutShort) };
    }
    let standby = match as_sealed_standby(state, local) {
        Ok(standby) => standby,
        Err(step) => return step,
    };
    if !serves {
        let settled = settled_line(state, local, standby);
        let prefix = settled.is_some()
            && settled == appointment.parent.as_deref()
            && standby.lsn <= appointment.sealed_lsn;
        let wait = Step::Wait(Wait::Promotion { of: primary.clone() });
        return if prefix || mutant::is(Mutant::FollowUnchecked) { follow() } else { wait };
    }
    if local.line.as_ref() == Some(line) {
        return follow();
    }
    let settled = settled_line(state, local, standby);
    match settled.map_or(Relation::Unrelated, |l| lineage::relation(state, l, standby.lsn, line)) {
        Relation::Prefix => follow(),
        Relation::Diverged if local.rewound_for != Some(state.epoch) => {
            Step::Rewind { from: primary.clone(), epoch: state.epoch, line: line.clone() }
        }
        Relation::Diverged => clone(CloneCause::RewoundInVain),
        Relation::Unrelated => clone(CloneCause::Unrelated),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::basics::Lsn;

    #[test]
    fn an_older_state_does_not_change_the_sync_set() {
        let state = State { revision: 7, ..State::default() };
        let mut local = Local { sync_revision: 8, ..Local::default() };
        let set = SyncSet { k: 1, members: Default::default() };
        assert_eq!(set_sync(&state, &local, set.clone()), None, "its server was told by a later one");
        local.sync_revision = 7;
        assert_eq!(set_sync(&state, &local, set.clone()), Some(Step::SetSync { sync: set, revision: 7 }));
    }

    #[test]
    fn what_was_struck_out_takes_no_writes_and_follows_nobody() {
        let me: NodeName = "n1".parse().unwrap_or_else(|e| panic!("{e}"));
        let state = State { epoch: 4, removed: [me.clone()].into(), ..State::default() };
        let next = |server, promised| {
            let data = DataDir::Present { system_identifier: 1 };
            step(&state, &me, &Local { data, server, promised, ..Local::default() }, Moment(0))
        };
        let standby = |upstream: Option<&NodeName>| {
            let (timeline, lsn, replay_lsn, upstream) = (1, Lsn(5), Lsn(5), upstream.cloned());
            Server::Standby(Standby {
                timeline,
                lsn,
                replay_lsn,
                upstream,
                streaming: true,
                replay_lag_ms: None,
            })
        };
        assert_eq!(next(Server::Primary { timeline: 1, lsn: Lsn(5) }, 4), Step::Fence { epoch: 4 });
        assert_eq!(next(standby(Some(&me)), 4), Step::Seal { epoch: 4 });
        assert_eq!(next(standby(None), 4), Step::Wait(Wait::Removed));
        assert_eq!(next(Server::Stopped, 4), Step::Wait(Wait::Removed), "its data is left as it is");
        let later = next(Server::Primary { timeline: 1, lsn: Lsn(5) }, 5);
        assert_eq!(later, Step::Wait(Wait::StateIsOld { promised: 5 }), "it was let in again since");
    }
}
