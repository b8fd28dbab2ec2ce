//! All hosts under 100 % CPU load. Only in `make lab-long`: nobody else can use the machine meanwhile.

use std::time::Duration;

use anyhow::{Result, ensure};
use testkit::lab::busy::BusyLoops;
use testkit::lab::faults::Fault;
use testkit::lab::loss::Kept;
use testkit::lab::watch::{Allowed, Watch};
use testkit::lab::{Lab, LabOptions, SETTLE_LIMIT, TEST_LIMIT, long, run};

const LOOPS: usize = BusyLoops::MANY;
/// How long nothing but the load happens, unless LOAD_SECONDS says otherwise.
const QUIET_S: u64 = 60;
/// The clients' last writes under load.
const AFTERWARDS: Duration = Duration::from_secs(5);

#[test]
fn failover_under_full_load() -> Result<()> {
    if !long() {
        println!("skipped: only in make lab-long");
        return Ok(());
    }
    let quiet_s = match std::env::var("LOAD_SECONDS") {
        Ok(text) => text.parse()?,
        Err(_) => QUIET_S,
    };
    let quiet = Duration::from_secs(quiet_s);
    run(LabOptions::quorum_on_hosts(), TEST_LIMIT + quiet, async |lab: &mut Lab| {
        lab.up().await?;
        let watch = Watch::start(lab).await?;
        let loops = BusyLoops::start(LOOPS, quiet + TEST_LIMIT);
        nothing_happens(lab, &watch, quiet).await?;
        primary_fails(lab, &watch, Fault::PostmasterKilled).await?;
        primary_fails(lab, &watch, Fault::PowerOff).await?;
        drop(loops);
        lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
        watch.judge(lab, Kept::All).await
    })
}

/// No failover without a failure.
async fn nothing_happens(lab: &mut Lab, watch: &Watch, time: Duration) -> Result<()> {
    let before = lab.cluster.status().await?;
    let since = watch.quiet_moment().await?.over();
    watch.go_on(time).await?;
    let after = lab.cluster.status().await?;
    ensure!(after.epoch == before.epoch, "nothing failed, and the epoch is now {}", after.epoch);
    watch.seen(&format!("D4, {LOOPS} busy loops for {} s", time.as_secs()), since, Allowed::Nothing)
}

async fn primary_fails(lab: &mut Lab, watch: &Watch, fault: Fault) -> Result<()> {
    let before = lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
    let old = lab.primary(&before)?;
    let quiet = watch.quiet_moment().await?;
    lab.strike(old, fault)?;
    let since = quiet.over();
    let taken_over = |now: &cluster::status::Status| now.epoch > before.epoch && now.primary.is_some();
    lab.cluster.wait_until("the next epoch has a primary", SETTLE_LIMIT, taken_over).await?;
    watch.all_write().await?;
    watch.go_on(AFTERWARDS).await?;
    watch.seen(&format!("D5 {fault:?}, {LOOPS} busy loops"), since, Allowed::GivingUp)?;
    lab.repair(old, fault)?;
    lab.cluster.wait_settled(before.epoch, SETTLE_LIMIT).await?;
    Ok(())
}
