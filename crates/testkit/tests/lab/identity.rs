//! Who may talk to the agents, and what becomes of who may not; certificates are exchanged under load.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use pgkeel::demo::cluster::{AUTHORITY, Security};
use testkit::lab::{Lab, LabOptions, SETTLE_LIMIT, SHORT_LIMIT, TEST_LIMIT, run};

#[test]
fn only_who_may_is_heard() -> Result<()> {
    run(LabOptions::quorum(), TEST_LIMIT, ask_as_different_people)
}

fn tls(lab: &Lab, name: &str) -> PathBuf {
    lab.cluster.options.root.join("tls").join(name)
}

/// Runs pgkeel with these words alone: no configuration file helps.
fn pgkeel(lab: &Lab, words: &[&str]) -> Result<Output> {
    Ok(Command::new(&lab.cluster.options.program).args(words).output()?)
}

fn cert(lab: &Lab, words: &[&str]) -> Result<()> {
    let made = pgkeel(lab, &[&["cert"][..], words].concat())?;
    ensure!(made.status.success(), "cert {words:?}: {}", String::from_utf8_lossy(&made.stderr));
    Ok(())
}

/// A certificate of the cluster's authority, by the command that people use.
fn issue(lab: &Lab, role: &str, name: &str) -> Result<String> {
    let (authority, out) = (tls(lab, AUTHORITY), tls(lab, name));
    let (authority, out) = (authority.display().to_string(), out.display().to_string());
    cert(lab, &["issue", role, name, "--dir", &authority, "--out", &out])?;
    Ok(out)
}

