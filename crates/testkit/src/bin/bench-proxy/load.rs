//! One measurement: pgbench through one proxy, and what that cost the proxy.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::servers::Proxy;

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
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Load::Simple => &["-n", "-S", "-c", "32", "-j", "2", "-M", "simple"],
            Load::Extended => &["-n", "-S", "-c", "32", "-j", "2", "-M", "extended"],
            Load::Prepared => &["-n", "-S", "-c", "32", "-j", "2", "-M", "prepared"],
            Load::TpcB => &["-c", "16", "-j", "2"],
            Load::OneClient => &["-n", "-S", "-c", "1", "-l", "--log-prefix", "log"],
            Load::Connections => &["-n", "-S", "-C", "-c", "8", "-j", "2"],
        }
    }
}

impl Measured {
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

/// Runs one.
pub fn measure(load: Load, proxy: &Proxy, seconds: u32) -> Result<Measured> {
    let dir = std::env::temp_dir().join(format!("pgkeel-bench-proxy-log-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let before = proxy.cpu_ns()?;
    let output = Command::new("pgbench")
        .args(["-h", "127.0.0.1", "-p", &proxy.port.to_string(), "-U", "postgres"])
        .args(load.arguments())
        .args(["-T", &seconds.to_string(), "postgres"])
        .current_dir(&dir)
        .stdin(Stdio::null())
        .output()
        .context("pgbench cannot be started")?;
    let after = proxy.cpu_ns()?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "pgbench, {} through {}: {errors}", load.name(), proxy.name);
    let transactions: f64 = after_text(&told, "number of transactions actually processed: ")?;
    let per_second: f64 = after_text(&told, "tps = ")?;
    ensure!(transactions > 0.0, "pgbench did nothing: {told}{errors}");
    let p50_us = if load == Load::OneClient { Some(p50(&dir)?) } else { None };
    fs::remove_dir_all(&dir)?;
    // Nanoseconds of a few seconds are far below 2^52: nothing is lost.
    let cpu_us = (after - before) as f64 / 1000.0 / transactions;
    Ok(Measured { per_second, cpu_us, p50_us })
}

fn after_text(told: &str, name: &str) -> Result<f64> {
    let at = told.find(name).with_context(|| format!("pgbench did not tell {name:?}: {told}"))?;
    let rest = &told[at + name.len()..];
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    Ok(rest[..end].parse()?)
}

/// From pgbench's logs, one line a transaction (pgbench's manual, "Per-Transaction Logging").
fn p50(dir: &std::path::Path) -> Result<f64> {
    let mut times = Vec::new();
    for entry in fs::read_dir(dir)? {
        let text = fs::read_to_string(entry?.path())?;
        times.extend(text.lines().filter_map(|line| line.split(' ').nth(2)?.parse::<f64>().ok()));
    }
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().context("pgbench logged nothing")
}
