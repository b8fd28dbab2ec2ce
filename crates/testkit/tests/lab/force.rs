//! What a person decides where nothing automatic may: a failover that loses rows, a pause in which the store is serviced, a
//! node that is left alone.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cluster::reason::Reason;
use cluster::word::Word;
use pgkeel::demo::session::Address;
use pgkeel::demo::writer::ids;
use testkit::lab::faults::Fault;
use testkit::lab::loss::told;
use testkit::lab::{Lab, LabOptions, SETTLE_LIMIT, SHORT_LIMIT, TEST_LIMIT, run};
use tokio::time::sleep;

use super::lost::{Loss, acknowledged, listed_exactly, rejoined, stop_senders, wait_for_table};

/// Much longer than a lease.
const LONG: Duration = Duration::from_secs(8);

#[test]
fn accepted_loss_is_what_is_lost() -> Result<()> {
    run(LabOptions::asynchronous_strict(), TEST_LIMIT, force)
}

async fn force(lab: &mut Lab) -> Result<()> {
    let status = lab.up().await?;
    let (node, epoch) = (lab.primary(&status)?, status.epoch);
    let (name, port) = (lab.node(node)?.place.name.clone(), lab.node(node)?.place.postgres_port);
    let others: Vec<usize> = (0..3).filter(|other| *other != node).collect();
    for other in &others {
        wait_for_table(lab, *other).await?;
    }
    let to = lab.node(others[0])?.place.name.clone();
    let asker = others[1];
    let serves = refused(lab, asker, &["failover", "--to", &to, "--yes"])?;
    ensure!(serves.contains("serves") && serves.contains("pgkeel switchover"), "{serves}");

    stop_senders(lab, node)?;
    let (xids, wal) = acknowledged(port).await?;
    // The leader hears how far the primary has come.
    sleep(Duration::from_secs(1)).await;
    lab.cluster.kill_host(node)?;
    let waits = |now: &cluster::status::Status| now.why.iter().any(|why| why.contains("max_loss"));
    let status = lab.cluster.wait_until("it waits because of max_loss", SETTLE_LIMIT, waits).await?;
    println!("{}", status.why.join("\n"));
    sleep(LONG).await;
    let status = lab.cluster.status().await?;
    ensure!(
        status.primary.is_none(),
        "{:?} was promoted, although more than max_loss is lost",
        status.primary
    );

    let shown = refused(lab, asker, &["failover", "--to", &to, "--yes"])?;
    let token = shown.split("--accept-loss ").nth(1).and_then(|rest| rest.split_whitespace().next());
    let token = token.with_context(|| format!("no acceptance is shown: {shown}"))?.to_owned();
    ensure!(token.contains(&format!("-bytes-of-{name}-")), "{token}");
    let bytes: u64 = token.split('-').next().unwrap_or_default().parse()?;
    let written = wal.1.bytes_after(wal.0);
    ensure!(bytes >= written, "{bytes} bytes are said to be lost, the client saw {written}");
    let stale = format!("{bytes}-bytes-of-{name}-00000000");
    let stale = refused(lab, asker, &["failover", "--to", &to, "--accept-loss", &stale, "--yes"])?;
    ensure!(stale.contains("the situation is another one"), "{stale}");
    let unasked = refused(lab, asker, &["failover", "--to", &to, "--accept-loss", &token])?;
    ensure!(unasked.contains("--yes"), "{unasked}");
    done(lab, asker, &["failover", "--to", &to, "--accept-loss", &token, "--yes"])?;
    let status = lab.cluster.status().await?;
    ensure!(status.primary.as_ref().is_some_and(|p| p.as_str() == to), "primary: {:?}", status.primary);
    let why = done(lab, asker, &["why"])?;
    ensure!(why.contains("forced by") && why.contains(&token), "{why}");

    let present = lab.node(others[0])?.place.postgres_port;
    let present = ids(&Address::loopback(present), &lab.load()?.table, SHORT_LIMIT).await?;
    ensure!(present.is_empty(), "the rows were to be lost, but {to} has {present:?}");
    let loss = Loss { node, name, epoch, xids, wal };
    lab.cluster.start_node(node)?;
    lab.cluster.wait_settled(epoch, SETTLE_LIMIT).await?;
    rejoined(lab, &loss).await?;
    listed_exactly(lab, &loss, &told(lab, loss.node).await?)
}

#[test]
fn store_is_serviced_in_a_pause() -> Result<()> {
    run(LabOptions::asynchronous(), TEST_LIMIT, service_store)
}

