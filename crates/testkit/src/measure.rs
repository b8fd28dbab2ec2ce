//! What the benchmark counts, as numbers and as text.

mod change;

use std::fmt::Write as _;
use std::time::Duration;

pub use change::{Change, Steps};
use pgkeel::cli::text::columns;
use pgkeel::demo::failover::Split;
use serde::Serialize;

/// One measured change of primary: a row of a [`Series`].
pub trait Row: Serialize {
    /// What one is called.
    const NAME: &'static str;
    /// Titles of the columns, all in milliseconds; the first is the pause that [`Target`] speaks of.
    const TITLES: &'static [&'static str];
    /// The columns.
    fn cells(&self) -> Vec<u64>;
}

/// One kill: how long the client waited, and for what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Kill {
    /// Longest time between two acknowledged writes, in milliseconds.
    pub gap_ms: u64,
    /// Kill to suspicion.
    pub detect_ms: u64,
    /// Until enough standbys had sealed.
    pub seal_ms: u64,
    /// Until a node was appointed.
    pub choose_ms: u64,
    /// Until it took writes and the record said so.
    pub promote_ms: u64,
    /// Until the proxy knew, the client was back and its first write was acknowledged.
    pub publish_ms: u64,
}

impl Kill {
    /// Puts what the client saw and what the history says together.
    #[must_use]
    pub fn new(gap: Duration, split: Split) -> Kill {
        Kill {
            gap_ms: u64::try_from(gap.as_millis()).unwrap_or(u64::MAX),
            detect_ms: split.detect_ms,
            seal_ms: split.seal_ms,
            choose_ms: split.choose_ms,
            promote_ms: split.promote_ms,
            publish_ms: split.publish_ms,
        }
    }
}

impl Row for Kill {
    const NAME: &'static str = "kill";
    const TITLES: &'static [&'static str] = &["gap", "detect", "seal", "choose", "promote", "publish"];

    fn cells(&self) -> Vec<u64> {
        vec![self.gap_ms, self.detect_ms, self.seal_ms, self.choose_ms, self.promote_ms, self.publish_ms]
    }
}

/// The longest gaps that are promised, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Target {
    /// Of the median.
    pub median_ms: u64,
    /// Of the worst, where that is promised.
    pub worst_ms: Option<u64>,
}

/// All changes of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Series<R> {
    /// What was done, and the replication.
    pub name: String,
    /// What is promised; `None` when nothing is.
    pub target: Option<Target>,
    /// Each of them.
    pub rows: Vec<R>,
}

/// What a node costs that does nothing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Idle {
    /// The node.
    pub node: String,
    /// "primary" or "standby".
    pub role: String,
    /// Resident memory of agent and guard, in MiB; pages that they share count for both.
    pub memory_mib: f64,
    /// Processor time of agent and guard, in per cent of one core.
    pub cpu_percent: f64,
}

/// Bound on the memory of an idle node's agent and guard, in MiB.
pub const IDLE_MEMORY_MIB_MAX: f64 = 60.0;
/// Bound on their processor time, in per cent of one core.
pub const IDLE_CPU_PERCENT_MAX: f64 = 2.0;

/// Everything.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Failovers.
    pub failovers: Vec<Series<Kill>>,
    /// Switchovers.
    pub switchovers: Vec<Series<Change>>,
    /// Idle nodes.
    pub idle: Vec<Idle>,
}

/// The middle one; of an even number the upper of the two.
#[must_use]
pub fn median(values: &[u64]) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or(0)
}

