//! `pgkeel status`: the cluster now, one line for each node.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use cluster::NodeName;
use cluster::exposure::Exposure;
use cluster::readiness::Readiness;
use cluster::status::{Exposed, NodeStatus, Role, Status};

use super::agents::{self, Agents};
use super::explain::sentences;
use super::text::{bytes, columns, cut, say, seconds, terminal_columns, wrap};
use crate::ask::ask;
use crate::demo::observe::ALL_IS_WELL;

/// Between two pictures of `--watch`.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// Milliseconds of an hour, and of a day.
const HOUR_MS: u64 = 60 * 60 * 1000;
const DAY_MS: u64 = 24 * HOUR_MS;
/// Columns for text that is not on a terminal.
const COLUMNS: usize = 100;

/// How the status is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Table,
    /// For programs: the agent's answer.
    Json,
}

/// How often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// Once.
    Once,
    /// Every second until it is interrupted.
    EverySecond,
}

/// What `pgkeel status` was told.
#[derive(Clone, Debug)]
pub struct StatusOptions {
    /// The agents to ask, see [`agents::choose`].
    pub agents: Agents,
    /// How to print.
    pub format: Format,
    /// How often.
    pub repeat: Repeat,
}

/// Asks and prints. Ends with 1 when no agent answered.
pub async fn run(options: &StatusOptions) -> ExitCode {
    match options.repeat {
        Repeat::Once => match picture(options).await {
            Ok(text) => {
                say(&text);
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("pgkeel status: {error}");
                ExitCode::FAILURE
            }
        },
        Repeat::EverySecond => watch(options).await,
    }
}

/// A cluster that is silent for a while is the very thing to watch, so an error does not end it; Ctrl-C does.
async fn watch(options: &StatusOptions) -> ExitCode {
    let clear =
        if terminal_columns().is_some() && options.format == Format::Table { "\x1b[H\x1b[2J" } else { "" };
    let draw = async {
        loop {
            let text = picture(options).await.unwrap_or_else(|error| format!("{error}\n"));
            say(&format!("{clear}{text}"));
            tokio::time::sleep(WATCH_EVERY).await;
        }
    };
    tokio::select! {
        () = draw => ExitCode::SUCCESS,
        _ = tokio::signal::ctrl_c() => ExitCode::SUCCESS,
    }
}

async fn picture(options: &StatusOptions) -> Result<String, String> {
    let status = fetch(&options.agents).await?;
    match options.format {
        Format::Table => Ok(table(&status, terminal_columns())),
        Format::Json => {
            serde_json::to_string(&status).map(|json| json + "\n").map_err(|error| error.to_string())
        }
    }
}

/// Only the leader hears from all nodes, so its answer is preferred to the first one.
async fn fetch(agents: &Agents) -> Result<Status, String> {
    let first: Status = agents::first_answer(agents, "/v1/status").await?;
    let leader = first.leader.as_ref().filter(|leader| **leader != first.asked);
    let Some(leader) = leader.and_then(|leader| first.nodes.iter().find(|node| node.node == *leader)) else {
        return Ok(first);
    };
    let better = ask(&agents.caller, &leader.agent, "/v1/status", agents::ANSWER_LIMIT).await;
    Ok(better.unwrap_or(first))
}

/// The status as lines of text. Lines are cut only for a terminal, of `columns_max` columns.
#[must_use]
pub fn table(status: &Status, columns_max: Option<usize>) -> String {
    let mut text = headline(status) + "\n\n";
    let head = ["node", "role", "state", "epoch", "TL", "position", "lag", "lease", "why"].map(str::to_owned);
    let mut rows = vec![head.to_vec()];
    rows.extend(status.nodes.iter().map(row));
    for line in columns(&rows) {
        let _ = writeln!(text, "{}", columns_max.map_or_else(|| line.clone(), |max| cut(&line, max)));
    }
    let width = columns_max.unwrap_or(COLUMNS);
    if let Some(exposed) = &status.exposure {
        let _ = writeln!(text, "\nat stake: {}", wrap(&at_stake(exposed), 10, 10, width));
    }
    for out in &status.opted_out {
        let _ = writeln!(text, "does not wait for standbys: {}", wrap(out, 28, 28, width));
    }
    for line in certificates_running_out(status) {
        let _ = writeln!(text, "\ncertificate: {}", wrap(&line, 13, 13, width));
    }
    let open: Vec<&String> = status.why.iter().filter(|why| *why != ALL_IS_WELL).collect();
    if !open.is_empty() {
        text.push('\n');
    }
    for why in open {
        let _ = writeln!(text, "why: {}", wrap(why, 5, 5, columns_max.unwrap_or(COLUMNS)));
    }
    text.extend(status.readiness.as_ref().map(|ready| readiness(ready, columns_max.unwrap_or(COLUMNS))));
    text
}

