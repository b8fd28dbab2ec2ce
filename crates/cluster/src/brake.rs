//! The brake of asynchronous mode (`loss_bound`), and what the primary remembers of its standbys.
//!
//! While no standby that may become primary is within the bound, new commits wait until one has them. It is local to the
//! primary's node: its agent looks at the standbys with every probe, `step` says what to configure, nothing is
//! recorded, and no failover counts on it. So it bounds what is at stake only as finely as it looks: between two looks
//! the WAL may grow beyond the bound by whatever is written meanwhile, and while the agent itself stands still (which its
//! lease allows for a moment only) by all that is written then.

use crate::basics::{Lsn, NodeName};
use crate::candidate;
use crate::mutant::{self, Mutant};
use crate::observe::{Replica, Server};
use crate::state::{Degrade, Replication, Settings, State, SyncSet};
use crate::step::Local;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Why commits wait in asynchronous mode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Brake {
    /// The bound, in bytes of WAL.
    pub bound_bytes: u64,
    /// The standby that has most, and how many bytes it lacks; `None`: none has been heard.
    pub nearest: Option<(NodeName, u64)>,
}

/// Brings what is remembered of the standbys up to date: one that is gone keeps the last position that it confirmed,
/// because its WAL is still there.
pub fn remember(standbys: &mut BTreeMap<NodeName, Replica>, present: &BTreeMap<NodeName, Replica>) {
    for (node, standby) in standbys.iter_mut() {
        standby.streaming &= present.contains_key(node);
    }
    for (node, now) in present {
        let before = standbys.get(node).map(|s| s.flush_lsn).unwrap_or_default();
        // Nothing was heard yet on a new connection.
        let flush_lsn = if now.flush_lsn == Lsn(0) { before } else { now.flush_lsn };
        standbys.insert(node.clone(), Replica { flush_lsn, ..now.clone() });
    }
}

fn may_take_over<'a>(state: &'a State, me: &'a NodeName) -> impl Iterator<Item = &'a NodeName> {
    state
        .data_nodes()
        .map(|(n, _)| n)
        .filter(move |n| *n != me && !candidate::tags(state, n).never_primary && !candidate::leaves(state, n))
}

/// Of those that may become primary the one that has most of what this primary had flushed up to `lsn`, and the bytes that
/// it lacks.
#[must_use]
pub fn nearest(
    state: &State,
    me: &NodeName,
    standbys: &BTreeMap<NodeName, Replica>,
    lsn: Lsn,
) -> Option<(NodeName, u64)> {
    may_take_over(state, me)
        .filter_map(|node| Some((node, standbys.get(node).map(|s| s.flush_lsn).filter(|l| *l > Lsn(0))?)))
        .max_by_key(|(_, flushed)| *flushed)
        .map(|(node, flushed)| (node.clone(), lsn.bytes_after(flushed)))
}

/// Whether commits must wait on `me`, which is or becomes primary. Once they do, they go on when a standby is within half
/// the bound: it must not be on and off all the time.
#[must_use]
pub fn brake(state: &State, me: &NodeName, local: &Local) -> Option<Brake> {
    let Replication::Async { loss_bound_bytes: Some(bound_bytes), .. } = state.settings.as_ref()?.replication
    else {
        return None;
    };
    let nearest = match &local.server {
        Server::Primary { lsn, .. } => nearest(state, me, &local.standbys, *lsn),
        _ => None,
    };
    let on = local.sync_configured.as_ref().is_some_and(|set| !set.is_open());
    let limit = if on { bound_bytes / 2 } else { bound_bytes };
    let within = nearest.as_ref().is_some_and(|(_, lacks)| *lacks <= limit);
    (!within).then_some(Brake { bound_bytes, nearest })
}

/// What a primary's PostgreSQL is told of the synchronous standbys, in either mode.
pub(crate) fn primary_sync(state: &State, me: &NodeName, local: &Local) -> SyncSet {
    match brake(state, me, local) {
        Some(_) => {
            let members: BTreeSet<NodeName> = may_take_over(state, me).cloned().collect();
            SyncSet { k: 1, members }
        }
        None if unrecorded(state, local) => SyncSet { k: 0, members: BTreeSet::new() },
        None => state.sync_target(),
    }
}

