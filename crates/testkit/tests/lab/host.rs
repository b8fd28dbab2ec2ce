//! The primary's host is lost: agent, guard and server at once.

use anyhow::{Context, Result, ensure};
use cluster::reason::Reason;
use testkit::lab::{Lab, LabOptions, SETTLE_LIMIT, SHORT_LIMIT, TEST_LIMIT, run};

#[test]
fn host_loss() -> Result<()> {
    run(LabOptions::quorum(), TEST_LIMIT, lose_a_host)
}

async fn lose_a_host(lab: &mut Lab) -> Result<()> {
    let status = lab.up().await?;
    let writer = lab.writer().await?;
    let (old, epoch) = (lab.primary(&status)?, status.epoch);
    lab.cluster.kill_host(old)?;
    let what = "another node is primary";
    let lost = status.primary.clone();
    lab.cluster
        .wait_until(what, SETTLE_LIMIT, |now| {
            now.epoch > epoch && now.primary.is_some() && now.primary != lost
        })
        .await?;
    writer.wait_for(50, SHORT_LIMIT).await?;
    let history = lab.cluster.why().await?;
    let suspicion = history.iter().find_map(|entry| match &entry.reason {
        Reason::Silent { confirmed, needed, .. } if entry.epoch > epoch => Some((confirmed.len(), *needed)),
        _ => None,
    });
    let (confirmed, needed) = suspicion.context("the history does not say that the host was silent")?;
    ensure!(confirmed >= needed, "{confirmed} nodes confirmed the silence, {needed} were needed");

    lab.cluster.start_node(old)?;
    let status = lab.cluster.wait_settled(epoch, SETTLE_LIMIT).await?;
    ensure!(status.primary != lost, "the returned host is primary again: {:?}", status.primary);
    writer.wait_for(50, SHORT_LIMIT).await?;
    lab.nothing_lost(&writer.stop()).await
}
