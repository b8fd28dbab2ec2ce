//! `pgkeel config show | set | unset | edit | diff | history | rollback`: the cluster-wide configuration.
//!
//! Every change is made from a version that was read, and is refused when another one was recorded meanwhile.

mod edit;
mod shown;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use agent::messages::OwnConfiguration;
use cluster::configuration::{Configuration, Content, Difference, Pending, differences};
use cluster::decide::switchover::{Order, Ordered};
use cluster::status::{NodeStatus, Status};
use serde::Serialize;

use super::agents::{Agents, first_answer};
use super::each_node::{Answers, ask_each};
use super::order::{send, tell};
use super::status::Format;
use super::text::say;

/// How long the nodes are watched as they take a version on.
const FOLLOW_LIMIT: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Nothing is said of what takes no longer.
const QUIET: Duration = Duration::from_secs(2);

/// What is asked for.
#[derive(Clone, Debug)]
pub enum Wish {
    /// Print what is in force, and where it comes from.
    Show,
    /// Set parameters, each "name=value".
    Set {
        /// They.
        pairs: Vec<String>,
        /// Only if this version is in force.
        from: Option<u64>,
    },
    /// Take parameters out.
    Unset {
        /// Their names.
        names: Vec<String>,
        /// Only if this version is in force.
        from: Option<u64>,
    },
    /// Change the whole of it as a text.
    Edit {
        /// Take the text from here; "-" is standard input.
        file: Option<PathBuf>,
    },
    /// Print how two versions differ.
    Diff {
        /// The older one; `None`: the one before the last.
        from: Option<u64>,
        /// The newer one; `None`: the one in force.
        to: Option<u64>,
    },
    /// List the versions.
    History,
    /// Make a version say again what an older one said.
    Rollback {
        /// The older one.
        to: u64,
    },
}

/// Does it. Ends with 1 when it is refused or fails.
pub async fn run(agents: &Agents, format: Format, wish: Wish) -> ExitCode {
    let outcome = match wish {
        Wish::Show => shown::show(agents, format).await,
        Wish::Diff { from, to } => diff(agents, format, from, to).await,
        Wish::History => history(agents, format).await,
        Wish::Edit { file } => edit::edit(agents, format, file).await,
        Wish::Set { pairs, from } => set(agents, format, &pairs, from).await,
        Wish::Unset { names, from } => unset(agents, format, &names, from).await,
        Wish::Rollback { to } => rollback(agents, format, to).await,
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("pgkeel config: {error}");
        ExitCode::FAILURE
    })
}

async fn fetch(agents: &Agents) -> Result<Configuration, String> {
    first_answer(agents, "/v1/config").await
}

fn name_of(text: &str) -> Result<String, String> {
    let name = text.trim().to_ascii_lowercase();
    match name.as_str() {
        "" => Err(format!("{text:?} names no parameter; write NAME=VALUE, as in work_mem=64MB")),
        "hba" => Err("the rules of pg_hba.conf are changed by pgkeel config edit".to_owned()),
        _ => Ok(name),
    }
}

/// `work_mem=64MB`, or with PostgreSQL's quotes: `log_line_prefix='%m '`.
fn pair_of(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} is not NAME=VALUE; write for example work_mem=64MB"))?;
    let value = value.trim_start();
    let inner = value.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
    Ok((name_of(name)?, inner.map_or_else(|| value.to_owned(), |inner| inner.replace("''", "'"))))
}

async fn set(
    agents: &Agents,
    format: Format,
    pairs: &[String],
    from: Option<u64>,
) -> Result<ExitCode, String> {
    let mut wanted = BTreeMap::new();
    for text in pairs {
        let (name, value) = pair_of(text)?;
        if wanted.insert(name.clone(), value).is_some() {
            return Err(format!("{name} is given twice; leave one out"));
        }
    }
    let present = fetch(agents).await?;
    let mut content = present.content().clone();
    content.parameters.extend(wanted);
    record(agents, format, &present, from, content, None).await
}

async fn unset(
    agents: &Agents,
    format: Format,
    names: &[String],
    from: Option<u64>,
) -> Result<ExitCode, String> {
    let present = fetch(agents).await?;
    let mut content = present.content().clone();
    for text in names {
        let name = name_of(text)?;
        if content.parameters.remove(&name).is_none() {
            return Err(format!(
                "{name} is not set for the cluster; pgkeel config show says what is, and which node's file sets what"
            ));
        }
    }
    record(agents, format, &present, from, content, None).await
}

