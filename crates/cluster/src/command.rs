//! The only way the recorded state changes: [`apply`].

mod refusal;

pub use refusal::Refusal;

use crate::basics::{Epoch, NodeName, WallMs};
use crate::configuration::Content;
use crate::handover::{Handover, Planned, Stage};
use crate::leash::Unleased;
use crate::membership::{self, Leaving, Seat, Token};
use crate::moving::{self, Home};
use crate::mutant::{self, Mutant};
use crate::observe::Promoted;
use crate::reason::Reason;
use crate::restart::Restart;
use crate::state::{
    Appointment, Entry, Fencing, HISTORY_MAX, Maintenance, Member, OldLease, PLANNED_MAX, PROMOTIONS_MAX,
    Paused, Phase, Promotion, Published, Settings, State, SyncSet,
};
use crate::users::{self, User};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A change to record, with the reasons that go into the history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// The leader that decided.
    pub by: NodeName,
    /// When, on its wall clock.
    pub at: WallMs,
    /// What changes.
    pub change: Change,
    /// Why, with the evidence.
    pub reasons: Vec<Reason>,
}

/// What a command changes. Every variant that concerns an epoch names it, so that a late one can be refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "change")]
pub enum Change {
    /// Record the cluster's name and settings.
    Configure {
        /// Name of the cluster.
        cluster: String,
        /// The settings.
        settings: Settings,
    },
    /// Record where a node is reached.
    Register {
        /// The node.
        node: NodeName,
        /// Its addresses.
        member: Member,
    },
    /// Let `node` make the database.
    Initialise {
        /// The node.
        node: NodeName,
        /// Password for the replication role.
        replication_password: String,
    },
    /// Open the next epoch: from here on nobody is primary until one is appointed.
    OpenEpoch {
        /// The new epoch; must be the present one plus one.
        epoch: Epoch,
        /// What is known of the old lease.
        lease: OldLease,
    },
    /// Give the lease of `epoch` to a node.
    Appoint {
        /// The open epoch.
        epoch: Epoch,
        /// To whom.
        appointment: Appointment,
        /// The synchronous standbys of the new primary.
        sync: BTreeSet<NodeName>,
    },
    /// The appointed node takes writes: tell the proxies.
    Publish {
        /// The epoch.
        epoch: Epoch,
        /// What it reported.
        promoted: Promoted,
        /// The identity of the promotion.
        promotion_id: String,
    },
    /// Begin to replace the sync set; all are in force until [`Change::SyncSetDone`].
    SyncSetNext {
        /// The epoch.
        epoch: Epoch,
        /// The new set.
        next: SyncSet,
    },
    /// PostgreSQL obeys the new set and its members have caught up: drop all others.
    SyncSetDone {
        /// The epoch.
        epoch: Epoch,
        /// The set that is now alone in force.
        set: SyncSet,
    },
    /// Remember a switchover for later.
    Plan {
        /// It.
        planned: Planned,
    },
    /// Forget a planned switchover.
    Unplan {
        /// Its identity.
        id: String,
    },
    /// Begin a switchover.
    HandOver {
        /// The epoch of the primary that hands over.
        epoch: Epoch,
        /// It.
        handover: Handover,
    },
    /// The switchover goes on.
    HandOverStage {
        /// The epoch.
        epoch: Epoch,
        /// Its identity.
        id: String,
        /// The next stage.
        stage: Stage,
    },
    /// The switchover is given up: the primary stays.
    HandOverEnd {
        /// The epoch.
        epoch: Epoch,
        /// Its identity.
        id: String,
    },
    /// The old primary has stopped in order and the next one has all it wrote: open the next epoch and give it the lease.
    HandedOver {
        /// The new epoch; must be the present one plus one.
        epoch: Epoch,
        /// The next primary.
        appointment: Appointment,
        /// Its synchronous standbys.
        sync: BTreeSet<NodeName>,
    },
    /// Decide nothing from now on.
    Pause {
        /// Who asked for it, and when.
        paused: Paused,
    },
    /// Decide again.
    Resume,
    /// The primary that a pause left without a lease runs under one again, or not at all.
    LeasedAgain {
        /// The number of the pause.
        number: u64,
    },
    /// Leave a node alone, or no more.
    Maintain {
        /// The node.
        node: NodeName,
        /// `None`: no more.
        maintenance: Option<Maintenance>,
    },
    /// Record the next version of the cluster-wide configuration.
    Reconfigure {
        /// The version that it was made from; must be the one in force.
        from: u64,
        /// What it says.
        content: Content,
        /// The version that it repeats.
        back_to: Option<u64>,
        /// Who asked for it.
        by: String,
    },
    /// Begin restarts.
    Restart {
        /// The epoch of the primary that they were planned for.
        epoch: Epoch,
        /// They.
        restart: Restart,
    },
    /// The present turn begins, or has ended and the next one is up.
    RestartStage {
        /// The identity of the restarts.
        id: String,
        /// Whose turn it is.
        at: usize,
        /// Whether it has begun.
        going: bool,
    },
    /// No more restarts.
    RestartEnd {
        /// Their identity.
        id: String,
    },
    /// Let a node in.
    Admit {
        /// The node.
        node: NodeName,
        /// Where it is.
        seat: Seat,
    },
    /// A node begins to leave, or stays after all.
    Leave {
        /// The node.
        node: NodeName,
        /// `None`: it stays.
        leaving: Option<Leaving>,
    },
    /// A node that leaves is needed no more: strike it out.
    Remove {
        /// The node.
        node: NodeName,
    },
    /// Remember an invitation; those that have expired are dropped.
    Invite {
        /// Its identity.
        id: String,
        /// It.
        token: Token,
    },
    /// An invitation was used.
    Redeem {
        /// Its identity.
        id: String,
        /// By whom.
        node: NodeName,
    },
    /// Forget an invitation.
    Uninvite {
        /// Its identity.
        id: String,
    },
    /// Remember a user of the API.
    AddUser {
        /// His name.
        name: String,
        /// He.
        user: User,
    },
    /// Forget one.
    RemoveUser {
        /// His name.
        name: String,
    },
    /// The last command in this store: the record goes on in another one.
    MoveStore {
        /// The number of the move; must be the next one.
        number: u64,
        /// Where to.
        to: Home,
        /// Who asked for it.
        by: String,
    },
    /// Change nothing but the history.
    Note {
        /// The epoch it belongs to.
        epoch: Epoch,
    },
}

