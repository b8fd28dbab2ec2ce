//! `pgkeel audit`: what people have had done, and who was refused, as each agent has listed it.

use std::process::ExitCode;

use agent::audit::{Entry, TOLD_MAX, words};
use clap::Args;
use cluster::NodeName;
use cluster::status::Status;
use serde::Serialize;

use super::agents::{Agents, first_answer};
use super::args::AskArgs;
use super::each_node::{Answers, ask_one};
use super::status::Format;
use super::text::{Clock, columns, local_times, say};
use std::time::Duration;

/// An agent reads a few files, and may have to be asked through another.
const LIMIT: Duration = Duration::from_secs(8);
/// Entries that are shown unless it is said how many.
const LAST_DEFAULT: u16 = 50;

/// Options of `audit`.
#[derive(Args, Debug)]
#[command(
    after_help = "Each agent lists what it was asked for, on its own disk: orders with what came of them, and everything that was \
    refused, also to whoever has no certificate or one of another authority. What is refused several times alike is one line with a \
    count. For operators, admins and the hosts of agents; what is listed and what is not: docs/security.md."
)]
pub struct AuditArgs {
    /// So many entries, the newest
    #[arg(short = 'n', long, value_name = "N", default_value_t = LAST_DEFAULT,
        value_parser = clap::value_parser!(u16).range(1..=TOLD_MAX as i64))]
    pub last: u16,
    /// Only what the agent of this node has listed
    #[arg(long, value_name = "NODE")]
    pub node: Option<NodeName>,
    /// Whom to ask.
    #[command(flatten)]
    pub ask: AskArgs,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Told<'a> {
    entries: &'a [Entry],
    /// Whose list could not be had, and why.
    not_asked: Vec<Silent<'a>>,
}

#[derive(Debug, Serialize)]
struct Silent<'a> {
    node: &'a NodeName,
    why: &'a str,
}

