//! One switchover: what clients noticed of it, and what its time was spent on.

use std::time::Duration;

use cluster::handover::Stage;
use cluster::reason::Reason;
use cluster::state::Entry;
use cluster::{Epoch, WallMs};
use serde::Serialize;

use super::Row;

/// One switchover, in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Longest time between two acknowledged writes of the steady writer.
    pub gap_ms: u64,
    /// Longest transaction of pgbench while it ran.
    pub pgbench_ms: u64,
    /// What the time was spent on.
    pub steps: Steps,
}

/// The steps, from the order on, on the leader's wall clock; in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Steps {
    /// The checkpoint beforehand, which no client notices.
    pub checkpoint_ms: u64,
    /// Open transactions end.
    pub drain_ms: u64,
    /// The old primary stops, and the next has its shutdown checkpoint.
    pub stop_ms: u64,
    /// The next is promoted and published.
    pub promote_ms: u64,
}

impl Change {
    /// Puts what the clients saw and what the history says together.
    #[must_use]
    pub fn new(gap: Duration, pgbench: Duration, steps: Steps) -> Change {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Change { gap_ms: ms(gap), pgbench_ms: ms(pgbench), steps }
    }
}

impl Row for Change {
    const NAME: &'static str = "change";
    const TITLES: &'static [&'static str] = &["gap", "pgbench", "checkpoint", "drain", "stop", "promote"];

    fn cells(&self) -> Vec<u64> {
        let Steps { checkpoint_ms, drain_ms, stop_ms, promote_ms } = self.steps;
        vec![self.gap_ms, self.pgbench_ms, checkpoint_ms, drain_ms, stop_ms, promote_ms]
    }
}

impl Steps {
    /// How long proxies held their clients.
    #[must_use]
    pub fn without_primary_ms(&self) -> u64 {
        self.drain_ms + self.stop_ms + self.promote_ms
    }

    /// Reads the switchover that led to `epoch`; `None` when the history does not have all of it. Wall clocks may be set
    /// back: no step is ever negative.
    #[must_use]
    pub fn of(history: &[Entry], epoch: Epoch) -> Option<Steps> {
        let last = |wanted: &dyn Fn(&Entry) -> bool| -> Option<WallMs> {
            history.iter().rev().find(|entry| wanted(entry)).map(|entry| entry.at)
        };
        let stage = |wanted: Stage| {
            last(&|e| matches!(&e.reason, Reason::SwitchoverGoesOn { stage, .. } if *stage == wanted))
        };
        let begun = last(&|e| matches!(e.reason, Reason::SwitchoverBegun { .. }))?;
        let (held, stopping) = (stage(Stage::Holding)?, stage(Stage::Stopping)?);
        let appointed = last(&|e| e.epoch == epoch && matches!(e.reason, Reason::Appointed { .. }))?;
        let published = last(&|e| e.epoch == epoch && matches!(e.reason, Reason::Published { .. }))?;
        Some(Steps {
            checkpoint_ms: held.saturating_sub(begun),
            drain_ms: stopping.saturating_sub(held),
            stop_ms: appointed.saturating_sub(stopping),
            promote_ms: published.saturating_sub(appointed),
        })
    }
}