/// Applies `command` to `state`; a refused command leaves the state as it was, but for the revision.
///
/// # Errors
/// [`Refusal`] when the command was decided for another epoch or does not fit the present phase, or the record is sealed: then
/// not even the revision changes, because everybody who works out how it goes on elsewhere must come to the same.
pub fn apply(state: &mut State, command: &Command) -> Result<(), Refusal> {
    if let Some(moved) = &state.moved {
        return Err(Refusal::Moved { number: moved.number });
    }
    state.revision += 1;
    change(state, &command.change, command.at)?;
    let epoch = state.epoch;
    state.history.extend(command.reasons.iter().map(|reason| Entry {
        at: command.at,
        epoch,
        by: command.by.clone(),
        reason: reason.clone(),
    }));
    membership::bound_knocks(&mut state.history);
    drop_oldest(&mut state.history, HISTORY_MAX);
    drop_oldest(&mut state.promotions, PROMOTIONS_MAX);
    Ok(())
}

fn change(state: &mut State, change: &Change, at: WallMs) -> Result<(), Refusal> {
    match change {
        Change::Configure { cluster, settings } => {
            if !state.cluster.is_empty() && state.cluster != *cluster {
                return Err(Refusal::OutOfPlace(format!("the cluster is called {:?}", state.cluster)));
            }
            state.cluster.clone_from(cluster);
            state.settings = Some(settings.clone());
            Ok(())
        }
        // A report of it came late.
        Change::Register { node, .. } if state.removed.contains(node) => {
            Err(Refusal::OutOfPlace(format!("{node} was removed")))
        }
        Change::Register { node, member } => {
            state.members.insert(node.clone(), member.clone());
            Ok(())
        }
        Change::Initialise { node, replication_password } => initialise(state, node, replication_password),
        Change::OpenEpoch { epoch, lease } => open_epoch(state, *epoch, *lease),
        Change::Appoint { epoch, appointment, sync } => appoint(state, *epoch, appointment, sync),
        Change::Publish { epoch, promoted, promotion_id } => publish(state, *epoch, promoted, promotion_id),
        Change::SyncSetNext { epoch, next } => {
            same_epoch(state, *epoch)?;
            membership::belong(state, &next.members)?;
            state.sync.add(next.clone());
            state.sync_since = state.revision;
            Ok(())
        }
        Change::SyncSetDone { epoch, set } => {
            same_epoch(state, *epoch)?;
            if state.sync_target() != *set {
                return Err(Refusal::OutOfPlace("the sync set is being changed to another one".into()));
            }
            state.sync.in_force = vec![set.clone()];
            Ok(())
        }
        Change::Plan { .. }
        | Change::Unplan { .. }
        | Change::HandOver { .. }
        | Change::HandOverStage { .. }
        | Change::HandOverEnd { .. }
        | Change::HandedOver { .. } => change_handover(state, change),
        Change::Pause { .. } | Change::Resume | Change::LeasedAgain { .. } | Change::Maintain { .. } => {
            change_upkeep(state, change)
        }
        Change::Reconfigure { from, content, back_to, by } => {
            let present = state.configuration.number();
            if present != *from && !mutant::is(Mutant::EditOverwrites) {
                return Err(Refusal::OtherVersion { from: *from, present });
            }
            state.configuration.add(by.clone(), at, *back_to, content.clone());
            Ok(())
        }
        Change::Restart { .. } | Change::RestartStage { .. } | Change::RestartEnd { .. } => {
            change_restart(state, change)
        }
        Change::Admit { .. }
        | Change::Leave { .. }
        | Change::Remove { .. }
        | Change::Invite { .. }
        | Change::Redeem { .. }
        | Change::Uninvite { .. } => membership::change(state, change, at),
        Change::AddUser { .. } | Change::RemoveUser { .. } => users::change(state, change),
        Change::MoveStore { number, to, by } => moving::change(state, (*number, to), by, at),
        Change::Note { epoch } => same_epoch(state, *epoch),
    }
}

