//! A node fails and comes back, each on a host of its own: its host loses power, its postmaster is killed, its cable is
//! pulled. First a standby, then the primary; then the roles are switched back by command. Each in both modes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testkit::lab::faults::Fault;
use testkit::lab::loss::Kept;
use testkit::lab::watch::{Allowed, Watch};
use testkit::lab::{Lab, LabOptions, SETTLE_LIMIT, TEST_LIMIT, run};
use testkit::measure::Steps;

/// How long a node is away: longer than it takes to be missed.
const AWAY: Duration = Duration::from_secs(4);
/// When proxies hold clients for less than this, by the history, even the survey's client gets its connection within its
/// second: what is left of it is for the login.
const PATIENCE_MS: u64 = 800;
/// How long the clients go on after it is back.
const AFTERWARDS: Duration = Duration::from_secs(2);

#[test]
fn power_fails() -> Result<()> {
    each_in_turn(LabOptions::quorum_on_hosts(), Fault::PowerOff)
}

#[test]
fn power_fails_async() -> Result<()> {
    each_in_turn(LabOptions::asynchronous_on_hosts(), Fault::PowerOff)
}

#[test]
fn postmaster_is_killed() -> Result<()> {
    each_in_turn(LabOptions::quorum_on_hosts(), Fault::PostmasterKilled)
}

#[test]
fn postmaster_is_killed_async() -> Result<()> {
    each_in_turn(LabOptions::asynchronous_on_hosts(), Fault::PostmasterKilled)
}

#[test]
fn cable_is_pulled() -> Result<()> {
    each_in_turn(LabOptions::quorum_on_hosts(), Fault::LinkCut)
}

#[test]
fn cable_is_pulled_async() -> Result<()> {
    each_in_turn(LabOptions::asynchronous_on_hosts(), Fault::LinkCut)
}

fn each_in_turn(options: LabOptions, fault: Fault) -> Result<()> {
    run(options, TEST_LIMIT, async |lab: &mut Lab| {
        lab.up().await?;
        let watch = Watch::start(lab).await?;
        standby_fails(lab, &watch, fault).await?;
        let first = primary_fails(lab, &watch, fault).await?;
        roles_are_switched_back(lab, &watch, first, fault).await?;
        watch.judge(lab, Kept::by_mode(lab)).await
    })
}

/// Nobody notices, neither when it goes nor when it comes back.
async fn standby_fails(lab: &mut Lab, watch: &Watch, fault: Fault) -> Result<()> {
    let before = lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
    let primary = lab.primary(&before)?;
    let standby = *lab.others(primary).first().context("there is a standby")?;
    let server = lab.node(standby)?.postmaster();
    let quiet = watch.quiet_moment().await?;
    lab.strike(standby, fault)?;
    let struck = quiet.over();
    watch.go_on(AWAY).await?;
    watch.seen(&format!("B1 {fault:?}"), struck, Allowed::Nothing)?;

    let back = watch.quiet_moment().await?.over();
    lab.repair(standby, fault)?;
    if fault != Fault::LinkCut {
        lab.new_postmaster(standby, server).await?;
    }
    let after = lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
    ensure!(after.epoch == before.epoch, "a standby was away, and the epoch is now {}", after.epoch);
    ensure!(after.primary == before.primary, "a standby was away, and {:?} is primary", after.primary);
    watch.go_on(AFTERWARDS).await?;
    watch.seen(&format!("B2 {fault:?}"), back, Allowed::Nothing)
}

/// Another takes over; when the old one is back it is a standby, and nobody notices. Returns which one it was.
async fn primary_fails(lab: &mut Lab, watch: &Watch, fault: Fault) -> Result<usize> {
    let before = lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
    let old = lab.primary(&before)?;
    let server = lab.node(old)?.postmaster();
    let quiet = watch.quiet_moment().await?;
    lab.strike(old, fault)?;
    let struck = quiet.over();
    let what = "the next epoch has a primary";
    let taken_over = |now: &cluster::status::Status| now.epoch > before.epoch && now.primary.is_some();
    let during = lab.cluster.wait_until(what, SETTLE_LIMIT, taken_over).await?;
    watch.all_write().await?;
    // A host that does not answer is not dead for certain until its time is up, and the survey's client gives a
    // connection one second. Where the postmaster alone was killed its agent says so at once.
    let allowed = match fault {
        Fault::PostmasterKilled => Allowed::NewSession,
        Fault::PowerOff | Fault::LinkCut => Allowed::GivingUp,
    };
    watch.seen(&format!("B3 {fault:?}"), struck, allowed)?;

    let back = watch.quiet_moment().await?.over();
    lab.repair(old, fault)?;
    lab.new_postmaster(old, server).await?;
    let after = lab.cluster.wait_settled(before.epoch, SETTLE_LIMIT).await?;
    ensure!(after.epoch == during.epoch, "the old primary came back, and the epoch is now {}", after.epoch);
    if fault != Fault::PostmasterKilled {
        // A killed postmaster may be up again before two others have sealed, and be the best candidate.
        ensure!(after.primary != before.primary, "{:?} is primary again", after.primary);
    }
    watch.go_on(AFTERWARDS).await?;
    let name = if fault == Fault::LinkCut { "B7" } else { "B4" };
    watch.seen(&format!("{name} {fault:?}"), back, Allowed::Nothing)?;
    Ok(old)
}

/// By command, and nobody notices: not even the session that is open.
async fn roles_are_switched_back(lab: &mut Lab, watch: &Watch, first: usize, fault: Fault) -> Result<()> {
    let before = lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
    let now = lab.primary(&before)?;
    // The killed postmaster may have been the best candidate: then there is nothing to switch back, and another is as good.
    let to = if now == first { *lab.others(now).first().context("there is a standby")? } else { first };
    let name = lab.node(to)?.place.name.clone();
    let since = watch.quiet_moment().await?.over();
    let said = lab.pgkeel(now, &["switchover", "--to", &name, "--yes"])?;
    ensure!(said.status.success(), "refused: {}", String::from_utf8_lossy(&said.stderr));
    let after = lab.cluster.wait_settled(before.epoch, SETTLE_LIMIT).await?;
    ensure!(lab.primary(&after)? == to, "{name} was to be primary, but {:?} is", after.primary);
    watch.go_on(AFTERWARDS).await?;
    let history = lab.cluster.why().await?;
    let steps = Steps::of(&history, after.epoch).context("the history does not have the whole switchover")?;
    println!("B6 after {fault:?}: without a primary for {} ms: {steps:?}", steps.without_primary_ms());
    // The survey's client gives a connection one second: on a machine that is too busy for the change itself it gives up.
    let allowed = if steps.without_primary_ms() < PATIENCE_MS { Allowed::Nothing } else { Allowed::Waiting };
    watch.seen(&format!("B6 after {fault:?}"), since, allowed)
}
