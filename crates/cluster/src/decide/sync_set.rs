//! Which standbys confirm commits, and how many of them (quorum mode).
//!
//! A standby that streams joins the set; one that has not streamed for `detect` leaves it. A change is joint: the new set
//! is recorded beside the old, PostgreSQL is seen to obey it, k of its members are seen to have flushed everything before,
//! and only then the old set is dropped. The next change begins only when PostgreSQL was seen to obey the last: otherwise,
//! after a change there and back, a report from before both would look like the end of the second, while PostgreSQL may
//! still obey the first. A report names the number k besides the members, for the same reason, and counts only if
//! its sender had seen the last change recorded.
//!
//! When fewer than k standbys stream, the policy `degrade` decides. `strict`: the set keeps k members, and commits wait.
//! `available`: the set shrinks to those that are left and its k with it, at last to nobody: an *open* set, under which
//! commits do not wait. An epoch always begins with the full k.
//!
//! Why nothing acknowledged is lost by it. Let P be the primary in whose time an open set was recorded.
//! - *P hears of the set only from the store*, so no commit goes unconfirmed before the set is in force. Should P be cut
//!   off at that moment, it goes on waiting (or not, if it heard it): either is allowed while the set is in force.
//! - *While it is in force, no number of seals covers it* (`quorum::covers`). The only node that may be appointed without
//!   cover is the last appointed one, sealed, or one that has as much as it (`failover`: `LastPrimary`), and in a switchover
//!   one that has replayed its shutdown checkpoint. P has every commit: what was acknowledged before it, since it was
//!   appointed, and what it acknowledged itself. So whoever is appointed after it has them too, and is the last appointed
//!   from then on: what was true of P is true of it. A seal is given by a server that was started again as a standby,
//!   so P acknowledges nothing after it.
//! - *An appointment joins a set, it drops none*: the open set outlives the epoch, and with it what is said above.
//! - *It is dropped as any set is*: the next one, with k > 0, is obeyed by PostgreSQL, and k of its members have flushed what
//!   was written before that. Every commit acknowledged without standbys is then on k members, and every later one is
//!   confirmed by them. Obeyed means more here than that the WAL senders know: sessions must wait again, see
//!   `agent::postgres::sync`.
//! - *P cannot fall back to an open set that is not in force any more*: a late report of it names another set than the
//!   recorded one, and an agent that comes back with an older state changes nothing (`Local::sync_revision`).

use super::{Draft, Now, Outcome};
use crate::basics::{Moment, NodeName};
use crate::candidate;
use crate::command::Change;
use crate::mutant::{self, Mutant};
use crate::observe::{Observation, Observations, SyncApplied};
use crate::reason::Reason;
use crate::state::{Degrade, Replication, Settings, State, SyncSet};
use std::collections::BTreeSet;

/// Sets in force at one time at most; beyond it no new change begins until one has caught up. Each change of primary
/// adds one and they differ from each other, so only a large and very unlucky cluster comes near.
const SETS_MAX: usize = 64;

pub(super) fn change(state: &State, settings: &Settings, seen: &Observations, now: &Now) -> Outcome {
    let Some(primary) = state.primary() else { return Outcome::Nothing };
    let report = seen.fresh(primary, now.at, settings.detect_ms).filter(|o| o.epoch == state.epoch);
    let Some(report) = report else { return Outcome::Nothing };
    let (k, degrade) = match settings.replication {
        Replication::Quorum { k, degrade } => (k, degrade),
        // It is the primary's agent that brakes, by itself; the leader says so.
        Replication::Async { .. } => {
            return report.brake.as_ref().map_or(Outcome::Nothing, |brake| {
                Outcome::Wait(Reason::LossBound { primary: primary.clone(), brake: brake.clone() })
            });
        }
    };
    if state.sync.in_force.len() > 1
        && let Some(draft) = drop_old(state, report)
    {
        return Outcome::Do(draft);
    }
    let target = state.sync_target();
    let wanted = wanted(state, settings, seen, report, &target, (k, degrade), now.at);
    let obeyed = applied(state, report)
        .is_some_and(|applied| applied.set == target || mutant::is(Mutant::NextSetUnobeyed));
    if obeyed && wanted != target && state.sync.in_force.len() < SETS_MAX {
        let why = why(state, &target.members, &wanted.members);
        return Outcome::Do(Draft {
            change: Change::SyncSetNext { epoch: state.epoch, next: wanted.clone() },
            reasons: vec![Reason::SyncSetChanging { from: target, to: wanted, why }],
        });
    }
    let streams = |n: &&NodeName| report.replicas.get(*n).is_some_and(|r| r.streaming);
    let have = target.members.iter().filter(streams).count();
    let alone = state.sync.any_open();
    if have < target.k {
        Outcome::Wait(Reason::SyncShort { have, k: target.k })
    } else if target.k < k || alone {
        Outcome::Wait(Reason::SyncReduced { primary: primary.clone(), set: target, full_k: k, alone })
    } else {
        Outcome::Nothing
    }
}