fn change_restart(state: &mut State, change: &Change) -> Result<(), Refusal> {
    let other = || Refusal::OutOfPlace("those restarts are not under way".into());
    match change {
        Change::Restart { epoch, restart } => {
            same_epoch(state, *epoch)?;
            if state.restart.is_some() {
                return Err(Refusal::OutOfPlace("other restarts are under way".into()));
            }
            if restart.turns.iter().any(|turn| state.leaving.contains_key(&turn.node)) {
                return Err(Refusal::OutOfPlace("one of the nodes leaves".into()));
            }
            state.restart = Some(restart.clone());
        }
        Change::RestartStage { id, at, going } => {
            let restart = state.restart.as_mut().filter(|r| r.id == *id && *at < r.turns.len());
            let restart = restart.ok_or_else(other)?;
            let ended = restart.token();
            (restart.at, restart.going) = (*at, *going);
            state.handover.take_if(|h| h.id == ended && h.is_in_place());
        }
        Change::RestartEnd { id } => {
            let ended = state.restart.take_if(|r| r.id == *id).ok_or_else(other)?.token();
            // A primary that stops for a switchover is past the point of return.
            let back = |h: &Handover| h.is_in_place() || h.stage != Stage::Stopping;
            state.handover.take_if(|h| h.id == ended && back(h));
        }
        _ => {}
    }
    Ok(())
}

