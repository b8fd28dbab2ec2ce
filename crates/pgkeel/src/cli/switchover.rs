//! `pgkeel switchover`: checks first, asks, then shows each step as it is recorded.

use std::io::{BufRead, IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use cluster::decide::switchover::{Order, Ordered};
use cluster::reason::Reason;
use cluster::state::Entry;
use cluster::status::Status;
use cluster::{NodeName, WallMs};

use super::agents::{self, Agents};
use super::order::{send, tell};
use super::status::Format;
use super::text::{clock, say, short_time};

/// Longest time for which the steps are followed: a checkpoint may take minutes.
const FOLLOW_LIMIT: Duration = Duration::from_secs(400);
/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What is asked for.
#[derive(Clone, Debug)]
pub enum Wish {
    /// Change the primary.
    Change {
        /// To this node.
        to: Option<NodeName>,
        /// Then.
        at: Option<WallMs>,
        /// Do not ask whether it is meant.
        sure: bool,
    },
    /// Show what is planned.
    List,
    /// Forget one.
    Cancel(String),
}

/// Does it. Ends with 1 when it is refused or fails.
pub async fn run(agents: &Agents, format: Format, wish: Wish) -> ExitCode {
    let outcome = match wish {
        Wish::List => list(agents, format).await,
        Wish::Cancel(id) => send(agents, &Order::Cancel { id: id.clone() }, false)
            .await
            .map(|answer| tell(&answer, format, &format!("switchover {id} cancelled"))),
        Wish::Change { to, at: Some(at), .. } => plan(agents, format, to, at).await,
        Wish::Change { to, at: None, sure } => change(agents, format, to, sure).await,
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("pgkeel switchover: {error}");
        ExitCode::FAILURE
    })
}

async fn plan(agents: &Agents, format: Format, to: Option<NodeName>, at: WallMs) -> Result<ExitCode, String> {
    let answer = send(agents, &Order::Switchover { to, at: Some(at) }, false).await?;
    let id = match &answer {
        Ordered::Recorded { id, .. } => id.clone(),
        Ordered::Possible { .. } | Ordered::Restarts { .. } | Ordered::Refused { .. } => String::new(),
    };
    let done = format!(
        "switchover {id} planned for {}; its checks are made then. Take it back: pgkeel switchover --cancel {id}",
        moment(at)
    );
    Ok(tell(&answer, format, &done))
}

fn moment(at: WallMs) -> String {
    let clock = clock(at);
    format!("{} {}", clock.date, clock.time)
}

async fn change(
    agents: &Agents,
    format: Format,
    to: Option<NodeName>,
    sure: bool,
) -> Result<ExitCode, String> {
    let status: Status = agents::first_answer(agents, "/v1/status").await?;
    let tried = send(agents, &Order::Switchover { to, at: None }, true).await?;
    let Ordered::Possible { to: Some(to) } = &tried else { return Ok(tell(&tried, format, "")) };
    let from = status.primary.as_ref().map_or_else(|| "nobody".to_owned(), ToString::to_string);
    if !sure && !confirmed(&format!("Change the primary from {from} to {to}?"))? {
        eprintln!("nothing was changed");
        return Ok(ExitCode::FAILURE);
    }
    let order = Order::Switchover { to: Some(to.clone()), at: None };
    let answer = send(agents, &order, false).await?;
    let Ordered::Recorded { id, .. } = &answer else { return Ok(tell(&answer, format, "")) };
    follow(agents, format, id, to, status.epoch).await
}

/// Asks on the terminal; without one, nothing is done unasked.
pub(super) fn confirmed(question: &str) -> Result<bool, String> {
    let input = std::io::stdin();
    if !input.is_terminal() {
        return Err(format!("{question} There is nobody to answer: say --yes"));
    }
    eprint!("{question} [y/N] ");
    let _ = std::io::stderr().flush();
    let mut line = String::new();
    input.lock().read_line(&mut line).map_err(|e| e.to_string())?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}

/// Prints every entry of the history from this switchover on, until it has ended.
async fn follow(
    agents: &Agents,
    format: Format,
    id: &str,
    to: &NodeName,
    epoch: u64,
) -> Result<ExitCode, String> {
    let began = Instant::now();
    let mut told = 0;
    loop {
        if began.elapsed() > FOLLOW_LIMIT {
            return Err("it has not ended yet; pgkeel status and pgkeel why say how far it is".to_owned());
        }
        tokio::time::sleep(LOOK_EVERY).await;
        let Ok(history) = agents::first_answer::<Vec<Entry>>(agents, "/v1/why").await else { continue };
        let begins = |e: &Entry| matches!(&e.reason, Reason::SwitchoverBegun { id: of, .. } if of == id);
        let Some(at) = history.iter().rposition(begins) else { continue };
        let own = history.get(at..).unwrap_or_default();
        let first = own.first().map_or(0, |e| e.at);
        for entry in own.get(told..).unwrap_or_default() {
            told += 1;
            if format == Format::Table {
                say(&format!("{:>9}  {}\n", short_time(entry.at.saturating_sub(first)), entry.reason));
            }
            match &entry.reason {
                Reason::SwitchoverRefused { id: of, .. } | Reason::SwitchoverCancelled { id: of, .. }
                    if of == id =>
                {
                    return Ok(ended(format, own, ExitCode::FAILURE));
                }
                Reason::Published { node, .. } if entry.epoch > epoch => {
                    let code = if node == to { ExitCode::SUCCESS } else { ExitCode::FAILURE };
                    return Ok(ended(format, own, code));
                }
                _ => {}
            }
        }
    }
}

fn ended(format: Format, entries: &[Entry], code: ExitCode) -> ExitCode {
    if format == Format::Json {
        say(&(serde_json::to_string(entries).unwrap_or_default() + "\n"));
    }
    code
}

async fn list(agents: &Agents, format: Format) -> Result<ExitCode, String> {
    let status: Status = agents::first_answer(agents, "/v1/status").await?;
    if format == Format::Json {
        say(&(serde_json::to_string(&status.planned).unwrap_or_default() + "\n"));
        return Ok(ExitCode::SUCCESS);
    }
    if status.planned.is_empty() {
        say("no switchover is planned\n");
    }
    for planned in &status.planned {
        let to = planned.to.as_ref().map_or_else(|| "the best candidate".to_owned(), ToString::to_string);
        say(&format!("{}  {}  to {to}, asked for by {}\n", planned.id, moment(planned.at), planned.by));
    }
    Ok(ExitCode::SUCCESS)
}
