//! `make bench`: how long a client waits for its next write when the primary is lost or replaced in order, what that
//! time is spent on, and what an idle node costs. With `--json` for programs; `--kills N` for another number of kills than
//! five, `--switchovers N` for another number than ten, `--busy` for kills while the processor is taken by others.

mod switchover;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use cluster::status::Status;
use pgkeel::demo::cluster::LocalNode;
use pgkeel::demo::failover;
use pgkeel::demo::processes::{self, Usage};
use pgkeel::demo::stamp::Stamp;
use pgkeel::demo::writer::Writer;
use testkit::lab::busy::BusyLoops;
use testkit::lab::{Lab, LabOptions, SETTLE_LIMIT, SHORT_LIMIT};
use testkit::measure::{Idle, Kill, Report, Row, Series, Target, idle_table};
use tokio::time::sleep;

const KILLS_DEFAULT: usize = 5;
const SWITCHOVERS_DEFAULT: usize = 10;
/// Idle nodes are watched for so long, after so long a rest.
const IDLE_TIME: Duration = Duration::from_secs(10);
const REST: Duration = Duration::from_secs(5);
/// Writes before each kill and after each recovery.
const WRITES: usize = 100;
/// USER_HZ of include/uapi/asm-generic/param.h: the unit of processor time in /proc.
const TICKS_PER_S: f64 = 100.0;

const SERVER_TARGET: Target = Target { median_ms: 300, worst_ms: Some(800) };
/// How many times longer it may take when the processor is taken by others.
const BUSY_FACTOR: u64 = 2;
/// The loops end by themselves after this.
const BUSY_LIMIT: Duration = Duration::from_secs(1800);
const HOST_TARGET: Target = Target { median_ms: 2_000, worst_ms: Some(3_000) };
/// The old lease has to end first.
const HOST_ASYNC_TARGET: Target = Target { median_ms: 3_000, worst_ms: Some(4_000) };
const SWITCHOVER_TARGET: Target = Target { median_ms: 300, worst_ms: None };

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    /// The postmaster and its children.
    Server,
    /// Agent, guard, postmaster and its children.
    Host,
}

struct Arguments {
    json: bool,
    kills: usize,
    switchovers: usize,
    busy: bool,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments = arguments(std::env::args().skip(1))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let report = runtime.block_on(measure(&arguments))?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    }
    Ok(())
}

fn arguments(mut given: impl Iterator<Item = String>) -> Result<Arguments> {
    let mut arguments =
        Arguments { json: false, kills: KILLS_DEFAULT, switchovers: SWITCHOVERS_DEFAULT, busy: false };
    let number = |word: &str, given: Option<String>| -> Result<usize> {
        let number = given.with_context(|| format!("{word} needs a number"))?.parse()?;
        ensure!(number <= 100, "{word} {number}: from 0 to 100");
        Ok(number)
    };
    while let Some(word) = given.next() {
        match word.as_str() {
            "--json" => arguments.json = true,
            "--busy" => arguments.busy = true,
            "--kills" => arguments.kills = number(&word, given.next())?,
            "--switchovers" => arguments.switchovers = number(&word, given.next())?,
            other => bail!("{other} is not known here; known: --json, --kills N, --switchovers N, --busy"),
        }
    }
    Ok(arguments)
}

async fn measure(arguments: &Arguments) -> Result<Report> {
    let idle = on_a_cluster(LabOptions::quorum(), async |lab| watch_idle(lab).await).await?;
    if !arguments.json {
        println!("{}", idle_table(&idle));
    }
    let plan = [
        ("(a) postmaster killed, quorum", LabOptions::quorum(), Victim::Server, Some(SERVER_TARGET)),
        ("(b) host lost, quorum", LabOptions::quorum(), Victim::Host, Some(HOST_TARGET)),
        ("(c) postmaster killed, async", LabOptions::asynchronous(), Victim::Server, Some(SERVER_TARGET)),
        ("(d) host lost, async", LabOptions::asynchronous(), Victim::Host, Some(HOST_ASYNC_TARGET)),
    ];
    let mut failovers = Vec::new();
    for (name, options, victim, target) in plan.into_iter().filter(|_| arguments.kills > 0) {
        let rows = on_a_cluster(options, async |lab| kill_again(lab, victim, arguments).await).await?;
        let (name, target) =
            if arguments.busy { under_load(name, target) } else { (name.to_owned(), target) };
        failovers.push(told(arguments, Series { name, target, rows }));
    }
    let mut switchovers = Vec::new();
    for (name, options) in [
        ("(e) switchover under pgbench -c 8, quorum", LabOptions::quorum()),
        ("(f) switchover under pgbench -c 8, async", LabOptions::asynchronous()),
    ] {
        if arguments.switchovers > 0 {
            let work = async |lab: &mut Lab| switchover::again(lab, arguments.switchovers).await;
            let rows = on_a_cluster(options, work).await?;
            let target = Some(SWITCHOVER_TARGET);
            switchovers.push(told(arguments, Series { name: name.to_owned(), target, rows }));
        }
    }
    Ok(Report { failovers, switchovers, idle })
}

