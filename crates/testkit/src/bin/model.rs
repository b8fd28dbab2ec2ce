//! `model`: checks every order of events of a failover within bounds. `--epochs N`, `--writes N`, `--faults N`,
//! `--sync N` and `--leaders N` are the bounds; `--depth N` and `--states N` (which bounds
//! memory) end it before; `--threads N` is how many it uses; `--planted N` puts an error into it, which it must find.

use anyhow::{Context, Result, bail};
use std::process::ExitCode;
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
            "--threads" => threads = number,
            "--planted" => {
                planted = match number {
                    0 => Planted::Nothing,
                    1 => Planted::NobodyConfirms,
                    2 => Planted::AnybodyConfirms,
                    3 => Planted::SealedBeforeDisconnected,
                    4 => Planted::SendersNotAwaited,
                    other => bail!("--planted {other}: known are 0 to 4"),
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