fn unrecorded(state: &State, local: &Local) -> bool {
    let available =
        |s: &Settings| matches!(s.replication, Replication::Quorum { degrade: Degrade::Available, .. });
    mutant::is(Mutant::ReducedSetUnrecorded)
        && state.settings.as_ref().is_some_and(available)
        && !local.standbys.values().any(|s| s.streaming)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Member, PgAddress, Tags};

    fn name(text: &str) -> NodeName {
        text.parse().unwrap_or_else(|e| panic!("{e}"))
    }

    fn state(replication: Replication) -> State {
        let member = |never_primary| Member {
            agent: String::new(),
            postgres: Some(PgAddress { host: String::new(), port: 1 }),
            tags: Tags { never_primary, ..Tags::default() },
            data_dir: None,
        };
        State {
            settings: Some(Settings { replication, detect_ms: 1500, drift_ppm: 0 }),
            members: [("n1", false), ("n2", false), ("n3", true)]
                .map(|(n, never)| (name(n), member(never)))
                .into(),
            ..State::default()
        }
    }

    fn bounded() -> State {
        state(Replication::Async { max_loss_bytes: 5000, loss_bound_bytes: Some(1000) })
    }

    fn at(flush_lsn: u64) -> Replica {
        Replica { streaming: true, flush_lsn: Lsn(flush_lsn), replay_lsn: Lsn(flush_lsn) }
    }

    fn primary(lsn: u64, standbys: &[(&str, u64)]) -> Local {
        Local {
            server: Server::Primary { timeline: 1, lsn: Lsn(lsn) },
            standbys: standbys.iter().map(|(n, l)| (name(n), at(*l))).collect(),
            ..Local::default()
        }
    }

    #[test]
    fn a_node_that_leaves_is_not_near() {
        let mut state = bounded();
        let standbys = BTreeMap::from([(name("n2"), at(990))]);
        assert_eq!(nearest(&state, &name("n1"), &standbys, Lsn(1000)), Some((name("n2"), 10)));
        state.leaving.insert(name("n2"), crate::membership::Leaving { by: String::new(), at: 0 });
        assert_eq!(nearest(&state, &name("n1"), &standbys, Lsn(1000)), None);
    }

    #[test]
    fn commits_wait_beyond_the_bound_and_go_on_within_half_of_it() {
        let (state, me) = (bounded(), name("n1"));
        let mut local = primary(10_000, &[("n2", 9_000)]);
        assert_eq!(brake(&state, &me, &local), None);
        local = primary(10_001, &[("n2", 9_000)]);
        let braked = primary_sync(&state, &me, &local);
        assert_eq!((braked.k, braked.members.len()), (1, 1), "n3 may never be primary");
        local.sync_configured = Some(braked);
        local.standbys.insert(name("n2"), at(9_500));
        assert!(brake(&state, &me, &local).is_some(), "501 bytes are more than half");
        local.standbys.insert(name("n2"), at(9_501));
        assert_eq!(primary_sync(&state, &me, &local), state.sync_target());
    }

    #[test]
    fn only_standbys_that_may_take_over_count() {
        let (state, me) = (bounded(), name("n1"));
        assert!(brake(&state, &me, &primary(10_000, &[])).is_some_and(|b| b.nearest.is_none()));
        assert!(brake(&state, &me, &primary(10_000, &[("n3", 10_000)])).is_some());
        assert!(brake(&state, &me, &primary(10_000, &[("n2", 0)])).is_some(), "not heard yet");
    }

    #[test]
    fn other_modes_have_no_brake() {
        let me = name("n1");
        for replication in [
            Replication::Async { max_loss_bytes: 5000, loss_bound_bytes: None },
            Replication::Quorum { k: 1, degrade: Degrade::Available },
        ] {
            let state = state(replication);
            assert_eq!(brake(&state, &me, &primary(10_000, &[])), None);
            assert_eq!(primary_sync(&state, &me, &primary(10_000, &[])), state.sync_target());
        }
    }

    #[test]
    fn a_standby_that_is_gone_keeps_its_last_position() {
        let mut known = BTreeMap::new();
        remember(&mut known, &[(name("n2"), at(500))].into());
        remember(&mut known, &BTreeMap::new());
        assert_eq!(known.get(&name("n2")).map(|s| (s.streaming, s.flush_lsn)), Some((false, Lsn(500))));
        remember(&mut known, &[(name("n2"), at(0))].into());
        assert_eq!(known.get(&name("n2")).map(|s| s.flush_lsn), Some(Lsn(500)));
        remember(&mut known, &[(name("n2"), at(300))].into());
        assert_eq!(known.get(&name("n2")).map(|s| s.flush_lsn), Some(Lsn(300)), "its own word");
    }
}