/// Asks and prints. Ends with 1 when a node's list could not be had.
pub async fn run(agents: &Agents, format: Format, node: Option<NodeName>, last: u16) -> ExitCode {
    let answers = match ask_all(agents, node, last).await {
        Ok(answers) => answers,
        Err(error) => {
            eprintln!("pgkeel audit: {error}");
            return ExitCode::FAILURE;
        }
    };
    let silent = || answers.iter().filter_map(|(node, answer)| Some((node, answer.as_ref().err()?)));
    let entries = merged(&answers, usize::from(last));
    match format {
        Format::Json => {
            let not_asked = silent().map(|(node, why)| Silent { node, why }).collect();
            match serde_json::to_string(&Told { entries: &entries, not_asked }) {
                Ok(text) => say(&(text + "\n")),
                Err(error) => eprintln!("pgkeel audit: {error}"),
            }
        }
        Format::Table if entries.is_empty() && silent().next().is_none() => say("nothing is listed yet\n"),
        Format::Table if entries.is_empty() => {}
        Format::Table => {
            let moments = |of: fn(&Entry) -> u64| local_times(&entries.iter().map(of).collect::<Vec<_>>());
            say(&table(&entries, &moments(|it| it.at), &moments(|it| it.last)));
        }
    }
    for (node, why) in silent() {
        eprintln!("pgkeel audit: the list of {node} could not be had: {why}");
    }
    if silent().next().is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Asks one node, or all of them: witnesses have lists, too.
async fn ask_all(agents: &Agents, only: Option<NodeName>, last: u16) -> Result<Answers<Vec<Entry>>, String> {
    let nodes = match only {
        Some(node) => vec![node],
        None => {
            let status: Status = first_answer(agents, "/v1/status").await?;
            status.nodes.into_iter().map(|it| it.node).collect()
        }
    };
    let path = format!("/v1/audit?last={last}");
    let mut answers = Vec::new();
    for node in nodes {
        let answer = ask_one(agents, &node, &path, LIMIT).await;
        answers.push((node, answer));
    }
    Ok(answers)
}

/// The last ones of all lists, oldest first.
fn merged(answers: &Answers<Vec<Entry>>, last: usize) -> Vec<Entry> {
    let told = answers.iter().filter_map(|(_, answer)| answer.as_ref().ok());
    let mut all: Vec<Entry> = told.flatten().cloned().collect();
    all.sort_by_key(|entry| (entry.last, entry.at));
    all.split_off(all.len().saturating_sub(last))
}

/// One line for each entry; the clocks are those of its first and its last time.
#[must_use]
pub fn table(entries: &[Entry], first: &[Clock], last: &[Clock]) -> String {
    let head = ["when", "node", "who", "from", "what", "result"].map(str::to_owned);
    let mut rows = vec![head.to_vec()];
    for ((entry, first), last) in entries.iter().zip(first).zip(last) {
        let says = entry.says.as_ref().map(|says| format!(" ({says})")).unwrap_or_default();
        let times = match entry.times {
            0 | 1 => String::new(),
            times => format!(" ({times} times since {} {})", first.date, first.time),
        };
        let row = [
            format!("{} {}", last.date, last.time),
            entry.node.to_string(),
            format!("{}{says}", entry.who),
            entry.from.clone(),
            entry.what.clone(),
            words::outcome(entry) + &times,
        ];
        // Cleaned where it was written; another version may have done so in another way.
        rows.push(row.iter().map(|cell| words::clean_long(cell)).collect());
    }
    columns(&rows).join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent::audit::Verdict;

    fn entry(node: &str, at: u64, result: Verdict, why: &str) -> Entry {
        Entry {
            at,
            node: node.parse().unwrap(),
            who: "viewer alice".to_owned(),
            says: Some("alice@desk".to_owned()),
            from: "192.0.2.7".to_owned(),
            what: "switchover to n2".to_owned(),
            result,
            why: why.to_owned(),
            times: 1,
            last: at,
        }
    }

    #[test]
    fn lists_are_merged_by_time_and_the_last_ones_stay() {
        let of = |node: &str, at: &[u64]| -> (NodeName, Result<Vec<Entry>, String>) {
            let entries = at.iter().map(|at| entry(node, *at, Verdict::Done, "")).collect();
            (node.parse().unwrap(), Ok(entries))
        };
        let silent = ("n3".parse().unwrap(), Err("gone".to_owned()));
        let answers = vec![of("n1", &[1, 4, 6]), of("n2", &[2, 5]), silent];
        let told = |last| merged(&answers, last).iter().map(|it| it.at).collect::<Vec<_>>();
        assert_eq!(told(10), [1, 2, 4, 5, 6]);
        assert_eq!(told(2), [5, 6]);
    }

    #[test]
    fn who_from_where_what_and_what_came_of_it() {
        let clock = |ms: u64| Clock { date: "2026-11-23".to_owned(), time: format!("10:00:0{ms}.000") };
        let mut refused = entry("n1", 1, Verdict::Refused, "a viewer");
        (refused.times, refused.last, refused.what) = (3, 9, "pause\u{1b}[2J".to_owned());
        let entries = [entry("n2", 2, Verdict::Done, "as 1f2e"), refused];
        let text = table(&entries, &[clock(2), clock(1)], &[clock(2), clock(9)]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[1].split("  ").filter(|cell| !cell.is_empty()).map(str::trim).collect::<Vec<_>>(),
            [
                "2026-11-23 10:00:02.000",
                "n2",
                "viewer alice (alice@desk)",
                "192.0.2.7",
                "switchover to n2",
                "done, as 1f2e"
            ]
        );
        assert!(lines[2].starts_with("2026-11-23 10:00:09.000"), "{text}");
        assert!(lines[2].ends_with("refused: a viewer (3 times since 2026-11-23 10:00:01.000)"), "{text}");
        assert!(!text.contains('\u{1b}'));
    }
}