/// Those that should have been renewed by now.
fn certificates_running_out(status: &Status) -> impl Iterator<Item = String> + '_ {
    status.nodes.iter().filter_map(|node| {
        let left = node.certificate_left_ms?;
        let long = match (left / DAY_MS, left / HOUR_MS) {
            (0, 0) => "less than an hour".to_owned(),
            (0, hours) => format!("{hours} hours"),
            (days, _) => format!("{days} days"),
        };
        let ends = match left {
            0 => "is not good at this time: others refuse it".to_owned(),
            _ => format!("ends in {long}, and has not been renewed"),
        };
        Some(format!("that of {} {ends}; its log says why, and what to do", node.node))
    })
}

/// Whether the primary could be lost now, and why it is not green.
fn readiness(ready: &Readiness, columns: usize) -> String {
    let head = (format!("failover: {}", ready.headline()), None);
    let concerns = ready.concerns.iter().map(|c| (c.to_string(), c.cure().map(|cure| cure.to_string())));
    let told: Vec<(String, Option<String>)> = std::iter::once(head).chain(concerns).collect();
    format!("\n{}", sentences(&told, columns))
}

/// What would be lost if the primary vanished now.
fn at_stake(exposed: &Exposed) -> String {
    let Exposure { bytes: lacks, ms, transactions, .. } = &exposed.exposure;
    let much = match lacks {
        Some(0) => "nothing".to_owned(),
        Some(count) => bytes(*count),
        None => "an unknown amount".to_owned(),
    };
    let more = match (lacks, ms, transactions) {
        (Some(0), ..) => String::new(),
        (_, Some(ms), Some(count)) => {
            format!(" of WAL, at most {count} transactions of the last {}", seconds(*ms))
        }
        _ => " of WAL, an unknown number of transactions".to_owned(),
    };
    format!("{much}{more}: {}", exposed.why)
}

fn headline(status: &Status) -> String {
    let primary = match &status.primary {
        Some(name) if runs_as_primary(status, name) => format!("primary {name}"),
        Some(name) => format!("primary {name} (it does not serve)"),
        None => format!("no primary ({})", status.phase),
    };
    let leader = match &status.leader {
        Some(name) => format!("leader {name}"),
        None => format!("no leader (asked {})", status.asked),
    };
    format!(
        "cluster {}: {primary}, epoch {}, {leader}, replication {}",
        status.cluster, status.epoch, status.replication
    )
}

fn row(node: &NodeStatus) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let role = match (node.role, node.sync) {
        (Role::Primary, _) => "primary",
        (Role::Standby, true) => "sync standby",
        (Role::Standby, false) => "standby",
        (Role::Witness, _) => "witness",
        (Role::None, _) => "-",
    };
    let lag = match (node.lag_bytes, node.lag_ms) {
        (Some(count), Some(ms)) => Some(format!("{}, {}", bytes(count), seconds(ms))),
        (Some(count), None) => Some(bytes(count)),
        (None, Some(ms)) => Some(seconds(ms)),
        (None, None) => None,
    };
    vec![
        node.node.to_string(),
        role.to_owned(),
        node.state.clone(),
        or_dash(node.epoch.map(|epoch| epoch.to_string())),
        or_dash(node.timeline.map(|timeline| timeline.to_string())),
        or_dash(node.lsn.map(|lsn| lsn.to_string())),
        or_dash(lag),
        or_dash(node.lease_left_ms.map(seconds)),
        node.why.clone(),
    ]
}