impl<R: Row> Series<R> {
    /// One line for each, then the median and the worst of each column.
    #[must_use]
    pub fn table(&self) -> String {
        let line = |name: &str, cells: Vec<u64>| {
            let numbers = cells.iter().zip(R::TITLES).map(|(ms, title)| {
                let width = title.len().max(7);
                format!("{ms:>width$}")
            });
            std::iter::once(name.to_owned()).chain(numbers).collect::<Vec<String>>()
        };
        let titles = R::TITLES.iter().map(|title| format!("{title:>7}"));
        let mut lines = vec![std::iter::once("ms".to_owned()).chain(titles).collect()];
        let numbered = self.rows.iter().zip(1..);
        lines.extend(numbered.map(|(row, number)| line(&format!("{} {number}", R::NAME), row.cells())));
        let column = |index: usize| {
            self.rows.iter().filter_map(|row| row.cells().get(index).copied()).collect::<Vec<u64>>()
        };
        let all: Vec<Vec<u64>> = (0..R::TITLES.len()).map(column).collect();
        lines.push(line("median", all.iter().map(|values| median(values)).collect()));
        lines.push(line("worst", all.iter().map(|v| v.iter().copied().max().unwrap_or(0)).collect()));
        let mut text = format!("{}\n", self.name);
        for line in columns(&lines) {
            let _ = writeln!(text, "  {line}");
        }
        if let Some(target) = self.target {
            let worst = target.worst_ms.map(|ms| format!(", worst {ms} ms")).unwrap_or_default();
            let verdict = if self.reached(target) { "reached" } else { "MISSED" };
            let _ = writeln!(text, "  target   median {} ms{worst}: {verdict}", target.median_ms);
        }
        text
    }

    fn reached(&self, target: Target) -> bool {
        let gaps: Vec<u64> = self.rows.iter().filter_map(|row| row.cells().first().copied()).collect();
        median(&gaps) <= target.median_ms
            && target.worst_ms.is_none_or(|worst| gaps.iter().all(|g| *g <= worst))
    }
}

/// The idle nodes as text.
#[must_use]
pub fn idle_table(idle: &[Idle]) -> String {
    let mut text = String::from("an idle node's agent and guard\n");
    let mut reached = true;
    for node in idle {
        let (memory, cpu) = (node.memory_mib, node.cpu_percent);
        reached &= memory <= IDLE_MEMORY_MIB_MAX && cpu <= IDLE_CPU_PERCENT_MAX;
        let _ = writeln!(text, "  {:<4} {:<8} {memory:6.1} MiB {cpu:5.2} %", node.node, node.role);
    }
    let verdict = if reached { "reached" } else { "MISSED" };
    let _ =
        writeln!(text, "  target   {IDLE_MEMORY_MIB_MAX} MiB, {IDLE_CPU_PERCENT_MAX} % of a core: {verdict}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kill(gap_ms: u64) -> Kill {
        Kill { gap_ms, detect_ms: 3, seal_ms: 20, choose_ms: 0, promote_ms: 110, publish_ms: 30 }
    }

    #[test]
    fn a_series_is_judged_by_its_median_and_its_worst() {
        let target = Some(Target { median_ms: 300, worst_ms: Some(800) });
        let series = |gaps: &[u64]| Series {
            name: "(a) postmaster killed, quorum".to_owned(),
            target,
            rows: gaps.iter().copied().map(kill).collect(),
        };
        assert_eq!(median(&[5, 1, 9]), 5);
        assert_eq!(median(&[]), 0);
        let good = series(&[180, 210, 790]).table();
        assert!(good.contains("median      210        3       20        0      110       30"), "{good}");
        assert!(good.ends_with("worst 800 ms: reached\n"), "{good}");
        assert!(series(&[180, 210, 801]).table().ends_with("MISSED\n"));
        assert!(series(&[180, 310, 310]).table().ends_with("MISSED\n"));
    }

    #[test]
    fn idle_nodes_are_held_to_their_bounds() {
        let node =
            |memory_mib| Idle { node: "n1".into(), role: "primary".into(), memory_mib, cpu_percent: 0.8 };
        assert!(idle_table(&[node(31.0)]).ends_with("reached\n"));
        assert!(idle_table(&[node(31.0), node(61.0)]).ends_with("MISSED\n"));
    }
}
