//! A pause without fencing: the primary serves on although nobody can renew its lease, so that the store or the network
//! can be serviced without stopping the database.
//!
//! The lease is what makes it safe to replace a primary that nobody hears. Whoever takes it off must make sure that
//! nothing counts on it, before and after:
//!
//! 1. The command that pauses also records which primary may run without a lease ([`Unleased`]), with a number that
//!    never repeats. A primary takes its lease off only after it has seen that command in the store, so every later
//!    decision is made in the knowledge of it.
//! 2. Resuming does not remove that record. It goes only when the primary's agent reports that its guard holds a deadline
//!    again, or that its server is not primary any more; or when a person vouches that the server does not run; or with
//!    the appointment of the next primary, which has its own proof that the old one can acknowledge nothing.
//! 3. Before it reports so, the agent promises on disk never to take the lease off for that number again: an agent that
//!    starts with an older state than the one it has seen would do so otherwise.
//! 4. While the record stands, the end of a lease proves nothing. Asynchronous: no epoch is opened because a primary is
//!    silent, and nobody is appointed. Quorum: sealed standbys still stop the old primary from acknowledging, so a
//!    failover that they cover goes on as ever; only a forced one needs the person's word.

use crate::basics::{Epoch, Millis, Moment, NodeName};
use crate::mutant::{self, Mutant};
use crate::observe::{Observation, Observations, Seen, Server};
use crate::state::{Fencing, Phase, Settings, State};
use serde::{Deserialize, Serialize};

/// A primary that may run without a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unleased {
    /// Of this pause: the revision that recorded it.
    pub number: u64,
    /// The primary's epoch.
    pub epoch: Epoch,
    /// The primary.
    pub node: NodeName,
}

fn own<'a>(state: &'a State, me: &NodeName) -> Option<&'a Unleased> {
    let serves = matches!(&state.phase, Phase::Serving { appointment } if appointment.node == *me);
    state.unleased.as_ref().filter(|u| serves && u.node == *me && u.epoch == state.epoch)
}

fn suspended(state: &State) -> bool {
    state.paused.as_ref().is_some_and(|p| p.fencing == Fencing::Suspended)
}

/// What a node has promised on disk, so that an older state than the one it has seen does no harm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Promises {
    /// The latest epoch for which it sealed or promoted.
    pub epoch: Epoch,
    /// The last number that it does not use any more to take a lease off.
    pub leased_again: u64,
}

/// Whether the server of `me` may run without a deadline now.
#[must_use]
pub fn off(state: &State, me: &NodeName, promises: Promises) -> bool {
    let Promises { epoch, leased_again: promised } = promises;
    suspended(state)
        // What its server is now, it may be for a later epoch: then the pause that this state shows is long over.
        && state.epoch >= epoch
        && own(state, me).is_some_and(|u| u.number > promised || mutant::is(Mutant::LeasePromiseForgotten))
}

/// The number that `me` is to promise not to use any more, and then to report, as soon as its guard holds a lease.
#[must_use]
pub fn owed(state: &State, me: &NodeName) -> Option<u64> {
    own(state, me).filter(|_| !suspended(state)).map(|u| u.number)
}

/// Whether it is known that the primary that ran without a lease does so no more.
#[must_use]
pub fn is_over(state: &State, settings: &Settings, seen: &Observations, now: Moment) -> bool {
    let Some(unleased) = &state.unleased else { return false };
    if mutant::is(Mutant::UnleasedForgotten) {
        return true;
    }
    let report = seen.fresh(&unleased.node, now, settings.detect_ms);
    // What it said of its server before it was published is from before.
    let after = |o: &Observation| o.epoch > unleased.epoch || o.seen == Seen::Published;
    let report = report.filter(|o| o.epoch == state.epoch && after(o));
    report.is_some_and(|o| match o.server {
        Server::Stopped | Server::Standby(_) => true,
        Server::Primary { .. } => o.leased_again == Some(unleased.number),
        Server::Unknown | Server::Starting | Server::Unresponsive { .. } => false,
    })
}

/// How long ago `node` was heard; `None`: never by this leader.
#[must_use]
pub fn silence(seen: &Observations, node: &NodeName, now: Moment) -> Option<Millis> {
    seen.nodes.get(node).map(|heard| now.since(heard.at))
}