fn runs_as_primary(status: &Status, name: &NodeName) -> bool {
    status.nodes.iter().any(|node| node.node == *name && node.role == Role::Primary)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::Lsn;
    use cluster::readiness::Concern;

    fn node(name: &str, role: Role, state: &str) -> NodeStatus {
        NodeStatus {
            node: name.parse().unwrap(),
            agent: "127.0.0.1:7401".to_owned(),
            postgres: Some("127.0.0.1:5501".to_owned()),
            role,
            state: state.to_owned(),
            epoch: Some(3),
            timeline: Some(2),
            lsn: Some(Lsn(0x0503_0060)),
            lag_bytes: (role == Role::Standby).then_some(0),
            lag_ms: (role == Role::Standby).then_some(0),
            lease_left_ms: (role == Role::Primary).then_some(2_100),
            sync: role == Role::Standby,
            heard_ms: Some(40),
            copying: None,
            configured: 0,
            pending: Vec::new(),
            certificate_left_ms: None,
            why: "follows n2".to_owned(),
        }
    }

    fn status() -> Status {
        let silent =
            NodeStatus { epoch: None, timeline: None, lsn: None, ..node("n3", Role::None, "silent") };
        Status {
            exposure: None,
            opted_out: Vec::new(),
            planned: Vec::new(),
            cluster: "demo".to_owned(),
            asked: "n1".parse().unwrap(),
            leader: Some("n1".parse().unwrap()),
            epoch: 3,
            revision: 40,
            phase: "serving".to_owned(),
            primary: Some("n2".parse().unwrap()),
            replication: "quorum, 1 standby(s) confirm each commit".to_owned(),
            configuration: 0,
            nodes: vec![node("n1", Role::Standby, "streaming"), node("n2", Role::Primary, "running"), silent],
            readiness: None,
            why: vec![ALL_IS_WELL.to_owned()],
        }
    }

    #[test]
    fn what_is_at_stake_is_told() {
        let exposure = Exposure {
            bytes: Some(2_097_152),
            ms: Some(2_100),
            transactions: Some(12),
            nearest: Some("n1".parse().unwrap()),
        };
        let why = "commits do not wait for standbys; n1 has most".to_owned();
        let exposed = |exposure| Some(Exposed { exposure, why: why.clone() });
        let out = vec!["role app: synchronous_commit = off".to_owned()];
        let text = table(&Status { exposure: exposed(exposure), opted_out: out, ..status() }, None);
        let told = "\nat stake: 2.0 MiB of WAL, at most 12 transactions of the last 2.1 s: commits do not wait for\n          \
                    standbys; n1 has most\n\
                    does not wait for standbys: role app: synchronous_commit = off\n";
        assert!(text.ends_with(told), "{text}");
        let text = table(&Status { exposure: exposed(Exposure::none()), ..status() }, None);
        assert!(text.contains("at stake: nothing: "), "{text}");
        let unknown = Exposure { bytes: None, ms: None, transactions: None, nearest: None };
        let text = table(&Status { exposure: exposed(unknown), ..status() }, None);
        assert!(text.contains("at stake: an unknown amount of WAL, an unknown number"), "{text}");
    }

    #[test]
    fn the_table_is_what_the_documentation_shows() {
        let expected = "\
cluster demo: primary n2, epoch 3, leader n1, replication quorum, 1 standby(s) confirm each commit

node  role          state      epoch  TL  position   lag         lease  why
n1    sync standby  streaming  3      2   0/5030060  0 B, 0.0 s  -      follows n2
n2    primary       running    3      2   0/5030060  -           2.1 s  follows n2
n3    -             silent     -      -   -          -           -      follows n2
";
        assert_eq!(table(&status(), None), expected);
    }

    #[test]
    fn a_certificate_that_runs_out_is_told() {
        let mut late = status();
        let mut told = |left| {
            late.nodes[1].certificate_left_ms = left;
            table(&late, None)
        };
        assert!(!told(None).contains("certificate"));
        let text = told(Some(12 * DAY_MS + 5));
        let line = "\n\ncertificate: that of n2 ends in 12 days, and has not been renewed; its log says why, and what to do\n";
        assert!(text.replace("\n             ", " ").contains(line), "{text}");
        assert!(told(Some(3 * HOUR_MS)).contains("ends in 3 hours"));
        assert!(told(Some(1)).contains("ends in less than an hour"));
        assert!(told(Some(0)).contains("is not good at this time"));
    }

    #[test]
    fn readiness_stands_below_with_what_is_amiss() {
        let concern = Concern::OneCandidate { node: "n1".parse().unwrap() };
        let readiness = Some(Readiness {
            light: concern.light(),
            next: Some("n1".parse().unwrap()),
            expected_ms: Some(1_810),
            loss_bytes: Some(0),
            concerns: vec![concern],
        });
        let text = table(&Status { readiness, ..status() }, None);
        let expected = "\n\nfailover: amber: n1 would take over in about 1.8 s\n  only n1 could take over\n";
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn what_is_waited_for_stands_below() {
        let why = "waiting for the first heartbeat of every node; missing: n2, n3".to_owned();
        let waiting =
            Status { primary: None, leader: None, phase: "empty".to_owned(), why: vec![why], ..status() };
        let text = table(&waiting, Some(60));
        assert!(
            text.starts_with("cluster demo: no primary (empty), epoch 3, no leader (asked n1)"),
            "{text}"
        );
        assert!(
            text.contains("\n\nwhy: waiting for the first heartbeat of every node; missing:\n     n2, n3\n"),
            "{text}"
        );
        assert!(text.lines().skip(2).all(|line| line.chars().count() <= 64), "{text}");
    }
}
