//! The program of running agents is exchanged under load; no server is stopped, and no client notices.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use testkit::lab::{Lab, LabOptions, SETTLE_LIMIT, SHORT_LIMIT, TEST_LIMIT, run};

#[test]
fn agents_are_exchanged_under_load() -> Result<()> {
    run(LabOptions::quorum(), TEST_LIMIT, exchange)
}

async fn exchange(lab: &mut Lab) -> Result<()> {
    // A copy of the program for this cluster alone, so that another one can lie in its place.
    let program = lab.cluster.options.root.join("pgkeel");
    fs::copy(&lab.cluster.options.program, &program)?;
    lab.cluster.options.program.clone_from(&program);
    let before = lab.up().await?;
    let writer = lab.writer().await?;
    let agents = |lab: &Lab| -> Vec<_> { lab.cluster.nodes.iter().map(|node| node.agent()).collect() };
    let postmasters =
        |lab: &Lab| -> Vec<_> { lab.cluster.nodes.iter().map(|node| node.postmaster()).collect() };
    let (pids, servers) = (agents(lab), postmasters(lab));

    replace(&program, b"#!/bin/sh\necho broken >&2\nexit 3\n")?;
    let refused = lab.pgkeel_by(&testkit::lab::program()?, 0, &["agent", "upgrade", "n1"])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(
        !refused.status.success() && said.contains("refuses") && said.contains("broken"),
        "it says: {said}"
    );

    replace(&program, &fs::read(testkit::lab::program()?)?)?;
    let done = lab.pgkeel(0, &["agent", "upgrade"])?;
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    println!("{said}");
    ensure!(said.matches("its server runs on").count() == 3, "it says: {said}");

    let after = lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
    ensure!((after.epoch, &after.primary) == (before.epoch, &before.primary), "the primary has changed");
    ensure!(agents(lab) == pids, "other processes, where the same ones were to run another program");
    ensure!(postmasters(lab) == servers, "servers were started anew");
    for node in 0..3 {
        let log = lab.node(node)?.log();
        ensure!(log.matches("found its server running").count() == 1, "{node} did not take its server over");
    }
    writer.wait_for(50, SHORT_LIMIT).await?;
    let record = writer.stop();
    ensure!(record.failures.is_empty(), "the writer noticed: {:?}", record.failures);
    lab.nothing_lost(&record).await
}

/// Another file under the same name, as package managers do it: the one that runs stays as it is.
fn replace(program: &Path, content: &[u8]) -> Result<()> {
    let new = program.with_extension("new");
    fs::write(&new, content)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
    fs::rename(&new, program).context("the program cannot be replaced")
}
