//! Writers that are connected to each server directly, past the proxy, as a rule over its Unix socket and so past the
//! network too: they see whether ever two servers acknowledge commits, also when one is cut off.
//!
//! Each row comes back with the timeline it was written on. A promotion begins a new one, so the timelines say in which
//! order the primaries should have written.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pgkeel::demo::session::{Address, Session};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::loss::{Claims, Kept};
use super::{Lab, SHORT_LIMIT};

/// From one attempt at a server to the next.
const PERIOD: Duration = Duration::from_millis(40);
/// For one attempt. A server that may not acknowledge lets commits wait: the first writer then looks again soon.
const ATTEMPT_LIMIT: Duration = Duration::from_millis(700);
/// For the others, whose statements wait in a server that is frozen, and are the first thing that it sees when it wakes.
const PATIENCE: Duration = Duration::from_secs(20);
/// Writers at each server.
const WRITERS: usize = 3;
/// Ids of one writer from the next's.
const IDS_EACH: i64 = 1_000_000;
/// The table.
const TABLE: &str = "pgkeel_witness";
/// A standby refuses each row: not into its log.
const QUIET: &str = "-c log_min_messages=panic -c log_min_error_statement=panic";
/// An open session asks, so that one which survives is heard; every tenth row comes from a new one.
const ROWS_A_SESSION: i64 = 10;

/// A commit that a server acknowledged.
#[derive(Clone, Copy, Debug)]
pub struct Commit {
    /// The node.
    pub node: usize,
    /// The row.
    pub id: i64,
    /// The timeline it was written on.
    pub timeline: u32,
    /// When the statement was sent.
    pub sent: Instant,
    /// When the answer came.
    pub acknowledged: Instant,
}

/// How its writers reach the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By the Unix socket of each, which works without a network.
    Socket,
    /// By the address of each.
    Network,
}

/// What all writers have seen.
#[derive(Debug, Default)]
struct Seen {
    commits: Vec<Commit>,
    /// Rows that were sent, and neither acknowledged nor refused.
    unknown: BTreeSet<i64>,
}

