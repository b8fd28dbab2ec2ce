//! One measurement: pgbench through each proxy, and what that cost the proxy.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::is_interrupted;
use crate::running::{LOG, Running};
use crate::servers::{Proxy, database};

/// For so long one of them goes on. Shorter ones would share the machine's moods more evenly, but what a proxy, its servers and
/// pgbench settle into, with which processes on which processor, takes some tenths of a second.
const SLICE: Duration = Duration::from_secs(1);

/// What pgbench does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Selects, 32 clients, simple protocol.
    Simple,
    /// The same by the extended protocol.
    Extended,
    /// The same by prepared statements.
    Prepared,
    /// TPC-B, 16 clients, as many as servers: pgbench's transactions are several statements.
    TpcB,
    /// Selects of a single client.
    OneClient,
    /// A new connection for each select, eight clients.
    Connections,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Measured {
    /// Transactions per second.
    pub per_second: f64,
    /// Processor time of the proxy for one, in microseconds.
    pub cpu_us: f64,
    /// Half of them took at most so long, in microseconds; only of [`Load::OneClient`].
    pub p50_us: Option<f64>,
}

impl Load {
    pub fn name(self) -> &'static str {
        match self {
            Load::Simple => "select, simple",
            Load::Extended => "select, extended",
            Load::Prepared => "select, prepared",
            Load::TpcB => "TPC-B, -c 16",
            Load::OneClient => "select, -c 1",
            Load::Connections => "select, -C -c 8",
        }
    }

    /// Without `-n` pgbench vacuums what TPC-B makes long, and empties its history, before it begins: nobody has to do with what
    /// others have left there.
    pub fn arguments(self) -> &'static [&'static str] {
        match self {
            Load::Simple => &["-n", "-S", "-c", "32", "-j", "2", "-M", "simple"],
            Load::Extended => &["-n", "-S", "-c", "32", "-j", "2", "-M", "extended"],
            Load::Prepared => &["-n", "-S", "-c", "32", "-j", "2", "-M", "prepared"],
            Load::TpcB => &["-c", "16", "-j", "2"],
            Load::OneClient => &["-n", "-S", "-c", "1", "-l", "--log-prefix", LOG],
            Load::Connections => &["-n", "-S", "-C", "-c", "8", "-j", "2"],
        }
    }
}

impl Measured {
    /// Each figure as a multiple of the other's.
    pub fn against(&self, other: &Measured) -> Measured {
        Measured {
            per_second: self.per_second / other.per_second,
            cpu_us: self.cpu_us / other.cpu_us,
            p50_us: self.p50_us.zip(other.p50_us).map(|(own, others)| own / others),
        }
    }

    /// Of each figure the median.
    pub fn median(all: &[Measured]) -> Measured {
        let of = |figure: &dyn Fn(&Measured) -> Option<f64>| {
            let mut values: Vec<f64> = all.iter().filter_map(figure).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied()
        };
        Measured {
            per_second: of(&|m| Some(m.per_second)).unwrap_or_default(),
            cpu_us: of(&|m| Some(m.cpu_us)).unwrap_or_default(),
            p50_us: of(&|m| m.p50_us),
        }
    }
}

/// Runs the load through all of these at once, each in a database of its own, but lets only one pgbench go on at a time, for
/// [`SLICE`]: what the machine is busy with besides, and how fast it is just then, is shared by all alike. `round` is for who
/// comes first, and in which database; `seconds` is how long each goes on.
///
/// # Errors
/// pgbench failed, or the program was interrupted.
pub fn measure(
    load: Load,
    proxies: &[&Proxy],
    round: usize,
    seconds: u32,
    dir: &Path,
) -> Result<Vec<Measured>> {
    let count = proxies.len();
    let before = proxies.iter().map(|proxy| proxy.cpu_ns()).collect::<Result<Vec<u64>>>()?;
    let limit = seconds * u32::try_from(count)?;
    let mut running = Vec::with_capacity(count);
    for at in (0..count).map(|place| (round + place) % count) {
        let (database, dir) = (database((round + at) % count), dir.join(format!("pgbench-{at}")));
        running.push((at, Running::start(load, proxies[at], &database, limit, dir)?));
    }
    for turn in 0.. {
        if running.iter_mut().all(|(_, one)| one.has_ended()) {
            break;
        }
        for place in 0..count {
            ensure!(!is_interrupted(), "interrupted");
            // Nobody always comes after the same one, and has what that one left to be done.
            let place = if turn % 2 == 0 { place } else { count - 1 - place };
            running[(turn + place) % count].1.go_on_for(SLICE);
        }
    }
    running.sort_by_key(|(at, _)| *at);
    let mut measured = Vec::with_capacity(count);
    for ((_, one), (proxy, before)) in running.into_iter().zip(proxies.iter().zip(before)) {
        let counted = one.result().with_context(|| format!("{} through {}", load.name(), proxy.name))?;
        // Nanoseconds of a few seconds are far below 2^52: nothing is lost.
        let cpu_us = (proxy.cpu_ns()? - before) as f64 / 1000.0 / counted.transactions;
        measured.push(Measured { per_second: counted.per_second, cpu_us, p50_us: counted.p50_us });
    }
    Ok(measured)
}
