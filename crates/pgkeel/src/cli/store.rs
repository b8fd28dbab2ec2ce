//! `pgkeel store show` and `pgkeel store migrate`: where the cluster's record is kept, and how it moves.

use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use agent::messages::Keeping;
use cluster::NodeName;
use cluster::decide::switchover::{Order, Ordered};
use cluster::moving::{Access, Home};
use cluster::status::Status;
use serde::Serialize;

use super::agents::{Agents, first_answer};
use super::each_node::ask_one;
use super::order;
use super::status::Format;
use super::store_args::{Kind, MigrateArgs};
use super::text::{columns, say};
use crate::setup::progress::Progress;

const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// Below this an election in etcd can outlast a lease (as `config check` warns).
const DETECT_MS_ETCD: u64 = 2500;
/// For all nodes to use the new place.
const MOVED_LIMIT: Duration = Duration::from_secs(60);

/// What one node says, or why it says nothing.
#[derive(Debug, Serialize)]
struct Node {
    node: NodeName,
    keeping: Option<Keeping>,
    silent: Option<String>,
}

/// What came of a move.
#[derive(Debug, Serialize)]
struct Report {
    /// The number of the move.
    number: u64,
    home: String,
    /// Whether every node has the record there.
    done: bool,
    /// Whether the primary is the one from before, in the same epoch.
    primary_served_on: bool,
    nodes: Vec<Node>,
}

