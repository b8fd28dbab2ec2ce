//! A standby's data directory is replaced by an old copy of itself.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster::reason::Reason;
use cluster::status::Status;
use pgkeel::demo::processes;
use pgkeel::demo::session::Session;
use rustix::process::Signal;
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

/// The last primary comes back with an old copy of its own data, of the very line that it wrote last. The one standby that
/// has confirmed a commit since is down: nothing may be decided without it.
#[test]
fn last_primary_restored_from_an_old_copy() -> Result<()> {
    run(LabOptions::quorum(), TEST_LIMIT, async |lab: &mut Lab| {
        let status = lab.up().await?;
        let primary = lab.primary(&status)?;
        let [confirms, away] = lab.others(primary)[..] else { anyhow::bail!("not three nodes") };
        let place = lab.node(primary)?.place.clone();
        let copy = place.dir.join("old-copy");
        let session = Session::open(&place.server()).await?;
        session.client.batch_execute("create table kept (id int); checkpoint").await?;
        copy_standing_still(lab, primary, &copy)?;
        lab.cluster.kill_host(away)?;
        session.client.batch_execute("insert into kept values (1)").await?;
        lab.cluster.kill_host(confirms)?;
        lab.cluster.kill_host(primary)?;
        std::fs::rename(&place.data_dir, place.dir.join("newer-data"))?;
        std::fs::rename(&copy, &place.data_dir)?;
        lab.cluster.start_node(primary)?;
        lab.cluster.start_node(away)?;
        let sealed =
            |now: &Status| now.why.iter().any(|why| why.contains("not counted: copied or exchanged"));
        lab.cluster.wait_until("the old copy is not relied on", SETTLE_LIMIT, sealed).await?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let waits = lab.cluster.status().await?;
        ensure!(waits.primary.is_none(), "{:?} is primary, and a commit is lost", waits.primary);
        lab.cluster.start_node(confirms)?;
        let after = lab.cluster.wait_settled(status.epoch, SETTLE_LIMIT).await?;
        let new = lab.primary(&after)?;
        let session = Session::open(&lab.node(new)?.place.server()).await?;
        let kept: i64 = session.client.query_one("select count(*) from kept", &[]).await?.get(0);
        ensure!(kept == 1, "an acknowledged row is lost");
        Ok(())
    })
}

/// As a snapshot of the disk: none of the server's processes does anything meanwhile.
fn copy_standing_still(lab: &Lab, node: usize, copy: &Path) -> Result<()> {
    let postmaster = lab.node(node)?.postmaster().context("the server runs")?;
    let mut all = vec![postmaster];
    all.extend(processes::descendants(postmaster, &processes::all()));
    all.iter().for_each(|pid| processes::send(*pid, Signal::STOP));
    let copied = copy_all(&lab.node(node)?.place.data_dir, copy);
    all.iter().for_each(|pid| processes::send(*pid, Signal::CONT));
    let _ = std::fs::remove_file(copy.join("postmaster.pid"));
    copied
}

/// With owners and modes.
fn copy_all(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().context("cp cannot be started")?;
    ensure!(status.success(), "{} was not copied", from.display());
    Ok(())
}
