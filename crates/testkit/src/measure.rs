//! What the benchmark counts, as numbers and as text.

use std::fmt::Write as _;
use std::time::Duration;

use pgkeel::cli::text::columns;
use pgkeel::demo::failover::Split;
use serde::Serialize;

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

/// The longest gaps that are promised, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Target {
    /// Of the median.
    pub median_ms: u64,
    /// Of the worst.
    pub worst_ms: u64,
}

/// All kills of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Series {
    /// What was killed, and the replication.
    pub name: String,
    /// What is promised; `None` when nothing is.
    pub target: Option<Target>,
    /// Each kill.
    pub kills: Vec<Kill>,
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
    pub series: Vec<Series>,
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

impl Series {
    /// One line for each kill, then the median and the worst of each column.
    #[must_use]
    pub fn table(&self) -> String {
        let cells = |kill: &Kill| {
            [kill.gap_ms, kill.detect_ms, kill.seal_ms, kill.choose_ms, kill.promote_ms, kill.publish_ms]
        };
        let row = |name: &str, cells: [u64; 6]| {
            let cells = cells.iter().map(|ms| format!("{ms:>7}"));
            std::iter::once(name.to_owned()).chain(cells).collect::<Vec<String>>()
        };
        let head =
            ["ms", "    gap", " detect", "   seal", " choose", "promote", "publish"].map(str::to_owned);
        let mut rows = vec![head.to_vec()];
        rows.extend(
            self.kills.iter().zip(1..).map(|(kill, number)| row(&format!("kill {number}"), cells(kill))),
        );
        let column = |index: usize| self.kills.iter().map(|kill| cells(kill)[index]).collect::<Vec<u64>>();
        let all: [Vec<u64>; 6] = std::array::from_fn(column);
        rows.push(row("median", all.each_ref().map(|values| median(values))));
        rows.push(row("worst", all.each_ref().map(|values| values.iter().copied().max().unwrap_or(0))));
        let mut text = format!("{}\n", self.name);
        for line in columns(&rows) {
            let _ = writeln!(text, "  {line}");
        }
        if let Some(target) = self.target {
            let _ = writeln!(
                text,
                "  target   median {} ms, worst {} ms: {}",
                target.median_ms,
                target.worst_ms,
                { if self.reached(target) { "reached" } else { "MISSED" } }
            );
        }
        text
    }

    fn reached(&self, target: Target) -> bool {
        let gaps: Vec<u64> = self.kills.iter().map(|kill| kill.gap_ms).collect();
        median(&gaps) <= target.median_ms && gaps.iter().all(|gap| *gap <= target.worst_ms)
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
        let target = Some(Target { median_ms: 300, worst_ms: 800 });
        let series = |gaps: &[u64]| Series {
            name: "(a) postmaster killed, quorum".to_owned(),
            target,
            kills: gaps.iter().copied().map(kill).collect(),
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
