//! The cluster's record is in an etcd: nodes are lost, and members of etcd.

use std::io::Write as _;
use std::time::{Duration, Instant};

use super::agent::ended_before_the_next_begins;
use anyhow::{Context, Result, ensure};
use cluster::status::Status;
use pgkeel::demo::processes;
use rustix::process::Signal;
use testkit::lab::etcd::{Etcd, is_installed};
use testkit::lab::{Lab, LabOptions, SETTLE_LIMIT, SHORT_LIMIT, TEST_LIMIT, run};
use tokio::time::sleep;

/// Longer than the lease of the default settings with etcd: what would have happened has happened then.
const LONGER_THAN_A_LEASE: Duration = Duration::from_secs(7);

fn with_etcd(
    options: LabOptions,
    scenario: impl AsyncFnOnce(&mut Lab, &mut Etcd) -> Result<()>,
) -> Result<()> {
    if !is_installed() {
        let _ =
            writeln!(std::io::stderr(), "skipped: there is no program etcd; script/bootstrap installs it");
        return Ok(());
    }
    run(options, TEST_LIMIT, async |lab: &mut Lab| {
        let mut etcd = Etcd::start_for(lab, 3).await?;
        scenario(lab, &mut etcd).await
    })
}

/// Waits until the leader is not on the primary's node, where the cluster moves it by itself.
pub(super) async fn led_elsewhere(lab: &mut Lab) -> Result<Status> {
    let elsewhere = |s: &Status| s.leader.is_some() && s.leader != s.primary;
    lab.cluster.wait_until("the leader is not on the primary's node", SHORT_LIMIT, elsewhere).await
}

#[test]
fn nodes_are_lost_with_the_record_in_etcd() -> Result<()> {
    with_etcd(LabOptions::quorum(), async |lab: &mut Lab, _| {
        let mut status = lab.up().await?;
        let writer = lab.writer().await?;
        // The server of the primary.
        let primary = lab.primary(&status)?;
        lab.cluster.kill_server(primary)?;
        status = lab.cluster.wait_settled(status.epoch, SETTLE_LIMIT).await?;
        // The leader's host, which is not that of the primary: the primary must not notice.
        status = led_elsewhere(lab).await.map(|s| Status { epoch: status.epoch, ..s })?;
        let leader = lab.cluster.index(status.leader.as_ref().context("there is no leader")?.as_str())?;
        writer.wait_for(50, SHORT_LIMIT).await?;
        let failures = writer.so_far().failures.len();
        lab.cluster.kill_host(leader)?;
        let killed = Instant::now();
        let other = |s: &Status| s.leader.is_some() && s.leader != status.leader;
        lab.cluster.wait_until("another node leads", SHORT_LIMIT, other).await?;
        println!("the leader's host killed: another one leads after {} ms", killed.elapsed().as_millis());
        sleep(LONGER_THAN_A_LEASE).await;
        let now = lab.cluster.status().await?;
        ensure!((now.epoch, &now.primary) == (status.epoch, &status.primary), "the primary changed: {now:?}");
        ensure!(
            writer.so_far().failures.len() == failures,
            "clients noticed: {:?}",
            writer.so_far().failures
        );
        lab.cluster.start_node(leader)?;
        lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
        // The primary's host.
        status = led_elsewhere(lab).await?;
        let primary = lab.primary(&status)?;
        lab.cluster.kill_host(primary)?;
        let moved = |s: &Status| s.epoch > status.epoch && s.primary.is_some() && s.primary != status.primary;
        lab.cluster.wait_until("another node is primary", SETTLE_LIMIT, moved).await?;
        lab.cluster.start_node(primary)?;
        lab.cluster.wait_settled(status.epoch, SETTLE_LIMIT).await?;
        writer.wait_for(50, SHORT_LIMIT).await?;
        lab.nothing_lost(&writer.stop()).await
    })
}

