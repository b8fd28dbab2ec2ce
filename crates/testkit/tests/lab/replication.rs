//! What may be lost without synchronous standbys, and what a synchronous standby's end costs, with others and without.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster::reason::{Reason, Safe};
use pgkeel::demo::writer::ids;
use testkit::lab::faults::Fault;
use testkit::lab::watch::{Allowed, Watch};
use testkit::lab::witness::Kept;
use testkit::lab::{Lab, LabOptions, SETTLE_LIMIT, SHORT_LIMIT, TEST_LIMIT, run};

#[test]
fn asynchronous_primary_loses_power() -> Result<()> {
    run(LabOptions::asynchronous_on_hosts(), TEST_LIMIT, lose_what_is_allowed)
}

#[test]
fn one_of_several_synchronous_standbys_fails() -> Result<()> {
    run(LabOptions::quorum_of_two_on_hosts(), TEST_LIMIT, async |lab: &mut Lab| {
        let status = lab.up().await?;
        let primary = lab.primary(&status)?;
        let watch = Watch::start(lab).await?;
        let standbys: Vec<usize> = (0..lab.cluster.nodes.len()).filter(|node| *node != primary).collect();
        for (standby, fault) in standbys.into_iter().zip([Fault::PowerOff, Fault::LinkCut]) {
            let since = watch.quiet_moment().await?;
            lab.strike(standby, fault)?;
            watch.go_on(Duration::from_secs(4)).await?;
            lab.repair(standby, fault)?;
            let after = lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
            ensure!(after.epoch == status.epoch, "a standby was away, and the epoch is now {}", after.epoch);
            watch.seen(&format!("F3 {fault:?}"), since, Allowed::Nothing)?;
        }
        watch.judge(lab, Kept::All).await
    })
}

async fn lose_what_is_allowed(lab: &mut Lab) -> Result<()> {
    let before = lab.up().await?;
    let old = lab.primary(&before)?;
    let watch = Watch::start(lab).await?;
    let since = watch.quiet_moment().await?;
    lab.strike(old, Fault::PowerOff)?;
    let taken_over = |now: &cluster::status::Status| now.epoch > before.epoch && now.primary.is_some();
    lab.cluster.wait_until("the next epoch has a primary", SETTLE_LIMIT, taken_over).await?;
    watch.all_write().await?;
    watch.seen("F1 PowerOff", since, Allowed::GivingUp)?;
    let history = lab.cluster.why().await?;
    let chosen = history.iter().find_map(|entry| match &entry.reason {
        Reason::Chosen { safe, .. } if entry.epoch > before.epoch => Some(safe.clone()),
        _ => None,
    });
    match chosen.context("the history does not say who was chosen")? {
        Safe::WithinLoss { missing_bytes, max_loss_bytes } => {
            println!("F1: at most {missing_bytes} bytes of WAL may be lost, {max_loss_bytes} are allowed");
            ensure!(missing_bytes <= max_loss_bytes, "more may be lost than is allowed");
        }
        Safe::Quorum { .. }
        | Safe::LastPrimary { .. }
        | Safe::StoppedInOrder { .. }
        | Safe::Accepted { .. } => {
            anyhow::bail!("the choice says that nothing can be lost, without a synchronous standby")
        }
    }
    let back = watch.quiet_moment().await?;
    lab.repair(old, Fault::PowerOff)?;
    let after = lab.cluster.wait_settled(before.epoch, SETTLE_LIMIT).await?;
    ensure!(after.primary != before.primary, "{:?} is primary again", after.primary);
    watch.seen("F1, the old primary is back", back, Allowed::Nothing)?;
    let server = lab.node(lab.primary(&after)?)?.place.server();
    let present = ids(&server, &lab.load()?.table, SHORT_LIMIT).await?;
    let record = watch.load.so_far();
    // A row that is acknowledged while the table is read is not in it yet.
    let lost = record.acks.iter().filter(|ack| ack.at.instant < back.instant && !present.contains(&ack.id));
    println!("F1: {} of {} acknowledged rows lost", lost.count(), record.acks.len());
    watch.judge(lab, Kept::NotAll).await
}