#[test]
fn store_is_serviced_in_a_pause_quorum() -> Result<()> {
    run(LabOptions::quorum(), TEST_LIMIT, service_store)
}

#[test]
fn order_outlasts_the_leader() -> Result<()> {
    run(LabOptions::quorum(), TEST_LIMIT, ask_without_leader)
}

/// The leader's agent is killed, and an order and a question follow at once: the next leader answers them.
async fn ask_without_leader(lab: &mut Lab) -> Result<()> {
    let status = lab.up().await?;
    let primary = lab.primary(&status)?;
    let apart = |now: &cluster::status::Status| now.leader.is_some() && now.leader != now.primary;
    for other in [false, true] {
        let status = lab.cluster.wait_until("the leader is not the primary", SETTLE_LIMIT, apart).await?;
        let leads = |node: &usize| {
            lab.node(*node).is_ok_and(|n| status.leader.as_ref().is_some_and(|l| l.as_str() == n.place.name))
        };
        let leader = (0..3).find(leads).context("no leader among the nodes")?;
        let asker = if other { 3 - leader - primary } else { primary };
        lab.cluster.kill_agent(leader)?;
        done(lab, asker, &["pause"])?;
        let why = lab.pgkeel(asker, &["why", "not", "n1"])?;
        ensure!(why.status.success(), "{}", String::from_utf8_lossy(&why.stderr));
        lab.cluster.start_node(leader)?;
        done(lab, asker, &["resume"])?;
    }
    lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
    Ok(())
}

/// Two of three agents are gone for long: nobody can renew the lease, and the primary serves on.
async fn service_store(lab: &mut Lab) -> Result<()> {
    let status = lab.up().await?;
    let (primary, epoch) = (lab.primary(&status)?, status.epoch);
    let writer = lab.writer().await?;
    let postmaster = lab.node(primary)?.postmaster();
    println!("{}", done(lab, primary, &["pause"])?);
    sleep(Duration::from_secs(1)).await;
    let others: Vec<usize> = (0..3).filter(|other| *other != primary).collect();
    for other in &others {
        lab.cluster.kill_agent(*other)?;
    }
    sleep(LONG).await;
    ensure!(lab.node(primary)?.postmaster() == postmaster, "the primary was ended during the pause");
    // Its own agent may be exchanged too.
    lab.cluster.kill_agent(primary)?;
    sleep(LONG).await;
    ensure!(lab.node(primary)?.postmaster() == postmaster, "the primary was ended without its agent");
    writer.wait_for(50, SHORT_LIMIT).await?;
    for node in 0..3 {
        lab.cluster.start_node(node)?;
    }
    let paused = |now: &cluster::status::Status| now.why.iter().any(|why| why.contains("paused by"));
    lab.cluster.wait_until("there is a leader again, and it is paused", SETTLE_LIMIT, paused).await?;
    done(lab, primary, &["resume"])?;
    let status = lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
    ensure!(status.epoch == epoch, "the pause ended with epoch {}", status.epoch);
    ensure!(lab.node(primary)?.postmaster() == postmaster, "the primary was started again");
    leased_again(lab).await?;
    let record = writer.stop();
    ensure!(record.connections == 1, "the writer had to connect {} times", record.connections);
    lab.nothing_lost(&record).await?;

    // From now on the lease counts again.
    let old = status.primary.clone();
    lab.cluster.kill_host(primary)?;
    let taken = |now: &cluster::status::Status| now.primary.is_some() && now.primary != old;
    lab.cluster.wait_until("another node is primary", SETTLE_LIMIT, taken).await?;
    Ok(())
}