fn change_upkeep(state: &mut State, change: &Change) -> Result<(), Refusal> {
    match change {
        Change::Pause { paused } => {
            // Pausing again with fencing leaves the record: it goes when the primary has its lease back.
            if let (Fencing::Suspended, Phase::Serving { appointment }) = (paused.fencing, &state.phase) {
                let node = appointment.node.clone();
                state.unleased = Some(Unleased { number: state.revision, epoch: state.epoch, node });
            }
            state.paused = Some(paused.clone());
        }
        Change::LeasedAgain { number } => {
            // A later pause has taken the lease off again.
            if state.unleased.as_ref().is_none_or(|u| u.number != *number) {
                return Err(Refusal::OutOfPlace("that pause is not the last one".into()));
            }
            state.unleased = None;
        }
        Change::Maintain { node, maintenance: Some(maintenance) } => {
            if !state.has_seat(node) || state.leaving.contains_key(node) {
                return Err(Refusal::OutOfPlace(format!("{node} leaves, or is gone")));
            }
            if state.lease_holder() == Some(node) {
                return Err(Refusal::OutOfPlace(format!("{node} is primary, or about to be")));
            }
            state.maintenance.insert(node.clone(), maintenance.clone());
        }
        Change::Maintain { node, maintenance: None } => drop(state.maintenance.remove(node)),
        _ => state.paused = None,
    }
    Ok(())
}

fn change_handover(state: &mut State, change: &Change) -> Result<(), Refusal> {
    match change {
        Change::Plan { planned } if state.planned.len() < PLANNED_MAX => state.planned.push(planned.clone()),
        Change::Unplan { id } => state.planned.retain(|p| p.id != *id),
        Change::HandOver { epoch, handover } => {
            same_epoch(state, *epoch)?;
            let fits =
                matches!(&state.phase, Phase::Serving { appointment } if appointment.node == handover.from);
            let stays = state.has_seat(&handover.to) && !state.leaving.contains_key(&handover.to);
            if !fits || !stays || state.handover.is_some() {
                return Err(Refusal::OutOfPlace(
                    "no primary that could hand over, or one that does already".into(),
                ));
            }
            state.planned.retain(|p| p.id != handover.id);
            // The turn of the primary begins with it.
            if let Some(restart) = state.restart.as_mut().filter(|r| r.token() == handover.id) {
                restart.going = true;
            }
            state.handover = Some(handover.clone());
        }
        Change::HandOverStage { epoch, id, stage } => {
            same_epoch(state, *epoch)?;
            match state.handover.as_mut().filter(|h| h.id == *id) {
                Some(handover) => handover.stage = *stage,
                None => return Err(Refusal::OutOfPlace("that switchover is not under way".into())),
            }
        }
        Change::HandOverEnd { epoch, id } => {
            same_epoch(state, *epoch)?;
            state.handover.take_if(|h| h.id == *id);
        }
        Change::HandedOver { epoch, appointment, sync } => {
            let stopping = state.handover.as_ref().is_some_and(|h| h.stage == Stage::Stopping);
            if !stopping && !mutant::is(Mutant::OldCommandAccepted) {
                return Err(Refusal::OutOfPlace("no switchover has come so far".into()));
            }
            membership::belong(state, sync.iter().chain([&appointment.node]))?;
            open_epoch(state, *epoch, OldLease::Returned)?;
            appoint(state, *epoch, appointment, sync)?;
        }
        _ => return Err(Refusal::OutOfPlace(format!("at most {PLANNED_MAX} switchovers can be planned"))),
    }
    Ok(())
}

fn same_epoch(state: &State, decided: Epoch) -> Result<(), Refusal> {
    if decided == state.epoch || mutant::is(Mutant::OldCommandAccepted) {
        Ok(())
    } else {
        Err(Refusal::OtherEpoch { decided, present: state.epoch })
    }
}

fn initialise(state: &mut State, node: &NodeName, replication_password: &str) -> Result<(), Refusal> {
    if state.phase != Phase::Empty {
        return Err(Refusal::OutOfPlace("the database exists, or a node is making it".into()));
    }
    state.replication_password = replication_password.to_owned();
    state.phase = Phase::Initialising { node: node.clone() };
    state.epoch = 1;
    state.promotions.push(Promotion {
        epoch: 1,
        node: node.clone(),
        promotion_id: first_promotion_id(node),
        parent: None,
        sealed_timeline: 0,
        sealed_lsn: crate::Lsn(0),
        published: None,
    });
    Ok(())
}

