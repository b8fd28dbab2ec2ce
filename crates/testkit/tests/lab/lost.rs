//! What a lost primary had and the cluster has not: kept before anything undoes it, and listed exactly.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agent::postgres::aside::{Kept, Kind};
use agent::postgres::lost::Record;
use anyhow::{Context, Result, bail, ensure};
use cluster::Lsn;
use cluster::observe::{RejoinWay, Rejoined};
use cluster::reason::{Reason, Safe};
use pgkeel::demo::processes;
use pgkeel::demo::session::{Address, Session};
use pgkeel::demo::writer::ids;
use rustix::process::Signal;
use testkit::lab::faults::Fault;
use testkit::lab::loss::{told, writers};
use testkit::lab::{Lab, LabOptions, SETTLE_LIMIT, SHORT_LIMIT, TEST_LIMIT, run};
use tokio::time::sleep;
use tokio_postgres::NoTls;

use super::copies::replace_program;

/// Rows that the primary acknowledges and nobody else gets.
const ROWS: usize = 40;

/// Of WAL. Bytes.
const PAGE_LEN: u64 = 8_192;

#[test]
fn lost_is_listed() -> Result<()> {
    run(LabOptions::asynchronous_on_hosts(), TEST_LIMIT, async |lab: &mut Lab| {
        let loss = lose(lab).await?;
        lab.repair(loss.node, Fault::PowerOff)?;
        lab.cluster.wait_settled(loss.epoch, SETTLE_LIMIT).await?;
        let rejoined = rejoined(lab, &loss).await?;
        println!("{}", Reason::Rejoined { node: loss.name.parse()?, rejoined: rejoined.clone() });
        // The new primary had been promoted a moment before.
        ensure!(rejoined.way == RejoinWay::Rewind, "{} came back by {}", loss.name, rejoined.way);
        let short = rejoined.lost.context("the history does not say what was lost")?;
        ensure!(short.transactions == Some(loss.xids.len() as u64), "the history says {short}");
        ensure!(short.from_lsn == loss.wal.0, "the history says {short}");
        listed_exactly(lab, &loss, &told(lab, loss.node).await?)
    })
}

#[test]
fn rewind_cut_short() -> Result<()> {
    run(LabOptions::asynchronous_on_hosts(), TEST_LIMIT, async |lab: &mut Lab| {
        for node in 0..3 {
            // A rewind of so little data would be over before it can be killed.
            replace_program(lab, node, "pg_rewind", "sleep 2\nexec REAL \"$@\"")?;
        }
        let loss = lose(lab).await?;
        lab.repair(loss.node, Fault::PowerOff)?;
        kill_in_rewind(lab, &loss).await?;
        lab.cluster.start_node(loss.node)?;
        lab.cluster.wait_settled(loss.epoch, SETTLE_LIMIT).await?;
        let rejoined = rejoined(lab, &loss).await?;
        println!("{}", Reason::Rejoined { node: loss.name.parse()?, rejoined: rejoined.clone() });
        ensure!(rejoined.lost.is_some(), "the history does not say what was lost");
        listed_exactly(lab, &loss, &told(lab, loss.node).await?)?;
        prune(lab, &loss).await
    })
}

/// What a primary took with it.
pub(super) struct Loss {
    pub(super) node: usize,
    pub(super) name: String,
    pub(super) epoch: u64,
    pub(super) xids: BTreeSet<u32>,
    /// Where the next primary's WAL leaves its own, or later, and its position after the last of them.
    pub(super) wal: (Lsn, Lsn),
}

