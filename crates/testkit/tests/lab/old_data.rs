//! A standby's data directory is replaced by an old copy of itself.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster::reason::Reason;
use testkit::lab::faults::Fault;
use testkit::lab::loss::Kept;
use testkit::lab::watch::{Allowed, Watch};
use testkit::lab::{Lab, LabOptions, SETTLE_LIMIT, TEST_LIMIT, run};

#[test]
fn standby_restored_from_an_old_copy() -> Result<()> {
    run(LabOptions::quorum_on_hosts(), TEST_LIMIT, restore_an_old_copy)
}

/// The copy is from before a failover: older than the last change of primary, and on its timeline's ancestor.
async fn restore_an_old_copy(lab: &mut Lab) -> Result<()> {
    let first = lab.up().await?;
    let primary = lab.primary(&first)?;
    let node = (0..lab.cluster.nodes.len()).find(|node| *node != primary).context("there is a standby")?;
    let place = lab.node(node)?.place.clone();
    let copy = place.dir.join("old-copy");
    lab.cluster.stop_node(node).await?;
    copy_all(&place.data_dir, &copy)?;
    lab.cluster.start_node(node)?;
    lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;

    let watch = Watch::start(lab).await?;
    lab.strike(primary, Fault::PostmasterKilled)?;
    let before = lab.cluster.wait_settled(first.epoch, SETTLE_LIMIT).await?;
    watch.all_write().await?;
    if before.primary.as_ref().is_some_and(|now| now.as_str() == place.name) {
        // The copy is of the new primary now: it must be a standby again for this test.
        lab.strike(node, Fault::PostmasterKilled)?;
        lab.cluster.wait_settled(before.epoch, SETTLE_LIMIT).await?;
        watch.all_write().await?;
    }
    let before = lab.cluster.status().await?;
    let since = watch.quiet_moment().await?.over();
    lab.cluster.stop_node(node).await?;
    std::fs::rename(&place.data_dir, place.dir.join("newer-data"))?;
    std::fs::rename(&copy, &place.data_dir)?;
    lab.cluster.start_node(node)?;
    let after = lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
    ensure!(after.epoch == before.epoch, "an old copy was started, and the epoch is now {}", after.epoch);
    ensure!(after.primary == before.primary, "an old copy was started, and {:?} is primary", after.primary);
    watch.go_on(Duration::from_secs(2)).await?;
    watch.seen("E2", since, Allowed::Nothing)?;
    let history = lab.cluster.why().await?;
    let rejoined = history
        .iter()
        .rev()
        .find(|entry| matches!(&entry.reason, Reason::Rejoined { node, .. } if node.as_str() == place.name));
    println!(
        "E2: {}",
        rejoined.map_or("its return is not in the history".to_owned(), |e| e.reason.to_string())
    );
    watch.judge(lab, Kept::All).await
}

/// With owners and modes.
fn copy_all(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().context("cp cannot be started")?;
    ensure!(status.success(), "{} was not copied", from.display());
    Ok(())
}
