//! `model`: checks every order of events of a failover within bounds. `--epochs N`, `--writes N`, `--faults N`,
//! `--sync N` and `--leaders N` are the bounds; `--depth N`, `--states N` and `--time SECONDS` end it before.

use anyhow::{Context, Result, bail};
use std::process::ExitCode;
use std::time::Duration;
use testkit::model::{Bounds, Limits, Planted, check};

fn main() -> ExitCode {
    match model() {
        Ok(code) => code,
        Err(e) => {
            eprintln!("model: {e:#}");
            ExitCode::from(2)
        }
    }
}

fn model() -> Result<ExitCode> {
    let mut bounds = Bounds { epochs: 3, writes: 1, faults: 1, sync_changes: 1, leaders: 1 };
    let mut limits = Limits::default();
    let mut planted = Planted::Nothing;
    let mut threads = 1;
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().with_context(|| format!("{word} needs a number"))?;
        let number: usize = value.parse().with_context(|| format!("{word} {value}: not a whole number"))?;
        match word.as_str() {
            "--epochs" => bounds.epochs = number as u64,
            "--writes" => bounds.writes = number,
            "--faults" => bounds.faults = number,
            "--sync" => bounds.sync_changes = number,
            "--leaders" => bounds.leaders = number,
            "--depth" => limits.depth = Some(number),
            "--states" => limits.states = Some(number),
            "--time" => limits.time = Some(Duration::from_secs(number as u64)),
            "--threads" => threads = number,
            "--planted" => {
                planted = match number {
                    0 => Planted::Nothing,
                    1 => Planted::AnybodyConfirms,
                    2 => Planted::SealedBeforeDisconnected,
                    3 => Planted::SendersNotAwaited,
                    other => bail!("--planted {other}: known are 0 to 3"),
                }
            }
            other => bail!("{other} is not known; the first lines of bin/model.rs say what is"),
        }
    }
    println!("{bounds:?}, {limits:?}, planted: {planted:?}");
    let outcome = check(bounds, planted, limits, threads);
    println!("{outcome}");
    Ok(if outcome.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