/// Starts a cluster, stops the primary's WAL senders, lets it acknowledge rows of the load and of the survey's client, and
/// takes its host away. The rows are then nowhere else, and every transaction after the fork is known.
async fn lose(lab: &mut Lab) -> Result<Loss> {
    let status = lab.up().await?;
    let (node, epoch) = (lab.primary(&status)?, status.epoch);
    let (name, server) = (lab.node(node)?.place.name.clone(), lab.node(node)?.place.server());
    let table = lab.load()?.table;
    let (load, survey) = (lab.writer().await?, lab.survey()?);
    survey.success().await?;
    stop_senders(lab, node)?;
    load.wait_for(ROWS, SHORT_LIMIT).await?;
    survey.success().await?;
    let (load, lines) = (load.stop(), survey.so_far());
    drop(survey);
    let end = last_words(&server, &table).await?;
    let written = writers(&server, &table).await?;
    lab.strike(node, Fault::PowerOff)?;
    let what = "another node is primary";
    let status = lab
        .cluster
        .wait_until(what, SETTLE_LIMIT, |now| {
            now.epoch > epoch && now.primary.as_ref().is_some_and(|primary| primary.as_str() != name)
        })
        .await?;
    let next = lab.node(lab.primary(&status)?)?.place.clone();
    let present = ids(&next.server(), &table, SHORT_LIMIT).await?;
    let missing: BTreeSet<i64> = written.keys().filter(|id| !present.contains(id)).copied().collect();
    let xids = missing.iter().filter_map(|id| written.get(id)).copied().collect();
    let acknowledged: BTreeSet<i64> =
        load.acks.iter().map(|ack| ack.id).chain(lines.acknowledged()).collect();
    let lost = acknowledged.iter().filter(|id| !present.contains(id)).count();
    let whole = acknowledged.iter().all(|id| present.contains(id) || missing.contains(id));
    ensure!(whole, "acknowledged, and not even in the table of the server that acknowledged them");
    ensure!(lost >= ROWS, "{ROWS} rows were to be lost, {lost} are");
    let fork = fork(&next.data_dir)?;
    let bytes = end.bytes_after(fork);
    within_what_is_allowed(lab, epoch, bytes).await?;
    println!(
        "F1: {name} acknowledged {lost} rows in {bytes} bytes of WAL between {fork} and {end}; none is left"
    );
    Ok(Loss { node, name, epoch, xids, wal: (fork, end) })
}

/// The standbys must have all that comes before the rows.
pub(super) async fn wait_for_table(lab: &Lab, node: usize) -> Result<()> {
    let (port, table) = (lab.node(node)?.place.postgres_port, lab.load()?.table);
    let began = Instant::now();
    while let Err(error) = ids(&Address::loopback(port), &table, SHORT_LIMIT).await {
        ensure!(began.elapsed() < SHORT_LIMIT, "a standby does not get the table: {error:#}");
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// The choice says that something may be missing, and that it is no more than is allowed.
async fn within_what_is_allowed(lab: &Lab, epoch: u64, bytes: u64) -> Result<()> {
    let history = lab.cluster.why().await?;
    let chosen = history.iter().find_map(|entry| match &entry.reason {
        Reason::Chosen { safe, .. } if entry.epoch > epoch => Some(safe.clone()),
        _ => None,
    });
    match chosen.context("the history does not say who was chosen")? {
        Safe::WithinLoss { missing_bytes, max_loss_bytes } => {
            println!(
                "F1: at most {missing_bytes} bytes were known to be missing, {max_loss_bytes} are allowed"
            );
            ensure!(missing_bytes.max(bytes) <= max_loss_bytes, "more was lost than is allowed");
            Ok(())
        }
        safe => bail!("the choice says that nothing can be lost: {safe:?}"),
    }
}

/// Where the last change of timeline left the one before: the newest history file says it (timeline.c).
fn fork(data_dir: &Path) -> Result<Lsn> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(data_dir.join("pg_wal"))?.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "history"));
    let newest = files.iter().max().context("the next primary has a history file")?;
    let text = fs::read_to_string(newest)?;
    let line = text.lines().rfind(|line| !line.trim().is_empty()).context("a history has a line")?;
    Ok(line.split_whitespace().nth(1).context("a line of a history has a position")?.parse()?)
}

