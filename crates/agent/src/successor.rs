//! The agent's process is exchanged for one of the program that lies in its place now, and PostgreSQL runs on: its guard holds
//! the server and the deadline, and an agent that starts takes them over.
//!
//! This module does not know which program that is, nor how a process becomes another one: who has started the agent does.

use crate::run::Event;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long the answer to who has asked may take to go out, before the process is another one.
const FAREWELL: Duration = Duration::from_millis(100);

/// How an agent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// In order, its server too.
    Stopped,
    /// In order, as the node was removed from the cluster.
    Removed,
    /// To be followed by another process at once; its server runs.
    ForSuccessor,
}

/// Says which version would follow, or why none can.
pub type Check = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<String, String>> + Send>> + Send + Sync>;

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
        Successor { check: Arc::new(move || Box::pin(std::future::ready(Err(why.to_owned())))) }
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
    /// The version of the program.
    pub version: String,
    /// Its process number.
    pub pid: u32,
    /// A text that no other run of this agent has.
    pub run: String,
    /// The process number of its postmaster, if that runs.
    pub postmaster: Option<u32>,
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

/// Ends the loop for the successor, when who has asked has surely been answered.
pub(crate) async fn make_room(events: mpsc::Sender<Event>) {
    tokio::time::sleep(FAREWELL).await;
    // The loop may have ended meanwhile.
    let _ = events.send(Event::MakeRoom).await;
}
