//! The first primary of a new cluster is a primary from the beginning: no start as a standby, no promotion.

use std::fs;

use anyhow::{Context, Result, ensure};
use testkit::lab::{Lab, LabOptions, TEST_LIMIT, run};

/// What a server says that begins as a standby (xlogrecovery.c).
const STANDBY: &str = "entering standby mode";
/// What one says that is promoted (xlogrecovery.c).
const PROMOTED: &str = "received promote request";

#[test]
fn first_start_is_a_primarys() -> Result<()> {
    run(LabOptions::quorum_on_hosts(), TEST_LIMIT, look_at_the_first_start)
}

#[test]
fn first_start_is_a_primarys_async() -> Result<()> {
    run(LabOptions::asynchronous_on_hosts(), TEST_LIMIT, look_at_the_first_start)
}

async fn look_at_the_first_start(lab: &mut Lab) -> Result<()> {
    let status = lab.up().await?;
    let primary = lab.primary(&status)?;
    let said = |node: usize, words: &str| -> Result<bool> {
        let log = lab.node(node)?.place.dir.join("postgresql.log");
        let text = fs::read_to_string(&log).with_context(|| format!("{}", log.display()))?;
        Ok(text.contains(words))
    };
    ensure!(!said(primary, STANDBY)?, "the first primary began as a standby");
    ensure!(!said(primary, PROMOTED)?, "the first primary was promoted");
    for standby in lab.others(primary) {
        // Or the words are no longer those that this version writes.
        ensure!(said(standby, STANDBY)?, "the log of a standby does not say that it is one");
    }
    let timeline = status.nodes.get(primary).and_then(|node| node.timeline);
    ensure!(timeline == Some(1), "the first primary writes on timeline {timeline:?}");
    println!("E4: epoch {}, timeline 1, no standby mode before", status.epoch);
    Ok(())
}
