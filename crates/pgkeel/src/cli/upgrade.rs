//! `pgkeel agent upgrade [NODE]`: agents of the program that is installed now, while PostgreSQL runs on.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use agent::successor::{Process, UpgradeAnswer, UpgradeAsked};
use cluster::NodeName;
use cluster::status::Status;
use serde::Serialize;

use super::agents::{Agents, first_answer};
use super::each_node::tell_one;
use super::order::who;
use super::status::Format;
use super::text::say;
use crate::ask::ask;

/// For a new process to answer.
const BACK_LIMIT: Duration = Duration::from_secs(30);
/// For the cluster to be whole again before the next agent goes.
const WHOLE_LIMIT: Duration = Duration::from_secs(60);
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What became of one agent.
#[derive(Debug, Serialize)]
struct Upgraded {
    node: NodeName,
    before: Process,
    after: Process,
}

/// Exchanges one, or all one after the other. Ends with 1 when one was refused, or did not come back.
pub async fn run(agents: &Agents, format: Format, node: Option<&NodeName>) -> ExitCode {
    match upgrade(agents, format, node).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(said) => {
            eprintln!("pgkeel agent upgrade: {said}");
            ExitCode::FAILURE
        }
    }
}

async fn upgrade(agents: &Agents, format: Format, node: Option<&NodeName>) -> Result<(), String> {
    let status: Status = first_answer(agents, "/v1/status").await?;
    let addresses: Vec<(NodeName, String)> =
        status.nodes.iter().map(|node| (node.node.clone(), node.agent.clone())).collect();
    let wanted: Vec<&(NodeName, String)> =
        addresses.iter().filter(|(name, _)| node.is_none_or(|node| node == name)).collect();
    if let (Some(node), true) = (node, wanted.is_empty()) {
        let names: Vec<&str> = addresses.iter().map(|(name, _)| name.as_str()).collect();
        return Err(format!("there is no node {node}; the nodes are {}", names.join(", ")));
    }
    let mut done = Vec::new();
    for (name, address) in wanted {
        let one = upgrade_one(agents, name, address).await?;
        if format == Format::Table {
            say(&told(&one));
        }
        done.push(one);
        whole_again(agents, &status).await?;
    }
    if format == Format::Json {
        say(&(serde_json::to_string(&done).map_err(|error| error.to_string())? + "\n"));
    }
    Ok(())
}

async fn upgrade_one(agents: &Agents, node: &NodeName, address: &str) -> Result<Upgraded, String> {
    let process = async || ask::<Process>(&agents.caller, address, "/v1/process", ANSWER_LIMIT).await;
    let before = process().await.map_err(|error| format!("{node} at {address}: {error}"))?;
    let asked = UpgradeAsked { by: who(), only_try: false };
    match tell_one(agents, node, "/v1/upgrade", &asked).await? {
        UpgradeAnswer::To(_) => {}
        UpgradeAnswer::Refused(why) => return Err(format!("{node}: {why}")),
    }
    let began = Instant::now();
    loop {
        if let Ok(after) = process().await
            && after.run != before.run
            && (after.postmaster.is_some() || before.postmaster.is_none())
        {
            return Ok(Upgraded { node: node.clone(), before, after });
        }
        if began.elapsed() > BACK_LIMIT {
            return Err(format!(
                "no other process of {node} answers within {} s; its log says why. If it is gone, its guard ends its server when its \
                 lease is over: start it again",
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

/// No two agents are away at the same time: a majority must be able to decide.
async fn whole_again(agents: &Agents, before: &Status) -> Result<(), String> {
    let began = Instant::now();
    let up = |status: &Status| status.nodes.iter().filter(|node| node.epoch == Some(status.epoch)).count();
    loop {
        let now: Result<Status, String> = first_answer(agents, "/v1/status").await;
        if let Ok(now) = &now
            && (now.primary.is_some() || before.primary.is_none())
            && up(now) >= up(before)
        {
            return Ok(());
        }
        if began.elapsed() > WHOLE_LIMIT {
            return Err("the cluster is not whole again; see pgkeel status, and go on later".to_owned());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
