//! The server of the primary is killed under load, again and again.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cluster::NodeName;
use cluster::reason::Reason;
use cluster::state::Entry;
use testkit::lab::{Lab, LabOptions, SETTLE_LIMIT, SHORT_LIMIT, TEST_LIMIT, long, run};
use tokio::time::sleep;

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
            false => rejoined(lab, &old, status.epoch).await?,
        };
        println!("round {round}: {old} killed, {new} is primary of epoch {}; {way}", status.epoch);
    }
    writer.wait_for(50, SHORT_LIMIT).await?;
    lab.nothing_lost(&writer.stop()).await
}

/// What the history says of a node's return in this epoch: a moment after it streams.
async fn rejoined(lab: &Lab, node: &NodeName, epoch: u64) -> Result<String> {
    let began = Instant::now();
    let of_node = |entry: &&Entry| {
        entry.epoch == epoch && matches!(&entry.reason, Reason::Rejoined { node: named, .. } if named == node)
    };
    loop {
        if let Some(entry) = lab.cluster.why().await?.iter().rev().find(of_node) {
            return Ok(entry.reason.to_string());
        }
        ensure!(began.elapsed() < SHORT_LIMIT, "{node} streams, and its return is not in the history");
        sleep(Duration::from_millis(100)).await;
    }
}
