//! The configuration as tables: what is in force and where it comes from, and the versions.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::process::ExitCode;

use agent::messages::OwnConfiguration;
use cluster::configuration::{Configuration, Content, differences, in_words};
use cluster::status::{NodeStatus, Status};
use serde::Serialize;

use super::{Agents, fetch, print_json};
use crate::cli::agents::first_answer;
use crate::cli::each_node::{Answers, ask_each};
use crate::cli::status::Format;
use crate::cli::text::{columns, cut, say, terminal_columns};

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    version: u64,
    by: Option<&'a str>,
    at: Option<u64>,
    parameters: &'a BTreeMap<String, String>,
    hba: &'a [String],
    nodes: Vec<Node<'a>>,
}

/// One node, for `--json`.
#[derive(Debug, Serialize)]
struct Node<'a> {
    node: &'a str,
    configured: u64,
    restart_pending: &'a [cluster::configuration::Pending],
    own: Option<&'a OwnConfiguration>,
    problem: Option<&'a str>,
}

pub(super) async fn show(agents: &Agents, format: Format) -> Result<ExitCode, String> {
    let configuration = fetch(agents).await?;
    let status: Status = first_answer(agents, "/v1/status").await?;
    let own: Answers<OwnConfiguration> = ask_each(agents, None, "/v1/config/own").await?;
    match format {
        Format::Json => print_json(&shown(&configuration, &status, &own))?,
        Format::Table => say(&table(&configuration, &status, &own)),
    }
    Ok(ExitCode::SUCCESS)
}

fn shown<'a>(
    configuration: &'a Configuration,
    status: &'a Status,
    own: &'a Answers<OwnConfiguration>,
) -> Shown<'a> {
    let last = configuration.versions.last();
    let content = configuration.content();
    let nodes = status.nodes.iter().filter(|n| n.postgres.is_some()).map(|n| {
        let answer = own.iter().find(|(node, _)| *node == n.node).map(|(_, answer)| answer);
        Node {
            node: n.node.as_str(),
            configured: n.configured,
            restart_pending: &n.pending,
            own: answer.and_then(|a| a.as_ref().ok()),
            problem: answer.and_then(|a| a.as_ref().err()).map(String::as_str),
        }
    });
    Shown {
        version: configuration.number(),
        by: last.map(|version| version.by.as_str()),
        at: last.map(|version| version.at),
        parameters: &content.parameters,
        hba: &content.hba,
        nodes: nodes.collect(),
    }
}

fn headline(configuration: &Configuration) -> String {
    match configuration.versions.last() {
        None => "nothing is set for all nodes yet: pgkeel config set NAME=VALUE, or pgkeel config edit\n"
            .to_owned(),
        Some(last) => {
            let clock = crate::cli::text::clock(last.at);
            format!("version {}, by {} at {} {}\n", last.number, last.by, clock.date, clock.time)
        }
    }
}

fn table(configuration: &Configuration, status: &Status, own: &Answers<OwnConfiguration>) -> String {
    let content = configuration.content();
    let mut text = headline(configuration);
    let rows = rows(content, status, own);
    if rows.len() > 1 {
        text.push('\n');
        for line in columns(&rows) {
            let _ =
                writeln!(text, "{}", terminal_columns().map_or_else(|| line.clone(), |max| cut(&line, max)));
        }
    }
    if !content.hba.is_empty() {
        text.push_str("\npg_hba.conf, on all nodes:\n");
        content.hba.iter().for_each(|line| text += &format!("  {line}\n"));
    }
    text += &own_rules(own);
    for node in status.nodes.iter().filter(|n| n.postgres.is_some()) {
        if node.configured < configuration.number() {
            text += &format!("\n{}: has version {} ({})\n", node.node, node.configured, node.why);
        }
    }
    text
}

