//! What a standby that confirms commits costs when it fails, and one that never confirms any when it is slow.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster::status::{Role, Status};
use pgkeel::demo::processes;
use rustix::process::Signal;
use testkit::lab::faults::Fault;
use testkit::lab::loss::Kept;
use testkit::lab::watch::{Allowed, Watch};
use testkit::lab::{Lab, LabOptions, SETTLE_LIMIT, TEST_LIMIT, run};

/// How long a standby is away or slow.
const AWAY: Duration = Duration::from_secs(4);
/// The standby for reports.
const SLOW: usize = 2;

#[test]
fn one_of_several_synchronous_standbys_fails() -> Result<()> {
    run(LabOptions::quorum_of_two_on_hosts(), TEST_LIMIT, async |lab: &mut Lab| {
        let status = lab.up().await?;
        let primary = lab.primary(&status)?;
        let watch = Watch::start(lab).await?;
        let faults = [Fault::PowerOff, Fault::PostmasterKilled, Fault::LinkCut];
        for (standby, fault) in lab.others(primary).into_iter().zip(faults) {
            let server = lab.node(standby)?.postmaster();
            let quiet = watch.quiet_moment().await?;
            lab.strike(standby, fault)?;
            let since = quiet.over();
            watch.go_on(AWAY).await?;
            lab.repair(standby, fault)?;
            if fault != Fault::LinkCut {
                lab.new_postmaster(standby, server).await?;
            }
            let after = lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
            ensure!(after.epoch == status.epoch, "a standby was away, and the epoch is now {}", after.epoch);
            watch.seen(&format!("F3 {fault:?}"), since, Allowed::Nothing)?;
        }
        watch.judge(lab, Kept::All).await
    })
}

/// Its server stands still, as under a report that needs all of its host; and nobody waits for it.
#[test]
fn slow_standby_that_never_confirms() -> Result<()> {
    run(LabOptions::quorum_on_hosts(), TEST_LIMIT, async |lab: &mut Lab| {
        lab.configure(SLOW, "name", "never_sync = true")?;
        lab.cluster.start()?;
        let name = lab.node(SLOW)?.place.name.clone();
        let what = "one primary, two standbys, of which one confirms commits";
        let up = |status: &Status| {
            let standbys = status.nodes.iter().filter(|n| n.role == Role::Standby && n.state == "streaming");
            let (sync, not): (Vec<_>, Vec<_>) = standbys.partition(|n| n.sync);
            status.primary.is_some() && sync.len() == 1 && not.len() == 1 && not[0].node.as_str() == name
        };
        let before = lab.cluster.wait_until(what, SETTLE_LIMIT, up).await?;
        lab.make_table().await?;
        let watch = Watch::start(lab).await?;
        let since = watch.quiet_moment().await?.over();
        let server = server(lab, SLOW)?;
        server.iter().for_each(|pid| processes::send(*pid, Signal::STOP));
        let acknowledged = watch.load.acknowledged();
        watch.go_on(AWAY).await?;
        let meanwhile = watch.load.acknowledged() - acknowledged;
        server.iter().for_each(|pid| processes::send(*pid, Signal::CONT));
        println!("F4: {meanwhile} rows acknowledged while {name} stood still");
        let after = lab.cluster.wait_until(what, SETTLE_LIMIT, up).await?;
        ensure!(after.epoch == before.epoch, "a slow standby, and the epoch is now {}", after.epoch);
        watch.seen("F4", since, Allowed::Nothing)?;
        watch.judge(lab, Kept::All).await
    })
}

/// The postmaster of a node, then its children.
fn server(lab: &Lab, node: usize) -> Result<Vec<i32>> {
    let postmaster = lab.node(node)?.postmaster().context("the server runs")?;
    let mut all = vec![postmaster];
    all.extend(processes::descendants(postmaster, &processes::all()));
    Ok(all)
}
