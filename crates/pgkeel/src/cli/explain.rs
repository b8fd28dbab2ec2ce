//! `pgkeel why not NODE` and `pgkeel whatif EVENT`: questions that the leader thinks about; nothing is changed by them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use agent::api::explain::{Found, path};
use cluster::NodeName;
use cluster::explain::WhyNot;
use cluster::whatif::{Answer, Event, NoSuchNode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::agents::{self, Agents};
use super::status::Format;
use super::text::{say, terminal_columns, wrap};
use agent::settings::nearest::nearest;

/// Columns for text that is not on a terminal.
const COLUMNS: usize = 120;
/// For each agent's answer; it may have to ask the leader.
const ANSWER_LIMIT: Duration = Duration::from_secs(8);

/// Says why a node is not primary. Ends with 1 when nobody can say.
pub async fn why_not(agents: &Agents, format: Format, node: &NodeName) -> ExitCode {
    let answer = ask::<WhyNot>(agents, &format!("/v1/why/not?node={node}")).await;
    tell("why not", format, answer, |answer, columns| sentences(&answer.sentences(), columns))
}

/// Says what would happen. Ends with 1 when nobody can say, with 2 when the event is not understood.
pub async fn what_if(agents: &Agents, format: Format, words: &[String]) -> ExitCode {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let event = match event(&words) {
        Ok(event) => event,
        Err(said) => {
            eprintln!("pgkeel whatif: {said}");
            return ExitCode::from(2);
        }
    };
    let answer = ask::<Answer>(agents, &path(&event)).await;
    tell("whatif", format, answer, supposed)
}

/// Reads what is supposed.
///
/// # Errors
/// When it is no event, with what would be one.
pub fn event(words: &[&str]) -> Result<Event, String> {
    let name = |text: &str| text.parse::<NodeName>().map_err(|error| error.to_string());
    match words {
        [node, "down"] | ["down", node] => Ok(Event::Down { node: name(node)? }),
        ["partition", list] => {
            let nodes: BTreeSet<NodeName> = list.split(',').map(name).collect::<Result<_, _>>()?;
            Ok(Event::Partition { nodes })
        }
        ["switchover"] => Ok(Event::Switchover { to: None }),
        ["switchover", to] => Ok(Event::Switchover { to: Some(name(to)?) }),
        other => Err(format!(
            "{:?} is not understood; say `n1 down`, `partition n1,n2` or `switchover [n3]`",
            other.join(" ")
        )),
    }
}

async fn ask<T: DeserializeOwned>(agents: &Agents, path: &str) -> Result<T, String> {
    match agents::first_answer_within(agents, path, ANSWER_LIMIT).await? {
        Found::Answer(answer) => Ok(answer),
        Found::NoSuchNode(unknown) => Err(no_such_node(&unknown)),
    }
}

fn no_such_node(unknown: &NoSuchNode) -> String {
    match nearest(unknown.node.as_str(), unknown.known.iter().map(NodeName::as_str)) {
        Some(near) => format!("{unknown}. Did you mean {near}?"),
        None => unknown.to_string(),
    }
}

fn tell<T: Serialize>(
    command: &str,
    format: Format,
    answer: Result<T, String>,
    text: impl FnOnce(&T, usize) -> String,
) -> ExitCode {
    let told = answer.and_then(|answer| match format {
        Format::Json => serde_json::to_string(&answer).map(|json| json + "\n").map_err(|e| e.to_string()),
        Format::Table => Ok(text(&answer, terminal_columns().unwrap_or(COLUMNS))),
    });
    match told {
        Ok(told) => {
            say(&told);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("pgkeel {command}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The first sentence at the margin, the others below it, each with its cure.
#[must_use]
pub fn sentences(told: &[(String, Option<String>)], columns: usize) -> String {
    let columns = columns.max(40);
    let mut text = String::new();
    for (number, (sentence, cure)) in told.iter().enumerate() {
        let indent = if number == 0 { 0 } else { 2 };
        let _ = writeln!(text, "{}{}", " ".repeat(indent), wrap(sentence, indent, indent + 2, columns));
        if let Some(cure) = cure {
            let _ = writeln!(
                text,
                "{}cure: {}",
                " ".repeat(indent + 2),
                wrap(cure, indent + 8, indent + 8, columns)
            );
        }
    }
    text
}

fn supposed(answer: &Answer, columns: usize) -> String {
    let columns = columns.max(40);
    let mut text = format!("if {} now:\n", answer.event);
    for sentence in answer.sentences() {
        let _ = writeln!(text, "  {}", wrap(&sentence, 2, 4, columns));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> NodeName {
        text.parse().unwrap()
    }

    #[test]
    fn events_are_read() {
        assert_eq!(event(&["n1", "down"]), Ok(Event::Down { node: name("n1") }));
        let nodes = [name("n1"), name("n2")].into();
        assert_eq!(event(&["partition", "n1,n2"]), Ok(Event::Partition { nodes }));
        assert_eq!(event(&["switchover"]), Ok(Event::Switchover { to: None }));
        assert_eq!(event(&["switchover", "n3"]), Ok(Event::Switchover { to: Some(name("n3")) }));
        assert!(event(&["n1"]).unwrap_err().contains("n1 down"));
        assert!(event(&["partition", "n1,,"]).is_err());
    }

    #[test]
    fn a_misspelt_node_is_named_with_the_nearest() {
        let known: BTreeSet<NodeName> = ["north", "south"].map(name).into();
        let said = no_such_node(&NoSuchNode { node: name("nort"), known });
        assert_eq!(said, "there is no node nort; the nodes are north, south. Did you mean north?");
    }

    #[test]
    fn cures_stand_below_what_they_cure() {
        let told = [
            ("n1 is primary".to_owned(), None),
            ("n3: its agent is silent".to_owned(), Some("start it".to_owned())),
        ];
        assert_eq!(sentences(&told, 80), "n1 is primary\n  n3: its agent is silent\n    cure: start it\n");
    }
}
