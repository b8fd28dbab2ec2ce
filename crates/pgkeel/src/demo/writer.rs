//! A steady writer: growing ids over one connection that reconnects at once, every acknowledged id remembered.
//!
//! A write whose answer did not come, or was an error, is unknown: it may or may not be in the table, and is never
//! counted as lost.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::session::{Address, Session, told};
use super::stamp::Stamp;

/// Pause after an attempt that failed at once, so that a refused connection is not asked for thousands of times.
const RETRY_PAUSE: Duration = Duration::from_millis(5);

/// Messages of failed writes that are kept.
const ERRORS_MAX: usize = 200;

/// What a writer does.
#[derive(Clone, Debug)]
pub struct WriterOptions {
    /// Where to connect.
    pub address: Address,
    /// The table; made by [`make_table`].
    pub table: String,
    /// Writes a second, when nothing hinders.
    pub writes_per_s: u32,
    /// A write without an answer for so long is given up together with its connection.
    pub write_limit: Duration,
    /// The same for a connection attempt.
    pub connect_limit: Duration,
}

impl WriterOptions {
    /// The load of the demonstration and the tests: 100 writes a second.
    #[must_use]
    pub fn usual(address: Address) -> WriterOptions {
        WriterOptions {
            address,
            table: "pgkeel_demo".to_owned(),
            writes_per_s: 100,
            write_limit: Duration::from_secs(2),
            connect_limit: Duration::from_secs(5),
        }
    }
}

/// One acknowledged write.
#[derive(Clone, Copy, Debug)]
pub struct Ack {
    /// Its id.
    pub id: i64,
    /// When the answer came.
    pub at: Stamp,
}

/// One write or connection attempt that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// When.
    pub at: Stamp,
    /// What the client was told.
    pub message: String,
}

/// What a writer has seen.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Acknowledged writes, in their order.
    pub acks: Vec<Ack>,
    /// Ids whose writes ended without an acknowledgement.
    pub unknown: Vec<i64>,
    /// Connections made.
    pub connections: usize,
    /// The first failures.
    pub failures: Vec<Failure>,
    /// When it was stopped.
    pub stopped: Option<Stamp>,
}

impl Record {
    /// The longest time between two acknowledgements, the time from the last one until the writer stopped included.
    #[must_use]
    pub fn longest_gap(&self) -> Duration {
        let moments = self.acks.iter().map(|ack| ack.at).chain(self.stopped);
        longest_gap(moments.map(|stamp| stamp.instant))
    }

    /// The longest gap that ended after `moment`.
    #[must_use]
    pub fn longest_gap_after(&self, moment: Stamp) -> Duration {
        let before = self.acks.partition_point(|ack| ack.at.instant <= moment.instant);
        longest_gap(self.acks.iter().skip(before.saturating_sub(1)).map(|ack| ack.at.instant))
    }

    /// The acknowledgement that ended the longest gap after `moment`: the first write under the next primary.
    #[must_use]
    pub fn resumed_after(&self, moment: Stamp) -> Option<Ack> {
        let before = self.acks.partition_point(|ack| ack.at.instant <= moment.instant);
        let later = self.acks.get(before.saturating_sub(1)..)?;
        later.windows(2).max_by_key(|pair| pair[1].at.instant - pair[0].at.instant).map(|pair| pair[1])
    }

    /// Acknowledged ids that are not in `present`.
    #[must_use]
    pub fn lost(&self, present: &BTreeSet<i64>) -> Vec<i64> {
        self.acks.iter().map(|ack| ack.id).filter(|id| !present.contains(id)).collect()
    }
}

fn longest_gap(moments: impl Iterator<Item = Instant>) -> Duration {
    let moments: Vec<Instant> = moments.collect();
    moments.windows(2).map(|pair| pair[1].duration_since(pair[0])).max().unwrap_or_default()
}

/// Makes the table of a writer, empty.
///
/// # Errors
/// When the server at `address` does not take it within `limit`.
pub async fn make_table(address: &Address, table: &str, limit: Duration) -> Result<()> {
    let statement = format!(
        "DROP TABLE IF EXISTS {table}; \
         CREATE TABLE {table} (id bigint PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp())"
    );
    let work = async {
        let session = Session::open(address).await?;
        session.client.batch_execute(&statement).await
    };
    timeout(limit, work)
        .await
        .with_context(|| format!("no table {table} through {address} within {} s", limit.as_secs()))?
        .with_context(|| format!("table {table} was not made through {address}"))
}

