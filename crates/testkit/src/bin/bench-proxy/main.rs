//! `make bench-proxy`: the pooled mode beside PgBouncer, in one run, in turns, in front of one PostgreSQL: transactions per
//! second, processor time per transaction of the proxy, latency with one client, new connections, memory of idle clients.
//! `--rounds N` for another number than five, `--seconds N` for another length of each measurement than four, `--json`.
//!
//! PgBouncer is what is installed, and what the variable PGBOUNCER names, if it is set: compared is with that.

mod idle;
mod load;
mod servers;

use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use load::{Load, Measured, measure};
use pgkeel::cli::text::columns;
use serde::Serialize;
use servers::Postgres;

const ROUNDS_DEFAULT: usize = 5;
const SECONDS_DEFAULT: u32 = 4;

/// A pool is so large.
pub const POOL: usize = 16;

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

#[derive(Debug, Serialize)]
struct Report {
    rounds: usize,
    rows: Vec<Row>,
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

fn arguments(mut given: impl Iterator<Item = String>) -> Result<Arguments> {
    let mut arguments = Arguments { rounds: ROUNDS_DEFAULT, seconds: SECONDS_DEFAULT, json: false };
    while let Some(word) = given.next() {
        let mut number = || -> Result<u32> {
            let number = given.next().with_context(|| format!("{word} needs a number"))?.parse()?;
            ensure!((1..=100).contains(&number), "{word} {number}: from 1 to 100");
            Ok(number)
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
    let postgres = Postgres::start()?;
    let proxies = servers::proxies(&postgres)?;
    let loads =
        [Load::Simple, Load::Extended, Load::Prepared, Load::TpcB, Load::OneClient, Load::Connections];
    let mut measured: Vec<Vec<Vec<Measured>>> = vec![vec![Vec::new(); proxies.len()]; loads.len()];
    for round in 1..=arguments.rounds {
        for (of_load, load) in measured.iter_mut().zip(loads) {
            let mut turns: Vec<_> = of_load.iter_mut().zip(&proxies).filter(|(_, p)| p.can(load)).collect();
            // Nobody always comes after the same one, and has what that one left to be done.
            if round % 2 == 0 {
                turns.reverse();
            }
            for (of_proxy, proxy) in turns {
                of_proxy.push(measure(load, proxy, arguments.seconds)?);
            }
        }
        eprintln!("round {round} of {}", arguments.rounds);
    }
    let mut rows = Vec::new();
    for (of_load, load) in measured.into_iter().zip(loads) {
        for (rounds, proxy) in of_load.into_iter().zip(&proxies).filter(|(rounds, _)| !rounds.is_empty()) {
            rows.push(Row {
                load: load.name(),
                proxy: proxy.name.clone(),
                median: Measured::median(&rounds),
            });
        }
    }
    let mut idle = Vec::new();
    for proxy in &proxies {
        idle.push(idle::look(proxy)?);
    }
    let report = Report { rounds: arguments.rounds, rows, idle };
    match arguments.json {
        true => println!("{}", serde_json::to_string_pretty(&report)?),
        false => print(&report),
    }
    Ok(())
}

/// Tables: each load, its proxies, and what pgkeel is against the last PgBouncer.
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
    for of_load in report.rows.chunk_by(|one, next| one.load == next.load) {
        let [.., rival, own] = of_load else { continue };
        let (cpu, speed) =
            (own.median.cpu_us / rival.median.cpu_us, own.median.per_second / rival.median.per_second);
        println!("{}: CPU {cpu:.2} x, throughput {speed:.2} x of {}", own.load, rival.proxy);
    }
    for idle in &report.idle {
        println!("{}: {} bytes for each of {} idle clients", idle.proxy, idle.bytes_per_client, idle.clients);
    }
}
