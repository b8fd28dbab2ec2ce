//! Runs the commands, one after the other, beside the agent's loop: whoever hands one in never waits for it.
//!
//! A command runs through /bin/sh in a process group of its own, as the agent's user. When its time is up the whole group
//! is killed. What it printed is bounded and goes into one event of the log.

use super::notice::Happened;
use super::words::Told;
use super::{Hook, Hooks};
use cluster::state::State;
use cluster::{Epoch, NodeName};
use rustix::process::{Pid, Signal, kill_process_group};
use std::io;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

/// Commands that may wait for the one that runs.
pub const WAITING_MAX: usize = 16;
/// How much of a command's output is kept: its end, in bytes.
pub const OUTPUT_BYTES_MAX: usize = 4_096;
/// How long output is waited for after the shell has ended: what it left in the background may hold it open for ever.
const LINGER: Duration = Duration::from_millis(200);
/// How long an agent that ends waits for its last commands.
const FINISH_MAX: Duration = Duration::from_secs(10);

/// One command, ready to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Job {
    hook: Hook,
    epoch: Epoch,
    command: String,
    environment: Vec<(String, String)>,
}

/// How a command ended.
#[derive(Debug)]
struct Ended {
    how: How,
    output: String,
}

#[derive(Debug)]
enum How {
    Exited(ExitStatus),
    TookTooLong,
    NotStarted(io::Error),
}

/// The task that runs them.
#[derive(Debug)]
pub struct Runner {
    hooks: Hooks,
    jobs: mpsc::Sender<Job>,
    /// Those that run or wait.
    left: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Runner {
    /// Starts it.
    #[must_use]
    pub fn start(hooks: Hooks) -> Runner {
        let (jobs, inbox) = mpsc::channel(WAITING_MAX);
        let left = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(run_each(inbox, hooks.timeout, Arc::clone(&left)));
        Runner { hooks, jobs, left, task }
    }

    /// How many commands run or wait.
    #[must_use]
    pub fn at_work(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }

    /// Has the command for what happened run, if there is one. When too many wait it is dropped, and the log says so.
    pub fn tell(&self, happened: &Happened, state: &State, me: &NodeName) {
        let hook = happened.hook();
        let Some(command) = self.hooks.command(hook) else { return };
        let told = Told::of(happened, state, me);
        let (command, environment) = (told.expand(command), told.environment());
        let job = Job { hook, epoch: told.epoch, command, environment };
        // Before it can have ended.
        self.left.fetch_add(1, Ordering::Relaxed);
        if self.jobs.try_send(job).is_err() {
            self.left.fetch_sub(1, Ordering::Relaxed);
            tracing::warn!(
                epoch = told.epoch,
                "hook {hook} is not run for {} of {}: {WAITING_MAX} others wait; make them quicker, or lower hooks.timeout",
                told.event,
                told.subject.map_or_else(|| "a node".to_owned(), |subject| subject.node)
            );
        }
    }

    /// Waits for what is left, but not for long. What still runs then is killed.
    pub async fn finish(self) {
        let Runner { jobs, mut task, .. } = self;
        drop(jobs);
        if timeout(FINISH_MAX, &mut task).await.is_err() {
            tracing::warn!("hooks are not done after {} s, and the agent ends", FINISH_MAX.as_secs());
            task.abort();
            let _ = task.await;
        }
    }
}

async fn run_each(mut inbox: mpsc::Receiver<Job>, limit: Duration, left: Arc<AtomicUsize>) {
    while let Some(job) = inbox.recv().await {
        let began = Instant::now();
        let ended = execute(&job, limit).await;
        log(&job, &ended, began.elapsed(), limit);
        left.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One event for one command.
fn log(job: &Job, ended: &Ended, took: Duration, limit: Duration) {
    let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let (hook, epoch, output) = (job.hook, job.epoch, ended.output.as_str());
    match &ended.how {
        How::Exited(status) if status.success() => {
            tracing::info!(epoch, took_ms, output, "hook {hook} was run");
        }
        How::Exited(status) => tracing::warn!(epoch, took_ms, output, "hook {hook} failed: {status}"),
        How::TookTooLong => tracing::warn!(
            epoch,
            took_ms,
            output,
            "hook {hook} was killed after {} s (hooks.timeout)",
            limit.as_secs_f64()
        ),
        How::NotStarted(e) => tracing::warn!(epoch, "hook {hook} cannot be started: {e}"),
    }
}

/// The process group of a command; killed when this goes before the command has ended.
struct Group(Option<Pid>);

impl Group {
    fn kill(&mut self) {
        if let Some(group) = self.0.take() {
            // It may have ended by itself.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn execute(job: &Job, limit: Duration) -> Ended {
    execute_in_time(job, limit)
        .await
        .unwrap_or_else(|e| Ended { how: How::NotStarted(e), output: String::new() })
}

/// An error means that nothing was started.
async fn execute_in_time(job: &Job, limit: Duration) -> io::Result<Ended> {
    // One pipe for both, so that the lines keep their order.
    let (reader, writer) = io::pipe()?;
    let mut reader = pipe::Receiver::from_owned_fd(reader.into())?;
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(&job.command).envs(job.environment.iter().cloned()).current_dir("/");
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.process_group(0).kill_on_drop(true).spawn()?;
    // It holds the writing ends: without them the end of the output can be seen.
    drop(command);
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
    let mut tail = Tail::default();
    let ended = {
        let reading = tail.read_all(&mut reader);
        tokio::pin!(reading);
        let end = Instant::now() + limit;
        let mut read = false;
        let status = loop {
            tokio::select! {
                status = child.wait() => break Some(status),
                () = &mut reading, if !read => read = true,
                () = sleep_until(end) => break None,
            }
        };
        let how = match status {
            Some(Ok(status)) => {
                // What it left in the background goes on, as with any shell.
                group.0 = None;
                How::Exited(status)
            }
            // It cannot be waited for: nothing more is known of it.
            Some(Err(_)) | None => {
                group.kill();
                let _ = child.wait().await;
                How::TookTooLong
            }
        };
        if !read {
            let _ = timeout(LINGER, &mut reading).await;
        }
        how
    };
    Ok(Ended { how: ended, output: tail.text() })
}

/// The end of what was printed.
#[derive(Debug, Default)]
struct Tail {
    bytes: Vec<u8>,
    left_out: usize,
}

impl Tail {
    async fn read_all(&mut self, from: &mut pipe::Receiver) {
        let mut buffer = [0; 4096];
        while let Ok(count) = from.read(&mut buffer).await {
            match buffer.get(..count) {
                Some(read) if !read.is_empty() => self.push(read),
                _ => return,
            }
        }
    }

    fn push(&mut self, read: &[u8]) {
        self.bytes.extend_from_slice(read);
        let surplus = self.bytes.len().saturating_sub(OUTPUT_BYTES_MAX);
        self.bytes.drain(..surplus);
        self.left_out += surplus;
    }

    fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        match self.left_out {
            0 => text.trim_end().to_owned(),
            left_out => format!("({left_out} bytes before) {}", text.trim_end()),
        }
    }
}

#[cfg(test)]
mod tests;
