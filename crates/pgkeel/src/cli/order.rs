//! Orders to the cluster: sent to any agent, which passes them on to the leader.

use std::process::ExitCode;
use std::time::Duration;

use agent::http;
use agent::messages::OrderAsked;
use cluster::decide::switchover::{Order, Ordered};

use super::agents::Agents;
use super::status::Format;
use super::text::say;

/// For one agent to answer; it may have to ask the leader, which records the order.
const ORDER_LIMIT: Duration = Duration::from_secs(10);

/// Sends an order to the first agent that takes it.
///
/// # Errors
/// When no agent took it: each and why. An agent that was reached and did not answer in time may have acted on it.
pub async fn send(agents: &Agents, order: &Order, only_try: bool) -> Result<Ordered, String> {
    let asked = OrderAsked { order: order.clone(), by: who(), only_try };
    let mut failed = Vec::new();
    for agent in &agents.addresses {
        match http::post_json::<_, Ordered>(&agents.caller, agent, "/v1/order", &asked, ORDER_LIMIT).await {
            Ok(answer) => return Ok(answer),
            Err(e @ http::HttpError::Unreachable { .. }) => failed.push(format!("  {e}")),
            Err(e) => {
                failed.push(format!("  {e}"));
                if !only_try {
                    break; // it may have been recorded: not twice
                }
            }
        }
    }
    Err(format!(
        "no agent took the order:\n{}\nan order needs a leader, and a leader needs a majority of the agents: pgkeel status says whether there is one",
        failed.join("\n")
    ))
}

/// Who gives the order, as far as this host knows.
#[must_use]
pub fn who() -> String {
    let user = std::env::var("SUDO_USER")
        .or_else(|_| std::env::var("USER"))
        .unwrap_or_else(|_| "somebody".to_owned());
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let text = format!("{user}@{}", host.trim());
    text.chars().filter(|c| !c.is_control()).take(100).collect()
}

/// Sends an order that needs no more than to be recorded, and prints `done`.
pub async fn run(agents: &Agents, format: Format, order: Order, done: &str) -> ExitCode {
    match send(agents, &order, false).await {
        Ok(answer) => tell(&answer, format, done),
        Err(error) => {
            eprintln!("pgkeel: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints what came of an order; the exit code says whether it was taken.
pub fn tell(answer: &Ordered, format: Format, done: &str) -> ExitCode {
    if format == Format::Json {
        say(&(serde_json::to_string(answer).unwrap_or_default() + "\n"));
    }
    match answer {
        Ordered::Refused { because } => {
            because.iter().for_each(|obstacle| eprintln!("refused: {obstacle}"));
            ExitCode::FAILURE
        }
        Ordered::Possible { .. } | Ordered::Recorded { .. } | Ordered::Restarts { .. } => {
            if format == Format::Table {
                say(&format!("{done}\n"));
            }
            ExitCode::SUCCESS
        }
    }
}
