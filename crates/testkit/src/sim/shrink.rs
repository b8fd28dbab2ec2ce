//! Cuts a failing run down: which of its faults are needed to break the same invariant?

use super::{Report, Trace, run_without};
use std::collections::BTreeSet;

/// Runs tried at most.
const TRIES_MAX: usize = 400;

/// The faults of `seed` that can be left out while the invariant of `failed` is still broken. Halves first, then smaller
/// pieces, then one by one.
#[must_use]
pub fn shrink(seed: u64, failed: &Report, skipped: &BTreeSet<u64>) -> BTreeSet<u64> {
    let Some(violation) = &failed.violation else { return skipped.clone() };
    let breaks = |skip: &BTreeSet<u64>| -> Option<Report> {
        let report = run_without(seed, Trace::Off, skip);
        let same = report.violation.as_ref().is_some_and(|v| v.invariant == violation.invariant);
        same.then_some(report)
    };
    let mut skip = skipped.clone();
    let mut made: Vec<u64> = failed.made.clone();
    let mut size = made.len().div_ceil(2);
    let mut tries = 0;
    while size > 0 && tries < TRIES_MAX {
        let mut left_out = false;
        for piece in made.clone().chunks(size) {
            let more: BTreeSet<u64> = skip.iter().chain(piece).copied().collect();
            tries += 1;
            if let Some(report) = breaks(&more) {
                skip = more;
                made.clone_from(&report.made);
                left_out = true;
            }
        }
        size = if left_out && size == 1 { 1 } else { size / 2 };
    }
    skip
}
