//! The seeded simulator: the real `cluster` code on simulated nodes.
//!
//! One seed decides everything: the cluster, its faults, every delay. The same seed is the same run, event for event.
//! What is real here: every rule of the `cluster` crate. What is modelled: PostgreSQL's streaming replication
//! (`postgres`), the store (`store`), links (`network`), clocks, and the agent's shell around the rules (`agent`). Every
//! invariant of `invariants` is checked after every event.

mod agent;
mod aimed;
mod client;
mod execute;
mod faults;
mod invariants;
mod leader;
mod membership;
mod network;
mod node;
mod operator;
mod orders;
mod postgres;
mod random;
mod rules;
mod shrink;
mod store;
mod streaming;
mod upkeep;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

pub use invariants::Violation;
pub use rules::never;
pub use shrink::shrink;

/// Whether a run tells its story.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trace {
    /// Silent.
    Off,
    /// One line for each thing that happens, on standard output.
    Print,
}

/// What a run came to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Events handled.
    pub events: u64,
    /// Commits that clients were told of.
    pub acknowledged: u64,
    /// Commits that are not in the last primary (asynchronous mode only, within `max_loss`).
    pub lost: u64,
    /// Commits that a person has accepted to lose.
    pub accepted: u64,
    /// Epochs opened.
    pub epochs: u64,
    /// How often each fault was made.
    pub faults: BTreeMap<&'static str, u64>,
    /// How often each way of rejoining ended well.
    pub rejoins: BTreeMap<&'static str, u64>,
    /// How often each rule fired.
    pub rules: rules::Counts,
    /// The numbers of the faults that were made.
    pub made: Vec<u64>,
    /// A number made of everything that happened, to compare two runs.
    pub digest: u64,
    /// What was broken, if anything: the run ended there.
    pub violation: Option<Violation>,
}

impl Report {
    /// Adds another run to the sum.
    pub fn add(&mut self, other: &Report) {
        self.events += other.events;
        self.acknowledged += other.acknowledged;
        self.lost += other.lost;
        self.accepted += other.accepted;
        self.epochs += other.epochs;
        for (name, count) in &other.faults {
            *self.faults.entry(name).or_default() += count;
        }
        for (name, count) in &other.rules {
            *self.rules.entry(name).or_default() += count;
        }
        for (name, count) in &other.rejoins {
            *self.rejoins.entry(name).or_default() += count;
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = |map: &BTreeMap<&'static str, u64>| -> String {
            map.iter().map(|(name, n)| format!("{name} {n}")).collect::<Vec<_>>().join(", ")
        };
        writeln!(f, "{} events, {} changes of epoch", self.events, self.epochs)?;
        writeln!(
            f,
            "{} commits acknowledged, {} lost in asynchronous mode, {} with a person's word",
            self.acknowledged, self.lost, self.accepted
        )?;
        writeln!(f, "faults: {}", counts(&self.faults))?;
        writeln!(f, "rejoined: {}", counts(&self.rejoins))?;
        writeln!(f, "rules: {}", counts(&self.rules))?;
        let never = never(&self.rules);
        write!(
            f,
            "rules that never fired: {}",
            if never.is_empty() { "none".into() } else { never.join(", ") }
        )
    }
}

/// Seeds that once failed.
pub fn recorded_seeds() -> impl Iterator<Item = u64> {
    let lines = include_str!("sim/seeds.txt").lines().filter(|l| !l.starts_with('#'));
    lines.filter_map(|line| line.split_whitespace().next()?.parse().ok())
}

/// Runs one seed from an empty cluster to the end.
#[must_use]
pub fn run(seed: u64, trace: Trace) -> Report {
    run_without(seed, trace, &BTreeSet::new())
}

/// Runs one seed, but leaves out the faults with these numbers.
#[must_use]
pub fn run_without(seed: u64, trace: Trace, skip: &BTreeSet<u64>) -> Report {
    world::World::new(seed, trace, skip).run()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_is_one_run() {
        let (a, b) = (run(7, Trace::Off), run(7, Trace::Off));
        assert_eq!((a.events, a.digest, a.acknowledged), (b.events, b.digest, b.acknowledged));
        assert_ne!(a.digest, run(8, Trace::Off).digest);
    }

    #[test]
    fn some_seeds_keep_every_invariant() {
        for seed in (0..20).chain(recorded_seeds()) {
            let report = run(seed, Trace::Off);
            assert!(report.violation.is_none(), "seed {seed}: {}", report.violation.unwrap());
            assert!(report.acknowledged > 0, "seed {seed} acknowledged nothing");
        }
    }
}
