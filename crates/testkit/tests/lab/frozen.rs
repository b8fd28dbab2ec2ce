//! The primary's host stands still, agent, guard and server, and wakes up when another node has its place.

use std::time::Duration;

use anyhow::{Result, ensure};
use pgkeel::demo::stamp::Stamp;
use testkit::lab::loss::Kept;
use testkit::lab::watch::{Allowed, Watch};
use testkit::lab::{Lab, LabOptions, SETTLE_LIMIT, TEST_LIMIT, run};

/// How often, unless PGKEEL_LAB_LONG is set.
const TIMES: usize = 2;
/// When it is set.
const TIMES_LONG: usize = 10;
/// How long it still stands after another has taken over.
const AFTER_TAKEOVER: Duration = Duration::from_secs(1);
/// Time for what must not happen after it woke up.
const AWAKE: Duration = Duration::from_secs(2);

#[test]
fn frozen_primary_wakes_up() -> Result<()> {
    run(LabOptions::quorum_on_hosts(), TEST_LIMIT, async |lab: &mut Lab| {
        lab.up().await?;
        let watch = Watch::start(lab).await?;
        let times = if std::env::var_os("PGKEEL_LAB_LONG").is_some() { TIMES_LONG } else { TIMES };
        for time in 1..=times {
            freeze_the_primary(lab, &watch, time).await?;
        }
        watch.judge(lab, Kept::All).await
    })
}

/// Writers that are connected to the sleeping server itself wait for it all the time. That nothing which was sent after
/// the next primary's first commit is ever acknowledged, and that whatever is acknowledged is kept, the witness judges.
async fn freeze_the_primary(lab: &mut Lab, watch: &Watch, time: usize) -> Result<()> {
    let before = lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
    let old = lab.primary(&before)?;
    let server = lab.node(old)?.postmaster();
    let since = watch.quiet_moment().await?;
    let frozen = lab.freeze(old)?;
    let what = "the next epoch has a primary";
    let taken_over = |now: &cluster::status::Status| now.epoch > before.epoch && now.primary.is_some();
    let during = lab.cluster.wait_until(what, SETTLE_LIMIT, taken_over).await?;
    watch.all_write().await?;
    watch.go_on(AFTER_TAKEOVER).await?;
    watch.seen(&format!("E5 {time}, {frozen} processes stand still"), since, Allowed::GivingUp)?;

    let woken = watch.quiet_moment().await?;
    lab.thaw(old)?;
    watch.go_on(AWAKE).await?;
    lab.new_postmaster(old, server).await?;
    let after = lab.cluster.wait_settled(before.epoch, SETTLE_LIMIT).await?;
    ensure!(after.epoch == during.epoch, "the old primary woke up, and the epoch is now {}", after.epoch);
    ensure!(after.primary != before.primary, "{:?} is primary again", after.primary);
    let late = acknowledged_by(watch, old, woken);
    println!("E5 {time}: {late} answers of the old primary after it woke up, to statements from before");
    watch.seen(&format!("E5 {time}, awake"), woken, Allowed::Nothing)
}

fn acknowledged_by(watch: &Watch, node: usize, since: Stamp) -> usize {
    let late =
        |commit: &&testkit::lab::witness::Commit| commit.node == node && commit.acknowledged >= since.instant;
    watch.witness.commits().iter().filter(late).count()
}
