//! The agent's process is exchanged for one of the program that lies in its place now, and PostgreSQL runs on: its guard holds
//! the server and the deadline, and an agent that starts takes them over.
//!
//! [`fit`] is what is asked of the program before, [`room`] when this process may go. This module does not know which program
//! that is, nor how a process becomes another one: who has started the agent does.

pub mod fit;
pub(crate) mod room;

use crate::run::Event;
use cluster::NodeName;
use fit::{Answer, Question};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// How long the answer to who has asked may take to go out, before the process is another one.
const FAREWELL: Duration = Duration::from_millis(100);
/// A process that goes waits no longer than this for what it has open. What is not closed by then is found as after a crash.
const PARTING_MAX: Duration = Duration::from_millis(500);
/// Nor for more than this part of a lease: nobody renews it meanwhile.
const PARTING_SHARE: u32 = 5;

/// How long a process that goes may wait for what it has open.
#[must_use]
pub(crate) fn parting_limit(lease: Duration) -> Duration {
    PARTING_MAX.min(lease / PARTING_SHARE)
}

/// How an agent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// In order, its server too.
    Stopped,
    /// In order, as the node was removed from the cluster.
    Removed,
    /// To be followed by another process; its server runs.
    ForSuccessor {
        /// At the latest then: whatever is not closed by that time stays open.
        by: Instant,
    },
}

/// What the program that would follow answered, and how long it took from its start to its end.
pub type Check = Arc<
    dyn Fn(Question) -> Pin<Box<dyn Future<Output = Result<(Answer, Duration), String>> + Send>>
        + Send
        + Sync,
>;

/// Who follows.
#[derive(Clone)]
pub struct Successor {
    /// See [`Check`].
    pub check: Check,
}

impl Successor {
    /// Nobody can follow, for this reason.
    #[must_use]
    pub fn none(why: &'static str) -> Successor {
        Successor { check: Arc::new(move |_| Box::pin(std::future::ready(Err(why.to_owned())))) }
    }
}

impl fmt::Debug for Successor {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Successor").finish_non_exhaustive()
    }
}

/// What an agent's process is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Whose agent it is.
    pub node: NodeName,
    /// The version of the program.
    pub version: String,
    /// Its process number.
    pub pid: u32,
    /// A text that no other run of this agent has.
    pub run: String,
    /// The process number of its postmaster, if that runs.
    pub postmaster: Option<u32>,
    /// Why it did not make room, although it had said that it would.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stayed: Option<String>,
}

/// What a person asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeAsked {
    /// Who asks, for the log.
    pub by: String,
    /// Only say whether it could be done.
    #[serde(default)]
    pub only_try: bool,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpgradeAnswer {
    /// The process becomes one of this version.
    To(String),
    /// Nothing is done, and why.
    Refused(String),
}

/// Has the loop leave, when who has asked has surely been answered.
pub(crate) async fn make_room(events: mpsc::Sender<Event>) {
    tokio::time::sleep(FAREWELL).await;
    // The loop may have ended meanwhile.
    let _ = events.send(Event::MakeRoom).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_goes_leaves_most_of_the_lease_to_its_successor() {
        assert_eq!(parting_limit(Duration::from_millis(2_250)), Duration::from_millis(450));
        assert_eq!(parting_limit(Duration::from_millis(450)), Duration::from_millis(90));
        assert_eq!(parting_limit(Duration::from_secs(90)), PARTING_MAX);
    }
}
