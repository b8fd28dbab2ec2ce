//! `pgkeel agent upgrade [NODE]`: agents of the program that is installed now, while PostgreSQL runs on.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use agent::successor::{Process, UpgradeAnswer, UpgradeAsked};
use cluster::NodeName;
use cluster::status::{NodeStatus, Role, Status};
use serde::Serialize;

use super::agents::{Agents, first_answer};
use super::each_node::{ask_one, tell_one};
use super::order::who;
use super::status::Format;
use super::text::say;

/// For a new process to answer.
const BACK_LIMIT: Duration = Duration::from_secs(30);
/// For the cluster to be well before the first agent goes: its leader may have changed just now.
const WELL_LIMIT: Duration = Duration::from_secs(5);
/// For the cluster to be well again before the next agent goes.
const WELL_AGAIN_LIMIT: Duration = Duration::from_secs(60);
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What became of one agent.
#[derive(Debug, Serialize)]
struct Upgraded {
    node: NodeName,
    before: Process,
    after: Process,
}

/// Where it ended.
#[derive(Debug, Serialize)]
struct Refused {
    /// The node that was next; none: it ended before one was.
    node: Option<NodeName>,
    why: String,
}

/// What was done, also when not all of it was.
#[derive(Debug, Default, Serialize)]
struct Report {
    upgraded: Vec<Upgraded>,
    refused: Option<Refused>,
}

/// Exchanges one, or all one after the other. Ends with 1 when one was refused, or did not come back.
pub async fn run(agents: &Agents, format: Format, node: Option<&NodeName>) -> ExitCode {
    let mut report = Report::default();
    report.refused = match node {
        Some(node) => one(agents, format, node, &mut report.upgraded).await.err(),
        None => all(agents, format, &mut report.upgraded).await.err(),
    };
    if format == Format::Json {
        match serde_json::to_string(&report) {
            Ok(text) => say(&(text + "\n")),
            Err(error) => eprintln!("pgkeel agent upgrade: {error}"),
        }
    }
    let Some(Refused { node, why }) = report.refused else { return ExitCode::SUCCESS };
    let whom = node.map_or_else(String::new, |node| format!("{node}: "));
    eprintln!("pgkeel agent upgrade: {whom}{why}");
    ExitCode::FAILURE
}

/// One whose cluster may have lost others: it is itself asked whether it may go.
async fn one(
    agents: &Agents,
    format: Format,
    node: &NodeName,
    done: &mut Vec<Upgraded>,
) -> Result<(), Refused> {
    let nobody = |why| Refused { node: None, why };
    let status: Status = first_answer(agents, "/v1/status").await.map_err(nobody)?;
    if !names(&status).contains(node) {
        let names: Vec<String> = names(&status).iter().map(ToString::to_string).collect();
        return Err(nobody(format!("there is no node {node}; the nodes are {}", names.join(", "))));
    }
    exchange(agents, format, node, done).await
}

/// All, who is primary last: an agent that does not come back should not be the one whose server takes the writes. No two are
/// away at the same time, and none goes while anything else is amiss.
async fn all(agents: &Agents, format: Format, done: &mut Vec<Upgraded>) -> Result<(), Refused> {
    let mut status = well(agents, WELL_LIMIT).await.map_err(|why| {
        let why = format!("{why}. One agent alone: pgkeel agent upgrade NODE");
        Refused { node: None, why }
    })?;
    let nodes = names(&status);
    while let Some(next) = next(&status, done) {
        exchange(agents, format, &next, done).await?;
        let said = |why: String| Refused {
            node: Some(next.clone()),
            why: format!("it was exchanged, but {why}. Go on when that is mended"),
        };
        status = well(agents, WELL_AGAIN_LIMIT).await.map_err(said)?;
        if names(&status) != nodes {
            return Err(said(
                "the nodes of the cluster are not the same any more (pgkeel status)".to_owned(),
            ));
        }
    }
    Ok(())
}

fn names(status: &Status) -> BTreeSet<NodeName> {
    status.nodes.iter().map(|node| node.node.clone()).collect()
}

