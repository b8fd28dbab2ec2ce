//! What `pgkeel whatif` says would happen is what then happens; asking changes nothing.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cluster::explain::{Chance, WhyNot};
use cluster::readiness::Light;
use cluster::reason::Reason;
use cluster::state::Entry;
use cluster::status::Status;
use cluster::whatif::{Answer, Commits, End};
use cluster::{Lsn, NodeName};
use serde::de::DeserializeOwned;
use testkit::lab::{Lab, LabOptions, SETTLE_LIMIT, TEST_LIMIT, run};

/// Some heartbeats.
const STILL: Duration = Duration::from_secs(1);

#[test]
fn whatif_tells_what_then_happens() -> Result<()> {
    run(LabOptions::quorum(), TEST_LIMIT, suppose_then_do)
}

async fn suppose_then_do(lab: &mut Lab) -> Result<()> {
    lab.up().await?;
    let before = ready(lab).await?;
    let first = before.primary.clone().context("there is no primary")?;
    suppose_a_partition(lab, &before, &first)?;
    refuse(lab)?;

    let (told, answer) = suppose(lab, &["whatif", "switchover"])?;
    println!("{told}");
    let expected = winner(&answer)?;
    let begun = |entry: &Entry| matches!(entry.reason, Reason::SwitchoverBegun { .. });
    ensure!(!lab.cluster.why().await?.iter().any(begun), "a question has begun a switchover");
    ensure!(lab.pgkeel(0, &["switchover", "--yes"])?.status.success(), "the switchover was refused");
    let after = lab.cluster.wait_settled(before.epoch, SETTLE_LIMIT).await?;
    ensure!(after.primary.as_ref() == Some(&expected), "{expected} was told, {:?} is primary", after.primary);

    let after = ready(lab).await?;
    lose_the_primary(lab, &after, &expected).await
}

/// The host of the primary is lost, for real.
async fn lose_the_primary(lab: &mut Lab, before: &Status, primary: &NodeName) -> Result<()> {
    let (told, answer) = suppose(lab, &["whatif", primary.as_str(), "down"])?;
    println!("{told}");
    let expected = winner(&answer)?;
    let times = answer.times.context("no time was told")?;
    ensure!(answer.loss_bytes == Some(0), "quorum mode loses nothing: {:?}", answer.loss_bytes);
    ensure!(answer.commits == Commits::GoOn, "another standby is there: {:?}", answer.commits);
    let unlikely: WhyNot = asked(lab, &["why", "not", expected.as_str(), "--json"])?;
    ensure!(unlikely.chance == Chance::First, "why not {expected}: {:?}", unlikely.chance);

    let struck = Instant::now();
    lab.cluster.kill_host(lab.primary(before)?)?;
    let other = |now: &Status| now.epoch > before.epoch && now.primary.is_some();
    let after = lab.cluster.wait_until("another node is primary", SETTLE_LIMIT, other).await?;
    println!("told: {expected} after {} ms; it took {} ms", times.total_ms(), struck.elapsed().as_millis());
    ensure!(after.primary.as_ref() == Some(&expected), "{expected} was told, {:?} is primary", after.primary);

    if lab.is_record_elsewhere() {
        return decided_elsewhere(lab, &after, &expected);
    }
    // One host is gone: the loss of another would leave no majority.
    // The new primary hands the leadership on, and meanwhile nobody answers.
    let red = |now: &Status| {
        let handed_on = now.leader.is_some() && now.leader != now.primary;
        handed_on && now.readiness.as_ref().is_some_and(|r| r.light == Light::Red)
    };
    lab.cluster.wait_until("the light is red, under another leader", SETTLE_LIMIT, red).await?;
    let (told, answer) = suppose(lab, &["whatif", expected.as_str(), "down"])?;
    println!("{told}");
    ensure!(answer.end == End::NoMajority, "{:?}", answer.end);
    let gone: WhyNot = asked(lab, &["why", "not", primary.as_str(), "--json"])?;
    ensure!(gone.chance == Chance::Barred, "why not {primary}: {:?}", gone.chance);
    let history = lab.cluster.why().await?;
    let chosen = history.iter().rev().find_map(|entry| match &entry.reason {
        Reason::Chosen { others, .. } => Some(others.clone()),
        _ => None,
    });
    ensure!(chosen.is_some_and(|others| others.contains_key(primary)), "the last choice is not remembered");
    for question in [vec!["why", "not", primary.as_str()], vec!["why", "--epochs", "1"], vec!["status"]] {
        println!("$ pgkeel {}\n{}", question.join(" "), text(lab, &question)?);
    }
    Ok(())
}

