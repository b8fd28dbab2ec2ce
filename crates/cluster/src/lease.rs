//! How long a primary may go on without hearing from the leader.
//!
//! The leader's answer to a heartbeat carries the time that remains; the primary adds it to the moment it *sent* the
//! heartbeat. What remains is counted from the moment the leader sent the last round that a quorum of the store
//! confirmed, so an isolated leader cannot keep an isolated primary alive.

use crate::basics::{Millis, Moment};
use crate::mutant::{self, Mutant};
use crate::observe::{Observation, Observations, Server};
use crate::state::{Phase, State};

/// What `node` may be given now; `None`: no lease. `quorum_age` is the age of the last confirmed round of the store.
#[must_use]
pub fn grant(state: &State, observation: &Observation, quorum_age: Option<Millis>) -> Option<Millis> {
    let settings = state.settings.as_ref()?;
    // Whoever leads where the record has moved to gives the next one.
    if state.moved.is_some() {
        return None;
    }
    if state.lease_holder() != Some(&observation.node) || observation.epoch != state.epoch {
        return None;
    }
    // By this word the lease is returned: the next epoch counts on it that there is none.
    let begins = matches!(state.phase, Phase::Initialising { .. });
    if observation.server == Server::Stopped && !begins {
        return None;
    }
    let quorum_age = if mutant::is(Mutant::IsolatedLeaderRenews) { Some(0) } else { quorum_age };
    settings.lease_ms().checked_sub(quorum_age?).filter(|left| *left > 0)
}

/// Whether a node may take the lease that answers its heartbeat of the moment `sent`: only a server whose guard holds the end
/// of the lease runs under it, and what was answered before that server's predecessor ended (`ended`) was returned with it.
/// The server of a node that makes the database is not started yet; it will be, with a deadline of its own.
#[must_use]
pub fn may_take(state: &State, guarded: bool, sent: Moment, ended: Option<Moment>) -> bool {
    if mutant::is(Mutant::LeaseWithoutGuard) {
        return true;
    }
    let begins = matches!(state.phase, Phase::Initialising { .. });
    (guarded || begins) && ended.is_none_or(|ended| sent > ended)
}

/// Remembers a lease that was just given.
pub fn remember(seen: &mut Observations, state: &State, left: Millis, now: Moment) {
    if mutant::is(Mutant::OwnLeasesForgotten) {
        return;
    }
    let until = now.plus(state.settings.as_ref().map_or(left, |s| s.surely_past_ms(left)));
    seen.lease_given_until = Some(seen.lease_given_until.map_or(until, |u| u.max(until)));
}