/// The ids that are in the table of the server at `address`.
///
/// # Errors
/// When they cannot be read within `limit`.
pub async fn ids(address: &Address, table: &str, limit: Duration) -> Result<BTreeSet<i64>> {
    let work = async {
        let session = Session::open(address).await?;
        session.client.query(&format!("SELECT id FROM {table}"), &[]).await
    };
    let rows = timeout(limit, work)
        .await
        .with_context(|| format!("table {table} not read through {address} within {} s", limit.as_secs()))?
        .with_context(|| format!("table {table} was not read through {address}"))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// A running writer; ends when dropped.
#[derive(Debug)]
pub struct Writer {
    record: Arc<Mutex<Record>>,
    task: JoinHandle<()>,
}

impl Writer {
    /// Starts writing, in the background.
    #[must_use]
    pub fn start(options: WriterOptions) -> Writer {
        let record = Arc::new(Mutex::new(Record::default()));
        let task = tokio::spawn(write_on(options, Arc::clone(&record)));
        Writer { record, task }
    }

    /// What it has seen so far.
    #[must_use]
    pub fn so_far(&self) -> Record {
        locked(&self.record).clone()
    }

    /// Acknowledged writes so far.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        locked(&self.record).acks.len()
    }

    /// Waits for `count` more acknowledgements.
    ///
    /// # Errors
    /// When they do not come within `limit`; says what the writer was told last.
    pub async fn wait_for(&self, count: usize, limit: Duration) -> Result<()> {
        let (began, wanted) = (Instant::now(), self.acknowledged() + count);
        while self.acknowledged() < wanted {
            if began.elapsed() > limit {
                let record = self.so_far();
                let last = record.failures.last().map_or("nothing", |failure| failure.message.as_str());
                let (got, limit) = (count + record.acks.len() - wanted, limit.as_secs());
                bail!(
                    "{got} of {count} writes acknowledged within {limit} s; the writer was last told: {last}"
                );
            }
            sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Stops; a write in flight becomes unknown.
    #[must_use]
    pub fn stop(self) -> Record {
        self.task.abort();
        let mut record = locked(&self.record);
        record.stopped = Some(Stamp::now());
        record.clone()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A panic elsewhere does not make a list of ids wrong.
fn locked(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn write_on(options: WriterOptions, record: Arc<Mutex<Record>>) {
    let mut tick = interval(Duration::from_secs(1) / options.writes_per_s.max(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut session: Option<Session> = None;
    let mut id: i64 = 0;
    loop {
        let Some(open) = &session else {
            session = reconnect(&options, &record).await;
            continue;
        };
        tick.tick().await;
        id += 1;
        let statement = format!("INSERT INTO {} (id) VALUES ({id})", options.table);
        // Unknown from the moment it is sent: the task may be stopped while it waits.
        locked(&record).unknown.push(id);
        let failure = match timeout(options.write_limit, open.client.batch_execute(&statement)).await {
            Ok(Ok(())) => {
                let mut record = locked(&record);
                record.unknown.pop();
                record.acks.push(Ack { id, at: Stamp::now() });
                continue;
            }
            Ok(Err(error)) => told(&error),
            Err(_) => format!("no answer within {:.1} s", options.write_limit.as_secs_f64()),
        };
        note(&record, format!("write {id}: {failure}"));
        session = None;
    }
}

async fn reconnect(options: &WriterOptions, record: &Mutex<Record>) -> Option<Session> {
    let failure = match timeout(options.connect_limit, Session::open(&options.address)).await {
        Ok(Ok(session)) => {
            locked(record).connections += 1;
            return Some(session);
        }
        Ok(Err(error)) => told(&error),
        Err(_) => format!("not connected within {:.1} s", options.connect_limit.as_secs_f64()),
    };
    note(record, format!("connect: {failure}"));
    sleep(RETRY_PAUSE).await;
    None
}

fn note(record: &Mutex<Record>, message: String) {
    let mut record = locked(record);
    if record.failures.len() >= ERRORS_MAX {
        // The last one is worth keeping: it tells why the writer is stuck.
        record.failures.pop();
    }
    record.failures.push(Failure { at: Stamp::now(), message });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(ms: &[u64]) -> Record {
        let start = Stamp { instant: Instant::now(), wall_ms: 1_000 };
        let acks = ms
            .iter()
            .zip(1..)
            .map(|(ms, id)| Ack { id, at: start.plus(Duration::from_millis(*ms)) })
            .collect();
        Record { acks, ..Record::default() }
    }

    #[test]
    fn gaps_are_between_acknowledgements() {
        let mut record = record(&[0, 10, 20, 320, 330]);
        assert_eq!(record.longest_gap(), Duration::from_millis(300));
        let kill = record.acks[1].at.plus(Duration::from_millis(5));
        assert_eq!(record.longest_gap_after(kill), Duration::from_millis(300));
        assert_eq!(record.resumed_after(kill).map(|ack| ack.id), Some(4));
        let late = record.acks[4].at;
        assert_eq!(record.longest_gap_after(late), Duration::ZERO);
        assert!(record.resumed_after(late).is_none());
        record.stopped = Some(late.plus(Duration::from_secs(2)));
        assert_eq!(
            record.longest_gap(),
            Duration::from_secs(2),
            "a writer that hangs at the end is not forgotten"
        );
        assert_eq!(Record::default().longest_gap(), Duration::ZERO);
    }

    #[test]
    fn only_acknowledged_ids_can_be_lost() {
        let mut record = record(&[0, 1, 2]);
        record.unknown = vec![4, 5];
        assert_eq!(record.lost(&BTreeSet::from([1, 3, 5])), [2]);
    }

    #[tokio::test]
    async fn a_refused_connection_is_told_and_tried_again() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let writer = Writer::start(WriterOptions::usual(Address::loopback(port)));
        let error = writer.wait_for(1, Duration::from_millis(300)).await.unwrap_err().to_string();
        assert!(error.contains("0 of 1") && error.contains("refused"), "{error}");
        let record = writer.stop();
        assert!(record.acks.is_empty() && record.failures.len() > 5, "{record:?}");
    }
}
