//! Which standbys confirm commits (quorum mode).
//!
//! A standby that streams joins the set; one that has not streamed for `detect` leaves it, but never below k members:
//! then commits wait. A change is joint: the new set is recorded beside the old, PostgreSQL is seen to obey it, k of its
//! members are seen to have flushed everything before, and only then the old set is dropped. The next change begins only
//! when PostgreSQL was seen to obey the last: otherwise, after a change there and back, a report from before both would
//! look like the end of the second, while PostgreSQL may still obey the first.

use super::{Draft, Now, Outcome};
use crate::basics::{Moment, NodeName};
use crate::candidate;
use crate::command::Change;
use crate::mutant::{self, Mutant};
use crate::observe::{Observation, Observations};
use crate::reason::Reason;
use crate::state::{Replication, Settings, State};
use std::collections::BTreeSet;

/// Sets in force at one time at most; beyond it no new change begins until one has caught up. Each change of primary
/// adds one and they differ from each other, so only a large and very unlucky cluster comes near.
const SETS_MAX: usize = 64;

pub(super) fn change(state: &State, settings: &Settings, seen: &Observations, now: &Now) -> Outcome {
    let Replication::Quorum { k } = settings.replication else { return Outcome::Nothing };
    let Some(primary) = state.primary() else { return Outcome::Nothing };
    let report = seen.fresh(primary, now.at, settings.detect_ms).filter(|o| o.epoch == state.epoch);
    let Some(report) = report else { return Outcome::Nothing };
    if state.sync.in_force.len() > 1
        && let Some(draft) = drop_old(state, report, k)
    {
        return Outcome::Do(draft);
    }
    let target = state.sync.target();
    let wanted = wanted(state, settings, seen, report, &target, k, now.at);
    let obeyed = report
        .sync_applied
        .as_ref()
        .is_some_and(|applied| applied.members == target || mutant::is(Mutant::NextSetUnobeyed));
    if obeyed && wanted != target && state.sync.in_force.len() < SETS_MAX {
        let why = why(state, &target, &wanted);
        return Outcome::Do(Draft {
            change: Change::SyncSetNext { epoch: state.epoch, next: wanted.clone() },
            reasons: vec![Reason::SyncSetChanging { from: target, to: wanted, why }],
        });
    }
    let have = target.iter().filter(|n| report.replicas.get(*n).is_some_and(|r| r.streaming)).count();
    if have < k { Outcome::Wait(Reason::SyncShort { have, k }) } else { Outcome::Nothing }
}

/// Whether a node may confirm commits. One that is never to be primary must not: it could be the only one to have what it
/// confirmed.
pub(super) fn may_confirm(state: &State, node: &NodeName) -> bool {
    let tags = candidate::tags(state, node);
    !tags.never_sync && !candidate::barred(state, node)
}

/// The target alone may stay in force once PostgreSQL obeys it and k of its members have all that was written before:
/// any covering seal of it then includes one of those.
fn drop_old(state: &State, report: &Observation, k: usize) -> Option<Draft> {
    let target = state.sync.target();
    let applied = report
        .sync_applied
        .as_ref()
        .filter(|a| a.members == target || mutant::is(Mutant::DropSetUnobeyed))?;
    let caught_up = |n: &&NodeName| report.replicas.get(*n).is_some_and(|r| r.flush_lsn >= applied.since);
    let enough = target.iter().filter(caught_up).count() >= k || mutant::is(Mutant::DropSetNotCaughtUp);
    (target.len() >= k && enough).then(|| Draft {
        change: Change::SyncSetDone { epoch: state.epoch, members: target.clone() },
        reasons: vec![Reason::SyncSetChanged { members: target.clone(), since: applied.since }],
    })
}

fn wanted(
    state: &State,
    settings: &Settings,
    seen: &Observations,
    report: &Observation,
    target: &BTreeSet<NodeName>,
    k: usize,
    now: Moment,
) -> BTreeSet<NodeName> {
    // A newcomer must itself know whom it follows: one whose agent has not heard of this epoch yet may still find that its
    // data went another way, and give up what it has confirmed.
    let follows = |n: &NodeName| {
        let own = seen.fresh(n, now, settings.detect_ms).filter(|o| o.epoch == state.epoch);
        own.is_some_and(|o| o.wal_silent_ms.is_some())
    };
    let streams = |n: &NodeName| {
        let streams = report.replicas.get(n).is_some_and(|r| r.streaming);
        streams && (target.contains(n) || follows(n))
    };
    let lately = |n: &NodeName| {
        let last = seen.streamed_at.get(n).copied().unwrap_or(seen.leading_since).max(seen.leading_since);
        now.since(last) < settings.detect_ms
    };
    let mut wanted: BTreeSet<NodeName> = state
        .data_nodes()
        .map(|(n, _)| n.clone())
        .filter(|n| {
            *n != report.node && may_confirm(state, n) && (streams(n) || target.contains(n) && lately(n))
        })
        .collect();
    // Never below k: those that left last stay, and commits wait for them or for another.
    for member in target {
        if wanted.len() >= k {
            break;
        }
        wanted.insert(member.clone());
    }
    wanted.remove(&report.node);
    wanted
}

fn why(state: &State, from: &BTreeSet<NodeName>, to: &BTreeSet<NodeName>) -> String {
    let list = |set: BTreeSet<&NodeName>| set.iter().map(|n| n.as_str()).collect::<Vec<_>>().join(", ");
    let came = list(to.difference(from).collect());
    let (streamless, barred): (BTreeSet<_>, BTreeSet<_>) =
        from.difference(to).partition(|n| may_confirm(state, n));
    let (left, barred) = (list(streamless), list(barred));
    if !barred.is_empty() {
        return format!("{barred} may not confirm commits (never_sync, never_primary or under maintenance)");
    }
    match (came.is_empty(), left.is_empty()) {
        (false, true) => format!("{came} streams"),
        (true, false) => format!("{left} does not stream"),
        _ => format!("{came} streams, {left} does not"),
    }
}
