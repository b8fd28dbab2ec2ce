//! All agents are stopped and started again in the worst order.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster::status::{Role, Status};
use testkit::lab::{Lab, LabOptions, SETTLE_LIMIT, SHORT_LIMIT, TEST_LIMIT, run};
use tokio::time::sleep;

#[test]
fn restart_all_stalest_first() -> Result<()> {
    run(LabOptions::quorum(), TEST_LIMIT, stalest_first)
}

async fn stalest_first(lab: &mut Lab) -> Result<()> {
    let status = lab.up().await?;
    let writer = lab.writer().await?;
    let primary = lab.primary(&status)?;
    let stalest = (0..3).find(|node| *node != primary).context("there is a standby")?;
    lab.cluster.stop_node(stalest).await?;
    writer.wait_for(200, SHORT_LIMIT).await?;
    let record = writer.stop();
    lab.cluster.stop().await;

    lab.cluster.start_proxy()?;
    lab.cluster.start_node(stalest)?;
    let what = "a node alone says what it waits for";
    let waiting = lab.cluster.wait_until(what, SHORT_LIMIT, waits).await?;
    println!("alone, it says: {}", waiting.why.join("; "));
    // Time in which it could do the wrong thing.
    sleep(Duration::from_secs(5)).await;
    let still = lab.cluster.wait_until(what, SHORT_LIMIT, |_| true).await?;
    ensure!(waits(&still), "alone, it says: {}", pgkeel::demo::observe::in_short(&still));
    let shown = lab.pgkeel(stalest, &["status"])?;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    ensure!(shown.contains("why: "), "pgkeel status does not say what is waited for:\n{shown}");
    println!("{shown}");

    lab.cluster.start()?;
    let status = lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
    println!("{} is primary of epoch {}", status.primary.clone().context("a primary")?, status.epoch);
    lab.nothing_lost(&record).await
}

/// No node is primary, and there is a reason for it.
fn waits(status: &Status) -> bool {
    let primary = status.nodes.iter().any(|node| node.role == Role::Primary);
    let reason = status.why.iter().any(|why| why != "all is well");
    !primary && reason
}
