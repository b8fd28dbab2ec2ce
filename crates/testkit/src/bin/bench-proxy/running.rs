//! A pgbench that goes on only in its turns.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::load::Load;
use crate::servers::Proxy;

/// Its first turn: by its end it has connected, and vacuumed where it does so. If not, it would be taken for faster than it is,
/// for its own clock does not count that.
const START: Duration = Duration::from_secs(1);

/// Its logs are called so, and a number.
pub const LOG: &str = "log";

/// See the module. It ends when this is dropped, and with this program.
pub struct Running {
    child: Child,
    pid: Pid,
    /// Its directory: what it says, and its log.
    dir: PathBuf,
    logs: bool,
    /// Since when it stands still.
    stopped: Option<Instant>,
    stood_still: Duration,
}

/// What it did.
pub struct Counted {
    pub transactions: f64,
    /// Of the time in which it went on, without its first connections.
    pub per_second: f64,
    /// Half of them took at most so long, in microseconds.
    pub p50_us: Option<f64>,
}

impl Running {
    /// Has it begin, and stops it. It ends after `limit` seconds, those in which it stands still included.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(load: Load, proxy: &Proxy, database: &str, limit: u32, dir: PathBuf) -> Result<Running> {
        fs::create_dir(&dir)?;
        // A process that stands still hears of nothing but this.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "pgbench", "-h", "127.0.0.1", "-U", "postgres"])
            .args(["-p", &proxy.port.to_string()])
            .args(load.arguments())
            .args(["-T", &limit.to_string(), database])
            .current_dir(&dir)
            .stdin(Stdio::null())
            .stdout(fs::File::create(dir.join("out"))?)
            .stderr(fs::File::create(dir.join("errors"))?)
            .spawn()
            .context("setpriv (of util-linux), by which pgbench is run, cannot be started")?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("it has no number")?;
        let logs = load == Load::OneClient;
        let mut running = Running { child, pid, dir, logs, stopped: None, stood_still: Duration::ZERO };
        running.go_on_for(START);
        Ok(running)
    }

    /// Whether it has done what it had to do.
    pub fn has_ended(&mut self) -> bool {
        // Nobody can say how it is: it is waited for by who asks for its result.
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Lets it go on for so long, and stops it again.
    pub fn go_on_for(&mut self, time: Duration) {
        if self.has_ended() {
            return;
        }
        let _ = kill_process(self.pid, Signal::CONT);
        self.stood_still += self.stopped.take().map_or(Duration::ZERO, |since| since.elapsed());
        std::thread::sleep(time);
        // Its number stays its own until it was waited for.
        if !self.has_ended() {
            let _ = kill_process(self.pid, Signal::STOP);
            self.stopped = Some(Instant::now());
        }
    }

    /// What it did, once it has ended.
    ///
    /// # Errors
    /// It failed, or says something else than expected.
    pub fn result(mut self) -> Result<Counted> {
        let status = self.child.wait()?;
        let told = fs::read_to_string(self.dir.join("out"))?;
        let errors = fs::read_to_string(self.dir.join("errors"))?;
        ensure!(status.success(), "pgbench: {status}: {errors}");
        let transactions: f64 = after_text(&told, "number of transactions actually processed: ")?;
        ensure!(transactions > 0.0, "pgbench did nothing: {told}{errors}");
        let by_its_clock = transactions / after_text(&told, "tps = ")?;
        let went_on = by_its_clock - self.stood_still.as_secs_f64();
        ensure!(went_on > 0.0, "pgbench stood still from its beginning to its end: {told}{errors}");
        let p50_us = if self.logs { Some(p50(&self.dir)?) } else { None };
        Ok(Counted { transactions, per_second: transactions / went_on, p50_us })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // What is left goes with the directory of all.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn after_text(told: &str, name: &str) -> Result<f64> {
    let at = told.find(name).with_context(|| format!("pgbench did not tell {name:?}: {told}"))?;
    let rest = &told[at + name.len()..];
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    Ok(rest[..end].parse()?)
}

/// From pgbench's logs, one line a transaction (pgbench's manual, "Per-Transaction Logging").
fn p50(dir: &Path) -> Result<f64> {
    let mut times = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(LOG)) {
            continue;
        }
        let text = fs::read_to_string(path)?;
        times.extend(text.lines().filter_map(|line| line.split(' ').nth(2)?.parse::<f64>().ok()));
    }
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().context("pgbench logged nothing")
}