/// The identity of the promotion that is none: the line of the node that made the database.
#[must_use]
pub fn first_promotion_id(node: &NodeName) -> String {
    format!("initdb-{node}")
}

fn open_epoch(state: &mut State, epoch: Epoch, lease: OldLease) -> Result<(), Refusal> {
    if epoch != state.epoch + 1 && !mutant::is(Mutant::OldCommandAccepted) {
        return Err(Refusal::OtherEpoch { decided: epoch.saturating_sub(1), present: state.epoch });
    }
    let lease = match &state.phase {
        Phase::Promoting { appointment } | Phase::Serving { appointment } => {
            if !mutant::is(Mutant::UnpublishedForgotten) {
                state.last_appointed = Some(appointment.clone());
            }
            lease
        }
        Phase::Sealing { lease: before } => *before,
        Phase::Empty | Phase::Initialising { .. } => {
            return Err(Refusal::OutOfPlace("there is no primary to replace yet".into()));
        }
    };
    if lease == OldLease::Returned {
        state.unleased = None;
    }
    state.epoch = epoch;
    state.handover = None;
    state.phase = Phase::Sealing { lease };
    Ok(())
}

fn appoint(
    state: &mut State,
    epoch: Epoch,
    appointment: &Appointment,
    sync: &BTreeSet<NodeName>,
) -> Result<(), Refusal> {
    same_epoch(state, epoch)?;
    membership::belong(state, sync.iter().chain([&appointment.node]))?;
    if !matches!(state.phase, Phase::Sealing { .. }) && !mutant::is(Mutant::SecondAppointment) {
        return Err(Refusal::OutOfPlace("the epoch is not open".into()));
    }
    state.promotions.push(Promotion {
        epoch,
        node: appointment.node.clone(),
        promotion_id: appointment.promotion_id.clone(),
        parent: appointment.parent.clone(),
        sealed_timeline: appointment.sealed_timeline,
        sealed_lsn: appointment.sealed_lsn,
        published: None,
    });
    // The sets before stay in force until the new one has caught up: the chosen node may be the only one that has what
    // they confirmed.
    if mutant::is(Mutant::OldSetsDropped) {
        state.sync.in_force.clear();
    }
    // An epoch begins with the full number: a reduced one is recorded anew, should it be needed.
    if let Some(k) = state.confirmations() {
        state.sync.add(SyncSet { k, members: sync.clone() });
        state.sync_since = state.revision;
    }
    state.unleased = None;
    // A person can make it primary all the same: then it stays.
    state.leaving.remove(&appointment.node);
    state.phase = Phase::Promoting { appointment: appointment.clone() };
    Ok(())
}

fn publish(state: &mut State, epoch: Epoch, promoted: &Promoted, promotion_id: &str) -> Result<(), Refusal> {
    same_epoch(state, epoch)?;
    let appointment = match &state.phase {
        Phase::Promoting { appointment } => appointment.clone(),
        Phase::Initialising { node } => Appointment {
            node: node.clone(),
            promotion_id: promotion_id.to_owned(),
            sealed_timeline: promoted.timeline,
            sealed_lsn: crate::Lsn(0),
            parent: None,
        },
        Phase::Empty | Phase::Sealing { .. } | Phase::Serving { .. } => {
            return Err(Refusal::OutOfPlace("no node is being promoted".into()));
        }
    };
    if state.system_identifier.is_some_and(|known| known != promoted.system_identifier) {
        return Err(Refusal::OutOfPlace("the promoted server belongs to another database system".into()));
    }
    state.system_identifier = Some(promoted.system_identifier);
    if let Some(promotion) = state.promotions.iter_mut().rev().find(|p| p.promotion_id == promotion_id) {
        promotion.published = Some(Published { timeline: promoted.timeline, forks: promoted.forks.clone() });
    }
    state.last_appointed = Some(appointment.clone());
    state.phase = Phase::Serving { appointment };
    Ok(())
}

fn drop_oldest<T>(list: &mut Vec<T>, keep: usize) {
    if list.len() > keep {
        list.drain(..list.len() - keep);
    }
}