async fn ask_as_different_people(lab: &mut Lab) -> Result<()> {
    let before = lab.up().await?;
    let writer = lab.writer().await?;
    let agent = lab.node(lab.primary(&before)?)?.place.agent.clone();
    let (viewer, operator) = (issue(lab, "viewer", "alice")?, issue(lab, "operator", "bob")?);
    let ask = |words: &[&str], dir: Option<&str>| -> Result<(bool, String)> {
        let tls = dir.map(|dir| vec!["--tls", dir]).unwrap_or_default();
        let output = pgkeel(lab, &[words, &["--agent", &agent], tls.as_slice()].concat())?;
        Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let refused = |asked: (bool, String), said: &str| {
        ensure!(!asked.0 && asked.1.contains(said), "expected {said:?}, but {asked:?}");
        Ok(())
    };
    ensure!(ask(&["status"], Some(&viewer))?.0, "a viewer may look");
    refused(
        ask(&["switchover", "--yes"], Some(&viewer))?,
        "alice is known as a viewer, who may not give orders",
    )?;
    refused(ask(&["pause"], Some(&viewer))?, "may not give orders")?;
    refused(ask(&["status"], None)?, "speaks TLS only")?;
    refused(ask(&["switchover", "--yes"], None)?, "speaks TLS only")?;
    let stranger = tls(lab, "stranger").display().to_string();
    cert(lab, &["init", "demo", "--dir", &stranger])?;
    cert(lab, &["issue", "admin", "mallory", "--dir", &stranger, "--out", &stranger])?;
    refused(ask(&["status"], Some(&stranger))?, "not signed by this cluster's authority")?;
    let log = lab.node(lab.primary(&before)?)?.log();
    ensure!(
        log.contains("refused POST /v1/order") && log.contains("alice is known as a viewer"),
        "not in the log"
    );
    let after = lab.cluster.status().await?;
    ensure!((after.epoch, after.primary) == (before.epoch, before.primary.clone()), "it had an effect");

    let asked = ask(&["switchover", "--yes"], Some(&operator))?;
    ensure!(asked.0, "an operator may: {}", asked.1);
    let after = lab.cluster.wait_settled(before.epoch, SETTLE_LIMIT).await?;
    ensure!(after.primary != before.primary, "the primary is the same");
    writer.wait_for(50, SHORT_LIMIT).await?;
    lab.nothing_lost(&writer.stop()).await
}

#[test]
fn certificates_are_exchanged_under_load() -> Result<()> {
    run(LabOptions::quorum(), TEST_LIMIT, exchange_all)
}

async fn exchange_all(lab: &mut Lab) -> Result<()> {
    let before = lab.up().await?;
    let writer = lab.writer().await?;
    for (role, name) in [("agent", "n1"), ("agent", "n2"), ("agent", "n3"), ("proxy", "proxy")] {
        issue(lab, role, name)?;
    }
    let taken = |lab: &Lab, node: usize| -> Result<bool> {
        Ok(lab.node(node)?.log().contains("the new certificate is in use"))
    };
    let began = Instant::now();
    while !(taken(lab, 0)? && taken(lab, 1)? && taken(lab, 2)?) {
        ensure!(began.elapsed() < SHORT_LIMIT, "the new certificates are not in use");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // New connections between all of them.
    let old = lab.primary(&before)?;
    lab.cluster.kill_host(old)?;
    lab.cluster
        .wait_until("the next epoch has a primary", SETTLE_LIMIT, |now| {
            now.epoch > before.epoch && now.primary.is_some()
        })
        .await?;
    lab.cluster.start_node(old)?;
    lab.cluster.wait_settled(before.epoch, SETTLE_LIMIT).await?;
    writer.wait_for(50, SHORT_LIMIT).await?;
    lab.nothing_lost(&writer.stop()).await
}

#[test]
fn hosts_go_over_to_tls_one_after_the_other() -> Result<()> {
    let options = LabOptions { security: Security::Plain, ..LabOptions::quorum() };
    run(options, TEST_LIMIT, go_over)
}

/// First all accept both, then nobody goes without. Agents are exchanged; their servers run on.
async fn go_over(lab: &mut Lab) -> Result<()> {
    let authority = tls(lab, AUTHORITY).display().to_string();
    cert(lab, &["init", "demo", "--dir", &authority])?;
    for (role, name) in [("agent", "n1"), ("agent", "n2"), ("agent", "n3"), ("proxy", "proxy")] {
        issue(lab, role, name)?;
    }
    let section = |name: &str, mode: &str| {
        format!("\n[tls]\ndir = \"{}\"\nmode = \"{mode}\"", tls(lab, name).display())
    };
    let proxy = lab.cluster.options.root.join("proxy.toml");
    let text = std::fs::read_to_string(&proxy)?;
    std::fs::write(&proxy, text.replace("\n[proxy]", &format!("{}\n\n[proxy]", section("proxy", "allow"))))?;
    let sections: Vec<[String; 2]> =
        ["n1", "n2", "n3"].map(|name| ["allow", "require"].map(|mode| section(name, mode))).to_vec();

    let before = lab.up().await?;
    let writer = lab.writer().await?;
    let postmasters: Vec<_> = lab.cluster.nodes.iter().map(|node| node.postmaster()).collect();
    for round in 0..2 {
        for (node, section) in sections.iter().enumerate() {
            if round == 0 {
                lab.configure(node, "sync_standbys", &section[0])?;
            } else {
                let path = &lab.node(node)?.place.config;
                let text = std::fs::read_to_string(path)?;
                std::fs::write(path, text.replace(&section[0], &section[1]))?;
            }
            lab.cluster.kill_agent(node)?;
            lab.cluster.start_node(node)?;
            if round == 1 && node == 0 {
                lab.cluster.ask_as(&tls(lab, "n2"))?;
            }
            // What the others know of it may be from before.
            let began = Instant::now();
            while lab.node(node)?.log().matches("found its server running").count() <= round {
                ensure!(began.elapsed() < SHORT_LIMIT, "the agent of node {node} has not come back");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
        }
    }
    let after = lab.cluster.status().await?;
    ensure!((after.epoch, &after.primary) == (before.epoch, &before.primary), "the primary has changed");
    let now: Vec<_> = lab.cluster.nodes.iter().map(|node| node.postmaster()).collect();
    ensure!(now == postmasters, "servers were started anew: {postmasters:?}, now {now:?}");
    let agent = lab.node(0)?.place.agent.clone();
    ensure!(!pgkeel(lab, &["status", "--agent", &agent])?.status.success(), "it still speaks without TLS");
    writer.wait_for(50, SHORT_LIMIT).await?;
    let record = writer.stop();
    ensure!(record.failures.is_empty(), "the writer noticed: {:?}", record.failures);
    lab.nothing_lost(&record).await
}
