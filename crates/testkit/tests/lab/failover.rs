//! The server of the primary is killed under load, again and again.

use anyhow::{Context, Result};
use cluster::NodeName;
use cluster::reason::Reason;
use cluster::state::Entry;
use testkit::lab::{Lab, LabOptions, SETTLE_LIMIT, SHORT_LIMIT, TEST_LIMIT, long, run};

/// How often.
const KILLS: usize = 2;
/// In `make lab-long`.
const KILLS_LONG: usize = 10;

#[test]
fn failover_kill() -> Result<()> {
    run(LabOptions::quorum(), TEST_LIMIT, kill_again_and_again)
}

async fn kill_again_and_again(lab: &mut Lab) -> Result<()> {
    let mut status = lab.up().await?;
    let writer = lab.writer().await?;
    for round in 1..=if long() { KILLS_LONG } else { KILLS } {
        writer.wait_for(50, SHORT_LIMIT).await?;
        let old = status.primary.clone().context("there is no primary")?;
        let node = lab.primary(&status)?;
        lab.cluster.kill_server(node)?;
        status = lab.cluster.wait_settled(status.epoch, SETTLE_LIMIT).await?;
        let new = status.primary.clone().context("there is no primary")?;
        // In rare cases the killed server is up again before two others have sealed, and is the best candidate.
        let way = match new == old {
            true => "it came back first".to_owned(),
            false => rejoined(&lab.cluster.why().await?, &old, status.epoch)?,
        };
        println!("round {round}: {old} killed, {new} is primary of epoch {}; {way}", status.epoch);
    }
    writer.wait_for(50, SHORT_LIMIT).await?;
    lab.nothing_lost(&writer.stop()).await
}

/// What the history says of a node's return in this epoch.
fn rejoined(history: &[Entry], node: &NodeName, epoch: u64) -> Result<String> {
    let found = history.iter().rev().find(|entry| {
        entry.epoch == epoch && matches!(&entry.reason, Reason::Rejoined { node: named, .. } if named == node)
    });
    let entry =
        found.with_context(|| format!("{node} streams again, but its return is not in the history"))?;
    Ok(entry.reason.to_string())
}