/// Whether a node may confirm commits. One that is never to be primary must not: it could be the only one to have what it
/// confirmed.
pub(super) fn may_confirm(state: &State, node: &NodeName) -> bool {
    let tags = candidate::tags(state, node);
    !tags.never_sync && !candidate::barred(state, node)
}

/// What the primary's PostgreSQL obeys, in a report from after the target was recorded.
///
/// After a change there and back, a report from before both names the target too; to a new leader, which has heard none of
/// the later ones, it would look like the end of the second change.
fn applied<'a>(state: &State, report: &'a Observation) -> Option<&'a SyncApplied> {
    let later = report.revision >= state.sync_since || mutant::is(Mutant::LateSetBelieved);
    report.sync_applied.as_ref().filter(|_| later)
}

/// The target alone may stay in force once PostgreSQL obeys it and k of its members have all that was written before:
/// any covering seal of it then includes one of those.
fn drop_old(state: &State, report: &Observation) -> Option<Draft> {
    let target = state.sync_target();
    let applied =
        applied(state, report).filter(|a| a.set == target || mutant::is(Mutant::DropSetUnobeyed))?;
    let caught_up = |n: &&NodeName| report.replicas.get(*n).is_some_and(|r| r.flush_lsn >= applied.since);
    let enough = target.members.iter().filter(caught_up).count() >= target.k
        || mutant::is(Mutant::DropSetNotCaughtUp)
        || mutant::is(Mutant::OpenSetDroppedEarly) && state.sync.any_open();
    (target.can_confirm() && enough).then(|| Draft {
        change: Change::SyncSetDone { epoch: state.epoch, set: target.clone() },
        reasons: vec![Reason::SyncSetChanged { set: target, since: applied.since }],
    })
}

fn wanted(
    state: &State,
    settings: &Settings,
    seen: &Observations,
    report: &Observation,
    target: &SyncSet,
    (k, degrade): (usize, Degrade),
    now: Moment,
) -> SyncSet {
    // A newcomer must itself know whom it follows: one whose agent has not heard of this epoch yet may still find that its
    // data went another way, and give up what it has confirmed. Nor may it be one whose seal would not count.
    let follows = |n: &NodeName| {
        let own = seen.fresh(n, now, settings.detect_ms).filter(|o| o.epoch == state.epoch);
        own.is_some_and(|o| o.wal_silent_ms.is_some() && !o.copied)
    };
    let streams = |n: &NodeName| {
        let streams = report.replicas.get(n).is_some_and(|r| r.streaming);
        streams && (target.members.contains(n) || follows(n))
    };
    let lately = |n: &NodeName| {
        let last = seen.streamed_at.get(n).copied().unwrap_or(seen.leading_since).max(seen.leading_since);
        now.since(last) < settings.detect_ms
    };
    let mut members: BTreeSet<NodeName> = state
        .data_nodes()
        .map(|(n, _)| n.clone())
        .filter(|n| {
            *n != report.node
                && may_confirm(state, n)
                && (streams(n) || target.members.contains(n) && lately(n))
        })
        .collect();
    // The standbys of a new primary need a moment to turn to it.
    let serving_since = seen.serving_since.map_or(seen.leading_since, |(_, since)| since);
    let patient = now.since(serving_since) < settings.detect_ms;
    if degrade == Degrade::Available && !patient {
        return SyncSet { k: k.min(members.len()), members };
    }
    // Never below k: those that left last stay, and commits wait for them or for another.
    let k = if degrade == Degrade::Available { k.min(target.k.max(members.len())) } else { k };
    for member in &target.members {
        if members.len() >= k {
            break;
        }
        members.insert(member.clone());
    }
    members.remove(&report.node);
    SyncSet { k, members }
}

fn why(state: &State, from: &BTreeSet<NodeName>, to: &BTreeSet<NodeName>) -> String {
    let list = |set: BTreeSet<&NodeName>| set.iter().map(|n| n.as_str()).collect::<Vec<_>>().join(", ");
    let came = list(to.difference(from).collect());
    let streams = if came.contains(',') { "stream" } else { "streams" };
    let (streamless, barred): (BTreeSet<_>, BTreeSet<_>) =
        from.difference(to).partition(|n| may_confirm(state, n));
    let (left, barred) = (list(streamless), list(barred));
    if !barred.is_empty() {
        return format!(
            "{barred} may not confirm commits (never_sync, never_primary, under maintenance or leaving)"
        );
    }
    match (came.is_empty(), left.is_empty()) {
        (true, true) => "no standby streams".to_owned(),
        (false, true) => format!("{came} {streams}"),
        (true, false) => format!("{left} does not stream"),
        (false, false) => format!("{came} {streams}, {left} does not"),
    }
}
