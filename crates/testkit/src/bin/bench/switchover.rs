//! The primary changes by command, again and again, while pgbench and the steady writer work through the proxy. Any
//! error of any client ends the benchmark: none is allowed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use pgkeel::demo::session::Address;
use pgkeel::demo::stamp::Stamp;
use testkit::lab::{Lab, SETTLE_LIMIT, SHORT_LIMIT};
use testkit::measure::{Change, Steps};
use tokio::time::sleep;

/// pgbench runs so long in each round; the order is given after [`LEAD`].
const LOAD: Duration = Duration::from_secs(8);
const LEAD: Duration = Duration::from_secs(2);
const CLIENTS: &str = "8";

pub async fn again(lab: &mut Lab, rounds: usize) -> Result<Vec<Change>> {
    let mut status = lab.up().await?;
    let address = lab.cluster.proxy_address()?;
    let load = Load::prepare(address)?;
    let writer = lab.writer().await?;
    let mut measured = Vec::new();
    for round in 1..=rounds {
        let running = load.start(round)?;
        sleep(LEAD).await;
        let ordered = Stamp::now();
        let said = lab.pgkeel(0, &["switchover", "--yes"])?;
        ensure!(said.status.success(), "round {round}: {}", String::from_utf8_lossy(&said.stderr));
        let longest = running.end().await.with_context(|| format!("round {round}"))?;
        status = lab.cluster.wait_settled(status.epoch, SETTLE_LIMIT).await?;
        let record = writer.so_far();
        let failed = record.failures.first().map(|failure| failure.message.clone());
        ensure!(
            failed.is_none(),
            "round {round}: the steady writer was told: {}",
            failed.unwrap_or_default()
        );
        let history = lab.cluster.why().await?;
        let steps = Steps::of(&history, status.epoch).context("the history does not tell the switchover")?;
        measured.push(Change::new(record.longest_gap_after(ordered), longest, steps));
        writer.wait_for(100, SHORT_LIMIT).await?;
    }
    lab.nothing_lost(&writer.stop()).await?;
    Ok(measured)
}

/// pgbench's tables, and where it writes its logs.
struct Load {
    address: Address,
    logs: PathBuf,
}

/// A pgbench at work.
struct Running {
    child: Child,
    began: Instant,
    logs: PathBuf,
    prefix: String,
}

impl Load {
    fn prepare(address: Address) -> Result<Load> {
        let logs = std::env::temp_dir().join(format!("pgkeel-bench-{}", std::process::id()));
        fs::create_dir_all(&logs)?;
        let load = Load { address, logs };
        let output = load.pgbench(&["-i", "-q", "-s", "10"]).output().context("pgbench cannot be started")?;
        ensure!(output.status.success(), "pgbench -i: {}", String::from_utf8_lossy(&output.stderr));
        Ok(load)
    }

    fn pgbench(&self, args: &[&str]) -> Command {
        let mut command = Command::new("pgbench");
        command.args(["-h", &self.address.host, "-p", &self.address.port.to_string(), "-U", "postgres"]);
        command.args(args).arg("postgres").current_dir(&self.logs);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn start(&self, round: usize) -> Result<Running> {
        let (prefix, seconds) = (format!("round{round}"), LOAD.as_secs().to_string());
        let args = ["-n", "-c", CLIENTS, "-j", "2", "-T", &seconds, "-l", "--log-prefix", &prefix];
        let child = self.pgbench(&args).spawn().context("pgbench cannot be started")?;
        Ok(Running { child, began: Instant::now(), logs: self.logs.clone(), prefix })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.logs);
    }
}

impl Running {
    /// Waits for its end, and gives its longest transaction. Without an error, or it is one.
    async fn end(mut self) -> Result<Duration> {
        // What follows the order must still be under load, or the round says nothing.
        ensure!(self.child.try_wait()?.is_none(), "pgbench had ended before the switchover had");
        while self.child.try_wait()?.is_none() {
            if self.began.elapsed() > LOAD + SHORT_LIMIT {
                self.child.kill()?;
                bail!("pgbench does not end");
            }
            sleep(Duration::from_millis(50)).await;
        }
        let output = self.child.wait_with_output()?;
        let told = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        let clean = output.status.success() && told.contains("number of failed transactions: 0 (0.000%)");
        ensure!(clean && !told.contains("error"), "pgbench -c {CLIENTS}: {told}");
        longest_transaction(&self.logs, &self.prefix)
    }
}

/// From pgbench's logs, one line a transaction (pgbench's manual, "Per-Transaction Logging"): client, number, microseconds.
fn longest_transaction(logs: &Path, prefix: &str) -> Result<Duration> {
    let mut longest = None;
    for entry in fs::read_dir(logs)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.')) {
            let text = fs::read_to_string(&path)?;
            let times = text.lines().filter_map(|line| line.split(' ').nth(2)?.parse::<u64>().ok());
            longest = longest.max(times.max());
        }
    }
    longest.map(Duration::from_micros).context("pgbench logged no transaction")
}