pub(super) fn stop_senders(lab: &Lab, node: usize) -> Result<()> {
    let postmaster = lab.node(node)?.postmaster().context("the primary's server runs")?;
    let all = processes::all();
    let children = processes::descendants(postmaster, &all);
    let senders: Vec<i32> = all
        .iter()
        .filter(|p| children.contains(&p.pid) && p.args.first().is_some_and(|arg| arg.contains("walsender")))
        .map(|p| p.pid)
        .collect();
    ensure!(senders.len() == 2, "two standbys have WAL senders: {senders:?}");
    senders.iter().for_each(|pid| processes::send(*pid, Signal::STOP));
    Ok(())
}

/// One row for each transaction, and one transaction that is rolled back.
pub(super) async fn acknowledged(port: u16) -> Result<(BTreeSet<u32>, (Lsn, Lsn))> {
    let options = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres");
    let (client, connection) = tokio_postgres::connect(&options, NoTls).await?;
    let connection = tokio::spawn(connection);
    let position = async |what: &str| -> Result<Lsn> {
        let row = client.query_one(&format!("SELECT {what}()::text"), &[]).await?;
        Ok(row.get::<_, String>(0).parse()?)
    };
    let before = position("pg_current_wal_insert_lsn").await?;
    let mut xids = BTreeSet::new();
    for id in 1..=ROWS as i64 {
        let insert = "INSERT INTO pgkeel_demo (id) VALUES ($1) RETURNING txid_current()";
        let row = client.query_one(insert, &[&id]).await?;
        xids.insert(u32::try_from(row.get::<_, i64>(0))?);
    }
    client.batch_execute("BEGIN; INSERT INTO pgkeel_demo (id) VALUES (-1); ROLLBACK").await?;
    let after = position("pg_current_wal_flush_lsn").await?;
    drop(client);
    let _ = connection.await;
    Ok((xids, (before, after)))
}

/// A transaction that is rolled back; then the position after everything.
async fn last_words(server: &Address, table: &str) -> Result<Lsn> {
    let session = Session::open(server).await?;
    session.client.batch_execute(&format!("BEGIN; INSERT INTO {table} (id) VALUES (-1); ROLLBACK")).await?;
    let row = session.client.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await?;
    Ok(row.try_get::<_, String>(0)?.parse()?)
}

/// How the node came back, once that is recorded.
pub(super) async fn rejoined(lab: &Lab, loss: &Loss) -> Result<Rejoined> {
    let began = Instant::now();
    loop {
        let found = lab.cluster.why().await?.into_iter().rev().find_map(|entry| match entry.reason {
            Reason::Rejoined { node, rejoined } if node.as_str() == loss.name && entry.epoch > loss.epoch => {
                Some(rejoined)
            }
            _ => None,
        });
        if let Some(rejoined) = found {
            return Ok(rejoined);
        }
        ensure!(began.elapsed() < SHORT_LIMIT, "the return of {} is not in the history", loss.name);
        sleep(Duration::from_millis(100)).await;
    }
}

/// Asks another node than the one that came back.
fn pgkeel(lab: &Lab, loss: &Loss, args: &[&str]) -> Result<String> {
    let output = lab.pgkeel((loss.node + 1) % 3, args)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "pgkeel {}: {said}", args.join(" "));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &said)
}

pub(super) fn listed_exactly(lab: &Lab, loss: &Loss, records: &[Record]) -> Result<()> {
    ensure!(records.len() == 1, "one loss is kept: {records:?}");
    let record = &records[0];
    let found = record.findings.as_ref().context("the kept WAL was examined")?;
    let xids: BTreeSet<u32> = found.listed.iter().map(|one| one.xid).collect();
    println!(
        "F1: {} rows missing, {} transactions listed by pgkeel lost; {} bytes of WAL from {} to {}, {} of them belong to \
         the transactions",
        loss.xids.len(),
        found.transactions,
        record.to.bytes_after(record.from),
        record.from,
        record.to,
        found.listed.iter().map(|one| one.bytes).sum::<u64>()
    );
    ensure!(xids == loss.xids, "listed: {xids:?}, written and missing: {:?}", loss.xids);
    ensure!(found.transactions == loss.xids.len() as u64);
    ensure!(record.from <= loss.wal.0, "the next primary's WAL leaves it at {}", loss.wal.0);
    // Whole pages are flushed: where one ends, half a record of somebody else may be the last of it.
    let whole = if loss.wal.1.0.is_multiple_of(PAGE_LEN) { loss.wal.1.0 - PAGE_LEN } else { loss.wal.1.0 };
    ensure!(record.to.0 >= whole, "the rows end at {}", loss.wal.1);
    ensure!(found.listed.iter().all(|one| one.bytes > 0));
    let text = pgkeel(lab, loss, &["lost"])?;
    ensure!(text.contains(&record.from.to_string()) && text.contains(&loss.name), "{text}");
    println!("{text}");
    Ok(())
}