/// One host is gone, and the store beside the hosts has a majority of its own: the last one could still lead.
fn decided_elsewhere(lab: &Lab, status: &Status, primary: &NodeName) -> Result<()> {
    ensure!(status.leader.is_some(), "nobody leads");
    let (told, answer) = suppose(lab, &["whatif", primary.as_str(), "down"])?;
    println!("{told}");
    ensure!(answer.end != End::NoMajority, "{:?}", answer.end);
    ensure!(!answer.deciders.with.contains(primary), "{answer:?}");
    Ok(())
}

/// The primary alone against the others: they go on. With one of them: it goes on.
fn suppose_a_partition(lab: &Lab, status: &Status, primary: &NodeName) -> Result<()> {
    let (told, alone) = suppose(lab, &["whatif", "partition", primary.as_str()])?;
    println!("{told}");
    let next = winner(&alone)?;
    ensure!(next != *primary && !alone.deciders.with.contains(primary), "{alone:?}");
    let other = status.nodes.iter().map(|n| &n.node).find(|n| *n != primary).context("there is a standby")?;
    let (_, pair) = suppose(lab, &["whatif", "partition", &format!("{primary},{other}")])?;
    ensure!(pair.end == End::Stays { node: primary.clone() }, "{:?}", pair.end);
    ensure!(pair.commits == Commits::GoOn, "one of two standbys is left: {:?}", pair.commits);
    Ok(())
}

fn refuse(lab: &Lab) -> Result<()> {
    for args in [vec!["whatif", "n9", "down"], vec!["why", "not", "n9"], vec!["whatif", "rain"]] {
        let said = lab.pgkeel(0, &args)?;
        let text = String::from_utf8_lossy(&said.stderr).into_owned();
        println!("{}", text.trim());
        let named = text.contains("there is no node n9") || text.contains("n1 down");
        ensure!(!said.status.success() && named, "{args:?}: {} {text}", said.status);
    }
    Ok(())
}

/// Until the light is green and all servers have stood at the same place for a while: then of equal standbys the first by
/// name is taken, whichever heartbeat came last.
async fn ready(lab: &mut Lab) -> Result<Status> {
    let mut still: Option<(Instant, BTreeSet<Option<Lsn>>)> = None;
    let quiet = |now: &Status| {
        let green = now.readiness.as_ref().is_some_and(|r| r.light == Light::Green);
        let at: BTreeSet<Option<Lsn>> = now.nodes.iter().map(|n| n.lsn).collect();
        match &still {
            Some((since, before)) if green && at.len() == 1 && *before == at => since.elapsed() > STILL,
            _ => {
                still = Some((Instant::now(), at));
                false
            }
        }
    };
    lab.cluster.wait_until("the light is green, and nothing moves", SETTLE_LIMIT, quiet).await
}

fn winner(answer: &Answer) -> Result<NodeName> {
    match &answer.end {
        End::Replaced { node, .. } => Ok(node.clone()),
        other => anyhow::bail!("no other primary was told: {other:?}"),
    }
}

fn text(lab: &Lab, args: &[&str]) -> Result<String> {
    let said = lab.pgkeel(0, args)?;
    // The host of node 0 may be gone; its configuration file names the others.
    ensure!(said.status.success(), "{args:?}: {}", String::from_utf8_lossy(&said.stderr));
    Ok(String::from_utf8_lossy(&said.stdout).into_owned())
}

fn asked<T: DeserializeOwned>(lab: &Lab, args: &[&str]) -> Result<T> {
    let json = text(lab, args)?;
    serde_json::from_str(&json).with_context(|| format!("{args:?} printed {json}"))
}

/// The answer for people and for programs.
fn suppose(lab: &Lab, args: &[&str]) -> Result<(String, Answer)> {
    let told = text(lab, args)?;
    let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
    Ok((told, asked(lab, &args)?))
}