fn under_load(name: &str, target: Option<Target>) -> (String, Option<Target>) {
    let slower = |target: Target| Target {
        median_ms: BUSY_FACTOR * target.median_ms,
        worst_ms: target.worst_ms.map(|ms| BUSY_FACTOR * ms),
    };
    (format!("{name}, beside {} busy loops", BusyLoops::MANY), target.map(slower))
}

fn told<R: Row>(arguments: &Arguments, series: Series<R>) -> Series<R> {
    if !arguments.json {
        println!("{}", series.table());
    }
    series
}

/// Builds a cluster, measures, and takes it down; shows the logs when something went wrong.
async fn on_a_cluster<T>(options: LabOptions, work: impl AsyncFnOnce(&mut Lab) -> Result<T>) -> Result<T> {
    let mut lab = Lab::create(options)?;
    let outcome = work(&mut lab).await;
    if outcome.is_err() {
        eprintln!("{}", lab.cluster.tails());
    }
    lab.cluster.stop().await;
    outcome
}

async fn kill_again(lab: &mut Lab, victim: Victim, arguments: &Arguments) -> Result<Vec<Kill>> {
    let mut status = lab.up().await?;
    let writer = lab.writer().await?;
    let _load = arguments.busy.then(|| BusyLoops::start(BusyLoops::MANY, BUSY_LIMIT));
    let mut measured = Vec::new();
    for _ in 0..arguments.kills {
        writer.wait_for(WRITES, SHORT_LIMIT).await?;
        let (node, epoch, lost) = (lab.primary(&status)?, status.epoch, status.primary.clone());
        let killed = match victim {
            Victim::Server => lab.cluster.kill_server(node)?,
            Victim::Host => lab.cluster.kill_host(node)?,
        };
        // A killed server may be up again first, and then the best candidate; a lost host cannot.
        let takes_over = |now: &Status| {
            let other = now.primary != lost || victim == Victim::Server;
            now.epoch > epoch && now.primary.is_some() && other
        };
        lab.cluster.wait_until("a new epoch has a primary", SETTLE_LIMIT, takes_over).await?;
        writer.wait_for(WRITES, SHORT_LIMIT).await?;
        if victim == Victim::Host {
            lab.cluster.start_node(node)?;
        }
        status = lab.cluster.wait_settled(epoch, SETTLE_LIMIT).await?;
        measured.push(read(lab, &writer, killed, status.epoch).await?);
    }
    let record = writer.stop();
    // Asynchronous replication promises no more than its bound.
    let quorum = matches!(lab.cluster.options.mode, pgkeel::demo::layout::Mode::Quorum(_));
    if quorum {
        lab.nothing_lost(&record).await?;
    }
    Ok(measured)
}

/// What the last kill cost the client, and on what the time was spent.
async fn read(lab: &Lab, writer: &Writer, killed: Stamp, epoch: u64) -> Result<Kill> {
    let record = writer.so_far();
    let first_write = record.resumed_after(killed).context("no write after the kill")?.at.wall_ms;
    let history = lab.cluster.why().await?;
    let change =
        failover::find(&history, epoch).context("the history does not have the change of primary")?;
    let split = change.split(killed.wall_ms, first_write).context("the change of primary is not finished")?;
    Ok(Kill::new(record.longest_gap_after(killed), split))
}

async fn watch_idle(lab: &mut Lab) -> Result<Vec<Idle>> {
    let status = lab.up().await?;
    let primary = lab.primary(&status)?;
    sleep(REST).await;
    let before: Vec<Usage> = lab.cluster.nodes.iter().map(usage).collect();
    sleep(IDLE_TIME).await;
    let after: Vec<Usage> = lab.cluster.nodes.iter().map(usage).collect();
    let idle = lab.cluster.nodes.iter().enumerate().zip(before.iter().zip(&after)).map(
        |((number, node), (a, b))| {
            let ticks = b.cpu_ticks.saturating_sub(a.cpu_ticks) as f64;
            Idle {
                node: node.place.name.clone(),
                role: if number == primary { "primary" } else { "standby" }.to_owned(),
                memory_mib: b.resident_bytes as f64 / f64::from(1 << 20),
                cpu_percent: 100.0 * ticks / TICKS_PER_S / IDLE_TIME.as_secs_f64(),
            }
        },
    );
    Ok(idle.collect())
}

fn usage(node: &LocalNode) -> Usage {
    let pids: Vec<i32> = node.agent().into_iter().chain(node.guard()).collect();
    processes::usage(&pids)
}