/// The running writers; they end when this is dropped.
#[derive(Debug)]
pub struct Witness {
    seen: Arc<Mutex<Seen>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Witness {
    /// Makes their table through the proxy and starts them.
    ///
    /// # Errors
    /// When the table cannot be made.
    pub async fn start(lab: &Lab, way: Way) -> Result<Witness> {
        let proxy = lab.cluster.proxy_address()?;
        let session = timeout(SHORT_LIMIT, Session::open(&proxy)).await??;
        let statement = format!("CREATE TABLE {TABLE} (id bigint PRIMARY KEY, node int NOT NULL)");
        timeout(SHORT_LIMIT, session.client.batch_execute(&statement)).await??;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let mut tasks = Vec::new();
        for (number, node) in lab.cluster.nodes.iter().enumerate() {
            for writer in 0..WRITERS {
                let first = i64::try_from(number * WRITERS + writer)? * IDS_EACH;
                let limit = if writer == 0 { ATTEMPT_LIMIT } else { PATIENCE };
                let address = match way {
                    Way::Socket => node.place.socket(),
                    Way::Network => node.place.server(),
                };
                let work = write(number, address, first, limit, Arc::clone(&seen));
                tasks.push(tokio::spawn(work));
            }
        }
        Ok(Witness { seen, tasks })
    }

    /// What was acknowledged so far.
    #[must_use]
    pub fn commits(&self) -> Vec<Commit> {
        locked(&self.seen).commits.clone()
    }

    /// Who wrote what.
    #[must_use]
    pub fn claims(&self) -> Claims {
        let seen = locked(&self.seen);
        Claims {
            name: "clients of the servers themselves",
            table: TABLE.to_owned(),
            acknowledged: seen.commits.iter().map(|commit| commit.id).collect(),
            unknown: seen.unknown.clone(),
        }
    }

    /// Checks that no server acknowledged a commit after another one had taken over. Returns how many rows there were.
    ///
    /// # Errors
    /// With the commits that contradict each other.
    pub fn judge(&self, kept: Kept) -> Result<usize> {
        let commits = self.commits();
        if kept != Kept::OrToldLate {
            one_at_a_time(&commits)?;
        }
        Ok(commits.len())
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Two nodes never write on one timeline, and nothing is sent and acknowledged on a timeline after the first commit of
/// a later one.
fn one_at_a_time(commits: &[Commit]) -> Result<()> {
    for commit in commits {
        let twin =
            commits.iter().find(|other| other.timeline == commit.timeline && other.node != commit.node);
        ensure!(twin.is_none(), "two nodes wrote on one timeline: {commit:?} and {twin:?}");
    }
    // Per timeline the first acknowledgement is enough to compare with.
    let mut first: std::collections::BTreeMap<u32, Commit> = std::collections::BTreeMap::new();
    for commit in commits {
        let known = first.entry(commit.timeline).or_insert(*commit);
        if commit.acknowledged < known.acknowledged {
            *known = *commit;
        }
    }
    for commit in commits {
        let mut later = first.range(commit.timeline + 1..).map(|(_, later)| later);
        let overtaken = later.find(|later| later.acknowledged < commit.sent);
        ensure!(overtaken.is_none(), "acknowledged after another had taken over: {commit:?}, {overtaken:?}");
    }
    Ok(())
}

async fn write(node: usize, address: Address, first: i64, limit: Duration, seen: Arc<Mutex<Seen>>) {
    let mut session: Option<Session> = None;
    for id in first.. {
        sleep(PERIOD).await;
        if session.is_none() || id % ROWS_A_SESSION == 0 {
            session = match timeout(ATTEMPT_LIMIT, Session::open_with(&address, QUIET)).await {
                Ok(Ok(session)) => Some(session),
                Ok(Err(_)) | Err(_) => None,
            };
        }
        let Some(open) = &session else { continue };
        let sent = Instant::now();
        locked(&seen).unknown.insert(id);
        match timeout(limit, insert(open, node, id)).await {
            Ok(Ok(timeline)) => {
                let mut seen = locked(&seen);
                seen.unknown.remove(&id);
                seen.commits.push(Commit { node, id, timeline, sent, acknowledged: Instant::now() });
            }
            // A standby's refusal leaves the session as it is.
            Ok(Err(_)) if !open.client.is_closed() => _ = locked(&seen).unknown.remove(&id),
            Ok(Err(_)) | Err(_) => session = None,
        }
    }
}

async fn insert(session: &Session, node: usize, id: i64) -> Result<u32> {
    // The first eight digits of a segment's name are its timeline (XLogFileName, xlog_internal.h).
    let statement = format!(
        "INSERT INTO {TABLE} VALUES ({id}, {node}) \
         RETURNING substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)"
    );
    let row = session.client.query_one(&statement, &[]).await?;
    let digits: &str = row.try_get(0)?;
    u32::from_str_radix(digits, 16).context("a timeline has eight hexadecimal digits")
}

fn locked(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commits(list: &[(usize, u32, u64, u64)]) -> Vec<Commit> {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let commit = |(&(node, timeline, sent, acknowledged), id)| Commit {
            node,
            id,
            timeline,
            sent: at(sent),
            acknowledged: at(acknowledged),
        };
        list.iter().zip(0..).map(commit).collect()
    }

    #[test]
    fn primaries_one_after_the_other_are_well() {
        assert!(one_at_a_time(&commits(&[(0, 1, 0, 5), (1, 2, 90, 95), (0, 3, 200, 205)])).is_ok());
        // Sent before the other took over, and confirmed by it: its answer may come late.
        assert!(one_at_a_time(&commits(&[(0, 1, 0, 5), (0, 1, 10, 300), (1, 2, 90, 95)])).is_ok());
    }

    #[test]
    fn two_primaries_are_seen() {
        assert!(one_at_a_time(&commits(&[(1, 2, 90, 95), (0, 1, 96, 99)])).is_err());
        assert!(one_at_a_time(&commits(&[(0, 1, 0, 5), (1, 1, 10, 15)])).is_err());
    }
}
