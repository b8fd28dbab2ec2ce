//! `pgkeel why`: what holds now, then the last decisions with their evidence, grouped by epoch.

use std::fmt::Write as _;
use std::process::ExitCode;

use cluster::explain::Present;
use cluster::state::Entry;
use serde::{Deserialize, Serialize};

use super::agents::{self, Agents};
use super::explain::sentences;
use super::status::Format;
use super::text::{Clock, local_times, say, short_time, terminal_columns, wrap};

/// Columns for text that is not on a terminal.
const COLUMNS: usize = 120;
/// Where the sentences begin: after the time of day and the time since the first entry of the epoch.
const SENTENCE_AT: usize = 27;

/// What `pgkeel why` was told.
#[derive(Clone, Debug)]
pub struct WhyOptions {
    /// The agents to ask, see [`agents::choose`].
    pub agents: Agents,
    /// How to print.
    pub format: Format,
    /// How many of the last epochs; `None`: all that are remembered.
    pub epochs: Option<usize>,
}

/// Asks and prints. Ends with 1 when no agent answered.
pub async fn run(options: &WhyOptions) -> ExitCode {
    match text(options).await {
        Ok(text) => {
            say(&text);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("pgkeel why: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What `--json` prints.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Why {
    /// What holds now; `None`: nobody could say.
    pub now: Option<Present>,
    /// The remembered decisions, oldest first.
    pub decisions: Vec<Entry>,
}

async fn text(options: &WhyOptions) -> Result<String, String> {
    let history: Vec<Entry> = agents::first_answer(&options.agents, "/v1/why").await?;
    let history = last_epochs(&history, options.epochs);
    let now: Option<Present> = agents::first_answer(&options.agents, "/v1/why/now").await.ok();
    match options.format {
        Format::Json => {
            let why = Why { now, decisions: history.to_vec() };
            serde_json::to_string(&why).map(|json| json + "\n").map_err(|error| error.to_string())
        }
        Format::Table => {
            let moments: Vec<u64> = history.iter().map(|entry| entry.at).collect();
            let columns = terminal_columns().unwrap_or(COLUMNS);
            let now = now.map(|now| sentences(&now.sentences(), columns) + "\n").unwrap_or_default();
            Ok(now + &story(history, &local_times(&moments), columns))
        }
    }
}

fn last_epochs(history: &[Entry], epochs: Option<usize>) -> &[Entry] {
    let Some(wanted) = epochs else { return history };
    let groups: Vec<&[Entry]> = history.chunk_by(|a, b| a.epoch == b.epoch).collect();
    let skipped: usize = groups[..groups.len().saturating_sub(wanted)].iter().map(|group| group.len()).sum();
    &history[skipped..]
}

/// The history as text; `clocks` are the local times of its entries.
#[must_use]
pub fn story(history: &[Entry], clocks: &[Clock], columns: usize) -> String {
    if history.is_empty() {
        return "nothing has been decided yet\n".to_owned();
    }
    let mut text = String::new();
    let mut clocks = clocks.iter();
    for group in history.chunk_by(|a, b| a.epoch == b.epoch) {
        let blank = if text.is_empty() { "" } else { "\n" };
        for (entry, clock) in group.iter().zip(clocks.by_ref()) {
            let first = &group[0];
            if std::ptr::eq(entry, first) {
                let _ =
                    writeln!(text, "{blank}epoch {}, {}, decided by {}", entry.epoch, clock.date, entry.by);
            }
            let since = format!("+{}", short_time(entry.at.saturating_sub(first.at)));
            let other =
                if entry.by == first.by { String::new() } else { format!(" (decided by {})", entry.by) };
            let sentence = format!("{}{other}", entry.reason);
            let sentence = wrap(&sentence, SENTENCE_AT, SENTENCE_AT, columns.max(SENTENCE_AT + 20));
            let _ = writeln!(text, "  {:<13}{since:>10}  {sentence}", clock.time);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::NodeName;
    use cluster::reason::Reason;
    use cluster::state::OldLease;

    fn name(text: &str) -> NodeName {
        text.parse().unwrap()
    }

    fn history() -> Vec<Entry> {
        let entry = |at, epoch, by, reason| Entry { at, epoch, by: name(by), reason };
        let opened =
            Reason::EpochOpened { epoch: 2, old_primary: Some(name("n1")), lease: OldLease::Returned };
        vec![
            entry(5_000, 1, "n1", Reason::Published { node: name("n1"), timeline: 1 }),
            entry(63_020, 2, "n3", Reason::ServerGone { node: name("n1") }),
            entry(63_020, 2, "n3", opened),
            entry(63_180, 2, "n2", Reason::Published { node: name("n2"), timeline: 2 }),
        ]
    }

    fn clocks(history: &[Entry]) -> Vec<Clock> {
        let clock = |entry: &Entry| {
            let (minute, second) = (entry.at / 60_000, entry.at / 1_000 % 60);
            let time = format!("10:{minute:02}:{second:02}.{:03}", entry.at % 1_000);
            Clock { date: "2026-11-21".to_owned(), time }
        };
        history.iter().map(clock).collect()
    }

    #[test]
    fn decisions_are_grouped_by_epoch() {
        let history = history();
        let expected = "\
epoch 1, 2026-11-21, decided by n1
  10:00:05.000      +0 ms  n1 takes writes on timeline 1; published to the proxies

epoch 2, 2026-11-21, decided by n3
  10:01:03.020      +0 ms  n1 suspected: its own agent says that the server's last process is gone
  10:01:03.020      +0 ms  epoch 2 opened: n1 is primary no more; its lease was returned
  10:01:03.180    +160 ms  n2 takes writes on timeline 2; published to the proxies (decided by n2)
";
        assert_eq!(story(&history, &clocks(&history), 120), expected);
        assert_eq!(story(&[], &[], 120), "nothing has been decided yet\n");
    }

    #[test]
    fn only_the_last_epochs_when_asked() {
        let history = history();
        assert_eq!(last_epochs(&history, None).len(), 4);
        assert_eq!(last_epochs(&history, Some(1)), &history[1..]);
        assert_eq!(last_epochs(&history, Some(9)).len(), 4);
        assert!(last_epochs(&history, Some(0)).is_empty());
    }
}
