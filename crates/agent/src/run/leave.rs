//! Leaves the place of this process to another one of the same agent (see `crate::successor`).
//!
//! From the moment at which the room is given no step begins; a server that runs under a lease is left right after the guard
//! has taken a new one, so that as much of it as can be remains for the process that comes.

use super::{Run, now};
use crate::successor::room::{self, Facts, LeaseNeed, NoRoom, needed_ms};
use crate::successor::{Ended, parting_limit};
use cluster::{Millis, Moment};
use std::time::{Duration, Instant};

/// Whoever was given the room and does not come for it within this time does not come.
const CALL_LIMIT_MS: Millis = 2_000;

/// Whether somebody only asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Nothing changes.
    Try,
    /// The process is to go.
    Leave,
}

/// What has been asked, and what came of it.
#[derive(Default)]
pub(super) struct Leave {
    going: Option<Going>,
    stayed: Option<String>,
}

/// The room was given.
struct Going {
    since: Moment,
    /// How long a start takes.
    start: Duration,
    /// Since when it is to be left.
    called: Option<Moment>,
    /// The guard has taken a lease since.
    renewed: bool,
}

impl Leave {
    /// Why this process is still there.
    pub(super) fn stayed(&self) -> Option<String> {
        self.stayed.clone()
    }

    /// No step begins meanwhile.
    pub(super) fn is_going(&self) -> bool {
        self.going.is_some()
    }

    /// It is to be left now.
    pub(super) fn call(&mut self) {
        if let Some(going) = &mut self.going {
            going.called.get_or_insert_with(now);
        }
    }

    /// The guard has taken a lease.
    pub(super) fn lease_renewed(&mut self) {
        if let Some(going) = &mut self.going {
            going.renewed |= going.called.is_some();
        }
    }

    /// It is not left after all.
    pub(super) fn stay(&mut self, why: String) {
        if self.going.take().is_some() {
            tracing::warn!("makes no room for another process: {why}");
            self.stayed = Some(why);
        }
    }
}

impl Run {
    /// Whether another process may take the place of this one; `checked` is how long the program took to say that it can. From
    /// now on no step begins, if this one is to go.
    pub(super) fn on_ask_room(&mut self, checked: Duration, purpose: Purpose) -> Result<(), String> {
        if self.is_moving() {
            return Err(format!("{} goes over to another store: try again in a moment", self.me()));
        }
        if self.leave.is_going() {
            return Err(format!("{} makes room for another process already", self.me()));
        }
        let start = checked + self.parts.started_in;
        // A whole lease is what it will have when it goes.
        let whole = self
            .deadline_of(Moment(self.settings().lease_ms()))
            .saturating_sub(self.settings().heartbeat_ms());
        self.room(start, whole).map_err(|no| no.to_string())?;
        if purpose == Purpose::Leave {
            let going = Going { since: now(), start, called: None, renewed: false };
            self.leave = Leave { going: Some(going), stayed: None };
        }
        Ok(())
    }

    /// Whether it goes now.
    pub(super) fn leaves(&mut self) -> Option<Ended> {
        let going = self.leave.going.as_ref()?;
        let (start, since, called, renewed) = (going.start, going.since, going.called, going.renewed);
        if called.is_none() && now().since(since) > CALL_LIMIT_MS {
            self.leave.stay("nobody came for the room that was given".to_owned());
            return None;
        }
        let leased = self.runs_under_lease();
        let until = self.local.lease.filter(|_| leased).map(|(_, until)| self.deadline_of(until));
        let left_ms = until.map_or(0, |until| Moment(until).since(now()));
        // Before the lease is renewed it is not looked at: that is waited for.
        let looked_at = if renewed { left_ms } else { Millis::MAX };
        if let Err(no) = self.room(start, looked_at) {
            self.leave.stay(no.to_string());
            return None;
        }
        let called = called?;
        let lease_ms = self.settings().lease_ms();
        if leased && !renewed {
            if now().since(called) > lease_ms {
                let why = "its lease was not renewed: is there a leader (pgkeel status)?";
                self.leave.stay(why.to_owned());
            }
            return None;
        }
        tracing::info!(
            lease_left_ms = left_ms,
            start_ms = start.as_millis() as u64,
            "makes room for another process"
        );
        Some(Ended::ForSuccessor { by: Instant::now() + parting_limit(Duration::from_millis(lease_ms)) })
    }

    /// The guard ends the server when nobody renews its lease.
    fn runs_under_lease(&self) -> bool {
        self.server.guarded && self.state.lease_holder() == Some(self.me()) && !self.lease_is_off()
    }

    fn room(&self, start: Duration, left_ms: Millis) -> Result<(), NoRoom> {
        let settings = self.settings();
        let need =
            LeaseNeed { left_ms, needed_ms: needed_ms(settings.lease_ms(), settings.heartbeat_ms(), start) };
        room::room(&Facts {
            me: self.me(),
            state: &self.state,
            server: &self.local.server,
            step: self.acting.under_way(),
            looks: self.acting.seeks_server() || self.acting.looking,
            told_to_promote: self.local.told_to_promote,
            hooks: self.telling.as_ref().map_or(0, |telling| telling.at_work()),
            lease: self.runs_under_lease().then_some(need),
        })
    }
}