#[test]
fn members_of_etcd_are_lost() -> Result<()> {
    with_etcd(LabOptions::quorum(), async |lab: &mut Lab, etcd: &mut Etcd| {
        let status = lab.up().await?;
        let writer = lab.writer().await?;
        // The one that leads etcd: the primary must not notice the election of another one.
        let first = etcd.leader().await.context("etcd has no leader")?;
        etcd.kill(first)?;
        sleep(LONGER_THAN_A_LEASE).await;
        let now = lab.cluster.status().await?;
        ensure!((now.epoch, &now.primary) == (status.epoch, &status.primary), "the primary changed: {now:?}");
        ensure!(writer.so_far().failures.is_empty(), "clients noticed: {:?}", writer.so_far().failures);
        // No majority: no other primary, and this one ends with its lease.
        let second = (first + 1) % 3;
        etcd.kill(second)?;
        let told = |s: &Status| s.why.iter().any(|w| w.starts_with("2 of 3 etcd members cannot be reached"));
        lab.cluster.wait_until("it is said why", SHORT_LIMIT, told).await?;
        sleep(LONGER_THAN_A_LEASE).await;
        let now = lab.cluster.status().await?;
        ensure!(now.epoch == status.epoch, "somebody decided without etcd: {now:?}");
        let primary = lab.primary(&status)?;
        ensure!(lab.node(primary)?.postmaster().is_none(), "the primary runs on without a lease");
        etcd.revive(first)?;
        etcd.revive(second)?;
        lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
        writer.wait_for(50, SHORT_LIMIT).await?;
        lab.nothing_lost(&writer.stop()).await
    })
}

/// The leader's agent stands still and wakes up: others lead meanwhile, and what it says afterwards must not matter.
#[test]
fn the_leader_stands_still_with_the_record_in_etcd() -> Result<()> {
    with_etcd(LabOptions::quorum(), async |lab: &mut Lab, _| {
        lab.up().await?;
        let writer = lab.writer().await?;
        let before = led_elsewhere(lab).await?;
        let leader = lab.cluster.index(before.leader.as_ref().context("there is no leader")?.as_str())?;
        let agent = lab.node(leader)?.agent().context("the leader's agent does not run")?;
        processes::send(agent, Signal::STOP);
        sleep(LONGER_THAN_A_LEASE).await;
        processes::send(agent, Signal::CONT);
        sleep(LONGER_THAN_A_LEASE).await;
        let after = lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
        ensure!(
            (after.epoch, &after.primary) == (before.epoch, &before.primary),
            "the primary changed: {after:?}"
        );
        ensure!(after.leader != before.leader, "nobody took over from {:?}", before.leader);
        let record = writer.stop();
        ensure!(record.failures.is_empty(), "clients noticed: {:?}", record.failures);
        lab.nothing_lost(&record).await
    })
}

#[test]
fn agent_stays_dead_async_with_the_record_in_etcd() -> Result<()> {
    with_etcd(LabOptions::asynchronous(), async |lab: &mut Lab, _| ended_before_the_next_begins(lab).await)
}

/// Without synchronous standbys the end of the old lease is all that keeps two primaries apart.
#[test]
fn a_primary_s_host_is_lost_async_with_the_record_in_etcd() -> Result<()> {
    with_etcd(LabOptions::asynchronous(), async |lab: &mut Lab, _| {
        lab.up().await?;
        let writer = lab.writer().await?;
        let status = led_elsewhere(lab).await?;
        let primary = lab.primary(&status)?;
        let killed = Instant::now();
        lab.cluster.kill_host(primary)?;
        let moved = |s: &Status| s.epoch > status.epoch && s.primary.is_some() && s.primary != status.primary;
        lab.cluster.wait_until("another node is primary", SETTLE_LIMIT, moved).await?;
        println!("another node is primary after {} ms", killed.elapsed().as_millis());
        lab.cluster.start_node(primary)?;
        lab.cluster.wait_settled(status.epoch, SETTLE_LIMIT).await?;
        writer.wait_for(50, SHORT_LIMIT).await?;
        ensure!(!writer.stop().acks.is_empty(), "nothing was written");
        Ok(())
    })
}
