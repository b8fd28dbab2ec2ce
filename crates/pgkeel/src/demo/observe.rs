//! Looking at a local cluster: what its agents say, what its logs say, which of its processes run.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cluster::state::Entry;
use cluster::status::{Role, Status};
use identity::{Caller, Credentials, Folder, Plain};
use tokio::time::sleep;

use super::cluster::{LocalCluster, LocalNode};
use super::layout::Mode;
use super::processes;
use crate::ask::{AskError, ask};

/// For one answer of one agent.
const ASK_LIMIT: Duration = Duration::from_secs(1);
/// Between two questions while something is waited for.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// What the cluster says when nothing is waited for (`cluster::reason::Reason::Steady`).
pub const ALL_IS_WELL: &str = "all is well";
/// Lines of a log that are shown when something went wrong.
const TAIL_LINES: usize = 25;

impl LocalNode {
    /// The postmaster's process number, from the first line of postmaster.pid; `None` when it does not run.
    #[must_use]
    pub fn postmaster(&self) -> Option<i32> {
        self.verified(&self.place.data_dir.join("postmaster.pid"), &self.place.data_dir)
    }

    /// The guard's process number; `None` when it does not run.
    #[must_use]
    pub fn guard(&self) -> Option<i32> {
        self.verified(&self.place.dir.join("guard.pid"), &self.place.dir)
    }

    /// The agent's process number; `None` when it was stopped or killed.
    #[must_use]
    pub fn agent(&self) -> Option<i32> {
        self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok())
    }

    /// A number in a file may be that of a process long gone and used again by another.
    fn verified(&self, file: &Path, dir: &Path) -> Option<i32> {
        let text = fs::read_to_string(file).ok()?;
        let pid = text.lines().next()?.trim().parse().ok()?;
        processes::find_begun(pid)
            .filter(|process| processes::mentions(process, dir))
            .map(|process| process.pid)
    }

    /// What this node's agent says of the cluster.
    ///
    /// # Errors
    /// When it gives no answer.
    pub async fn status(&self) -> Result<Status, AskError> {
        ask(&self.caller, &self.place.agent, "/v1/status", ASK_LIMIT).await
    }

    /// The decisions that this node's agent knows, oldest first.
    ///
    /// # Errors
    /// When it gives no answer.
    pub async fn why(&self) -> Result<Vec<Entry>, AskError> {
        ask(&self.caller, &self.place.agent, "/v1/why", ASK_LIMIT).await
    }

    /// The whole log of the agent, empty when there is none.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(&self.place.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }
}

