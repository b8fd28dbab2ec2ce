//! All nodes are down, and the one with the oldest data is started first; then one that votes but has lost its disk. That
//! is a majority, and none of it has the last commits.

use std::fs;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use cluster::status::{Role, Status};
use pgkeel::demo::layout::Mode;
use testkit::lab::faults::Fault;
use testkit::lab::loss::Kept;
use testkit::lab::watch::Watch;
use testkit::lab::{Lab, LabOptions, SETTLE_LIMIT, SHORT_LIMIT, TEST_LIMIT, run};
use tokio::time::sleep;

/// How long rows are written that the first node does not get.
const AHEAD: Duration = Duration::from_secs(4);
/// Time in which the wrong thing could happen.
const TEMPTATION: Duration = Duration::from_secs(6);

#[test]
fn oldest_data_is_started_first() -> Result<()> {
    run(LabOptions::quorum_on_hosts(), TEST_LIMIT, start_the_oldest_first)
}

#[test]
fn oldest_data_is_started_first_async() -> Result<()> {
    // What the load writes in a few seconds must be more than may be lost.
    let mode = Mode::Async("4kB".to_owned());
    let options = LabOptions { mode, ..LabOptions::asynchronous_on_hosts() };
    run(options, TEST_LIMIT, start_the_oldest_first)
}

async fn start_the_oldest_first(lab: &mut Lab) -> Result<()> {
    let before = lab.up().await?;
    let primary = lab.primary(&before)?;
    let [oldest, diskless] = lab.others(primary)[..] else { bail!("three nodes were wanted") };
    let names = (lab.node(primary)?.place.name.clone(), lab.node(diskless)?.place.clone());
    let watch = Watch::start(lab).await?;
    lab.strike(oldest, Fault::PowerOff)?;
    watch.go_on(AHEAD).await?;
    for node in [primary, diskless] {
        lab.strike(node, Fault::PowerOff)?;
    }

    lab.repair(oldest, Fault::PowerOff)?;
    says_for_whom_it_waits(lab, oldest, &[&names.0, &names.1.name]).await?;

    fs::rename(&names.1.data_dir, names.1.dir.join("lost-disk"))?;
    lab.repair(diskless, Fault::PowerOff)?;
    says_for_whom_it_waits(lab, oldest, &[&names.0]).await?;

    lab.repair(primary, Fault::PowerOff)?;
    let after = lab.cluster.wait_settled(before.epoch, SETTLE_LIMIT).await?;
    ensure!(lab.primary(&after)? == primary, "{:?} is primary, and only {} had all", after.primary, names.0);
    watch.all_write().await?;
    watch.judge(lab, Kept::by_mode(lab)).await
}

async fn says_for_whom_it_waits(lab: &mut Lab, node: usize, names: &[&str]) -> Result<()> {
    sleep(TEMPTATION).await;
    let what = format!("no primary, and it is said that {names:?} is waited for");
    let is_primary = |status: &Status| {
        status.primary.is_some() && status.nodes.iter().any(|node| node.role == Role::Primary)
    };
    lab.cluster.wait_until("no node is primary", SHORT_LIMIT, |status| !is_primary(status)).await?;
    let began = std::time::Instant::now();
    loop {
        ensure!(!is_primary(&lab.cluster.status().await?), "there is a primary without all commits");
        let said = lab.pgkeel(node, &["status"])?;
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        let why = text.split_once("why: ").map_or("", |(_, why)| why);
        if names.iter().all(|name| why.contains(name)) {
            println!("E1: {}", why.trim());
            return Ok(());
        }
        ensure!(began.elapsed() < SHORT_LIMIT, "{what}; instead:\n{text}");
        sleep(Duration::from_millis(200)).await;
    }
}