/// Nodes whose files have the same rules are told together.
fn own_rules(own: &Answers<OwnConfiguration>) -> String {
    let mut text = String::new();
    let mut by_rules: BTreeMap<&[String], Vec<&str>> = BTreeMap::new();
    for (node, answer) in own {
        match answer {
            Ok(OwnConfiguration { hba: Some(lines), .. }) if !lines.is_empty() => {
                by_rules.entry(lines).or_default().push(node.as_str());
            }
            Ok(_) => {}
            Err(problem) => text += &format!("\n{node}: what its own file says is not known: {problem}\n"),
        }
    }
    for (lines, nodes) in by_rules {
        text +=
            &format!("\npg_hba.conf, before the cluster's rules, from the file of {}:\n", nodes.join(", "));
        lines.iter().for_each(|line| text += &format!("  {line}\n"));
    }
    text
}

fn rows(content: &Content, status: &Status, own: &Answers<OwnConfiguration>) -> Vec<Vec<String>> {
    let files: Vec<(&str, &BTreeMap<String, String>)> = own
        .iter()
        .filter_map(|(node, answer)| Some((node.as_str(), &answer.as_ref().ok()?.parameters)))
        .collect();
    let names: BTreeSet<&String> =
        content.parameters.keys().chain(files.iter().flat_map(|(_, set)| set.keys())).collect();
    let mut rows = vec![["parameter", "value", "from", "restart pending"].map(str::to_owned).to_vec()];
    for name in names {
        // Nodes whose files say the same are told together.
        let mut by_value: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (node, set) in &files {
            if let Some(value) = set.get(name) {
                by_value.entry(value).or_default().push(node);
            }
        }
        let overridden: Vec<&str> = by_value.values().flatten().copied().collect();
        if let Some(value) = content.parameters.get(name) {
            let concerned = |n: &&NodeStatus| !overridden.contains(&n.node.as_str());
            rows.push(vec![
                name.clone(),
                value.clone(),
                "cluster".to_owned(),
                pending(status, name, concerned),
            ]);
        }
        for (value, nodes) in by_value {
            let concerned = |n: &&NodeStatus| nodes.contains(&n.node.as_str());
            let from = format!("file of {}", nodes.join(", "));
            rows.push(vec![name.clone(), value.to_owned(), from, pending(status, name, concerned)]);
        }
    }
    rows
}

/// `n1, n2 (now 100)`
fn pending(status: &Status, name: &str, concerned: impl Fn(&&NodeStatus) -> bool) -> String {
    let mut by_value: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for node in status.nodes.iter().filter(concerned) {
        for pending in node.pending.iter().filter(|p| p.name == name) {
            by_value.entry(&pending.running).or_default().push(node.node.as_str());
        }
    }
    let each = by_value.iter().map(|(running, nodes)| format!("{} (now {running})", nodes.join(", ")));
    each.collect::<Vec<_>>().join("; ")
}

pub(super) fn history(configuration: &Configuration) -> String {
    let mut rows = vec![["version", "when", "by", "what"].map(str::to_owned).to_vec()];
    for (index, version) in configuration.versions.iter().enumerate() {
        let before = index.checked_sub(1).and_then(|i| configuration.versions.get(i));
        let clock = crate::cli::text::clock(version.at);
        let back = version.back_to.map_or_else(String::new, |to| format!("back to version {to}: "));
        let what = match (before, version.number) {
            (None, number) if number > 1 => "(the version before it is not kept)".to_owned(),
            (before, _) => {
                let empty = Content::default();
                in_words(&differences(before.map_or(&empty, |b| &b.content), &version.content))
            }
        };
        rows.push(vec![
            version.number.to_string(),
            format!("{} {}", clock.date, clock.time),
            version.by.clone(),
            back + &what,
        ]);
    }
    if rows.len() == 1 {
        return "no version was ever recorded\n".to_owned();
    }
    let width = terminal_columns();
    columns(&rows)
        .iter()
        .map(|line| width.map_or_else(|| line.clone(), |max| cut(line, max)) + "\n")
        .collect()
}
