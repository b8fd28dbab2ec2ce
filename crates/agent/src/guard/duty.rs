//! What the guard has to do next: a plain value that is told the time and what happened. It touches no process,
//! socket or clock.
//!
//! ```text
//! Watching ── deadline passed, `kill`, postmaster ended badly ──▶ Killing ── no child left ──▶ over
//!     └────── postmaster ended with status 0 ──▶ Draining ── 100 ms ──▶ Killing
//! ```
//!
//! Invariant: once Killing, nothing an agent says leads back. `ended` is told only after the last child is gone.

use super::protocol::{Command, EndCode, Report, StopMode};

/// After a clean shutdown the logging collector is still writing the last lines; this long, it may.
const DRAIN_MS: u64 = 100;
/// How often to look for the end while killing: quickly at first, since a failover waits for the answer.
const HASTE_MS: u64 = 1_000;
const QUICK_PAUSE_MS: u64 = 1;
const SLOW_PAUSE_MS: u64 = 20;
/// While all is well: only to collect orphans of the server that ended unseen.
const IDLE_PAUSE_MS: u64 = 5_000;

/// A deed for the shell around this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    /// Wake up at the deadline (CLOCK_BOOTTIME milliseconds), or not.
    Arm(Option<u64>),
    /// Send the postmaster the signal of this shutdown mode.
    Stop(StopMode),
    /// Send the postmaster SIGHUP.
    Reload,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Watching,
    Draining { until_ms: u64 },
    Killing { since_ms: u64 },
}

/// The state of the guard; every time is CLOCK_BOOTTIME in milliseconds.
#[derive(Debug)]
pub(super) struct Duty {
    pid: u32,
    deadline_ms: Option<u64>,
    stage: Stage,
    fenced: bool,
    code: Option<EndCode>,
}

impl Duty {
    pub(super) fn new(pid: u32, deadline_ms: Option<u64>) -> Self {
        Self { pid, deadline_ms, stage: Stage::Watching, fenced: false, code: None }
    }

    /// Time has come to `now_ms`: the deadline or the draining may be over.
    pub(super) fn tick(&mut self, now_ms: u64) {
        let overdue = self.deadline_ms.is_some_and(|deadline_ms| now_ms >= deadline_ms);
        match self.stage {
            Stage::Watching if overdue => {
                self.fenced = true;
                self.stage = Stage::Killing { since_ms: now_ms };
            }
            Stage::Draining { until_ms } if overdue || now_ms >= until_ms => {
                self.stage = Stage::Killing { since_ms: now_ms };
            }
            Stage::Watching | Stage::Draining { .. } | Stage::Killing { .. } => {}
        }
    }

    /// The postmaster was reaped.
    pub(super) fn postmaster_ended(&mut self, code: EndCode, now_ms: u64) {
        self.code = Some(code);
        if self.stage == Stage::Watching {
            self.stage = match code {
                EndCode::Exit(0) => Stage::Draining { until_ms: now_ms.saturating_add(DRAIN_MS) },
                EndCode::Exit(_) | EndCode::Signal(_) => Stage::Killing { since_ms: now_ms },
            };
        }
    }

    /// An agent asks for something: what to do, if anything, and what to answer once it is done.
    pub(super) fn obey(&mut self, command: Command, now_ms: u64) -> (Option<Deed>, Vec<Report>) {
        self.tick(now_ms);
        let ending = self.stage != Stage::Watching;
        match command {
            Command::Status => (None, vec![self.status(), Report::Ok]),
            Command::Kill => {
                if !self.kills() {
                    self.stage = Stage::Killing { since_ms: now_ms };
                }
                (None, vec![Report::Ok])
            }
            Command::Deadline(_) | Command::Stop(_) | Command::Reload if ending => {
                (None, vec![Report::Error("the server is ending".to_string())])
            }
            Command::Deadline(deadline_ms) => {
                self.deadline_ms = deadline_ms;
                self.tick(now_ms);
                (Some(Deed::Arm(deadline_ms)), vec![Report::Ok])
            }
            Command::Stop(mode) => (Some(Deed::Stop(mode)), vec![Report::Ok]),
            Command::Reload => (Some(Deed::Reload), vec![Report::Ok]),
        }
    }

    /// Is every child to be killed now?
    pub(super) fn kills(&self) -> bool {
        matches!(self.stage, Stage::Killing { .. })
    }

