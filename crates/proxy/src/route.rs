//! Where a new session goes: connect, hold, or give up. Pure: the view and the time are handed in.
//!
//! Held sessions try again at once when the view changes, and every 20 to 50 ms while a published primary does not take
//! connections yet.

use cluster::view::{Server, View};
use std::fmt;
use std::time::{Duration, Instant};

/// Pause between the first attempts on one server.
const RETRY_QUICK: Duration = Duration::from_millis(20);

/// Pause once [`QUICK_ATTEMPTS`] have failed.
const RETRY_SLOW: Duration = Duration::from_millis(50);

/// Attempts with the short pause: half a second, in which a promoted or restarted server is usually there.
const QUICK_ATTEMPTS: u32 = 25;

/// A server, tagged with the epoch in which it was the primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where to connect.
    pub server: Server,
    /// The session's epoch from now on.
    pub epoch: u64,
}

impl Target {
    /// Whether `view` still says so. A connection to a target that is not current must not be used.
    #[must_use]
    pub fn is_current(&self, view: &View) -> bool {
        view.epoch == self.epoch && open_primary(view) == Some(&self.server)
    }
}

/// The published primary, unless nothing new may be begun on it.
#[must_use]
pub fn open_primary(view: &View) -> Option<&Server> {
    view.primary.as_ref().filter(|_| view.hold.is_none())
}

/// Why an attempt on a published primary failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection: refused, unreachable, name not found, time-out.
    Connect(String),
    /// Connected, but the connection ended, or no answer came in time.
    NoAnswer(String),
    /// It has no TLS, or its TLS is not what was asked for.
    Tls(String),
    /// SQLSTATE 57P03: starting up, shutting down, or in recovery.
    CannotConnectNow,
    /// The answer is not PostgreSQL's protocol.
    Garbled(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Connect(why) => write!(f, "cannot be reached: {why}"),
            Failure::NoAnswer(why) => write!(f, "does not answer: {why}"),
            Failure::Tls(why) => write!(f, "cannot be reached by TLS: {why}"),
            Failure::CannotConnectNow => write!(f, "takes no connections now (57P03)"),
            Failure::Garbled(why) => write!(f, "does not speak PostgreSQL's protocol: {why}"),
        }
    }
}

/// How long a session has waited and what it has tried.
#[derive(Clone, Debug)]
pub struct Wait {
    since: Instant,
    limit: Duration,
    last: Option<Attempt>,
    attempts: u32,
}

#[derive(Clone, Debug)]
struct Attempt {
    at: Instant,
    view: (u64, u64),
    node: String,
    why: Failure,
}

impl Wait {
    /// A session that arrived at `now` and may wait for `limit`.
    #[must_use]
    pub fn new(now: Instant, limit: Duration) -> Wait {
        Wait { since: now, limit, last: None, attempts: 0 }
    }

    /// Takes note of an attempt that failed at `now`, made when `view` was the newest.
    pub fn failed(&mut self, target: &Target, view: &View, why: Failure, now: Instant) {
        self.attempts = match &self.last {
            Some(last) if last.node == target.server.node => self.attempts.saturating_add(1),
            Some(_) | None => 1,
        };
        let view = (view.epoch, view.revision);
        self.last = Some(Attempt { at: now, view, node: target.server.node.clone(), why });
    }

    /// When the hold ends.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.since + self.limit
    }

    /// How long the session waits by now.
    #[must_use]
    pub fn waited(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    fn retry_at(&self, last: &Attempt) -> Instant {
        last.at + if self.attempts <= QUICK_ATTEMPTS { RETRY_QUICK } else { RETRY_SLOW }
    }
}

/// What to do next for a session without a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// Try this server.
    Connect(Target),
    /// No primary is published, or nothing new may be begun on it: wait for another view, at most until then.
    HoldForView {
        /// The end of the hold.
        until: Instant,
    },
    /// The primary did not take the connection: wait for another view, or try again then.
    HoldForRetry {
        /// Time of the next attempt or the end of the hold.
        until: Instant,
    },
    /// The hold is over.
    GiveUp(GiveUp),
}

/// Evidence of a hold that ended without a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GiveUp {
    /// Epoch of the newest view.
    pub epoch: u64,
    /// How long the session waited.
    pub waited: Duration,
    /// The view's sentence about what the cluster waits for, or the last attempt's failure.
    pub reason: Option<String>,
}

/// Decides the next step of a session that waits for a server.
#[must_use]
pub fn route(view: &View, wait: &Wait, now: Instant) -> Route {
    let deadline = wait.deadline();
    let over = now >= deadline;
    match (open_primary(view), &wait.last) {
        (None, _) if over => Route::GiveUp(give_up(view, wait, now)),
        (None, _) => Route::HoldForView { until: deadline },
        // Even a hold of zero makes one attempt.
        (Some(_), Some(_)) if over => Route::GiveUp(give_up(view, wait, now)),
        (Some(primary), last) => {
            let again = last.as_ref().filter(|last| last.view == (view.epoch, view.revision));
            match again.map(|last| wait.retry_at(last)) {
                Some(retry) if now < retry => Route::HoldForRetry { until: retry.min(deadline) },
                Some(_) | None => Route::Connect(Target { server: primary.clone(), epoch: view.epoch }),
            }
        }
    }
}

