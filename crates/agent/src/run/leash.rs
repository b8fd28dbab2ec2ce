//! Takes the lease off the server for a pause without fencing, and puts it on again. Why that is safe, and in which order,
//! is explained in `cluster::leash`; here it matters that the guard never hears two of this node's wishes in the wrong order.

use super::{Event, Run, now};
use cluster::leash::Promises;
use cluster::observe::Server;
use cluster::{Epoch, Millis, Moment, leash};

/// The guard ends a server within milliseconds of its deadline, which is before the end of the lease; then it waits for the
/// last process.
const GUARD_PATIENCE_MS: Millis = 5000;

/// What the guard was told of the lease.
#[derive(Default)]
pub(super) struct Leash {
    /// Leases that are on their way to the guard.
    telling: usize,
    off: Off,
    /// A guard has confirmed a lease since it was last told that there is no deadline, or since it is another guard.
    held: bool,
    /// Since when the server is seen to run on after the end of its lease.
    overdue_since: Option<Moment>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Off {
    #[default]
    No,
    Telling,
    Yes,
}

impl Leash {
    /// A lease goes to the guard.
    pub(super) fn telling(&mut self) {
        self.telling += 1;
    }

    pub(super) fn on_off(&mut self, taken: bool) {
        self.off = if taken { Off::Yes } else { Off::No };
    }

    pub(super) fn guard_is_gone(&mut self) {
        self.held = false;
        if self.off == Off::Yes {
            self.off = Off::No;
        }
    }
}

impl Run {
    pub(super) fn on_lease_held(&mut self, generation: u64, lease: Option<(Epoch, Moment)>) {
        self.leash.telling = self.leash.telling.saturating_sub(1);
        // The guard that took it may be gone, and its server with it.
        let same = self.server.guarded && self.server.generation == generation;
        if lease.is_some() && same {
            self.local.lease = lease;
            self.leash.held = true;
            self.leave.lease_renewed();
        }
    }

    /// A guard that has not ended the server so long after the lease it confirmed is stopped, and would never do it.
    pub(super) fn mind_silent_guard(&mut self) {
        let over = self.local.lease.is_some_and(|(_, until)| now() >= until);
        let serves = matches!(self.local.server, Server::Primary { .. });
        if !over || !serves || !self.leash.held || self.lease_is_off() {
            self.leash.overdue_since = None;
            return;
        }
        // Counted from when it was seen: after a halt of the whole host the guard is just about to do it.
        let since = *self.leash.overdue_since.get_or_insert_with(now);
        if now().since(since) < GUARD_PATIENCE_MS {
            return;
        }
        let Some(guard) = self.parts.hands.as_ref().and_then(|hands| hands.guard()) else { return };
        tracing::error!(
            "the lease is over, and the guard has not ended the server: the guard is ended, and the server with it"
        );
        self.leash.held = false;
        guard.end_guard();
    }

    fn promised(&self) -> u64 {
        self.parts.hands.as_ref().map_or(0, |h| h.facts().leased_again)
    }

    fn promises(&self) -> Promises {
        Promises { epoch: self.local.promised, leased_again: self.promised() }
    }

    /// Whether the leader's leases are not to reach the guard now.
    pub(super) fn lease_is_off(&self) -> bool {
        self.leash.off != Off::No || leash::off(&self.state, self.me(), self.promises())
    }

    /// What to tell the leader of the last pause.
    pub(super) fn leased_again(&self) -> Option<u64> {
        self.state.unleased.as_ref().filter(|u| u.node == *self.me())?;
        Some(self.promised())
    }

    pub(super) fn mind_leash(&mut self) {
        if self.state.unleased.is_none() && self.leash.off == Off::No {
            return;
        }
        let Some(hands) = self.parts.hands.clone() else { return };
        let (off, owed) =
            (leash::off(&self.state, self.me(), self.promises()), leash::owed(&self.state, self.me()));
        match self.leash.off {
            Off::Telling => {}
            Off::Yes if off => {}
            Off::Yes => self.leash.off = Off::No,
            // A lease that is on its way would be the last word otherwise, and end the server.
            Off::No if off && self.leash.telling == 0 => {
                let Some(guard) = hands.guard() else { return };
                tracing::warn!("paused without fencing: the server goes on without a lease");
                self.leash.off = Off::Telling;
                self.leash.held = false;
                self.local.lease = None;
                self.observed.guard_told = Some(None);
                let (events, turn) = (self.events.clone(), hands.turn());
                tokio::spawn(async move {
                    let told = hands.hold_to(&guard, turn, None).await;
                    if let Err(e) = &told {
                        tracing::warn!("the guard did not take the lease off: {e}");
                    }
                    let _ = events.send(Event::LeaseOff(told.is_ok())).await;
                });
            }
            Off::No if off => {}
            Off::No => {
                let lease = self.local.lease.filter(|(epoch, _)| *epoch == self.state.epoch);
                let held = self.leash.held && lease.is_some_and(|(_, until)| now() < until);
                let Some(number) = owed.filter(|number| held && *number > self.promised()) else { return };
                match hands.remember(|f| f.leased_again = number) {
                    Ok(()) => tracing::info!("the server runs under a lease again"),
                    Err(e) => tracing::error!("{e}"),
                }
            }
        }
    }
}
