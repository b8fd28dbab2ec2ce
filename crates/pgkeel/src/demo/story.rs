//! The demonstration's story: up, load, kill, what happened and why, back, and the account.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cluster::reason::Reason;
use cluster::state::Entry;
use cluster::status::{Role, Status};
use cluster::{Epoch, NodeName};
use tokio::time::sleep;

use super::cluster::LocalCluster;
use super::observe::{in_short, settled};
use super::stamp::Stamp;
use super::teller::{Teller, Tone};
use super::writer::{Record, Writer, WriterOptions, ids, make_table};

/// Nodes are made and copied: slow disks are given time.
const UP_LIMIT: Duration = Duration::from_secs(180);
/// A failover takes tenths of a second; this only keeps a broken one from hanging.
const FAILOVER_LIMIT: Duration = Duration::from_secs(60);
/// A node may have to be copied anew.
const REJOIN_LIMIT: Duration = Duration::from_secs(180);
/// For single questions to a server.
const QUERY_LIMIT: Duration = Duration::from_secs(30);
/// Load before the kill and after everything is back.
const LOAD_BEFORE: Duration = Duration::from_secs(3);
const LOAD_AFTER: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ending {
    /// Writes acknowledged to the client.
    pub(super) acknowledged: usize,
    /// Those that are not in the final primary's table.
    pub(super) lost: usize,
    /// Between two acknowledgements.
    pub(super) longest_gap: Duration,
}

/// Tells the whole story; starts everything, stops only the load.
pub(super) async fn tell(cluster: &mut LocalCluster, teller: &mut Teller) -> Result<Ending> {
    let mut told = Told::default();
    let status = come_up(cluster, teller, &mut told).await?;
    let options = WriterOptions::usual(cluster.proxy_address()?);
    make_table(&options.address, &options.table, QUERY_LIMIT).await?;
    let writer = Writer::start(options.clone());
    teller.headline("load: 100 writes a second through the proxy, over one connection");
    writer.wait_for(10, QUERY_LIMIT).await?;
    sleep(LOAD_BEFORE).await;
    teller.tell(Tone::Plain, &format!("{} writes acknowledged", writer.acknowledged()));

    let old = status.primary.context("the cluster has lost its primary before it was killed")?;
    let node = cluster.index(old.as_str())?;
    let postmaster = cluster.nodes.get(node).and_then(|node| node.postmaster());
    let killed = cluster.kill_postmaster(node)?;
    teller.headline(&format!(
        "kill -9 of the postmaster of {old} (process {}), the primary",
        postmaster.unwrap_or(0)
    ));
    teller.tell(Tone::Bad, "killed; what happens now, and why (times since the kill):");
    fail_over(cluster, teller, &mut told, &Kill { at: killed, epoch: status.epoch }, &writer).await?;
    let back = come_back(cluster, teller, &mut told, &Kill { at: killed, epoch: status.epoch }, &old).await?;
    sleep(LOAD_AFTER).await;
    account(cluster, teller, &back, writer.stop(), &options.table).await
}

/// What a person needs to see of the logs after a failed step.
pub(super) fn evidence(cluster: &LocalCluster, error: &str) -> String {
    if error.contains("the end of its log") {
        return String::new();
    }
    let named = cluster.nodes.iter().map(|node| node.place.name.as_str()).chain(["proxy"]);
    let named =
        named.filter(|name| error.contains(&format!("{name} ")) || error.contains(&format!("{name}:")));
    let tails: Vec<String> = named
        .filter_map(|name| {
            cluster.tail_of(name).map(|tail| format!("the end of the log of {name}:\n{tail}\n"))
        })
        .collect();
    if tails.is_empty() { cluster.tails() } else { tails.join("\n") }
}

struct Kill {
    at: Stamp,
    /// The epoch that the kill ended.
    epoch: Epoch,
}

/// What has been told already.
#[derive(Default)]
struct Told {
    last: Option<Entry>,
    nodes: BTreeMap<NodeName, String>,
}

impl Told {
    /// Decisions that are new. An agent that is behind knows none.
    fn new_entries(&mut self, history: Vec<Entry>) -> Vec<Entry> {
        let known = match &self.last {
            None => 0,
            Some(last) => history.iter().rposition(|entry| entry == last).map_or(history.len(), |at| at + 1),
        };
        let new: Vec<Entry> = history.into_iter().skip(known).collect();
        if let Some(last) = new.last() {
            self.last = Some(last.clone());
        }
        new
    }

    /// Nodes that are in another state than when they were told of last.
    fn new_states(&mut self, status: &Status) -> Vec<String> {
        let mut news = Vec::new();
        // A new leader has not heard from everybody yet: that is no news.
        for node in status.nodes.iter().filter(|node| node.heard_ms.is_some()) {
            let state = format!("{}: {}", node.node, node.state);
            if self.nodes.get(&node.node) != Some(&state) {
                // Percentages in it change all the time; the first one is enough.
                let doing = if node.why.is_empty() { String::new() } else { format!(", {}", node.why) };
                news.push(format!("{state}{doing}"));
                self.nodes.insert(node.node.clone(), state);
            }
        }
        news
    }
}

