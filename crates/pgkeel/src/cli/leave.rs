//! `pgkeel remove` and `pgkeel leave`: a node goes for good, once nothing needs it any more.

use std::io::{BufRead, IsTerminal};
use std::path::Path;
use std::process::ExitCode;

use cluster::NodeName;
use cluster::decide::switchover::{Order, Ordered};
use cluster::status::Status;
use identity::{Caller, Role};

use super::agents::{ANSWER_LIMIT, Agents, first_answer};
use super::create::absolute;
use super::membership_args::LeaveArgs;
use super::order;
use super::status::Format;
use super::text::say;
use crate::ask::{AskError, ask};
use crate::config::{self, Config, Shower};
use crate::setup::progress::Progress;
use crate::setup::service::Service;

/// HTTP: what an agent answers the agent of a node that was struck out.
const GONE: u16 = 410;

/// How a node is to go.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Although commits may have to wait.
    pub insist: bool,
    /// Nobody needs to be asked.
    pub sure: bool,
}

/// `pgkeel remove`. 1: it was refused, or nobody agreed or answered.
pub async fn remove(agents: &Agents, format: Format, node: &NodeName, manner: Manner) -> ExitCode {
    let done = remove_from(agents, node, manner).await;
    ended("remove", done.map(|()| {
        if format == Format::Json {
            return format!("{{\"removed\":\"{node}\"}}\n");
        }
        format!(
            "{node} has left the cluster. Its agent ends by itself, as soon as it hears of that, and stops its server; its data and \
             files are where they were.\n"
        )
    }))
}

/// `pgkeel remove --cancel`.
pub async fn keep(agents: &Agents, format: Format, node: NodeName) -> ExitCode {
    let done = format!("{node} stays in the cluster");
    order::run(agents, format, Order::Keep { node }, &done).await
}

/// `pgkeel leave`: this host's node goes, then its agent ends.
pub async fn leave(args: &LeaveArgs) -> ExitCode {
    let manner = Manner { insist: args.insist, sure: args.yes };
    ended("leave", leave_here(&args.config, manner).await)
}

fn ended(verb: &str, done: Result<String, String>) -> ExitCode {
    match done {
        Ok(text) => {
            say(&text);
            ExitCode::SUCCESS
        }
        Err(said) => {
            eprintln!("pgkeel {verb}: {said}");
            ExitCode::FAILURE
        }
    }
}

async fn leave_here(file: &Path, manner: Manner) -> Result<String, String> {
    let file = &absolute(file)?;
    let config = config::load(file).map_err(|error| error.to_string())?;
    let credentials =
        config.credentials(Shower::Host).map_err(|trouble| format!("{}: {trouble}", file.display()))?;
    let Config { agent: Some(agent), cluster, .. } = config else {
        return Err(format!(
            "{}: this host has no node, only a proxy, of which the cluster keeps no record; to be rid of it, stop it",
            file.display()
        ));
    };
    let node: NodeName = agent.node.parse().map_err(|error| format!("{error}"))?;
    let agents =
        Agents { addresses: agent.members.values().cloned().collect(), caller: Caller::with(credentials) };
    remove_from(&agents, &node, manner).await?;
    let service = Service::of(file, &agent.dir, "agent");
    let stopped = service.stop().await?;
    let data = agent.postgres.map(|server| format!("{}, ", server.data_dir.display())).unwrap_or_default();
    Ok(format!(
        "{node} has left cluster {cluster}; {stopped}.\nLeft in place, to be removed when nobody needs them: {data}{}, {}\n",
        agent.dir.display(),
        file.display()
    ))
}

/// Asks for it, and waits until it is so.
async fn remove_from(agents: &Agents, node: &NodeName, manner: Manner) -> Result<(), String> {
    let status: Status = first_answer(agents, "/v1/status").await?;
    let others: Vec<&str> =
        status.nodes.iter().filter(|n| n.node != *node).map(|n| n.node.as_str()).collect();
    if !status.nodes.iter().any(|n| n.node == *node) {
        return Err(format!(
            "there is no node {node} in cluster {}; its nodes are {}",
            status.cluster,
            others.join(", ")
        ));
    }
    if others.is_empty() {
        return Err(format!(
            "{node} is the only node of cluster {}: without it there is none. To end the cluster, stop its agent",
            status.cluster
        ));
    }
    // Not the one that goes: once it is out it hears no more.
    let addresses = status.nodes.iter().filter(|n| n.node != *node && !n.agent.is_empty());
    let agents =
        Agents { addresses: addresses.map(|n| n.agent.clone()).collect(), caller: agents.caller.clone() };
    let asked = Order::Remove { node: node.clone(), insist: manner.insist };
    taken(order::send(&agents, &asked, true).await?)?;
    if !manner.sure && !agreed(node, &status.cluster) {
        return Err("nothing was done".to_owned());
    }
    taken(order::send(&agents, &asked, false).await?)?;
    until_gone(&agents, node).await
}

fn taken(answer: Ordered) -> Result<(), String> {
    match answer {
        Ordered::Refused { because } => {
            let all: Vec<String> = because.iter().map(ToString::to_string).collect();
            Err(format!("refused: {}", all.join("; ")))
        }
        Ordered::Possible { .. } | Ordered::Recorded { .. } | Ordered::Restarts { .. } => Ok(()),
    }
}

fn agreed(node: &NodeName, cluster: &str) -> bool {
    let input = std::io::stdin();
    if !input.is_terminal() {
        eprintln!("nobody can be asked; to do it without a question: --yes");
        return false;
    }
    eprint!("strike {node} out of cluster {cluster}? Its data stay where they are [y/N] ");
    let mut answer = String::new();
    input.lock().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

/// What can be seen of the cluster.
enum Seen {
    Status(Status),
    /// This host asks with the certificate of the node that goes, and is told that it is gone.
    StruckOut,
    Nothing,
}

async fn look(agents: &Agents, node: &NodeName) -> Seen {
    let own = agents.caller.credentials().map(|credentials| credentials.current().subject.clone());
    let is_own = own.is_some_and(|it| it.role == Role::Agent && it.name == node.as_str());
    for agent in &agents.addresses {
        match ask::<Status>(&agents.caller, agent, "/v1/status", ANSWER_LIMIT).await {
            Ok(status) => return Seen::Status(status),
            Err(AskError::Refused(GONE, _)) if is_own => return Seen::StruckOut,
            Err(_) => {}
        }
    }
    Seen::Nothing
}

async fn until_gone(agents: &Agents, node: &NodeName) -> Result<(), String> {
    let mut progress = Progress::begin();
    let mut seen_leaving = false;
    loop {
        let what = match look(agents, node).await {
            Seen::StruckOut => return Ok(()),
            Seen::Status(status) => match status.nodes.iter().find(|n| n.node == *node) {
                None => return Ok(()),
                Some(there) => {
                    let leaves = there.why.starts_with("leaving: ");
                    if seen_leaving && !leaves {
                        return Err(format!("{node} stays after all: somebody took the removal back"));
                    }
                    seen_leaving |= leaves;
                    waiting(&status, node)
                }
            },
            Seen::Nothing => "no agent answers at the moment; asks again".to_owned(),
        };
        progress.wait(&what).await;
    }
}

fn waiting(status: &Status, node: &NodeName) -> String {
    let about = format!("{node} is leaving");
    let because = status.why.iter().find(|why| why.contains(&about));
    because.cloned().unwrap_or_else(|| format!("{about}; waits until it is struck out"))
}
