//! Only the agent of the primary dies: it comes back in time, or it does not.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cluster::reason::Reason;
use pgkeel::demo::processes;
use pgkeel::demo::stamp::Stamp;
use rustix::process::Signal;
use testkit::lab::{Lab, LabOptions, SETTLE_LIMIT, SHORT_LIMIT, TEST_LIMIT, run};
use tokio::time::sleep;

/// Longer than the lease of the default settings: what would have happened has happened then.
const LONGER_THAN_A_LEASE: Duration = Duration::from_secs(5);

#[test]
fn agent_killed_restarts() -> Result<()> {
    run(LabOptions::quorum(), TEST_LIMIT, restart_agents)
}

#[test]
fn agent_stays_dead() -> Result<()> {
    run(LabOptions::quorum(), TEST_LIMIT, async |lab: &mut Lab| {
        let status = lab.up().await?;
        let writer = lab.writer().await?;
        leave_agent_dead(lab, status.epoch).await?;
        writer.wait_for(50, SHORT_LIMIT).await?;
        lab.nothing_lost(&writer.stop()).await
    })
}

#[test]
fn agent_stays_dead_async() -> Result<()> {
    run(LabOptions::asynchronous(), TEST_LIMIT, async |lab: &mut Lab| ended_before_the_next_begins(lab).await)
}

/// Without synchronous standbys only the end of the lease fences the old primary.
pub(super) async fn ended_before_the_next_begins(lab: &mut Lab) -> Result<()> {
    let status = lab.up().await?;
    let writer = lab.writer().await?;
    let gone = leave_agent_dead(lab, status.epoch).await?;
    writer.wait_for(50, SHORT_LIMIT).await?;
    let history = lab.cluster.why().await?;
    let appointed = history.iter().find_map(|entry| match &entry.reason {
        Reason::Appointed { .. } if entry.epoch > status.epoch => Some(entry.at),
        _ => None,
    });
    let appointed = appointed.context("the history does not say who was appointed")?;
    ensure!(gone.wall_ms <= appointed, "appointed at {appointed}, the old server ended at {}", gone.wall_ms);
    Ok(())
}

/// The guard of the primary stands still, and nothing else: nobody would end the server at the end of its lease.
#[test]
fn guard_stands_still() -> Result<()> {
    run(LabOptions::asynchronous(), TEST_LIMIT, async |lab: &mut Lab| {
        let status = lab.up().await?;
        let primary = lab.primary(&status)?;
        let writer = lab.writer().await?;
        let guard = lab.node(primary)?.guard().context("the primary's server has no guard")?;
        processes::send(guard, Signal::STOP);
        let began = Instant::now();
        while processes::find(guard).is_some() {
            ensure!(began.elapsed() < SETTLE_LIMIT, "the guard stands still, and nobody has noticed");
            sleep(Duration::from_millis(50)).await;
        }
        println!("the guard that stood still was ended after {} ms", began.elapsed().as_millis());
        let after = lab.cluster.wait_settled(status.epoch, SETTLE_LIMIT).await?;
        let now = lab.node(lab.primary(&after)?)?.guard();
        ensure!(now.is_some_and(|now| now != guard), "the guard is {now:?}");
        writer.wait_for(50, SHORT_LIMIT).await?;
        ensure!(!writer.stop().acks.is_empty(), "nothing was written");
        Ok(())
    })
}

/// Its agent does not come back to a guard that does not answer either.
#[test]
fn guard_stands_still_while_its_agent_restarts() -> Result<()> {
    run(LabOptions::quorum(), TEST_LIMIT, async |lab: &mut Lab| {
        let status = lab.up().await?;
        let primary = lab.primary(&status)?;
        let writer = lab.writer().await?;
        let guard = lab.node(primary)?.guard().context("the primary's server has no guard")?;
        processes::send(guard, Signal::STOP);
        lab.cluster.kill_agent(primary)?;
        lab.cluster.start_node(primary)?;
        lab.cluster.wait_settled(status.epoch, SETTLE_LIMIT).await?;
        ensure!(processes::find(guard).is_none(), "the guard still stands there");
        writer.wait_for(50, SHORT_LIMIT).await?;
        lab.nothing_lost(&writer.stop()).await
    })
}

/// Kills the agent of every node, the primary's last, and starts it again at once.
async fn restart_agents(lab: &mut Lab) -> Result<()> {
    let before = lab.up().await?;
    let writer = lab.writer().await?;
    let primary = lab.primary(&before)?;
    let last = [primary];
    let others: Vec<usize> = (0..lab.cluster.nodes.len()).filter(|node| *node != primary).collect();
    for node in others.into_iter().chain(last) {
        let name = lab.node(node)?.place.name.clone();
        let pids = (lab.node(node)?.postmaster(), lab.node(node)?.guard());
        ensure!(pids.0.is_some() && pids.1.is_some(), "{name}: server and guard run as {pids:?}");
        lab.cluster.kill_agent(node)?;
        lab.cluster.start_node(node)?;
        sleep(LONGER_THAN_A_LEASE).await;
        let after = lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
        ensure!(
            after.epoch == before.epoch,
            "{name}: the epoch went from {} to {}",
            before.epoch,
            after.epoch
        );
        ensure!(after.primary == before.primary, "{name}: the primary is now {:?}", after.primary);
        let pids_now = (lab.node(node)?.postmaster(), lab.node(node)?.guard());
        ensure!(pids_now == pids, "{name}: server and guard ran as {pids:?}, now as {pids_now:?}");
    }
    let record = writer.stop();
    ensure!(record.failures.is_empty(), "the writer noticed: {:?}", record.failures);
    ensure!(record.connections == 1, "the writer had to connect {} times", record.connections);
    lab.nothing_lost(&record).await
}

/// Kills the primary's agent for good, sees the server end and another take over, then lets the node come back.
async fn leave_agent_dead(lab: &mut Lab, epoch: u64) -> Result<Stamp> {
    let status = lab.cluster.status().await?;
    let (old, lost) = (lab.primary(&status)?, status.primary.clone());
    let postmaster = lab.node(old)?.postmaster().context("the primary's server does not run")?;
    let killed = lab.cluster.kill_agent(old)?;
    while processes::find(postmaster).is_some() {
        ensure!(killed.instant.elapsed() < SHORT_LIMIT, "the server still runs, its agent is long dead");
        sleep(Duration::from_millis(2)).await;
    }
    let gone = Stamp::now();
    println!("the guard ended the server {} ms after the end of its agent", gone.wall_ms - killed.wall_ms);
    lab.cluster
        .wait_until("another node is primary", SETTLE_LIMIT, |now| {
            now.epoch > epoch && now.primary.is_some() && now.primary != lost
        })
        .await?;
    lab.cluster.start_node(old)?;
    lab.cluster.wait_settled(epoch, SETTLE_LIMIT).await?;
    Ok(gone)
}
