//! The kernel's fence around a server's port: it goes with the guard when the agent was killed. What it is for is tested
//! in `frozen`.

use std::io::Write as _;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testkit::lab::{Lab, LabOptions, SETTLE_LIMIT, SHORT_LIMIT, TEST_LIMIT, run};
use tokio::time::sleep;

#[test]
fn fence_goes_with_the_guard() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    run(LabOptions::quorum_on_hosts(), TEST_LIMIT, async |lab: &mut Lab| {
        lab.fence_by_nftables()?;
        let before = lab.up().await?;
        for node in 0..lab.cluster.nodes.len() {
            let port = lab.node(node)?.place.postgres_port.to_string();
            ensure!(rules(lab, node)?.contains(&port), "no fence around port {port}");
        }
        let writer = lab.writer().await?;
        let old = lab.primary(&before)?;
        let killed = lab.cluster.kill_agent(old)?;
        while !rules(lab, old)?.is_empty() {
            let name = &lab.node(old)?.place.name;
            ensure!(
                killed.instant.elapsed() < SHORT_LIMIT,
                "the fence of {name} stays, its agent is long dead"
            );
            sleep(Duration::from_millis(50)).await;
        }
        ensure!(lab.node(old)?.postmaster().is_none(), "the fence is gone, and the server runs");
        lab.cluster.start_node(old)?;
        lab.cluster.wait_settled(before.epoch, SETTLE_LIMIT).await?;
        writer.wait_for(50, SHORT_LIMIT).await?;
        lab.nothing_lost(&writer.stop()).await
    })
}

/// What nftables does on the host of a node.
pub fn rules(lab: &Lab, node: usize) -> Result<String> {
    let host = &lab.node(node)?.place.host;
    let mut words = host.enter.iter().map(String::as_str).chain(["nft", "list", "ruleset"]);
    let mut command = Command::new(words.next().context("a host is entered by a command")?);
    let output = command.args(words).output()?;
    ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Says why when this host has no nftables.
pub fn skipped() -> bool {
    let hindrance = agent::fence::hindrance();
    if let Some(because) = &hindrance {
        let _ = writeln!(std::io::stderr(), "skipped: {because}");
    }
    hindrance.is_some()
}