/// `pgkeel store show`. 1: a node does not answer, or nodes do not agree.
pub async fn show(agents: &Agents, format: Format) -> ExitCode {
    let nodes = match all_nodes(agents).await {
        Ok(nodes) => nodes,
        Err(said) => {
            eprintln!("pgkeel store show: {said}");
            return ExitCode::FAILURE;
        }
    };
    match format {
        Format::Json => say(&(serde_json::to_string(&nodes).unwrap_or_default() + "\n")),
        Format::Table => say(&table(&nodes)),
    }
    let first = nodes.iter().find_map(|node| node.keeping.as_ref());
    let agree = |node: &Node| {
        node.keeping.as_ref().zip(first).is_some_and(|(one, other)| {
            one.moves_to.is_none() && (one.number, one.in_etcd) == (other.number, other.in_etcd)
        })
    };
    if nodes.iter().all(agree) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn all_nodes(agents: &Agents) -> Result<Vec<Node>, String> {
    let status: Status = first_answer(agents, "/v1/status").await?;
    let mut nodes = Vec::new();
    for node in status.nodes {
        nodes.push(ask_node(agents, node.node).await);
    }
    Ok(nodes)
}

async fn ask_node(agents: &Agents, node: NodeName) -> Node {
    match ask_one::<Keeping>(agents, &node, "/v1/store", ANSWER_LIMIT).await {
        Ok(keeping) if keeping.node == node => Node { node, keeping: Some(keeping), silent: None },
        Ok(other) => Node { node, keeping: None, silent: Some(format!("{} answers for it", other.node)) },
        Err(said) => Node { node, keeping: None, silent: Some(said) },
    }
}

fn table(nodes: &[Node]) -> String {
    let mut rows = vec![["NODE", "MOVES", "THE RECORD IS"].map(str::to_owned).to_vec()];
    let mut notes = Vec::new();
    for one in nodes {
        let name = one.node.to_string();
        let Some(keeping) = &one.keeping else {
            rows.push(vec![name, "-".to_owned(), "not known: its agent does not answer".to_owned()]);
            notes.push(format!("{}: {}", one.node, one.silent.as_deref().unwrap_or_default()));
            continue;
        };
        rows.push(vec![name, keeping.number.to_string(), keeping.home.clone()]);
        notes.extend(
            keeping.moves_to.iter().map(|to| format!("{}: goes over; the record is kept {to}", one.node)),
        );
        notes.extend(keeping.problem.iter().map(|problem| format!("{}: {problem}", one.node)));
        notes.extend(keeping.file.iter().map(|file| format!("{}: its configuration file: {file}", one.node)));
    }
    columns(&rows).into_iter().chain(notes).map(|line| line + "\n").collect()
}

/// `pgkeel store migrate`. 1: it was refused, or is not done; 2: it makes no sense.
pub async fn migrate(agents: &Agents, format: Format, args: &MigrateArgs) -> ExitCode {
    match migrate_to(agents, format, args).await {
        Ok(code) => code,
        Err(said) => {
            eprintln!("pgkeel store migrate: {said}");
            ExitCode::FAILURE
        }
    }
}

async fn migrate_to(agents: &Agents, format: Format, args: &MigrateArgs) -> Result<ExitCode, String> {
    let status: Status = first_answer(agents, "/v1/status").await?;
    let sure = args.yes;
    let to = match home(args, &status.cluster) {
        Ok(to) => to,
        Err(said) => {
            eprintln!("pgkeel store migrate: {said}");
            return Ok(ExitCode::from(2));
        }
    };
    let before: Keeping = first_answer(agents, "/v1/store").await?;
    let order = Order::MoveStore { to: to.clone() };
    let tried = order::send(agents, &order, true).await?;
    if let Ordered::Refused { .. } = tried {
        return Ok(order::tell(&tried, format, ""));
    }
    if matches!(to, Home::Etcd { .. }) && before.detect_ms < DETECT_MS_ETCD {
        eprintln!(
            "warning: timing.detect is {} ms in this cluster. While etcd elects a leader of its own, which takes 1 to 2 s by default, no \
             lease can be renewed: the primary may restart then. Lower etcd's time-outs, or begin clusters with etcd at {DETECT_MS_ETCD} ms",
            before.detect_ms
        );
    }
    if !sure && !agreed(&status.cluster, &before.home, &to) {
        return Err("nothing was done".to_owned());
    }
    let unknown = "whether the record moves is not known: pgkeel store show tells";
    let moving = async {
        let answer = order::send(agents, &order, false).await.map_err(|said| format!("{said}\n{unknown}"))?;
        if let Ordered::Refused { .. } = answer {
            return Ok(order::tell(&answer, format, ""));
        }
        Ok(report(watch(agents, &status, before.number + 1, &to).await, format))
    };
    tokio::select! {
        ended = moving => ended,
        _ = tokio::signal::ctrl_c() => Err(format!(
            "interrupted. What was recorded goes on by itself, and nothing is half done for long; {unknown}"
        )),
    }
}

/// What was asked for, as the record has it.
fn home(args: &MigrateArgs, cluster: &str) -> Result<Home, String> {
    let MigrateArgs { to, endpoints, prefix, ca, cert, key, user, password_file, .. } = args.clone();
    let text = |path: Option<PathBuf>| path.map(|path| path.to_string_lossy().into_owned());
    if to == Kind::Embedded {
        let more =
            !endpoints.is_empty() || prefix.is_some() || ca.is_some() || cert.is_some() || user.is_some();
        if more {
            return Err("--endpoint and what goes with it are for --to etcd".to_owned());
        }
        return Ok(Home::Embedded { voters: Default::default() });
    }
    if endpoints.is_empty() {
        return Err(
            "which etcd? Name the client addresses of all its members: --endpoint http://10.0.0.1:2379"
                .to_owned(),
        );
    }
    let secure = endpoints.iter().any(|url| url.starts_with("https://"));
    match (secure, &ca) {
        (true, None) => return Err("https:// needs --ca, the file with the authorities of etcd".to_owned()),
        (false, Some(_)) => return Err("--ca is for https://, and no endpoint begins so".to_owned()),
        (false, None) if cert.is_some() => {
            return Err("--cert is for https://, and no endpoint begins so".to_owned());
        }
        _ => {}
    }
    let prefix = prefix.unwrap_or_else(|| format!("/pgkeel/{cluster}/"));
    let (ca, cert, key, password_file) = (text(ca), text(cert), text(key), text(password_file));
    Ok(Home::Etcd { access: Access { endpoints, prefix, ca, cert, key, user, password_file } })
}

fn agreed(cluster: &str, from: &str, to: &Home) -> bool {
    let input = std::io::stdin();
    if !input.is_terminal() {
        eprintln!("nobody can be asked; to do it without a question: --yes");
        return false;
    }
    eprint!("the record of cluster {cluster} is kept {from}; keep it {to} from now on? [y/N] ");
    let mut answer = String::new();
    input.lock().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

/// Until every node has the record in the new place, and a primary serves.
async fn watch(agents: &Agents, before: &Status, number: u64, to: &Home) -> Report {
    let mut progress = Progress::begin();
    let addresses = before.nodes.iter().filter(|node| !node.agent.is_empty()).map(|node| node.agent.clone());
    let agents = &Agents { addresses: addresses.collect(), caller: agents.caller.clone() };
    loop {
        let mut nodes = Vec::new();
        for node in &before.nodes {
            nodes.push(ask_node(agents, node.node.clone()).await);
        }
        let there =
            |one: &&Node| one.keeping.as_ref().is_some_and(|k| k.number >= number && k.leader.is_some());
        let left: Vec<&str> = nodes.iter().filter(|one| !there(one)).map(|one| one.node.as_str()).collect();
        let status = first_answer::<Status>(agents, "/v1/status").await.ok();
        let serves = status.as_ref().is_some_and(|now| now.primary.is_some());
        let done = left.is_empty() && serves;
        if done || progress.elapsed() > MOVED_LIMIT {
            let same = |now: &Status| (now.epoch, &now.primary) == (before.epoch, &before.primary);
            let primary_served_on = status.as_ref().is_some_and(same);
            return Report { number, home: to.to_string(), done, primary_served_on, nodes };
        }
        let what = match left.is_empty() {
            true => "no primary serves at this moment".to_owned(),
            false => format!("the record is kept {to} from now on; waits for {}", left.join(", ")),
        };
        progress.wait(&what).await;
    }
}

fn report(report: Report, format: Format) -> ExitCode {
    if format == Format::Json {
        say(&(serde_json::to_string(&report).unwrap_or_default() + "\n"));
    } else if report.done {
        let primary = match report.primary_served_on {
            true => "the primary served on",
            false => "another primary serves, or another epoch began, since",
        };
        say(&format!("the record is kept {} now (move {}); {primary}\n", report.home, report.number));
        let stale = report.nodes.iter().filter_map(|one| one.keeping.as_ref()?.file.clone()).next();
        if let Some(stale) = stale {
            say(&format!("bring the configuration files up to date when you like: {stale}\n"));
        }
    }
    if report.done {
        return ExitCode::SUCCESS;
    }
    eprintln!(
        "pgkeel store migrate: the record is kept {} from now on, and not every node is there yet; pgkeel store show tells, and the \
         logs of the agents say why",
        report.home
    );
    ExitCode::FAILURE
}
