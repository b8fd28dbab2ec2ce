//! The primary's host stands still, agent, guard and server, and wakes up when another node has its place. Clients that
//! are connected to it directly wait for it all the time.

use std::time::Duration;

use crate::fence::{rules, skipped};
use anyhow::{Context, Result, ensure};
use cluster::reason::Reason;
use pgkeel::demo::stamp::Stamp;
use testkit::lab::loss::Kept;
use testkit::lab::watch::{Allowed, Watch};
use testkit::lab::witness::{Commit, Way};
use testkit::lab::{Lab, LabOptions, SETTLE_LIMIT, TEST_LIMIT, long, run};

/// How often.
const TIMES: usize = 1;
/// In `make lab-long`.
const TIMES_LONG: usize = 20;
/// How long it still stands after another has taken over.
const AFTER_TAKEOVER: Duration = Duration::from_secs(1);
/// Time for what must not happen after it woke up.
const AWAKE: Duration = Duration::from_secs(2);

/// Nothing that was sent after the next primary's first commit is ever acknowledged, and whatever is acknowledged is
/// kept.
#[test]
fn frozen_primary_wakes_up() -> Result<()> {
    again_and_again(LabOptions::quorum_on_hosts(), Way::Socket, Kept::All, Second::None)
}

/// The same over TCP.
#[test]
fn frozen_primary_wakes_up_over_tcp() -> Result<()> {
    again_and_again(LabOptions::quorum_on_hosts(), Way::Network, Kept::All, Second::None)
}

/// Between waking up and its end by the guard a server may acknowledge something: how much is told.
#[test]
fn frozen_primary_wakes_up_async() -> Result<()> {
    again_and_again(LabOptions::asynchronous_on_hosts(), Way::Network, Kept::OrToldLate, Second::None)
}

/// Behind the kernel's fence it cannot.
#[test]
fn frozen_primary_wakes_up_behind_a_fence() -> Result<()> {
    again_and_again(LabOptions::asynchronous_on_hosts(), Way::Network, Kept::OrTold, Second::Nftables)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Second {
    None,
    Nftables,
}

/// What one time showed.
struct Figures {
    errors: usize,
    outage: Duration,
    /// Answers of the old primary that came after another was appointed.
    late: Vec<Commit>,
    /// Those of them that were sent after that.
    late_sent: usize,
}

fn again_and_again(options: LabOptions, way: Way, kept: Kept, second: Second) -> Result<()> {
    if second == Second::Nftables && skipped() {
        return Ok(());
    }
    run(options, 3 * TEST_LIMIT, async |lab: &mut Lab| {
        if second == Second::Nftables {
            lab.fence_by_nftables()?;
        }
        lab.up().await?;
        let watch = Watch::start_by(lab, way).await?;
        let mut all = Vec::new();
        for time in 1..=if long() { TIMES_LONG } else { TIMES } {
            let figures = freeze_the_primary(lab, &watch, time).await?;
            if second == Second::Nftables {
                ensure!(figures.late.is_empty(), "through a closed port came: {:?}", figures.late);
            }
            if kept == Kept::All {
                ensure!(figures.late_sent == 0, "sent and acknowledged after another was appointed");
            }
            all.push(figures);
        }
        summary(&all);
        watch.judge(lab, kept).await?;
        if second == Second::Nftables {
            lab.cluster.stop().await;
            for node in 0..lab.cluster.nodes.len() {
                ensure!(rules(lab, node)?.is_empty(), "an agent that ended in order leaves a fence");
            }
        }
        Ok(())
    })
}

async fn freeze_the_primary(lab: &mut Lab, watch: &Watch, time: usize) -> Result<Figures> {
    let before = lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
    let old = lab.primary(&before)?;
    let server = lab.node(old)?.postmaster();
    let quiet = watch.quiet_moment().await?;
    let frozen = lab.freeze(old)?;
    let since = quiet.over();
    let what = "the next epoch has a primary";
    let taken_over = |now: &cluster::status::Status| now.epoch > before.epoch && now.primary.is_some();
    let during = lab.cluster.wait_until(what, SETTLE_LIMIT, taken_over).await?;
    watch.all_write().await?;
    watch.go_on(AFTER_TAKEOVER).await?;
    watch.seen(&format!("E5 {time}, {frozen} processes stand still"), since, Allowed::GivingUp)?;
    let errors = watch.survey.so_far().since(since).errors().len();
    let outage = watch.load.so_far().longest_gap_after(since);

    let woken = watch.quiet_moment().await?.over();
    lab.thaw(old)?;
    watch.go_on(AWAKE).await?;
    lab.new_postmaster(old, server).await?;
    let after = lab.cluster.wait_settled(before.epoch, SETTLE_LIMIT).await?;
    ensure!(after.epoch == during.epoch, "the old primary woke up, and the epoch is now {}", after.epoch);
    ensure!(after.primary != before.primary, "{:?} is primary again", after.primary);
    watch.seen(&format!("E5 {time}, awake"), woken, Allowed::Nothing)?;
    let appointed = appointed(lab, after.epoch).await?;
    let of_old = |commit: &Commit| commit.node == old && commit.acknowledged > appointed.instant;
    let late: Vec<Commit> = watch.witness.commits().into_iter().filter(of_old).collect();
    let late_sent = late.iter().filter(|commit| commit.sent > appointed.instant).count();
    println!(
        "E5 {time}: {} late answers of the old primary, {late_sent} to statements sent late",
        late.len()
    );
    Ok(Figures { errors, outage, late, late_sent })
}

/// When the primary of this epoch was appointed.
async fn appointed(lab: &Lab, epoch: u64) -> Result<Stamp> {
    let history = lab.cluster.why().await?;
    let at = history.iter().find_map(|entry| match &entry.reason {
        Reason::Appointed { .. } if entry.epoch == epoch => Some(entry.at),
        _ => None,
    });
    let (at, now) = (at.context("the history does not say who was appointed")?, Stamp::now());
    let ago = Duration::from_millis(now.wall_ms.saturating_sub(at));
    let instant = now.instant.checked_sub(ago).context("the clock began later")?;
    Ok(Stamp { instant, wall_ms: at })
}

fn summary(all: &[Figures]) {
    let mut outages: Vec<Duration> = all.iter().map(|figures| figures.outage).collect();
    outages.sort();
    println!(
        "E5: {} rounds, {} ERROR of the survey's client, {} late answers, {} of them to statements sent late, \
         median outage {:.2} s, longest {:.2} s",
        all.len(),
        all.iter().map(|figures| figures.errors).sum::<usize>(),
        all.iter().map(|figures| figures.late.len()).sum::<usize>(),
        all.iter().map(|figures| figures.late_sent).sum::<usize>(),
        outages.get(outages.len() / 2).copied().unwrap_or_default().as_secs_f64(),
        outages.last().copied().unwrap_or_default().as_secs_f64()
    );
}