async fn rollback(agents: &Agents, format: Format, to: u64) -> Result<ExitCode, String> {
    let present = fetch(agents).await?;
    let content = kept(&present, to)?.clone();
    record(agents, format, &present, None, content, Some(to)).await
}

fn kept(configuration: &Configuration, number: u64) -> Result<&Content, String> {
    configuration.find(number).ok_or_else(|| {
        let oldest = configuration.versions.first().map_or(0, |version| version.number);
        format!("version {number} is not kept; there are versions {oldest} to {}", configuration.number())
    })
}

/// Offers it to the servers and to the cluster, then says how far the nodes are.
async fn record(
    agents: &Agents,
    format: Format,
    present: &Configuration,
    from: Option<u64>,
    content: Content,
    back_to: Option<u64>,
) -> Result<ExitCode, String> {
    let from = from.unwrap_or_else(|| present.number());
    let changes = differences(present.content(), &content);
    if changes.is_empty() && from == present.number() {
        let number = present.number();
        match format {
            Format::Table => say(&format!("nothing changes: version {number} says so already\n")),
            Format::Json => print_json(&Recorded { version: number, changes, nodes: Vec::new() })?,
        }
        return Ok(ExitCode::SUCCESS);
    }
    let order = Order::Configure { from, content, back_to };
    let answer = send(agents, &order, false).await?;
    let Ordered::Recorded { id, .. } = &answer else { return Ok(tell(&answer, format, "")) };
    let version: u64 = id.parse().map_err(|_| format!("the answer names version {id:?}"))?;
    if format == Format::Table {
        say(&format!("version {version}\n"));
        changes.iter().for_each(|change| say(&format!("  {change}\n")));
    }
    let nodes = tokio::select! {
        nodes = follow(agents, format, version) => nodes?,
        _ = tokio::signal::ctrl_c() => {
            eprintln!("version {version} is recorded; the nodes take it on without this command (pgkeel config show)");
            return Ok(ExitCode::from(130));
        }
    };
    match format {
        Format::Json => print_json(&Recorded { version, changes, nodes })?,
        Format::Table => {
            say(&outcome(version, &nodes));
            say(&overridden(agents, &changes).await);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What `--json` prints of a change.
#[derive(Debug, Serialize)]
struct Recorded {
    version: u64,
    changes: Vec<Difference>,
    nodes: Vec<Taken>,
}

/// How far a node is.
#[derive(Debug, Serialize)]
struct Taken {
    node: String,
    configured: u64,
    restart_pending: Vec<Pending>,
    why: String,
}

fn print_json<T: Serialize>(value: &T) -> Result<(), String> {
    say(&(serde_json::to_string(value).map_err(|e| e.to_string())? + "\n"));
    Ok(())
}

/// A node whose server can take something on at this moment.
fn runs(node: &NodeStatus) -> bool {
    node.postgres.is_some() && node.lsn.is_some() && node.state != "silent"
}

/// Until every server that runs has it, and has had a moment to tell what waits for a restart.
async fn follow(agents: &Agents, format: Format, version: u64) -> Result<Vec<Taken>, String> {
    let began = Instant::now();
    let (mut told, mut complete_since) = (false, None);
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Ok(status) = first_answer::<Status>(agents, "/v1/status").await else {
            if began.elapsed() > FOLLOW_LIMIT {
                return Err(format!("version {version} is recorded; whether the nodes have it is not known"));
            }
            continue;
        };
        let late: Vec<&NodeStatus> =
            status.nodes.iter().filter(|n| runs(n) && n.configured < version).collect();
        if late.is_empty() {
            let since: &Instant = complete_since.get_or_insert_with(Instant::now);
            if since.elapsed() < QUIET / 4 {
                continue;
            }
        } else if began.elapsed() < FOLLOW_LIMIT {
            if began.elapsed() > QUIET && !told && format == Format::Table {
                let names: Vec<&str> = late.iter().map(|n| n.node.as_str()).collect();
                say(&format!("waiting for {}\n", names.join(", ")));
                told = true;
            }
            continue;
        }
        let nodes = status.nodes.into_iter().filter(|n| n.postgres.is_some());
        return Ok(nodes
            .map(|n| Taken {
                node: n.node.to_string(),
                configured: n.configured,
                restart_pending: n.pending,
                why: n.why,
            })
            .collect());
    }
}

/// Nodes whose own files have the last word on what was set.
async fn overridden(agents: &Agents, changes: &[Difference]) -> String {
    let own: Answers<OwnConfiguration> = ask_each(agents, None, "/v1/config/own").await.unwrap_or_default();
    let mut text = String::new();
    for change in changes {
        let Difference::Parameter { name, to: Some(_), .. } = change else { continue };
        for (node, answer) in &own {
            if let Some(value) = answer.as_ref().ok().and_then(|own| own.parameters.get(name)) {
                text += &format!("on {node} its own file holds instead: {name} = {value}\n");
            }
        }
    }
    text
}

fn outcome(version: u64, nodes: &[Taken]) -> String {
    let list = |which: &dyn Fn(&&Taken) -> bool| {
        nodes.iter().filter(which).map(|n| n.node.as_str()).collect::<Vec<_>>().join(", ")
    };
    let mut text = String::new();
    let have = list(&|n| n.configured >= version);
    if !have.is_empty() {
        text += &format!("taken on by {have}\n");
    }
    for node in nodes.iter().filter(|n| n.configured < version) {
        text += &format!("not yet by {}: {}\n", node.node, node.why);
    }
    let mut waits: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for node in nodes {
        for pending in &node.restart_pending {
            waits.entry(pending.name.as_str()).or_default().push(node.node.clone());
        }
    }
    for (name, nodes) in &waits {
        text += &format!("restart pending for {name} on {}\n", nodes.join(", "));
    }
    if !waits.is_empty() {
        text += "restart them one after the other, in the right order: pgkeel restart --pending --rolling\n";
    }
    text
}

async fn diff(
    agents: &Agents,
    format: Format,
    from: Option<u64>,
    to: Option<u64>,
) -> Result<ExitCode, String> {
    let configuration = fetch(agents).await?;
    let to = to.unwrap_or_else(|| configuration.number());
    let from = from.unwrap_or_else(|| to.saturating_sub(1));
    let found = differences(kept(&configuration, from)?, kept(&configuration, to)?);
    match format {
        Format::Json => print_json(&found)?,
        Format::Table => {
            say(&format!("version {from} -> version {to}\n"));
            found.iter().for_each(|difference| say(&format!("  {difference}\n")));
            if found.is_empty() {
                say("  no difference\n");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn history(agents: &Agents, format: Format) -> Result<ExitCode, String> {
    let configuration = fetch(agents).await?;
    match format {
        Format::Json => print_json(&configuration.versions)?,
        Format::Table => say(&shown::history(&configuration)),
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_read_with_and_without_quotes() {
        assert_eq!(pair_of("Work_Mem=64MB"), Ok(("work_mem".into(), "64MB".into())));
        assert_eq!(
            pair_of("log_line_prefix = '%m it''s '"),
            Ok(("log_line_prefix".into(), "%m it's ".into()))
        );
        assert_eq!(pair_of("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(pair_of("work_mem").unwrap_err().contains("NAME=VALUE"));
        assert!(pair_of("=1").unwrap_err().contains("names no parameter"));
        assert!(pair_of("hba=x").unwrap_err().contains("config edit"));
    }

    #[test]
    fn what_waits_is_told_by_parameter() {
        let pending =
            Pending { name: "max_connections".into(), running: "100".into(), configured: "300".into() };
        let node = |name: &str, configured, restart_pending| Taken {
            node: name.to_owned(),
            configured,
            restart_pending,
            why: "no heartbeat yet".to_owned(),
        };
        let nodes =
            [node("n1", 3, vec![pending.clone()]), node("n2", 3, vec![pending]), node("n3", 2, vec![])];
        assert_eq!(
            outcome(3, &nodes),
            "taken on by n1, n2\nnot yet by n3: no heartbeat yet\nrestart pending for max_connections on n1, n2\n\
             restart them one after the other, in the right order: pgkeel restart --pending --rolling\n"
        );
    }
}