fn give_up(view: &View, wait: &Wait, now: Instant) -> GiveUp {
    let failure = || wait.last.as_ref().map(|last| format!("The primary {} {}.", last.node, last.why));
    let reason = match open_primary(view) {
        None => view.hold.clone().or_else(|| view.waiting.clone()).or_else(failure),
        Some(_) => failure(),
    };
    GiveUp { epoch: view.epoch, waited: wait.waited(now), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(epoch: u64, revision: u64, primary: Option<&str>) -> View {
        View {
            cluster: "shop".into(),
            epoch,
            revision,
            primary: primary.map(|n| Server { node: n.into(), host: "127.0.0.1".into(), port: 5432 }),
            readers: Vec::new(),
            waiting: primary.is_none().then(|| "waiting for seals: 1 of 2".to_string()),
            hold: None,
            agents: Vec::new(),
            primary_agent: None,
        }
    }

    const HOLD: Duration = Duration::from_secs(30);

    fn target(view: &View) -> Target {
        Target { server: view.primary.clone().unwrap(), epoch: view.epoch }
    }

    #[test]
    fn a_published_primary_is_tried_at_once() {
        let (now, v) = (Instant::now(), view(1, 5, Some("n1")));
        assert_eq!(route(&v, &Wait::new(now, HOLD), now), Route::Connect(target(&v)));
        assert_eq!(route(&v, &Wait::new(now, Duration::ZERO), now), Route::Connect(target(&v)));
    }

    #[test]
    fn without_a_primary_it_holds_and_then_gives_up_with_the_views_sentence() {
        let start = Instant::now();
        let (v, wait) = (view(2, 9, None), Wait::new(start, HOLD));
        assert_eq!(route(&v, &wait, start), Route::HoldForView { until: start + HOLD });
        let reason = Some("waiting for seals: 1 of 2".to_string());
        assert_eq!(route(&v, &wait, start + HOLD), Route::GiveUp(GiveUp { epoch: 2, waited: HOLD, reason }));
    }

    #[test]
    fn a_primary_that_hands_over_is_as_none() {
        let start = Instant::now();
        let handing_over = View { hold: Some("n1 hands over to n2".into()), ..view(1, 5, Some("n1")) };
        let wait = Wait::new(start, HOLD);
        assert_eq!(route(&handing_over, &wait, start), Route::HoldForView { until: start + HOLD });
        let reason = Some("n1 hands over to n2".to_string());
        let over = Route::GiveUp(GiveUp { epoch: 1, waited: HOLD, reason });
        assert_eq!(route(&handing_over, &wait, start + HOLD), over);
        assert!(!target(&handing_over).is_current(&handing_over));
    }

    #[test]
    fn a_failed_attempt_is_repeated_after_a_pause_or_at_once_in_a_new_view() {
        let start = Instant::now();
        let (v, mut wait) = (view(1, 5, Some("n1")), Wait::new(start, HOLD));
        wait.failed(&target(&v), &v, Failure::CannotConnectNow, start);
        assert_eq!(route(&v, &wait, start), Route::HoldForRetry { until: start + RETRY_QUICK });
        assert_eq!(route(&v, &wait, start + RETRY_QUICK), Route::Connect(target(&v)));
        for newer in [view(1, 6, Some("n1")), view(2, 1, Some("n2"))] {
            assert_eq!(route(&newer, &wait, start), Route::Connect(target(&newer)));
        }
        for _ in 0..QUICK_ATTEMPTS {
            wait.failed(&target(&v), &v, Failure::CannotConnectNow, start);
        }
        assert_eq!(route(&v, &wait, start), Route::HoldForRetry { until: start + RETRY_SLOW });
    }

    #[test]
    fn giving_up_on_a_primary_that_fails_names_the_failure() {
        let start = Instant::now();
        let (v, mut wait) = (view(4, 5, Some("n1")), Wait::new(start, HOLD));
        wait.failed(&target(&v), &v, Failure::Connect("connection refused".into()), start + HOLD);
        let Route::GiveUp(why) = route(&v, &wait, start + HOLD) else { panic!("must give up") };
        assert_eq!(why.reason.as_deref(), Some("The primary n1 cannot be reached: connection refused."));
    }

    #[test]
    fn a_target_is_current_in_its_own_epoch_only() {
        let v = view(1, 5, Some("n1"));
        assert!(target(&v).is_current(&v));
        assert!(target(&v).is_current(&view(1, 6, Some("n1"))));
        for other in [view(2, 6, Some("n1")), view(2, 6, None), view(1, 6, Some("n2"))] {
            assert!(!target(&v).is_current(&other));
        }
    }
}
