//! `pgkeel clone NODE`: has a standby copied anew, and shows how far it is until it streams again.

use std::io::{BufRead, IsTerminal};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use agent::messages::{CloneAnswer, CloneAsked};
use cluster::NodeName;
use cluster::copy::CloneCause;
use cluster::reason::Reason;
use cluster::state::Entry;
use cluster::status::Status;

use super::agents::{Agents, first_answer};
use super::each_node::tell_one;
use super::order::who;
use super::status::Format;
use super::text::say;

/// Between two looks at the progress.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// A line is printed for a node whose state does not change, too.
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// What `pgkeel clone` was told.
#[derive(Clone, Debug)]
pub struct CloneOptions {
    /// The agents to ask, "host:port", in this order.
    pub agents: Agents,
    /// How to print.
    pub format: Format,
    /// The node.
    pub node: NodeName,
    /// The node to copy from.
    pub from: Option<NodeName>,
    /// Nobody needs to be asked.
    pub sure: bool,
    /// Whether to stay until it is done.
    pub afterwards: Afterwards,
}

/// What to do once the node has taken the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Afterwards {
    /// Show the progress until it streams.
    Watch,
    /// Leave.
    Leave,
}

/// Asks, orders and watches. Ends with 1 when it was refused, or nobody agreed.
pub async fn run(options: &CloneOptions) -> ExitCode {
    match order(options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(said) => {
            eprintln!("pgkeel clone: {said}");
            ExitCode::FAILURE
        }
    }
}

async fn order(options: &CloneOptions) -> Result<(), String> {
    let node = &options.node;
    let ask = async |only_try| {
        let asked = CloneAsked { by: who(), from: options.from.clone(), only_try };
        let answer: CloneAnswer = tell_one(&options.agents, node, "/v1/clone", &asked).await?;
        answer.refused.map_or(Ok(()), Err)
    };
    ask(true).await?;
    if !options.sure && !agreed(node) {
        return Err("nothing was done".to_owned());
    }
    let before: Vec<Entry> = first_answer(&options.agents, "/v1/why").await?;
    ask(false).await?;
    if options.afterwards == Afterwards::Leave {
        if options.format == Format::Table {
            say(&format!("{node} is copied anew; pgkeel status shows how far it is\n"));
        }
        return Ok(());
    }
    watch(options, &before).await
}

fn agreed(node: &NodeName) -> bool {
    let input = std::io::stdin();
    if !input.is_terminal() {
        eprintln!("nobody can be asked; to do it without a question: --yes");
        return false;
    }
    eprint!("stop {node}, set its data aside and copy it anew? [y/N] ");
    let mut answer = String::new();
    input.lock().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

/// Until the history says that the node is back.
async fn watch(options: &CloneOptions, before: &[Entry]) -> Result<(), String> {
    let mut said = (String::new(), Instant::now());
    loop {
        let history: Vec<Entry> =
            first_answer(&options.agents, "/v1/why").await.unwrap_or_else(|_| before.to_vec());
        let back = history.iter().rev().find(|e| is_return(e, &options.node) && !before.contains(e));
        if let Some(entry) = back {
            match options.format {
                Format::Table => say(&format!("{}\n", entry.reason)),
                Format::Json => say(&(serde_json::to_string(entry).map_err(|e| e.to_string())? + "\n")),
            }
            return Ok(());
        }
        if let Ok(status) = first_answer::<Status>(&options.agents, "/v1/status").await
            && let Some(node) = status.nodes.into_iter().find(|n| n.node == options.node)
            && options.format == Format::Table
            && (node.why != said.0 || said.1.elapsed() >= SAY_AGAIN)
        {
            say(&format!("{}: {}\n", node.node, node.why));
            said = (node.why, Instant::now());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn is_return(entry: &Entry, wanted: &NodeName) -> bool {
    matches!(&entry.reason, Reason::Rejoined { node, rejoined }
        if node == wanted && matches!(rejoined.cause, Some(CloneCause::Ordered { .. })))
}