/// Kills the agent and pg_rewind as soon as the node says that a rewind has begun.
async fn kill_in_rewind(lab: &mut Lab, loss: &Loss) -> Result<()> {
    let place = lab.node(loss.node)?.place.clone();
    let marker = place.dir.join("node.json");
    let began = Instant::now();
    let rewinds = || std::fs::read_to_string(&marker).unwrap_or_default().contains("\"rewind\"");
    while !rewinds() {
        ensure!(began.elapsed() < SETTLE_LIMIT, "{} does not rewind", loss.name);
        sleep(Duration::from_millis(2)).await;
    }
    let runs = |p: &processes::Process| p.args.iter().any(|arg| arg.ends_with("/pg_rewind"));
    while rewinds() && !processes::all().iter().any(|p| runs(p) && processes::mentions(p, &place.dir)) {
        sleep(Duration::from_millis(2)).await;
    }
    lab.cluster.kill_agent(loss.node)?;
    ensure!(rewinds(), "the rewind of {} had ended before it was killed", loss.name);
    let own: Vec<i32> = processes::all()
        .iter()
        .filter(|p| p.args.first().is_some_and(|arg| !arg.ends_with("/pgkeel")))
        .filter(|p| processes::mentions(p, &place.dir))
        .map(|p| p.pid)
        .collect();
    println!("killed the agent of {} with {} programs in the middle of its rewind", loss.name, own.len());
    processes::kill_all(&own);
    Ok(())
}

/// The replaced directory stays until somebody prunes it; the lost WAL stays even then.
async fn prune(lab: &Lab, loss: &Loss) -> Result<()> {
    let began = Instant::now();
    let kept = loop {
        let kept: Vec<Kept> = serde_json::from_str(&pgkeel(lab, loss, &["aside", "list", "--json"])?)?;
        if kept.iter().any(|one| one.kind == Kind::Data && one.needed.is_none()) {
            break kept;
        }
        ensure!(began.elapsed() < SHORT_LIMIT, "no replaced directory may go: {kept:?}");
        sleep(Duration::from_millis(200)).await;
    };
    ensure!(kept.iter().any(|one| one.kind == Kind::Wal), "the lost WAL is not among what is kept: {kept:?}");
    println!("{}", pgkeel(lab, loss, &["aside", "list"])?);
    let unasked = lab.pgkeel(loss.node, &["aside", "prune"])?;
    ensure!(!unasked.status.success(), "pruned although nobody agreed");
    println!("{}", pgkeel(lab, loss, &["aside", "prune", "--yes"])?);
    let left: Vec<Kept> = serde_json::from_str(&pgkeel(lab, loss, &["aside", "list", "--json"])?)?;
    ensure!(left.iter().all(|one| one.kind == Kind::Wal) && !left.is_empty(), "left: {left:?}");
    let gone = pgkeel(
        lab,
        loss,
        &["aside", "prune", "--lost", "--older-than", "0s", "--yes", "--node", &loss.name],
    )?;
    ensure!(gone.contains("removed 1 of 1"), "{gone}");
    ensure!(pgkeel(lab, loss, &["lost"])?.contains("nothing was lost"));
    Ok(())
}
