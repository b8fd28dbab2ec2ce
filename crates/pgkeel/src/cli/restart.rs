//! `pgkeel restart` and `pgkeel reload`: servers start again, one after the other, or read their files again.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use agent::messages::Reloaded;
use cluster::NodeName;
use cluster::decide::switchover::{Order, Ordered};
use cluster::reason::Reason;
use cluster::restart::{Tale, Turn, Way, in_words};
use cluster::state::Entry;
use cluster::status::Status;
use serde::Serialize;

use super::agents::{Agents, first_answer};
use super::each_node::tell_one;
use super::order::{send, tell};
use super::status::Format;
use super::switchover::confirmed;
use super::text::{say, short_time};

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// After so long without news it is said what is waited for.
const SAY_AGAIN: Duration = Duration::from_secs(2);
/// And when that stays the same.
const SAY_SAME: Duration = Duration::from_secs(15);
/// Without an answer of any agent for so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is asked for.
#[derive(Clone, Debug)]
pub enum Wish {
    /// Restart servers.
    Restart {
        /// Only this node's.
        node: Option<NodeName>,
        /// Only where something waits for it.
        pending: bool,
        /// The primary hands over first.
        rolling: bool,
        /// Do not ask, and do it although commits may have to wait.
        sure: bool,
        /// Do not wait for the end.
        leave: bool,
    },
    /// No more of these restarts.
    Cancel(String),
}

/// Does it. Ends with 1 when it is refused, fails or is given up.
pub async fn run(agents: &Agents, format: Format, wish: Wish) -> ExitCode {
    let outcome = match wish {
        Wish::Cancel(id) => send(agents, &Order::Cancel { id: id.clone() }, false).await.map(|answer| {
            tell(&answer, format, &format!("restarts {id} cancelled; what has begun is finished"))
        }),
        Wish::Restart { node, pending, rolling, sure, leave } => {
            let order = Order::Restart { node, pending, rolling, insist: sure };
            restart(agents, format, order, sure, leave).await
        }
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("pgkeel restart: {error}");
        ExitCode::FAILURE
    })
}

async fn restart(
    agents: &Agents,
    format: Format,
    order: Order,
    sure: bool,
    leave: bool,
) -> Result<ExitCode, String> {
    if let Order::Restart { node: None, pending: false, rolling: false, .. } = order {
        return Err("what? Name a node; or say --pending (where something waits for it), or --rolling (all)"
            .to_owned());
    }
    let tried = send(agents, &order, true).await?;
    let Ordered::Restarts { turns, .. } = &tried else { return Ok(tell(&tried, format, "")) };
    if let Some(primary) = in_place(turns).filter(|_| !sure) {
        let question = format!(
            "{}. While {primary} restarts in place there is no primary: clients of proxies wait, others lose their \
             connections. Go on?",
            in_words(turns)
        );
        if !confirmed(&question)? {
            eprintln!("nothing was done");
            return Ok(ExitCode::FAILURE);
        }
    }
    let answer = send(agents, &order, false).await?;
    let Ordered::Restarts { id, turns } = &answer else { return Ok(tell(&answer, format, "")) };
    if leave {
        return Ok(tell(&answer, format, &format!("restarts {id}: {}", in_words(turns))));
    }
    tokio::select! {
        ended = follow(agents, format, id) => ended,
        _ = tokio::signal::ctrl_c() => {
            eprintln!("restarts {id} go on without this command (pgkeel why); to end them: pgkeel restart --cancel {id}");
            Ok(ExitCode::from(130))
        }
    }
}

fn in_place(turns: &[Turn]) -> Option<&NodeName> {
    turns.iter().find(|turn| turn.way == Way::InPlace).map(|turn| &turn.node)
}

/// Whether the history says that these restarts have ended, and how.
fn end_of(entry: &Entry, id: &str) -> Option<ExitCode> {
    match &entry.reason {
        Reason::Restart { tale: Tale::Ended { id: of } } if of == id => Some(ExitCode::SUCCESS),
        Reason::Restart { tale: Tale::GivenUp { id: of, .. } | Tale::Cancelled { id: of, .. } }
            if of == id =>
        {
            Some(ExitCode::FAILURE)
        }
        _ => None,
    }
}

/// Prints every decision from the beginning of these restarts on, until they have ended.
async fn follow(agents: &Agents, format: Format, id: &str) -> Result<ExitCode, String> {
    let (mut answered, mut told) = (Instant::now(), 0);
    let mut said = (String::new(), Instant::now());
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if answered.elapsed() > PATIENCE {
            return Err(format!("no agent answers; restarts {id} may go on: see pgkeel why"));
        }
        let Ok(history) = first_answer::<Vec<Entry>>(agents, "/v1/why").await else { continue };
        answered = Instant::now();
        let begins =
            |e: &Entry| matches!(&e.reason, Reason::Restart { tale: Tale::Begun { id: of, .. } } if of == id);
        let Some(at) = history.iter().rposition(begins) else { continue };
        let own = history.get(at..).unwrap_or_default();
        let first = own.first().map_or(0, |e| e.at);
        for entry in own.get(told..).unwrap_or_default() {
            told += 1;
            said.1 = Instant::now();
            if format == Format::Table {
                say(&format!("{:>9}  {}\n", short_time(entry.at.saturating_sub(first)), entry.reason));
            }
            if let Some(code) = end_of(entry, id) {
                if format == Format::Json {
                    let own = own.get(..told).unwrap_or_default();
                    say(&(serde_json::to_string(own).map_err(|e| e.to_string())? + "\n"));
                }
                return Ok(code);
            }
        }
        if format == Format::Table && said.1.elapsed() > SAY_AGAIN {
            say_wait(agents, &mut said).await;
        }
    }
}

async fn say_wait(agents: &Agents, said: &mut (String, Instant)) {
    let Ok(status) = first_answer::<Status>(agents, "/v1/status").await else { return };
    let why = status.why.join("; ");
    if why != said.0 || said.1.elapsed() > SAY_SAME {
        say(&format!("{:>9}  {why}\n", "..."));
        *said = (why, Instant::now());
    }
}

/// What `pgkeel reload --json` prints of a node.
#[derive(Debug, Serialize)]
struct Read {
    node: NodeName,
    problem: Option<String>,
}

/// Lets one server, or all, read their configuration files again.
pub async fn reload(agents: &Agents, format: Format, node: Option<NodeName>) -> ExitCode {
    let nodes = match node {
        Some(node) => Ok(vec![node]),
        None => first_answer::<Status>(agents, "/v1/status")
            .await
            .map(|s| s.nodes.into_iter().filter(|n| n.postgres.is_some()).map(|n| n.node).collect()),
    };
    let nodes: Vec<NodeName> = match nodes {
        Ok(nodes) => nodes,
        Err(error) => {
            eprintln!("pgkeel reload: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut all = Vec::new();
    for node in nodes {
        let answer = tell_one::<_, Reloaded>(agents, &node, "/v1/reload", &()).await;
        let problem = answer.err();
        if format == Format::Table {
            match &problem {
                None => say(&format!("{node}: reads its files again\n")),
                Some(problem) => eprintln!("{node}: {problem}"),
            }
        }
        all.push(Read { node, problem });
    }
    if format == Format::Json {
        say(&(serde_json::to_string(&all).unwrap_or_default() + "\n"));
    }
    if all.iter().all(|read| read.problem.is_none()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
