//! Too few standbys: F2 (the only synchronous standby fails, under both policies), and `loss_bound`.

use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use cluster::NodeName;
use cluster::reason::{Reason, Safe};
use cluster::status::{Role, Status};
use pgkeel::demo::session::Session;
use testkit::lab::{Lab, LabOptions, SETTLE_LIMIT, SHORT_LIMIT, TEST_LIMIT, run};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// The primary, the only standby that confirms, and one that never does.
const PRIMARY: usize = 0;
const CONFIRMS: usize = 1;
const NEVER_SYNC: usize = 2;
/// What waits for so long waits.
const WAITS: Duration = Duration::from_secs(6);

#[test]
fn replication_strict_commits_wait_for_the_only_standby() -> Result<()> {
    run(LabOptions::quorum(), TEST_LIMIT, async |lab: &mut Lab| {
        up_with_one_synchronous(lab).await?;
        lab.cluster.kill_host(CONFIRMS)?;
        let waiting = commit(lab, PRIMARY, 1).await?;
        sleep(WAITS).await;
        ensure!(!waiting.is_finished(), "a commit was acknowledged that no standby has");
        let status = lab.cluster.status().await?;
        ensure!(status.why.iter().any(|why| why.starts_with("commits wait: 0 ")), "{:?}", status.why);
        lab.cluster.start_node(CONFIRMS)?;
        timeout(SETTLE_LIMIT, waiting).await???;
        ensure!(rows(lab, PRIMARY).await? == 1, "the row is not there");
        ensure!(lab.cluster.status().await?.epoch == status.epoch, "the epoch has changed");
        Ok(())
    })
}

#[test]
fn replication_available_commits_go_on_once_it_is_recorded() -> Result<()> {
    run(LabOptions::quorum(), TEST_LIMIT, async |lab: &mut Lab| {
        for node in 0..3 {
            lab.configure(node, "sync_standbys", "degrade = \"available\"")?;
        }
        up_with_one_synchronous(lab).await?;
        lab.cluster.kill_host(CONFIRMS)?;
        let began = std::time::Instant::now();
        timeout(SHORT_LIMIT, commit(lab, PRIMARY, 1).await?).await???;
        let (acknowledged_at, took) = (wall_ms()?, began.elapsed());
        let recorded_at = open_set_recorded_at(lab).await?.context("nothing was recorded")?;
        println!("F2 available: a commit waited {} ms", took.as_millis());
        ensure!(recorded_at <= acknowledged_at, "acknowledged before the reduced set was recorded");
        for id in 2..=50 {
            timeout(SHORT_LIMIT, commit(lab, PRIMARY, id).await?).await???;
        }
        only_itself_may_come_back(lab).await?;
        caught_up_again(lab).await?;
        // Now the standby has all of it, and may take over.
        lab.cluster.kill_host(PRIMARY)?;
        let taken_over = |now: &Status| now.primary.as_ref().is_some_and(|p| p.as_str() == "n2");
        lab.cluster.wait_until("n2 is primary", SETTLE_LIMIT, taken_over).await?;
        let present = rows(lab, CONFIRMS).await?;
        ensure!(present == 50, "50 rows were acknowledged, {present} are there");
        Ok(())
    })
}

/// The server of the primary dies while no standby confirms: another node streams all it can, and must not take over.
async fn only_itself_may_come_back(lab: &mut Lab) -> Result<()> {
    let before = lab.cluster.status().await?;
    lab.cluster.kill_postmaster(PRIMARY)?;
    let later = |now: &Status| now.epoch > before.epoch && now.primary.is_some();
    let after = lab.cluster.wait_until("the next epoch has a primary", SETTLE_LIMIT, later).await?;
    ensure!(after.primary == before.primary, "{:?} took over", after.primary);
    let chosen = lab.cluster.why().await?.into_iter().find_map(|entry| match entry.reason {
        Reason::Chosen { safe, .. } if entry.epoch > before.epoch => Some(safe),
        _ => None,
    });
    ensure!(matches!(chosen, Some(Safe::LastPrimary { .. })), "{chosen:?}");
    Ok(())
}

async fn caught_up_again(lab: &mut Lab) -> Result<()> {
    lab.cluster.start_node(CONFIRMS)?;
    lab.cluster.wait_until("n2 confirms commits again", SETTLE_LIMIT, in_place).await?;
    let history = lab.cluster.why().await?;
    let n2: NodeName = "n2".parse()?;
    let last = history.iter().rev().find_map(|entry| match &entry.reason {
        Reason::SyncSetChanged { set, .. } => Some(set.clone()),
        _ => None,
    });
    ensure!(last.is_some_and(|set| set.k == 1 && set.members.contains(&n2)), "the last set is another one");
    Ok(())
}

async fn open_set_recorded_at(lab: &Lab) -> Result<Option<u64>> {
    let history = lab.cluster.why().await?;
    let reduced = |reason: &Reason| matches!(reason, Reason::SyncSetChanging { to, .. } if to.k == 0);
    Ok(history.iter().find(|entry| reduced(&entry.reason)).map(|entry| entry.at))
}