    /// Longest time until the next look, in milliseconds.
    pub(super) fn pause_ms(&self, now_ms: u64) -> u64 {
        match self.stage {
            // The alarm of `Deed::Arm` wakes the guard too, also from suspension; one must be enough if one fails.
            Stage::Watching => {
                let left_ms =
                    self.deadline_ms.map_or(u64::MAX, |deadline_ms| deadline_ms.saturating_sub(now_ms));
                left_ms.min(IDLE_PAUSE_MS)
            }
            Stage::Draining { .. } => QUICK_PAUSE_MS,
            Stage::Killing { since_ms } if now_ms.saturating_sub(since_ms) < HASTE_MS => QUICK_PAUSE_MS,
            Stage::Killing { .. } => SLOW_PAUSE_MS,
        }
    }

    /// The answer to `status`.
    pub(super) fn status(&self) -> Report {
        Report::Running { pid: self.pid, deadline_ms: self.deadline_ms }
    }

    /// The last line, for when no child is left. Status 255 stands for a postmaster that ended without leaving a
    /// status, which happens only if the guard was started with SIGCHLD ignored.
    pub(super) fn ended(&self) -> Report {
        Report::Ended { code: self.code.unwrap_or(EndCode::Exit(255)), fenced: self.fenced }
    }

    /// True until the postmaster is reaped: only then may it be watched and sent signals.
    pub(super) fn postmaster_is_ours(&self) -> bool {
        self.code.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deadline_kills_at_its_millisecond_and_not_before() {
        let mut duty = Duty::new(7, Some(100));
        duty.tick(99);
        assert!(!duty.kills());
        duty.tick(100);
        assert!(duty.kills());
        duty.postmaster_ended(EndCode::Signal(9), 101);
        assert_eq!(duty.ended(), Report::Ended { code: EndCode::Signal(9), fenced: true });
    }

    #[test]
    fn a_renewed_deadline_counts_from_its_confirmation() {
        let mut duty = Duty::new(7, Some(100));
        let (deed, answers) = duty.obey(Command::Deadline(Some(200)), 99);
        assert_eq!((deed, answers), (Some(Deed::Arm(Some(200))), vec![Report::Ok]));
        duty.tick(199);
        assert!(!duty.kills());
    }

    #[test]
    fn a_renewal_that_comes_too_late_is_refused() {
        let mut duty = Duty::new(7, Some(100));
        let (deed, answers) = duty.obey(Command::Deadline(Some(200)), 100);
        assert_eq!(deed, None);
        assert!(matches!(answers.as_slice(), [Report::Error(_)]));
        assert!(duty.kills());
    }

    #[test]
    fn a_deadline_already_past_kills_at_once() {
        for past_ms in [0, 99, 100] {
            let mut duty = Duty::new(7, None);
            duty.obey(Command::Deadline(Some(past_ms)), 100);
            assert!(duty.kills(), "{past_ms}");
        }
    }

    #[test]
    fn without_deadline_it_never_kills() {
        let mut duty = Duty::new(7, Some(100));
        duty.obey(Command::Deadline(None), 50);
        duty.tick(u64::MAX);
        assert!(!duty.kills());
    }

    #[test]
    fn a_killed_postmaster_takes_the_rest_along_at_once() {
        let mut duty = Duty::new(7, None);
        duty.postmaster_ended(EndCode::Signal(9), 10);
        assert!(duty.kills());
        assert_eq!((duty.pause_ms(10), duty.pause_ms(2_000)), (QUICK_PAUSE_MS, SLOW_PAUSE_MS));
    }

    #[test]
    fn it_never_sleeps_past_the_deadline() {
        assert_eq!(Duty::new(7, Some(100)).pause_ms(40), 60);
        assert_eq!(Duty::new(7, Some(100)).pause_ms(140), 0);
        assert_eq!(Duty::new(7, None).pause_ms(40), IDLE_PAUSE_MS);
    }

    #[test]
    fn a_clean_end_lets_the_log_be_written_for_a_moment() {
        let mut duty = Duty::new(7, None);
        duty.postmaster_ended(EndCode::Exit(0), 10);
        assert!(!duty.kills());
        duty.tick(10 + DRAIN_MS);
        assert!(duty.kills());
        assert_eq!(duty.ended(), Report::Ended { code: EndCode::Exit(0), fenced: false });
    }

    #[test]
    fn kill_is_not_a_fence_and_may_be_said_twice() {
        let mut duty = Duty::new(7, Some(1_000));
        assert_eq!(duty.obey(Command::Kill, 10), (None, vec![Report::Ok]));
        assert_eq!(duty.obey(Command::Kill, 11), (None, vec![Report::Ok]));
        duty.tick(2_000);
        duty.postmaster_ended(EndCode::Signal(9), 2_001);
        assert_eq!(duty.ended(), Report::Ended { code: EndCode::Signal(9), fenced: false });
    }
}