async fn come_up(cluster: &mut LocalCluster, teller: &Teller, told: &mut Told) -> Result<Status> {
    let count = cluster.nodes.len();
    teller
        .headline(&format!("{count} nodes and a proxy on this host, in {}", cluster.options.root.display()));
    cluster.start()?;
    teller.tell(Tone::Plain, "started (Ctrl-C stops and removes everything)");
    let (began, mode) = (Instant::now(), cluster.options.mode.clone());
    loop {
        cluster.refuse_ended()?;
        if let Ok(history) = cluster.why().await {
            told.new_entries(history)
                .iter()
                .for_each(|entry| teller.tell(Tone::Plain, &entry.reason.to_string()));
        }
        let status = cluster.status().await;
        if let Ok(status) = &status {
            told.new_states(status).iter().for_each(|news| teller.tell(Tone::Plain, news));
            if settled(status, count, &mode) {
                let primary = status.primary.as_ref().map(ToString::to_string).unwrap_or_default();
                let text =
                    format!("the cluster is up: {primary} is primary, replication is {}", status.replication);
                teller.tell(Tone::Good, &text);
                return Ok(status.clone());
            }
        }
        if began.elapsed() > UP_LIMIT {
            let says = status.as_ref().map_or_else(|error| format!("{error:#}"), in_short);
            bail!("the cluster did not come up within {} s; it says: {says}", UP_LIMIT.as_secs());
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// Tells the decisions until a new primary is published and the client's next write is acknowledged.
async fn fail_over(
    cluster: &mut LocalCluster,
    teller: &Teller,
    told: &mut Told,
    kill: &Kill,
    writer: &Writer,
) -> Result<()> {
    let mut published = false;
    loop {
        cluster.refuse_ended()?;
        for entry in cluster.why().await.map(|history| told.new_entries(history)).unwrap_or_default() {
            published |= entry.epoch > kill.epoch && matches!(entry.reason, Reason::Published { .. });
            teller.tell_after(
                entry.at.saturating_sub(kill.at.wall_ms),
                Tone::Plain,
                &entry.reason.to_string(),
            );
        }
        let record = writer.so_far();
        let resumed = record.resumed_after(kill.at).filter(|_| published);
        // Until some writes have followed, a longer gap may still be going on.
        if let Some(ack) = resumed.filter(|ack| record.acks.last().is_some_and(|last| last.id >= ack.id + 5))
        {
            let ms = ack.at.instant.duration_since(kill.at.instant).as_millis();
            let ms = u64::try_from(ms).unwrap_or(u64::MAX);
            let gap = record.longest_gap_after(kill.at).as_secs_f64();
            let text = format!("write {} acknowledged: the client waited {gap:.2} s and went on", ack.id);
            teller.tell_after(ms, Tone::Good, &text);
            return Ok(());
        }
        if kill.at.instant.elapsed() > FAILOVER_LIMIT {
            let says = cluster.status().await.as_ref().map_or_else(|error| format!("{error:#}"), in_short);
            let last = record.failures.last().map_or("nothing", |failure| failure.message.as_str());
            let limit = FAILOVER_LIMIT.as_secs();
            bail!(
                "no write under a new primary within {limit} s; the client was told {last}; the cluster says: {says}"
            );
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// Tells the decisions until the old primary streams from the new one.
async fn come_back(
    cluster: &mut LocalCluster,
    teller: &Teller,
    told: &mut Told,
    kill: &Kill,
    old: &NodeName,
) -> Result<Status> {
    teller.headline(&format!("{old} comes back"));
    let (count, mode) = (cluster.nodes.len(), cluster.options.mode.clone());
    loop {
        cluster.refuse_ended()?;
        let status = cluster.status().await;
        for entry in cluster.why().await.map(|history| told.new_entries(history)).unwrap_or_default() {
            teller.tell_after(
                entry.at.saturating_sub(kill.at.wall_ms),
                Tone::Plain,
                &entry.reason.to_string(),
            );
        }
        if let Ok(status) = &status
            && status.epoch > kill.epoch
            && settled(status, count, &mode)
        {
            let ms = u64::try_from(kill.at.instant.elapsed().as_millis()).unwrap_or(u64::MAX);
            let end = if status.primary.as_ref() == Some(old) {
                "came up again before another node could take over, and is primary of the new epoch"
            } else {
                "is a standby again and streams; nobody had to do anything"
            };
            teller.tell_after(ms, Tone::Good, &format!("{old} {end}"));
            return Ok(status.clone());
        }
        if kill.at.instant.elapsed() > FAILOVER_LIMIT + REJOIN_LIMIT {
            let says = status.as_ref().map_or_else(|error| format!("{error:#}"), in_short);
            bail!(
                "{old} did not become a standby within {} s; the cluster says: {says}",
                REJOIN_LIMIT.as_secs()
            );
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// Compares what the client was promised with what the primary has.
async fn account(
    cluster: &LocalCluster,
    teller: &Teller,
    status: &Status,
    record: Record,
    table: &str,
) -> Result<Ending> {
    let primary = status.primary.as_ref().context("the cluster has lost its new primary")?;
    let server = cluster.nodes[cluster.index(primary.as_str())?].place.server();
    let present =
        ids(&server, table, QUERY_LIMIT).await.with_context(|| format!("the table of {primary}"))?;
    let lost = record.lost(&present);
    let arrived = record.unknown.iter().filter(|id| present.contains(id)).count();
    teller.headline("the account");
    for node in &status.nodes {
        let sync = if node.sync && node.role == Role::Standby { ", synchronous" } else { "" };
        teller.fact(&format!("{}: {}{sync}", node.node, node.state));
    }
    teller.fact(&format!(
        "the table of {primary}, the primary of epoch {}, has {} rows",
        status.epoch,
        present.len()
    ));
    teller.fact(&format!(
        "writes acknowledged: {}; without an answer: {}, of which {arrived} arrived all the same; connections: {}",
        record.acks.len(),
        record.unknown.len(),
        record.connections
    ));
    if !lost.is_empty() {
        let some: Vec<String> = lost.iter().take(20).map(ToString::to_string).collect();
        teller.fact(&format!("LOST: acknowledged, and not in the table: {}", some.join(", ")));
    }
    Ok(Ending { acknowledged: record.acks.len(), lost: lost.len(), longest_gap: record.longest_gap() })
}
