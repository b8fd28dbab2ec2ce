//! `mutants [--seeds N] [NAME...]`: breaks each rule in turn and simulates clusters until an invariant is broken. A rule
//! that can be broken unnoticed is a hole in the simulator: then this fails. All of them are rules of safety, so a run
//! that only gets stuck does not count.

use cluster::mutant::{Mutant, set};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use testkit::sim::{Trace, run};

/// Seeds tried for each mutant.
const SEEDS: u64 = 2000;

/// How a mutant ended: the invariant that caught it, and after how many seeds.
type Caught = Option<(&'static str, u64)>;

fn hunt(mutant: Mutant, seeds: u64) -> Caught {
    set(Some(mutant));
    let caught = (1..=seeds).find_map(|seed| {
        let violation = run(seed, Trace::Off).violation.filter(|v| v.invariant != "liveness")?;
        Some((violation.invariant, seed))
    });
    set(None);
    caught
}

fn main() -> ExitCode {
    let mut seeds = SEEDS;
    let mut wanted: Vec<String> = Vec::new();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--seeds" => seeds = words.next().and_then(|n| n.parse().ok()).unwrap_or(SEEDS),
            _ => wanted.push(word),
        }
    }
    let chosen: Vec<Mutant> = Mutant::ALL
        .iter()
        .filter(|m| wanted.is_empty() || wanted.iter().any(|w| w == m.name()))
        .copied()
        .collect();
    let next = AtomicUsize::new(0);
    let caught: Mutex<BTreeMap<usize, Caught>> = Mutex::default();
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((i, mutant)) = {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    chosen.get(i).map(|m| (i, *m))
                } {
                    let end = hunt(mutant, seeds);
                    if let Ok(mut caught) = caught.lock() {
                        caught.insert(i, end);
                    }
                }
            });
        }
    });
    let caught = caught.into_inner().unwrap_or_default();
    let mut survived = 0;
    println!("{:<22} {:<12} {:>6}  broken rule", "mutant", "caught by", "seeds");
    for (i, mutant) in chosen.iter().enumerate() {
        let (by, after) = match caught.get(&i).copied().flatten() {
            Some((invariant, seeds)) => (invariant, seeds),
            None => {
                survived += 1;
                ("NOTHING", seeds)
            }
        };
        println!("{:<22} {by:<12} {after:>6}  {}", mutant.name(), mutant.breaks());
    }
    println!("{} of {} mutants caught", chosen.len() - survived, chosen.len());
    if survived == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