#[test]
fn replication_loss_bound_commits_wait_beyond_it() -> Result<()> {
    run(LabOptions::asynchronous(), TEST_LIMIT, async |lab: &mut Lab| {
        for node in 0..3 {
            lab.configure(node, "max_loss", "loss_bound = \"1MiB\"")?;
        }
        let status = lab.up().await?;
        let primary = lab.primary(&status)?;
        session(lab, primary).await?.client.batch_execute(TABLE).await?;
        let receivers = receivers(lab, primary).await?;
        ensure!(receivers.len() == 2, "{} WAL receivers", receivers.len());
        signal("-STOP", &receivers)?;
        // Within the bound nobody waits.
        timeout(WAITS, commit(lab, primary, 1).await?).await???;
        // As it grows unseen between two looks, this may still be acknowledged.
        let much = "insert into f2 select id, repeat('x', 1000) from generate_series(1001, 4000) id";
        let writes = session(lab, primary).await?;
        let first = timeout(WAITS, writes.client.batch_execute(much)).await;
        println!("3 MB beyond the bound: {}", if first.is_ok() { "acknowledged" } else { "waits" });
        let bound = |now: &Status| now.why.iter().any(|why| why.contains("loss_bound"));
        lab.cluster.wait_until("commits wait for loss_bound", SHORT_LIMIT, bound).await?;
        let waiting = commit(lab, primary, 2).await?;
        sleep(Duration::from_secs(3)).await;
        let finished = waiting.is_finished();
        let exposed = lab.cluster.status().await?.exposure;
        signal("-CONT", &receivers)?;
        ensure!(!finished, "a commit was acknowledged beyond loss_bound");
        let exposed = exposed.context("it is not told what is at stake")?;
        println!("at stake: {exposed:?}");
        ensure!(exposed.exposure.bytes.is_some_and(|bytes| bytes > 1 << 20), "{exposed:?}");
        timeout(SHORT_LIMIT, waiting).await???;
        lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
        released(lab, primary).await
    })
}

/// Within half the bound commits wait for nobody again.
async fn released(lab: &Lab, primary: usize) -> Result<()> {
    let began = std::time::Instant::now();
    loop {
        let session = session(lab, primary).await?;
        let row = session.client.query_one("show synchronous_standby_names", &[]).await?;
        let names: String = row.get(0);
        if names.is_empty() {
            return Ok(());
        }
        ensure!(began.elapsed() < SHORT_LIMIT, "commits still wait for {names}");
        sleep(Duration::from_millis(100)).await;
    }
}

const TABLE: &str = "create table f2 (id int primary key, note text)";

async fn up_with_one_synchronous(lab: &mut Lab) -> Result<()> {
    lab.configure(NEVER_SYNC, "name", "never_sync = true")?;
    lab.cluster.start()?;
    let status = lab.cluster.wait_until("two standbys stream", SETTLE_LIMIT, in_place).await?;
    ensure!(lab.primary(&status)? == PRIMARY, "{:?} is primary", status.primary);
    session(lab, PRIMARY).await?.client.batch_execute(TABLE).await?;
    Ok(())
}

fn in_place(status: &Status) -> bool {
    let streams = |name: &str, sync: bool| {
        let found = status.nodes.iter().find(|n| n.node.as_str() == name);
        found.is_some_and(|n| n.role == Role::Standby && n.state == "streaming" && n.sync == sync)
    };
    let well = status.why.iter().all(|why| why == pgkeel::demo::observe::ALL_IS_WELL);
    well && status.primary.is_some() && streams("n2", true) && streams("n3", false)
}

async fn session(lab: &Lab, node: usize) -> Result<Session> {
    Ok(timeout(SHORT_LIMIT, Session::open(&lab.node(node)?.place.server())).await??)
}

/// A commit on its way.
async fn commit(lab: &Lab, node: usize, id: i32) -> Result<JoinHandle<Result<()>>> {
    let session = session(lab, node).await?;
    let insert = format!("insert into f2 values ({id}, 'one')");
    Ok(tokio::spawn(async move { Ok(session.client.batch_execute(&insert).await?) }))
}

async fn rows(lab: &Lab, node: usize) -> Result<i64> {
    let row = session(lab, node).await?.client.query_one("select count(*) from f2", &[]).await?;
    Ok(row.get(0))
}

async fn receivers(lab: &Lab, primary: usize) -> Result<Vec<i32>> {
    let mut pids = Vec::new();
    for (number, _) in lab.cluster.nodes.iter().enumerate().filter(|(number, _)| *number != primary) {
        let standby = session(lab, number).await?;
        let rows = standby.client.query("select pid from pg_stat_wal_receiver", &[]).await?;
        pids.extend(rows.iter().map(|row| row.get::<_, i32>(0)));
    }
    Ok(pids)
}

fn signal(name: &str, pids: &[i32]) -> Result<()> {
    let pids: Vec<String> = pids.iter().map(ToString::to_string).collect();
    ensure!(Command::new("kill").arg(name).args(&pids).status()?.success(), "kill {name} {pids:?} failed");
    Ok(())
}

fn wall_ms() -> Result<u64> {
    Ok(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?)
}
