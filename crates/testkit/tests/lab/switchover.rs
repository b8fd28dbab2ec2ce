//! The primary changes in order, under load, by command.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster::decide::switchover::DRAIN_MS;
use cluster::reason::{Reason, Safe};
use pgkeel::demo::session::{Address, Session};
use testkit::lab::{Lab, LabOptions, SETTLE_LIMIT, SHORT_LIMIT, TEST_LIMIT, long, run};
use testkit::measure::Steps;
use tokio::time::timeout;

/// How often.
const CHANGES: usize = 2;
/// In `make lab-long`.
const CHANGES_LONG: usize = 10;

#[test]
fn switchover_there_and_back() -> Result<()> {
    run(LabOptions::quorum(), TEST_LIMIT, change_in_order)
}

async fn change_in_order(lab: &mut Lab) -> Result<()> {
    let mut status = lab.up().await?;
    let writer = lab.writer().await?;
    for round in 1..=if long() { CHANGES_LONG } else { CHANGES } {
        writer.wait_for(50, SHORT_LIMIT).await?;
        let old = status.primary.clone().context("there is no primary")?;
        let said = lab.pgkeel(0, &["switchover", "--yes"])?;
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        println!("round {round}, away from {old}:\n{text}");
        ensure!(said.status.success(), "refused: {}", String::from_utf8_lossy(&said.stderr));
        status = lab.cluster.wait_settled(status.epoch, SETTLE_LIMIT).await?;
        ensure!(status.primary.as_ref() != Some(&old), "{old} is still primary");
        let history = lab.cluster.why().await?;
        let in_order = |reason: &Reason| matches!(reason, Reason::Chosen { safe: Safe::StoppedInOrder { node, .. }, .. } if *node == old);
        let found = history.iter().any(|e| e.epoch == status.epoch && in_order(&e.reason));
        ensure!(found, "{old} was replaced, but not because it had stopped in order");
    }
    writer.wait_for(50, SHORT_LIMIT).await?;
    lab.nothing_lost(&writer.stop()).await
}

#[test]
fn clients_past_the_proxy_are_not_waited_for() -> Result<()> {
    run(LabOptions::quorum(), TEST_LIMIT, change_under_direct_clients)
}

/// Clients of the server itself are never told to hold: one of them is always in a statement. What was begun before the
/// switchover is waited for all the same.
async fn change_under_direct_clients(lab: &mut Lab) -> Result<()> {
    let status = lab.up().await?;
    let writer = lab.writer().await?;
    let primary = lab.primary(&status)?;
    let mut direct = Vec::new();
    for _ in 0..4 {
        let session = open(&lab.node(primary)?.place.server()).await?;
        direct.push(tokio::spawn(async move {
            while session.client.batch_execute("select pg_sleep(0.1)").await.is_ok() {}
        }));
    }
    let begun = open(&lab.cluster.proxy_address()?).await?;
    begun.client.batch_execute("begin; create temporary table t (id int)").await?;
    let ends = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        begun.client.batch_execute("commit").await
    });
    let said = lab.pgkeel(primary, &["switchover", "--yes"])?;
    ensure!(said.status.success(), "refused: {}", String::from_utf8_lossy(&said.stderr));
    let after = lab.cluster.wait_settled(status.epoch, SETTLE_LIMIT).await?;
    ends.await?.context("a transaction that was begun before the switchover")?;
    let steps = Steps::of(&lab.cluster.why().await?, after.epoch).context("the history lacks a stage")?;
    println!("{steps:?}");
    ensure!(steps.drain_ms < DRAIN_MS, "the clients past the proxy were waited for to the last");
    for client in direct {
        client.await?;
    }
    writer.wait_for(50, SHORT_LIMIT).await?;
    let record = writer.stop();
    ensure!(record.connections == 1, "the writer had to connect {} times", record.connections);
    lab.nothing_lost(&record).await
}

async fn open(address: &Address) -> Result<Session> {
    Ok(timeout(SHORT_LIMIT, Session::open(address)).await??)
}

#[test]
fn refusals_and_pause() -> Result<()> {
    run(LabOptions::quorum(), TEST_LIMIT, refuse_and_pause)
}

async fn refuse_and_pause(lab: &mut Lab) -> Result<()> {
    let status = lab.up().await?;
    let primary = status.primary.clone().context("there is no primary")?;
    refused(lab, &["switchover", "--to", "n9", "--yes"], "there is no node n9")?;
    refused(lab, &["switchover", "--to", primary.as_str(), "--yes"], "is primary already")?;
    let standby = (0..3).find(|n| lab.node(*n).is_ok_and(|l| l.place.name != primary.as_str()));
    let standby = standby.context("there is a standby")?;
    let name = lab.node(standby)?.place.name.clone();
    let port = lab.node(standby)?.place.postgres_port.to_string();
    psql(&port, "select pg_wal_replay_pause()")?;
    // Without --yes it only checks: the leader hears of the pause a moment later.
    let paused = async |lab: &Lab| refused(lab, &["switchover", "--to", &name], "replay is paused");
    let began = std::time::Instant::now();
    while let Err(e) = paused(lab).await {
        ensure!(began.elapsed() < SHORT_LIMIT, "{e:#}");
        psql(&port, "select pg_wal_replay_pause()")?;
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    psql(&port, "select pg_wal_replay_resume()")?;

    // While paused, not even a killed server is replaced.
    ensure!(lab.pgkeel(0, &["pause"])?.status.success(), "pause was refused");
    lab.cluster.kill_server(lab.primary(&status)?)?;
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    let now = lab.cluster.status().await?;
    ensure!(now.epoch == status.epoch, "the cluster is paused, and went to epoch {}", now.epoch);
    refused(lab, &["switchover", "--yes"], "paused")?;
    ensure!(lab.pgkeel(0, &["resume"])?.status.success(), "resume was refused");
    lab.cluster.wait_settled(status.epoch, SETTLE_LIMIT).await?;
    Ok(())
}

fn refused(lab: &Lab, args: &[&str], because: &str) -> Result<()> {
    let said = lab.pgkeel(0, args)?;
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    ensure!(!said.status.success() && text.contains(because), "{args:?}: {} {text}", said.status);
    println!("{}", text.trim());
    Ok(())
}

fn psql(port: &str, sql: &str) -> Result<()> {
    let mut psql = Command::new("psql");
    psql.args(["-qAt", "-h", "127.0.0.1", "-U", "postgres", "-d", "postgres", "-p", port, "-c", sql]);
    let output = psql.output().context("psql cannot be started")?;
    ensure!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
