//! The client of the survey of old cluster programs: once a second a new connection, which must be there within a
//! second, one INSERT, and a line that says SUCCESS or ERROR.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use pgkeel::demo::session::{Address, Session, told};
use pgkeel::demo::stamp::Stamp;
use tokio::sync::OwnedMutexGuard;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::SHORT_LIMIT;

/// How such a client behaves.
#[derive(Clone, Debug)]
pub struct SurveyOptions {
    /// Through the proxy.
    pub address: Address,
    /// The table it writes to, made by `pgkeel::demo::writer::make_table`.
    pub table: String,
    /// The first id it writes; its ids are nobody else's.
    pub first_id: i64,
    /// From one attempt to the next.
    pub period: Duration,
    /// For a connection, from the first packet until the server is ready.
    pub connect_limit: Duration,
}

/// One attempt.
#[derive(Clone, Debug)]
pub struct Line {
    /// When it began.
    pub began: Instant,
    /// When it ended.
    pub ended: Instant,
    /// The id it wanted to write.
    pub id: i64,
    /// What it was told instead of success.
    pub error: Option<String>,
}

/// A running client; ends when dropped.
#[derive(Debug)]
pub struct Survey {
    name: &'static str,
    lines: Arc<Mutex<Vec<Line>>>,
    /// Held by an attempt, and by who wants none to be under way.
    gate: Arc<Gate>,
    task: JoinHandle<()>,
}

type Gate = tokio::sync::Mutex<()>;

/// What a client has seen.
#[derive(Clone, Debug)]
pub struct Lines {
    /// Which client.
    pub name: &'static str,
    /// Its attempts.
    pub all: Vec<Line>,
}

impl Survey {
    /// Starts it.
    #[must_use]
    pub fn start(name: &'static str, options: SurveyOptions) -> Survey {
        let (lines, gate) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Gate::default()));
        let task = tokio::spawn(ask_again_and_again(options, Arc::clone(&lines), Arc::clone(&gate)));
        Survey { name, lines, gate, task }
    }

    /// What it has seen so far.
    #[must_use]
    pub fn so_far(&self) -> Lines {
        Lines { name: self.name, all: locked(&self.lines).clone() }
    }

    /// Waits until nothing of this client is on its way, and lets it begin nothing until the answer is dropped.
    ///
    /// # Errors
    /// When it hangs.
    pub async fn hush(&self) -> Result<OwnedMutexGuard<()>> {
        let hushed = timeout(SHORT_LIMIT, Arc::clone(&self.gate).lock_owned()).await;
        hushed.with_context(|| format!("the client {} hangs since {} s", self.name, SHORT_LIMIT.as_secs()))
    }

    /// Waits for so many more lines.
    ///
    /// # Errors
    /// When none comes for long.
    pub async fn lines(&self, count: usize) -> Result<()> {
        let (mut since, mut seen) = (Instant::now(), locked(&self.lines).len());
        let wanted = seen + count;
        while seen < wanted {
            let lines = locked(&self.lines).len();
            if lines > seen {
                (since, seen) = (Instant::now(), lines);
            } else if since.elapsed() > SHORT_LIMIT {
                bail!("the client {} hangs since {} s", self.name, SHORT_LIMIT.as_secs());
            }
            sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Waits for a line of success.
    ///
    /// # Errors
    /// When none comes.
    pub async fn success(&self) -> Result<()> {
        let began = Instant::now();
        loop {
            self.lines(1).await?;
            let last = locked(&self.lines).last().and_then(|line| line.error.clone());
            match last {
                None => return Ok(()),
                Some(error) if began.elapsed() > SHORT_LIMIT => bail!("the client {}: {error}", self.name),
                Some(_) => {}
            }
        }
    }
}

impl Drop for Survey {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Lines {
    /// The lines that ended after `moment`, and the line of success before them, from which an outage is measured.
    #[must_use]
    pub fn since(&self, moment: Stamp) -> Lines {
        let later = self.all.partition_point(|line| line.ended < moment.instant);
        let before = self.all[..later].last().filter(|line| line.error.is_none());
        let all = before.into_iter().chain(&self.all[later..]).cloned().collect();
        Lines { name: self.name, all }
    }

    /// The lines of ERROR.
    #[must_use]
    pub fn errors(&self) -> Vec<&Line> {
        self.all.iter().filter(|line| line.error.is_some()).collect()
    }

    /// What they say.
    #[must_use]
    pub fn messages(&self) -> Vec<&str> {
        self.all.iter().filter_map(|line| line.error.as_deref()).collect()
    }

    /// The longest time from one line of success to the next.
    #[must_use]
    pub fn longest_outage(&self) -> Duration {
        let successes: Vec<Instant> =
            self.all.iter().filter(|line| line.error.is_none()).map(|line| line.ended).collect();
        successes.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// Ids of the lines of success.
    pub fn acknowledged(&self) -> impl Iterator<Item = i64> + '_ {
        self.all.iter().filter(|line| line.error.is_none()).map(|line| line.id)
    }

    /// Ids that were sent and not acknowledged: they may be there.
    pub fn unknown(&self) -> impl Iterator<Item = i64> + '_ {
        let sent = |line: &&Line| line.error.as_ref().is_some_and(|error| error.starts_with(SENT));
        self.all.iter().filter(sent).map(|line| line.id)
    }

    /// In a few words.
    #[must_use]
    pub fn summary(&self) -> String {
        format!(
            "{}: {} lines, {} ERROR, longest time between two SUCCESS {:.2} s",
            self.name,
            self.all.len(),
            self.errors().len(),
            self.longest_outage().as_secs_f64()
        )
    }
}

async fn ask_again_and_again(options: SurveyOptions, lines: Arc<Mutex<Vec<Line>>>, gate: Arc<Gate>) {
    let mut tick = interval(options.period);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for id in options.first_id.. {
        tick.tick().await;
        let _passed = gate.lock().await;
        let began = Instant::now();
        let error = attempt(&options, id).await.err();
        locked(&lines).push(Line { began, ended: Instant::now(), id, error });
    }
}

async fn attempt(options: &SurveyOptions, id: i64) -> Result<(), String> {
    let limit = options.connect_limit;
    let session = match timeout(limit, Session::open(&options.address)).await {
        Ok(session) => session.map_err(|error| format!("connect: {}", told(&error)))?,
        Err(_) => return Err(format!("{NOT_CONNECTED} {:.1} s", limit.as_secs_f64())),
    };
    let statement = format!("INSERT INTO {} (id) VALUES ({id})", options.table);
    // The survey's client had no limit here: a statement that waits is no error.
    match timeout(SHORT_LIMIT, session.client.batch_execute(&statement)).await {
        Ok(answer) => answer.map_err(|error| format!("{SENT} {}", told(&error))),
        Err(_) => Err(format!("{SENT} no answer")),
    }
}

/// How the message of a client that gave up begins.
pub const NOT_CONNECTED: &str = "not connected within";

/// How the message of a statement begins that may have been done.
const SENT: &str = "INSERT:";

fn locked(lines: &Mutex<Vec<Line>>) -> MutexGuard<'_, Vec<Line>> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}
