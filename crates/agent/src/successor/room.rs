//! When the process of an agent may go and another one come: pure, from what the loop knows.
//!
//! Who comes finds a server that runs and a record that is whole. What is half done would be begun anew by somebody who does
//! not know of it, and a lease must last until he renews it.

use super::parting_limit;
use cluster::observe::Server;
use cluster::state::{Phase, State};
use cluster::{Epoch, Millis, NodeName};
use std::time::Duration;

/// So many times what was measured is kept free: the host may be busier next time.
const RESERVE: u32 = 2;

/// What the loop knows.
pub(crate) struct Facts<'a> {
    pub(crate) me: &'a NodeName,
    pub(crate) state: &'a State,
    pub(crate) server: &'a Server,
    /// The step that works.
    pub(crate) step: Option<String>,
    /// The server is being looked for, or the data directory looked at.
    pub(crate) looks: bool,
    /// The epoch for which the server was told to promote.
    pub(crate) told_to_promote: Option<Epoch>,
    /// A person's commands that run or wait.
    pub(crate) hooks: usize,
    /// The lease, where the server runs under one.
    pub(crate) lease: Option<LeaseNeed>,
}

/// Whether a lease is long enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeaseNeed {
    /// What is left until the guard ends the server.
    pub(crate) left_ms: Millis,
    /// What has to be.
    pub(crate) needed_ms: Millis,
}

/// How much of a lease has to be left when the process goes: `start` is how long a start was measured to take.
pub(crate) fn needed_ms(lease_ms: Millis, heartbeat_ms: Millis, start: Duration) -> Millis {
    let parting = parting_limit(Duration::from_millis(lease_ms));
    let gap = parting + RESERVE * start;
    // The first heartbeat and its answer renew the lease.
    u64::try_from(gap.as_millis()).unwrap_or(u64::MAX).saturating_add(2 * heartbeat_ms)
}

/// Why it may not go now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoRoom {
    #[error("{node} is busy ({step}); try again when that is over")]
    Busy { node: NodeName, step: String },
    #[error("{from} hands over to {to}: try again when that is over (pgkeel status)")]
    Handover { from: NodeName, to: NodeName },
    #[error(
        "epoch {epoch} has no primary yet, and {node} may be needed for it: try again when one serves (pgkeel status)"
    )]
    NoPrimary { node: NodeName, epoch: Epoch },
    #[error("the server of {node} was told to promote for epoch {epoch}: try again when that is over")]
    Promotes { node: NodeName, epoch: Epoch },
    #[error(
        "{node} does not know yet what its server is: try again in a moment, and look at its log if that lasts"
    )]
    Unknown { node: NodeName },
    #[error(
        "{count} commands of hooks run or wait on {node}, and would be cut off: try again when they are done (its log says when)"
    )]
    Hooks { node: NodeName, count: usize },
    #[error(
        "{left_ms} ms are left of the lease of {node}, and {needed_ms} ms are needed until the program that would follow can renew it \
         (twice what its start was measured to take, and the messages): the guard would end the server. Try again when the \
         host is less busy; or make another node primary before (pgkeel switchover); or raise timing.detect"
    )]
    LeaseShort { node: NodeName, left_ms: Millis, needed_ms: Millis },
}

