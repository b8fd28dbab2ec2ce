//! `make bench-proxy`: the pooled mode beside PgBouncer, in one run, in slices of time that alternate, in front of one PostgreSQL:
//! transactions per second, processor time per transaction of the proxy, latency with one client, new connections, memory of
//! idle clients.
//! `--rounds N` for another number than five, `--seconds N` for another length of each measurement than four, `--json`.
//!
//! PgBouncer is what is installed, and what the variable PGBOUNCER names, if it is set: compared is with that.

mod idle;
mod load;
mod running;
mod servers;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use load::{Load, Measured, measure};
use pgkeel::cli::text::columns;
use serde::Serialize;
use servers::{Postgres, Proxy};
use tokio::signal::unix::{SignalKind, signal};

const ROUNDS_DEFAULT: usize = 5;
const SECONDS_DEFAULT: u32 = 4;

/// A pool is so large.
pub const POOL: usize = 16;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

struct Arguments {
    rounds: usize,
    seconds: u32,
    json: bool,
}

/// One load on one proxy: the medians of all rounds.
#[derive(Debug, Serialize)]
struct Row {
    load: &'static str,
    proxy: String,
    #[serde(flatten)]
    median: Measured,
}

/// pgkeel as multiples of the last PgBouncer: of each figure the median of the rounds' ratios, in which both were measured at the
/// same time.
#[derive(Debug, Serialize)]
struct Against {
    load: &'static str,
    rival: String,
    #[serde(flatten)]
    ratio: Measured,
}

#[derive(Debug, Serialize)]
struct Report {
    rounds: usize,
    rows: Vec<Row>,
    against: Vec<Against>,
    idle: Vec<idle::Idle>,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-proxy: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// From now on Ctrl-C, and what services are ended by, ends the measurement in order.
fn heed_interrupts() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut interrupt, mut end) = {
        let _of_runtime = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = end.recv() => {}
            }
        });
        INTERRUPTED.store(true, Ordering::SeqCst);
    });
    Ok(())
}

/// Whether it is to end.
pub fn is_interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

fn arguments(mut given: impl Iterator<Item = String>) -> Result<Arguments> {
    let mut arguments = Arguments { rounds: ROUNDS_DEFAULT, seconds: SECONDS_DEFAULT, json: false };
    while let Some(word) = given.next() {
        let mut number = || -> Result<u32> {
            let said = given.next().with_context(|| format!("{word} needs a number"))?;
            let number = said.parse().ok().filter(|number| (1..=100).contains(number));
            number.with_context(|| format!("{word} {said}: a number from 1 to 100 is needed"))
        };
        match word.as_str() {
            "--rounds" => arguments.rounds = usize::try_from(number()?)?,
            "--seconds" => arguments.seconds = number()?,
            "--json" => arguments.json = true,
            other => bail!("{other} is not known here; known: --rounds N, --seconds N, --json"),
        }
    }
    Ok(arguments)
}

fn run() -> Result<()> {
    let arguments = arguments(std::env::args().skip(1))?;
    heed_interrupts()?;
    let rivals = servers::rivals()?;
    let postgres = Postgres::start(rivals.len() + 1)?;
    let proxies = servers::proxies(&rivals, &postgres)?;
    let loads =
        [Load::Simple, Load::Extended, Load::Prepared, Load::TpcB, Load::OneClient, Load::Connections];
    let mut measured: Vec<Vec<Vec<Measured>>> = vec![vec![Vec::new(); proxies.len()]; loads.len()];
    for round in 1..=arguments.rounds {
        for (of_load, load) in measured.iter_mut().zip(loads) {
            eprintln!("round {round} of {}: {}", arguments.rounds, load.name());
            let able: Vec<usize> = (0..proxies.len()).filter(|at| proxies[*at].can(load)).collect();
            let these: Vec<&Proxy> = able.iter().map(|at| &proxies[*at]).collect();
            let measured = measure(load, &these, round, arguments.seconds, postgres.dir())?;
            for (at, measured) in able.into_iter().zip(measured) {
                of_load[at].push(measured);
            }
        }
    }
    let (mut rows, mut against) = (Vec::new(), Vec::new());
    for (of_load, load) in measured.into_iter().zip(loads) {
        let all: Vec<_> = of_load.iter().zip(&proxies).filter(|(rounds, _)| !rounds.is_empty()).collect();
        for (rounds, proxy) in &all {
            let (proxy, median) = (proxy.name.clone(), Measured::median(rounds));
            rows.push(Row { load: load.name(), proxy, median });
        }
        if let [.., (rival_rounds, rival), (own_rounds, _)] = all.as_slice() {
            let ratios: Vec<Measured> =
                own_rounds.iter().zip(*rival_rounds).map(|(own, rival)| own.against(rival)).collect();
            let (rival, ratio) = (rival.name.clone(), Measured::median(&ratios));
            against.push(Against { load: load.name(), rival, ratio });
        }
    }
    let mut idle = Vec::new();
    for proxy in &proxies {
        eprintln!("idle clients: {}", proxy.name);
        idle.push(idle::look(proxy)?);
    }
    let report = Report { rounds: arguments.rounds, rows, against, idle };
    match arguments.json {
        true => println!("{}", serde_json::to_string_pretty(&report)?),
        false => print(&report),
    }
    Ok(())
}

/// Tables: each load, its proxies, and what pgkeel is against the last PgBouncer; then memory.
fn print(report: &Report) {
    println!(
        "pgbench -c 32 (unless said) on one server, pool of {POOL}; medians of {} rounds",
        report.rounds
    );
    let titles = ["load", "proxy", "tx/s", "µs of CPU/tx", "p50 µs"].map(str::to_owned).to_vec();
    let mut table = vec![titles];
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
    for row in &report.rows {
        table.push(vec![
            row.load.to_owned(),
            row.proxy.clone(),
            format!("{:.0}", row.median.per_second),
            format!("{:.1}", row.median.cpu_us),
            number(row.median.p50_us),
        ]);
    }
    println!("{}", columns(&table).join("\n"));
    for Against { load, rival, ratio } in &report.against {
        let p50 = ratio.p50_us.map_or_else(String::new, |p50| format!(", p50 {p50:.2} x"));
        println!("{load}: CPU {:.2} x, throughput {:.2} x{p50} of {rival}", ratio.cpu_us, ratio.per_second);
    }
    for idle in &report.idle {
        println!("{}: {} bytes for each of {} idle clients", idle.proxy, idle.bytes_per_client, idle.clients);
    }
}