/// Whose turn it is. Asked anew each time: the primary may have changed.
fn next(status: &Status, done: &[Upgraded]) -> Option<NodeName> {
    let left = status.nodes.iter().filter(|node| done.iter().all(|one| one.node != node.node));
    let turn = |node: &&NodeStatus| {
        let primary = node.role == Role::Primary || status.primary.as_ref() == Some(&node.node);
        (primary, node.role != Role::Witness, node.node.clone())
    };
    left.min_by_key(turn).map(|node| node.node.clone())
}

/// The status, as soon as all is well.
async fn well(agents: &Agents, limit: Duration) -> Result<Status, String> {
    let began = Instant::now();
    loop {
        let amiss = match first_answer::<Status>(agents, "/v1/status").await {
            Ok(status) => match amiss(&status) {
                None => return Ok(status),
                Some(amiss) => amiss,
            },
            Err(said) => said,
        };
        if began.elapsed() > limit {
            return Err(format!("{amiss} (pgkeel status says more)"));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// The first thing that speaks against the absence of any agent.
fn amiss(status: &Status) -> Option<String> {
    if status.leader.is_none() {
        return Some("the store has no leader".to_owned());
    }
    if status.primary.is_none() {
        return Some(format!("no primary serves (the cluster is {})", status.phase));
    }
    let up = |node: &NodeStatus| {
        let word = match node.role {
            Role::Primary => "running",
            Role::Standby => "streaming",
            Role::Witness => "voting",
            Role::None => return false,
        };
        node.state == word && node.epoch == Some(status.epoch)
    };
    let down = status.nodes.iter().find(|node| !up(node))?;
    Some(format!("{} is not well: {}; {}", down.node, down.state, down.why))
}

/// Has one go, and waits for who comes.
async fn exchange(
    agents: &Agents,
    format: Format,
    node: &NodeName,
    done: &mut Vec<Upgraded>,
) -> Result<(), Refused> {
    let refused = |why| Refused { node: Some(node.clone()), why };
    let before = process(agents, node).await.map_err(refused)?;
    if let Some(other) = done.iter().find(|one| one.after.run == before.run) {
        return Err(refused(format!("it answers as {}, which was exchanged already", other.node)));
    }
    let asked = UpgradeAsked { by: who(), only_try: false };
    match tell_one(agents, node, "/v1/upgrade", &asked).await.map_err(refused)? {
        UpgradeAnswer::To(_) => {}
        UpgradeAnswer::Refused(why) => return Err(refused(why)),
    }
    let after = back(agents, node, &before).await.map_err(refused)?;
    let one = Upgraded { node: node.clone(), before, after };
    if format == Format::Table {
        say(&told(&one));
    }
    done.push(one);
    Ok(())
}

/// What the agent of this node is, through whichever agent answers.
async fn process(agents: &Agents, node: &NodeName) -> Result<Process, String> {
    let process: Process = ask_one(agents, node, "/v1/process", ANSWER_LIMIT).await?;
    if process.node != *node {
        return Err(format!(
            "the agent that was asked for it is that of {}: are the addresses in [members] right?",
            process.node
        ));
    }
    Ok(process)
}

/// The process that came.
async fn back(agents: &Agents, node: &NodeName, before: &Process) -> Result<Process, String> {
    let began = Instant::now();
    loop {
        if let Ok(now) = process(agents, node).await {
            if now.run != before.run && (now.postmaster.is_some() || before.postmaster.is_none()) {
                return Ok(now);
            }
            // What it says of an earlier order is not about this one.
            let stayed = now.stayed.filter(|_| now.run == before.run);
            if let Some(why) = stayed {
                return Err(format!("it was to go, and stayed: {why}"));
            }
        }
        if began.elapsed() > BACK_LIMIT {
            return Err(format!(
                "no other process answers within {} s; its log says why. If it is gone, its guard ends its server when its lease \
                 is over: start it again",
                BACK_LIMIT.as_secs()
            ));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn told(one: &Upgraded) -> String {
    let (before, after) = (&one.before, &one.after);
    let server = match (before.postmaster, after.postmaster) {
        (None, _) => "it has no server".to_owned(),
        (Some(old), Some(new)) if old == new => format!("its server runs on (postmaster {old})"),
        (Some(old), _) => format!("its server was started anew (postmaster {old} is gone)"),
    };
    format!(
        "{}: {} (process {}) -> {} (process {}); {server}\n",
        one.node, before.version, before.pid, after.version, after.pid
    )
}