/// Whether another process may take the place of this one.
pub(crate) fn room(facts: &Facts<'_>) -> Result<(), NoRoom> {
    let node = facts.me.clone();
    if let Some(step) = &facts.step {
        return Err(NoRoom::Busy { node, step: step.clone() });
    }
    if let Some(handover) = &facts.state.handover {
        return Err(NoRoom::Handover { from: handover.from.clone(), to: handover.to.clone() });
    }
    if let Some(epoch) = facts.told_to_promote {
        return Err(NoRoom::Promotes { node, epoch });
    }
    match facts.state.phase {
        Phase::Empty | Phase::Serving { .. } => {}
        Phase::Initialising { .. } | Phase::Sealing { .. } | Phase::Promoting { .. } => {
            return Err(NoRoom::NoPrimary { node, epoch: facts.state.epoch });
        }
    }
    if facts.looks || *facts.server == Server::Unknown {
        return Err(NoRoom::Unknown { node });
    }
    if facts.hooks > 0 {
        return Err(NoRoom::Hooks { node, count: facts.hooks });
    }
    match facts.lease {
        Some(LeaseNeed { left_ms, needed_ms }) if left_ms < needed_ms => {
            Err(NoRoom::LeaseShort { node, left_ms, needed_ms })
        }
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use cluster::handover::{Handover, Stage};
    use cluster::state::{Appointment, OldLease};

    fn appointment() -> Appointment {
        Appointment {
            node: "n1".parse().unwrap(),
            promotion_id: "p".to_owned(),
            sealed_timeline: 1,
            sealed_lsn: cluster::Lsn(0),
            parent: None,
        }
    }

    fn serving() -> State {
        State { epoch: 4, phase: Phase::Serving { appointment: appointment() }, ..State::default() }
    }

    fn judge(state: &State, change: impl FnOnce(&mut Facts<'_>)) -> Result<(), NoRoom> {
        let me = "n1".parse().unwrap();
        let (server, unknown) = (Server::Stopped, Server::Unknown);
        let mut facts = Facts {
            me: &me,
            state,
            server: &server,
            step: None,
            looks: false,
            told_to_promote: None,
            hooks: 0,
            lease: Some(LeaseNeed { left_ms: 1_000, needed_ms: 1_000 }),
        };
        change(&mut facts);
        if facts.hooks == usize::MAX {
            facts = Facts { server: &unknown, hooks: 0, ..facts };
        }
        room(&facts)
    }

    #[test]
    fn it_goes_only_when_nothing_is_half_done() {
        let state = serving();
        assert_eq!(judge(&state, |_| ()), Ok(()));
        assert!(matches!(judge(&state, |f| f.step = Some("clones".to_owned())), Err(NoRoom::Busy { .. })));
        assert!(matches!(judge(&state, |f| f.looks = true), Err(NoRoom::Unknown { .. })));
        assert!(matches!(judge(&state, |f| f.hooks = usize::MAX), Err(NoRoom::Unknown { .. })));
        assert!(matches!(
            judge(&state, |f| f.told_to_promote = Some(4)),
            Err(NoRoom::Promotes { epoch: 4, .. })
        ));
        assert!(matches!(judge(&state, |f| f.hooks = 2), Err(NoRoom::Hooks { count: 2, .. })));
    }

    #[test]
    fn it_stays_while_the_primary_changes() {
        let handover = Handover {
            id: "h".to_owned(),
            from: "n1".parse().unwrap(),
            to: "n2".parse().unwrap(),
            by: "somebody".to_owned(),
            stage: Stage::Preparing,
        };
        let state = State { handover: Some(handover), ..serving() };
        assert!(matches!(judge(&state, |_| ()), Err(NoRoom::Handover { .. })));
        for phase in [
            Phase::Promoting { appointment: appointment() },
            Phase::Sealing { lease: OldLease::Returned },
            Phase::Initialising { node: "n1".parse().unwrap() },
        ] {
            let state = State { phase, ..serving() };
            assert!(matches!(judge(&state, |_| ()), Err(NoRoom::NoPrimary { epoch: 4, .. })));
        }
        assert_eq!(judge(&State::default(), |_| ()), Ok(()));
    }

    #[test]
    fn a_lease_lasts_until_whoever_comes_can_renew_it() {
        let state = serving();
        let short = Some(LeaseNeed { left_ms: 999, needed_ms: 1_000 });
        let refused = judge(&state, |f| f.lease = short).unwrap_err();
        assert!(matches!(refused, NoRoom::LeaseShort { .. }));
        let said = refused.to_string();
        assert!(
            said.contains("999 ms") && said.contains("1000 ms") && said.contains("pgkeel switchover"),
            "{said}"
        );
        assert_eq!(judge(&state, |f| f.lease = None), Ok(()));
        // 450 for what is open, twice the start, two heartbeats.
        assert_eq!(needed_ms(2_250, 187, Duration::from_millis(300)), 450 + 600 + 374);
        assert_eq!(needed_ms(u64::MAX / 2, 0, Duration::ZERO), 500);
    }
}