impl LocalCluster {
    /// Asks all agents with the certificates in this directory from now on.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn ask_as(&mut self, dir: &Path) -> Result<()> {
        let caller = Caller::with(Some(Credentials::load(Folder::at(dir), Plain::Allowed)?));
        self.nodes.iter_mut().for_each(|node| node.caller = caller.clone());
        Ok(())
    }

    /// The leader's status, or that of the first agent that answers.
    ///
    /// # Errors
    /// When no agent answers: each with the reason.
    pub async fn status(&self) -> Result<Status> {
        let mut other = None;
        let mut silent = String::new();
        for node in self.nodes.iter().filter(|node| node.child.is_some()) {
            match node.status().await {
                Ok(status) if status.leader.as_ref() == Some(&status.asked) => return Ok(status),
                Ok(status) => other = other.or(Some(status)),
                Err(error) => _ = write!(silent, " {}: {error};", node.place.name),
            }
        }
        other.with_context(|| format!("no agent answers:{silent}"))
    }

    /// The longest history that any agent knows, oldest entry first.
    ///
    /// # Errors
    /// When no agent answers: the last one's reason.
    pub async fn why(&self) -> Result<Vec<Entry>> {
        let mut best: Option<Vec<Entry>> = None;
        let mut failure = String::new();
        for node in self.nodes.iter().filter(|node| node.child.is_some()) {
            match node.why().await {
                Ok(history) => {
                    let newer = |best: &Vec<Entry>| best.last().map(|e| e.at) < history.last().map(|e| e.at);
                    if best.as_ref().is_none_or(newer) {
                        best = Some(history);
                    }
                }
                Err(error) => failure = format!("{}: {error}", node.place.name),
            }
        }
        best.with_context(|| format!("no agent tells why ({failure})"))
    }

    /// Waits until `reached` is true of the status, and returns it.
    ///
    /// # Errors
    /// When it is not after `limit` (with what the cluster says instead), or when a process that should run has ended.
    pub async fn wait_until(
        &mut self,
        what: &str,
        limit: Duration,
        mut reached: impl FnMut(&Status) -> bool,
    ) -> Result<Status> {
        let began = Instant::now();
        loop {
            self.refuse_ended()?;
            let status = self.status().await;
            match status {
                Ok(status) if reached(&status) => return Ok(status),
                Ok(status) if began.elapsed() > limit => {
                    bail!("not within {} s: {what}; the cluster says: {}", limit.as_secs(), in_short(&status))
                }
                Err(error) if began.elapsed() > limit => {
                    bail!("not within {} s: {what}; {error}", limit.as_secs())
                }
                Ok(_) | Err(_) => sleep(ASK_AGAIN).await,
            }
        }
    }

    /// Waits until every node has its place in an epoch later than `after`: see [`settled`].
    ///
    /// # Errors
    /// As [`LocalCluster::wait_until`].
    pub async fn wait_settled(&mut self, after: u64, limit: Duration) -> Result<Status> {
        let (nodes, mode) = (self.nodes.len(), self.options.mode.clone());
        let what = "one primary, all other nodes streaming from it";
        self.wait_until(what, limit, |status| status.epoch > after && settled(status, nodes, &mode)).await
    }

    /// Complains when a process has ended by itself, with the end of its log.
    ///
    /// # Errors
    /// When one has.
    pub fn refuse_ended(&mut self) -> Result<()> {
        for (name, log, child) in self.children() {
            if let Ok(Some(status)) = child.try_wait() {
                bail!("{name} ended by itself ({status}); the end of its log:\n{}", tail(log, TAIL_LINES));
            }
        }
        Ok(())
    }

    /// The last lines of every log, for a person who looks for what went wrong.
    #[must_use]
    pub fn tails(&self) -> String {
        self.logs().fold(String::new(), |mut text, (name, log)| {
            let _ = writeln!(text, "--- {name} ({}) ---\n{}", log.display(), tail(log, TAIL_LINES));
            text
        })
    }

    /// The end of one node's log, or of the proxy's.
    #[must_use]
    pub fn tail_of(&self, wanted: &str) -> Option<String> {
        self.logs().find(|(name, _)| *name == wanted).map(|(_, log)| tail(log, TAIL_LINES))
    }
}

/// Whether one node serves as primary, all others stream from it and count as synchronous where that is asked for, and
/// the cluster neither waits for anything nor refuses anything.
#[must_use]
pub fn settled(status: &Status, nodes: usize, mode: &Mode) -> bool {
    let in_place = |node: &&cluster::status::NodeStatus| {
        let knows = node.epoch == Some(status.epoch);
        let counted = node.sync || matches!(mode, Mode::Async(_));
        let streams = node.role == Role::Standby && node.state == "streaming" && counted;
        let serves = node.role == Role::Primary && Some(&node.node) == status.primary.as_ref();
        knows && (streams || serves)
    };
    let well = status.why.iter().all(|why| why == ALL_IS_WELL);
    well && status.primary.is_some() && status.nodes.iter().filter(in_place).count() == nodes
}

/// A status in one line, for messages.
#[must_use]
pub fn in_short(status: &Status) -> String {
    let primary = status.primary.as_ref().map_or("none", |name| name.as_str());
    let mut text = format!("epoch {}, {}, primary {primary}", status.epoch, status.phase);
    for node in &status.nodes {
        let sync = if node.sync && node.role == Role::Standby { ", sync" } else { "" };
        let _ = write!(text, "; {} is {}{sync} ({})", node.node, node.state, node.why);
    }
    let _ = write!(text, "; why: {}", status.why.join("; "));
    text
}

fn tail(log: &Path, lines: usize) -> String {
    let text = match fs::read(log) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => return format!("({} cannot be read: {error})", log.display()),
    };
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
