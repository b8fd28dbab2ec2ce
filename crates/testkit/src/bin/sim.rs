//! `sim --time SECONDS`: simulates clusters, one seed after another, for so long. `sim --seed N`: replays one seed and
//! tells its story. `sim --runs N [--from SEED]`: so many seeds, for comparisons.

use anyhow::{Context, Result, bail};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use testkit::sim::{Report, Trace, run};

struct Asked {
    time: Option<Duration>,
    runs: Option<u64>,
    seed: Option<u64>,
    from: u64,
}

fn main() -> ExitCode {
    match arguments().and_then(|asked| simulate(&asked)) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("sim: {e:#}");
            ExitCode::from(2)
        }
    }
}

fn arguments() -> Result<Asked> {
    let mut asked = Asked { time: None, runs: None, seed: None, from: 1 };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().with_context(|| format!("{word} needs a number"))?;
        let number: u64 = value.parse().with_context(|| format!("{word} {value}: not a whole number"))?;
        match word.as_str() {
            "--time" => asked.time = Some(Duration::from_secs(number)),
            "--runs" => asked.runs = Some(number),
            "--seed" => asked.seed = Some(number),
            "--from" => asked.from = number,
            other => bail!("{other}: known are --time SECONDS, --runs N, --from SEED, --seed N"),
        }
    }
    Ok(asked)
}

fn simulate(asked: &Asked) -> Result<ExitCode> {
    if let Some(seed) = asked.seed {
        let report = run(seed, Trace::Print);
        println!("{report}");
        return Ok(verdict(seed, &report));
    }
    let began = Instant::now();
    let mut sum = Report::default();
    let mut runs = 0;
    let enough = |runs: u64| match (asked.runs, asked.time) {
        (Some(max), _) => runs >= max,
        (None, Some(limit)) => began.elapsed() >= limit,
        (None, None) => runs >= 100,
    };
    while !enough(runs) {
        let seed = asked.from + runs;
        let report = run(seed, Trace::Off);
        runs += 1;
        sum.add(&report);
        if report.violation.is_some() {
            println!("{runs} runs in {:.1} s: {sum}", began.elapsed().as_secs_f64());
            return Ok(verdict(seed, &report));
        }
    }
    println!("{runs} runs in {:.1} s, every invariant held: {sum}", began.elapsed().as_secs_f64());
    Ok(ExitCode::SUCCESS)
}

fn verdict(seed: u64, report: &Report) -> ExitCode {
    match &report.violation {
        None => ExitCode::SUCCESS,
        Some(violation) => {
            println!("seed {seed}: {violation}");
            println!("replay it: make sim SEED={seed}");
            ExitCode::FAILURE
        }
    }
}
