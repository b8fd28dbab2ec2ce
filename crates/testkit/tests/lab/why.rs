//! After a failover `pgkeel why` says what happened and on whose evidence.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use cluster::NodeName;
use cluster::reason::Reason;
use cluster::state::Entry;
use pgkeel::cli::why::Why;
use testkit::lab::{Lab, LabOptions, SETTLE_LIMIT, TEST_LIMIT, run};

#[test]
fn why_tells_a_failover() -> Result<()> {
    run(LabOptions::quorum(), TEST_LIMIT, ask_why)
}

async fn ask_why(lab: &mut Lab) -> Result<()> {
    let status = lab.up().await?;
    let old = status.primary.clone().context("there is no primary")?;
    lab.cluster.kill_server(lab.primary(&status)?)?;
    let status = lab.cluster.wait_settled(status.epoch, SETTLE_LIMIT).await?;
    let new = status.primary.clone().context("there is no primary")?;
    let history = lab.cluster.why().await?;
    let change: Vec<&Entry> = history.iter().filter(|entry| entry.epoch == status.epoch).collect();
    told_in_full(&change, &old, &new)?;

    let text = lab.pgkeel(0, &["why"])?;
    ensure!(text.status.success(), "pgkeel why ended with {}", text.status);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    println!("{text}");
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for entry in change {
        let sentence = entry.reason.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        ensure!(flat.contains(&sentence), "pgkeel why does not say {sentence:?}:\n{text}");
    }
    let json = lab.pgkeel(0, &["why", "--json"])?;
    let parsed: Why = serde_json::from_slice(&json.stdout).context("pgkeel why --json")?;
    ensure!(parsed.now.is_some(), "pgkeel why --json does not say what holds now");
    ensure!(
        parsed.decisions.len() >= history.len(),
        "pgkeel why --json has {} of {} entries",
        parsed.decisions.len(),
        history.len()
    );

    let table = lab.pgkeel(0, &["status"])?;
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    println!("{table}");
    ensure!(table.contains(&format!("primary {new}")), "pgkeel status does not name the primary:\n{table}");
    Ok(())
}

/// Suspected, opened, sealed, chosen and why not the others, appointed, published: in this order.
fn told_in_full(change: &[&Entry], old: &NodeName, new: &NodeName) -> Result<()> {
    let at = |what: &str, wanted: &dyn Fn(&Reason) -> bool| {
        let found = change.iter().position(|entry| wanted(&entry.reason));
        found.with_context(|| format!("the history of the change does not have: {what}"))
    };
    let steps = [
        at("suspected", &|reason| match reason {
            Reason::ServerGone { node } | Reason::ServerHung { node, .. } | Reason::Silent { node, .. } => {
                node == old
            }
            Reason::NotPrimaryAnyMore { node, .. } => node == old,
            _ => false,
        })?,
        at("epoch opened", &|reason| matches!(reason, Reason::EpochOpened { .. }))?,
        at(
            "sealed positions",
            &|reason| matches!(reason, Reason::Sealed { seals } if seals.contains_key(new)),
        )?,
        at("chosen", &|reason| matches!(reason, Reason::Chosen { node, .. } if node == new))?,
        at("appointed", &|reason| matches!(reason, Reason::Appointed { node, .. } if node == new))?,
        at("published", &|reason| matches!(reason, Reason::Published { node, .. } if node == new))?,
    ];
    ensure!(steps.is_sorted(), "the steps are told out of order: {steps:?}");
    let others: BTreeSet<NodeName> = change
        .iter()
        .filter_map(|entry| match &entry.reason {
            Reason::Chosen { others, .. } => Some(others.keys().cloned()),
            _ => None,
        })
        .flatten()
        .collect();
    ensure!(others.len() == 2, "why not the others is told of {others:?} only");
    Ok(())
}
