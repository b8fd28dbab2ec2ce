//! `sim --time SECONDS`: simulates clusters on all cores for so long, from a random seed on. `sim --runs N --from SEED`:
//! so many seeds, for comparisons. `sim --seed N [--skip 3,7]`: replays one seed, without some of its faults, and tells
//! its story. A seed that fails is cut down to the faults that it needs.

use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use testkit::sim::{Report, Trace, recorded_seeds, run, run_without, shrink};

#[derive(Default)]
struct Asked {
    time: Option<Duration>,
    runs: Option<u64>,
    seed: Option<u64>,
    from: Option<u64>,
    skip: BTreeSet<u64>,
}

fn main() -> ExitCode {
    match arguments().map(|asked| simulate(&asked)) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("sim: {e:#}");
            ExitCode::from(2)
        }
    }
}

fn arguments() -> Result<Asked> {
    let mut asked = Asked::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().with_context(|| format!("{word} needs a number"))?;
        let number =
            |text: &str| text.parse().with_context(|| format!("{word} {value}: {text} is no whole number"));
        match word.as_str() {
            "--time" => asked.time = Some(Duration::from_secs(number(&value)?)),
            "--runs" => asked.runs = Some(number(&value)?),
            "--seed" => asked.seed = Some(number(&value)?),
            "--from" => asked.from = Some(number(&value)?),
            "--skip" => asked.skip = value.split(',').map(number).collect::<Result<_>>()?,
            other => bail!(
                "{other}: known are --time SECONDS, --runs N, --from SEED, --seed N, --skip NUMBERS OF FAULTS"
            ),
        }
    }
    Ok(asked)
}

fn simulate(asked: &Asked) -> ExitCode {
    if let Some(seed) = asked.seed {
        let report = run_without(seed, Trace::Print, &asked.skip);
        println!("{report}");
        return match &report.violation {
            None => ExitCode::SUCCESS,
            Some(_) => failed(seed, &report, &asked.skip),
        };
    }
    for seed in recorded_seeds() {
        let report = run(seed, Trace::Off);
        if report.violation.is_some() {
            println!("a recorded seed fails again");
            return failed(seed, &report, &BTreeSet::new());
        }
    }
    let from = asked.from.unwrap_or_else(random_seed);
    println!("seeds from {from} on");
    let began = Instant::now();
    let (runs, sum, broken) = many(asked, from, began);
    let took = began.elapsed().as_secs_f64();
    let speed = runs as f64 / took;
    println!("{runs} runs in {took:.1} s ({speed:.0} per second): {sum}");
    match broken {
        None => {
            println!("every invariant held");
            ExitCode::SUCCESS
        }
        Some((seed, report)) => failed(seed, &report, &BTreeSet::new()),
    }
}

/// A seed that nobody chose, short enough to be read out.
fn random_seed() -> u64 {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    u64::try_from(nanos % 1_000_000_007).unwrap_or(0) * 1000
}

/// Runs one seed after another on every core until it is enough or one fails; of several that fail, the first counts.
/// Runs, what they came to together, and the first seed that broke something.
type Sum = (u64, Report, Option<(u64, Report)>);

fn many(asked: &Asked, from: u64, began: Instant) -> Sum {
    let max = match (asked.runs, asked.time) {
        (Some(max), _) => max,
        (None, Some(_)) => u64::MAX,
        (None, None) => 100,
    };
    let late = || asked.runs.is_none() && asked.time.is_some_and(|limit| began.elapsed() >= limit);
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let all: Mutex<Sum> = Mutex::default();
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let work = || {
        let (mut runs, mut sum, mut broken) = (0, Report::default(), None);
        while !stop.load(Ordering::Relaxed) && !late() {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= max {
                break;
            }
            let report = run(from + number, Trace::Off);
            runs += 1;
            sum.add(&report);
            if report.violation.is_some() {
                stop.store(true, Ordering::Relaxed);
                broken = Some((from + number, report));
            }
        }
        if let Ok(mut all) = all.lock() {
            all.0 += runs;
            all.1.add(&sum);
            let earlier =
                all.2.as_ref().is_none_or(|(seed, _)| broken.as_ref().is_some_and(|(s, _)| s < seed));
            if earlier {
                all.2 = broken.or(all.2.take());
            }
        }
    };
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    all.into_inner().unwrap_or_default()
}

fn failed(seed: u64, report: &Report, skip: &BTreeSet<u64>) -> ExitCode {
    if let Some(violation) = &report.violation {
        println!("seed {seed}: {violation}");
        let small = shrink(seed, report, skip);
        let left = run_without(seed, Trace::Off, &small);
        let list: Vec<String> = small.iter().map(u64::to_string).collect();
        let skipped = if list.is_empty() { String::new() } else { format!(" SKIP={}", list.join(",")) };
        println!(
            "{} of its {} faults are needed; replay it: make sim SEED={seed}{skipped}",
            left.made.len(),
            report.made.len()
        );
    }
    ExitCode::FAILURE
}
