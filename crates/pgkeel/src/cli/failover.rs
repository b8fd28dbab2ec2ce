//! `pgkeel failover`: shows what would be lost and how to accept it; with that, makes a node primary all the same.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use cluster::NodeName;
use cluster::decide::switchover::{Order, Ordered};
use cluster::handover::Obstacle;
use cluster::reason::Reason;
use cluster::state::Entry;
use cluster::status::Status;
use cluster::word::{Loss, Objection, Word};

use super::agents::{self, Agents};
use super::aside::Confirm;
use super::order::{send, tell};
use super::status::Format;
use super::switchover::confirmed;
use super::text::{say, short_time};

/// So long it is followed; what waits for longer waits for somebody.
const FOLLOW_LIMIT: Duration = Duration::from_secs(20);
/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The next primary.
    pub to: NodeName,
    /// The loss that is accepted.
    pub accept: Option<String>,
    /// A node of which the person vouches that its server is stopped.
    pub stopped: Option<NodeName>,
    /// Whether to ask before anything is changed.
    pub confirm: Confirm,
}

/// Does it. Ends with 1 when it is refused, or has not ended with the node as primary.
pub async fn run(agents: &Agents, format: Format, wish: &Wish) -> ExitCode {
    force(agents, format, wish).await.unwrap_or_else(|error| {
        eprintln!("pgkeel failover: {error}");
        ExitCode::FAILURE
    })
}

async fn force(agents: &Agents, format: Format, wish: &Wish) -> Result<ExitCode, String> {
    let order =
        Order::Failover { to: wish.to.clone(), accept: wish.accept.clone(), stopped: wish.stopped.clone() };
    let tried = send(agents, &order, true).await?;
    if let Ordered::Refused { because } = &tried {
        return Ok(refused(&tried, because, format, wish));
    }
    if wish.confirm == Confirm::Ask && !confirmed(&question(wish))? {
        eprintln!("nothing was changed");
        return Ok(ExitCode::FAILURE);
    }
    let answer = send(agents, &order, false).await?;
    match &answer {
        Ordered::Refused { because } => Ok(refused(&answer, because, format, wish)),
        Ordered::Possible { .. } | Ordered::Recorded { .. } | Ordered::Restarts { .. } => {
            follow(agents, format, wish).await
        }
    }
}

fn question(wish: &Wish) -> String {
    let vouched = wish.stopped.as_ref().map_or_else(String::new, |n| {
        format!("You vouch that the server of {n} is stopped and cannot come back as primary. ")
    });
    match &wish.accept {
        Some(loss) => format!("{vouched}Make {} primary and lose {loss} for good?", wish.to),
        None => format!("{vouched}Give up the present primary, so that another one is chosen?"),
    }
}

/// What would be lost, in lines, and the command that accepts it; any other refusal as of every order.
fn refused(answer: &Ordered, because: &[Obstacle], format: Format, wish: &Wish) -> ExitCode {
    let loss = because.iter().find_map(|obstacle| match obstacle {
        Obstacle::Objected { objection: Objection::WouldLose { loss, token } } => Some((loss, token)),
        _ => None,
    });
    let (Some((loss, token)), Format::Table) = (loss, format) else { return tell(answer, format, "") };
    for obstacle in because {
        if let Obstacle::Objected { objection: stale @ Objection::Stale { .. } } = obstacle {
            eprintln!("refused: {stale}\n");
        }
    }
    eprint!("{}", shown(loss, token, wish));
    ExitCode::FAILURE
}

/// What a person reads before the acceptance.
#[must_use]
pub fn shown(loss: &Loss, token: &str, wish: &Wish) -> String {
    let stopped = wish.stopped.as_ref().map_or_else(String::new, |n| format!(" --stopped {n}"));
    let facts = loss.to_string();
    let facts: Vec<String> = facts.split("; ").map(|fact| format!("  - {fact}\n")).collect();
    format!(
        "nothing automatic makes {0} primary, because acknowledged commits may be lost by it:\n{1}\
         If the node that has more can be brought back, nothing needs to be lost: start it and wait.\n\
         To make {0} primary all the same and lose what it lacks:\n\n  \
         pgkeel failover --to {0}{stopped} --accept-loss {token}\n\n\
         This is valid only while all of the above is as it is. What was lost is shown by pgkeel lost when the node \
         that had it is back.\n",
        loss.to,
        facts.concat()
    )
}

/// Prints every entry of the history from the order on, until there is a primary or somebody is waited for.
async fn follow(agents: &Agents, format: Format, wish: &Wish) -> Result<ExitCode, String> {
    let began = Instant::now();
    let mut told = 0;
    while began.elapsed() < FOLLOW_LIMIT {
        tokio::time::sleep(LOOK_EVERY).await;
        let Ok(history) = agents::first_answer::<Vec<Entry>>(agents, "/v1/why").await else { continue };
        let begins = |e: &Entry| {
            matches!(&e.reason, Reason::Word { word: Word::Forced { .. } | Word::GivenUp { .. } })
        };
        let Some(at) = history.iter().rposition(begins) else { continue };
        let own = history.get(at..).unwrap_or_default();
        let first = own.first().map_or(0, |e| e.at);
        for entry in own.get(told..).unwrap_or_default() {
            told += 1;
            if format == Format::Table {
                say(&format!("{:>9}  {}\n", short_time(entry.at.saturating_sub(first)), entry.reason));
            }
            if let Reason::Published { node, .. } = &entry.reason {
                if format == Format::Json {
                    say(&(serde_json::to_string(own).unwrap_or_default() + "\n"));
                }
                return Ok(if *node == wish.to { ExitCode::SUCCESS } else { ExitCode::FAILURE });
            }
        }
    }
    let status: Status = agents::first_answer(agents, "/v1/status").await?;
    Err(format!(
        "there is no primary yet: {}\nrun pgkeel failover --to {} again to see what can be done",
        status.why.join("; "),
        wish.to
    ))
}