async fn leased_again(lab: &Lab) -> Result<()> {
    let began = Instant::now();
    let again = |reason: &Reason| matches!(reason, Reason::Word { word: Word::LeasedAgain { .. } });
    while !lab.cluster.why().await?.iter().any(|entry| again(&entry.reason)) {
        ensure!(began.elapsed() < SHORT_LIMIT, "the primary does not get its lease back");
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

#[test]
fn resumed_without_the_primary() -> Result<()> {
    run(LabOptions::asynchronous_on_hosts(), TEST_LIMIT, resume_without_primary)
}

/// The primary, without a lease, is cut off when the pause ends: nobody replaces it before a person says that it is off.
async fn resume_without_primary(lab: &mut Lab) -> Result<()> {
    let status = lab.up().await?;
    let (primary, epoch) = (lab.primary(&status)?, status.epoch);
    let name = lab.node(primary)?.place.name.clone();
    let postmaster = lab.node(primary)?.postmaster();
    let asker = (primary + 1) % 3;
    let to = lab.node(asker)?.place.name.clone();
    done(lab, asker, &["pause"])?;
    sleep(Duration::from_secs(1)).await;
    lab.strike(primary, Fault::LinkCut)?;
    sleep(LONG).await;
    ensure!(lab.node(primary)?.postmaster() == postmaster, "the primary was ended during the pause");
    done(lab, asker, &["resume"])?;
    let waits = |now: &cluster::status::Status| now.why.iter().any(|why| why.contains("without a lease"));
    let status = lab.cluster.wait_until("it waits for a person", SETTLE_LIMIT, waits).await?;
    println!("{}", status.why.join("\n"));
    sleep(LONG).await;
    let status = lab.cluster.status().await?;
    ensure!(status.epoch == epoch, "epoch {} was opened without a person's word", status.epoch);
    let said = refused(lab, asker, &["failover", "--to", &to, "--yes"])?;
    ensure!(said.contains(&format!("--stopped {name}")), "{said}");

    lab.repair(primary, Fault::LinkCut)?;
    lab.strike(primary, Fault::PowerOff)?;
    println!(
        "{}",
        done(lab, asker, &["failover", "--to", &to, "--stopped", &name, "--yes"]).or_else(|e| {
            // Any of the two others may be the better one.
            if format!("{e:#}").contains("there is no primary") { Err(e) } else { Ok(format!("{e:#}")) }
        })?
    );
    let taken = |now: &cluster::status::Status| {
        now.epoch > epoch && now.primary.as_ref().is_some_and(|p| p.as_str() != name)
    };
    lab.cluster.wait_until("another node is primary", SETTLE_LIMIT, taken).await?;
    lab.repair(primary, Fault::PowerOff)?;
    lab.cluster.wait_settled(epoch, SETTLE_LIMIT).await?;
    Ok(())
}

#[test]
fn maintained_node_is_left_alone() -> Result<()> {
    run(LabOptions::quorum(), TEST_LIMIT, maintain)
}

async fn maintain(lab: &mut Lab) -> Result<()> {
    let status = lab.up().await?;
    let primary = lab.primary(&status)?;
    let (first, second) = ((primary + 1) % 3, (primary + 2) % 3);
    let name = |lab: &Lab, node: usize| lab.node(node).map(|n| n.place.name.clone());
    let (of_primary, node, other) = (name(lab, primary)?, name(lab, first)?, name(lab, second)?);
    let said = refused(lab, first, &["maintenance", "on", &of_primary])?;
    ensure!(said.contains("switchover first"), "{said}");
    done(lab, first, &["maintenance", "on", &node, "--reason", "new disk"])?;
    let left = |now: &cluster::status::Status| {
        now.nodes.iter().any(|n| n.node.as_str() == node && !n.sync && n.why.contains("new disk"))
    };
    lab.cluster.wait_until("it has left the sync set", SETTLE_LIMIT, left).await?;
    let said = refused(lab, first, &["maintenance", "on", &other])?;
    ensure!(said.contains("could confirm commits"), "{said}");
    let said = refused(lab, first, &["switchover", "--to", &node, "--yes"])?;
    ensure!(said.contains("under maintenance"), "{said}");
    let writer = lab.writer().await?;
    lab.cluster.kill_server(first)?;
    sleep(LONG).await;
    ensure!(lab.node(first)?.postmaster().is_none(), "the server of {node} was started again");
    // It is passed over, and comes back when it is looked after again.
    lab.cluster.kill_server(primary)?;
    let status = lab.cluster.wait_until("the other one is primary", SETTLE_LIMIT, |now| {
        now.primary.as_ref().is_some_and(|p| p.as_str() == other)
    });
    let status = status.await?;
    writer.wait_for(50, SHORT_LIMIT).await?;
    ensure!(
        lab.node(first)?.postmaster().is_none(),
        "the server of {node} was started in epoch {}",
        status.epoch
    );
    done(lab, first, &["maintenance", "off", &node])?;
    lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
    lab.nothing_lost(&writer.stop()).await
}

fn refused(lab: &Lab, node: usize, args: &[&str]) -> Result<String> {
    let said = lab.pgkeel(node, args)?;
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    ensure!(!said.status.success(), "{args:?} was not refused: {}", String::from_utf8_lossy(&said.stdout));
    println!("{}", text.trim());
    Ok(text)
}

fn done(lab: &Lab, node: usize, args: &[&str]) -> Result<String> {
    let said = lab.pgkeel(node, args)?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&said.stderr).into_owned();
    ensure!(said.status.success(), "{args:?}: {complaint} {text}");
    println!("{}", text.trim());
    Ok(text)
}
