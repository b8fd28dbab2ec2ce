//! How nodes come back when that is not easy.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use agent::os_user;
use agent::postgres::lost::Record;
use agent::settings::{OS_USER_DEFAULT, find_bin_dir};
use anyhow::{Context, Result, ensure};
use cluster::copy::CloneCause;
use cluster::observe::Rejoined;
use cluster::reason::Reason;
use pgkeel::demo::session::Address;
use pgkeel::demo::writer::ids;
use testkit::lab::{Lab, LabOptions, SETTLE_LIMIT, SHORT_LIMIT, TEST_LIMIT, run};
use tokio::time::sleep;
use tokio_postgres::NoTls;

#[test]
fn cut_off() -> Result<()> {
    run(LabOptions::quorum(), TEST_LIMIT, async |lab: &mut Lab| {
        let status = lab.up().await?;
        let (primary, epoch) = (lab.primary(&status)?, status.epoch);
        let node = a_standby(lab, primary)?;
        let writer = lab.writer().await?;
        lab.cluster.stop_node(node).await?;
        let name = lab.node(node)?.place.name.clone();
        remove_old_wal(lab.node(primary)?.place.postgres_port, &name).await?;
        let since = wall_ms();
        lab.cluster.start_node(node)?;
        lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
        let rejoined = returned(lab, node, since).await?;
        ensure!(matches!(rejoined.cause, Some(CloneCause::CutOff { .. })), "{rejoined:?}");
        let after = lab.cluster.status().await?;
        ensure!(after.epoch == epoch, "a standby was cut off, and the epoch is now {}", after.epoch);
        lab.nothing_lost(&writer.stop()).await
    })
}

pub fn a_standby(lab: &Lab, primary: usize) -> Result<usize> {
    (0..lab.cluster.nodes.len()).find(|node| *node != primary).context("there is a standby")
}

pub fn wall_ms() -> u64 {
    agent::clock::wall_ms()
}

/// How the node came back after `since`, once that is recorded.
pub async fn returned(lab: &Lab, node: usize, since: u64) -> Result<Rejoined> {
    let name = lab.node(node)?.place.name.clone();
    let began = Instant::now();
    loop {
        let history = lab.cluster.why().await?;
        let found = history.iter().rev().find_map(|entry| match &entry.reason {
            Reason::Rejoined { node, rejoined } if node.as_str() == name && entry.at >= since => {
                Some((entry.reason.to_string(), rejoined.clone()))
            }
            _ => None,
        });
        if let Some((text, rejoined)) = found {
            println!("{text}");
            return Ok(rejoined);
        }
        ensure!(began.elapsed() < SHORT_LIMIT, "the return of {name} is not in the history");
        sleep(Duration::from_millis(100)).await;
    }
}

/// Fills segments of WAL and makes checkpoints, without the slot that keeps them for `node`, until the oldest is gone.
async fn remove_old_wal(port: u16, node: &str) -> Result<()> {
    let session = Session::open(port).await?;
    let oldest = "SELECT min(name COLLATE \"C\") FROM pg_ls_waldir() WHERE length(name) = 24";
    let now = "SELECT pg_walfile_name(pg_current_wal_lsn())";
    let needed: String = session.client.query_one(now, &[]).await?.get(0);
    let began = Instant::now();
    while session.client.query_one(oldest, &[]).await?.get::<_, String>(0) <= needed {
        ensure!(began.elapsed() < SHORT_LIMIT, "the server keeps {needed}");
        let drop_slot = format!(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
              WHERE slot_name = 'pgkeel_{node}' AND NOT active"
        );
        session.client.batch_execute(&drop_slot).await?;
        session.client.batch_execute("SELECT pg_switch_wal()").await?;
        session.client.batch_execute("CHECKPOINT").await?;
    }
    session.close().await;
    Ok(())
}

/// A session past the proxy.
struct Session {
    client: tokio_postgres::Client,
    connection: tokio::task::JoinHandle<Result<(), tokio_postgres::Error>>,
}

impl Session {
    async fn open(port: u16) -> Result<Session> {
        let options = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres");
        let (client, connection) = tokio_postgres::connect(&options, NoTls).await?;
        Ok(Session { client, connection: tokio::spawn(connection) })
    }

    async fn close(self) {
        drop(self.client);
        let _ = self.connection.await;
    }
}

/// Rows that somebody writes past the cluster.
const ROWS: i64 = 7;

#[test]
fn promoted_by_hand() -> Result<()> {
    run(LabOptions::asynchronous(), TEST_LIMIT, async |lab: &mut Lab| {
        let status = lab.up().await?;
        let primary = lab.primary(&status)?;
        let node = a_standby(lab, primary)?;
        let heir = (0..3).find(|other| ![primary, node].contains(other)).context("there is a third node")?;
        let name = lab.node(node)?.place.name.clone();
        lab.cluster.stop_node(node).await?;
        let xids = promote_by_hand(lab, node).await?;
        let leads = |now: &cluster::status::Status| {
            let others = || now.nodes.iter().filter(|n| n.node.as_str() != name);
            now.leader.as_ref().is_some_and(|l| l.as_str() != name) && others().all(|n| n.epoch.is_some())
        };
        lab.cluster.wait_until("a node that runs leads and has heard the other", SETTLE_LIMIT, leads).await?;
        // The cluster opens a timeline of the same number.
        let to = lab.node(heir)?.place.name.clone();
        let changed = lab.pgkeel(heir, &["switchover", "--to", &to, "--yes"])?;
        ensure!(changed.status.success(), "{}", String::from_utf8_lossy(&changed.stderr));
        let since = wall_ms();
        lab.cluster.start_node(node)?;
        let after = lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
        let timelines: Vec<_> = after.nodes.iter().map(|n| n.timeline).collect();
        ensure!(timelines == [Some(2); 3], "timelines {timelines:?}");
        let rejoined = returned(lab, node, since).await?;
        ensure!(matches!(rejoined.cause, Some(CloneCause::Unrelated)), "{rejoined:?}");
        let told = lab.pgkeel(heir, &["lost", &name, "--json"])?;
        let records: Vec<Record> = serde_json::from_slice(&told.stdout)?;
        let listed: BTreeSet<u32> = records
            .iter()
            .flat_map(|r| r.findings.iter().flat_map(|f| f.listed.iter().map(|one| one.xid)))
            .collect();
        ensure!(listed == xids, "written past the cluster {xids:?}, listed {listed:?}: {records:?}");
        for server in 0..3 {
            let address = Address::loopback(lab.node(server)?.place.postgres_port);
            let rows = ids(&address, &lab.load()?.table, SHORT_LIMIT).await?;
            ensure!(rows.is_empty(), "rows written past the cluster are in it: {rows:?}");
        }
        Ok(())
    })
}

/// Starts the stopped standby by hand, promotes it, writes some rows, and stops it; their transactions.
async fn promote_by_hand(lab: &Lab, node: usize) -> Result<BTreeSet<u32>> {
    let place = lab.node(node)?.place.clone();
    fs::create_dir_all(place.dir.join("run"))?;
    pg_ctl(&place.data_dir, &["start", "-w", "-l", "/dev/null"])?;
    pg_ctl(&place.data_dir, &["promote", "-w"])?;
    let session = Session::open(place.postgres_port).await?;
    session.client.batch_execute("SET synchronous_commit = local").await?;
    let mut xids = BTreeSet::new();
    for id in 1..=ROWS {
        let insert = "INSERT INTO pgkeel_demo (id) VALUES ($1) RETURNING txid_current()";
        xids.insert(u32::try_from(session.client.query_one(insert, &[&id]).await?.get::<_, i64>(0))?);
    }
    session.close().await;
    pg_ctl(&place.data_dir, &["stop", "-w", "-m", "fast"])?;
    Ok(xids)
}

/// As the user that runs the servers.
fn pg_ctl(data: &Path, args: &[&str]) -> Result<()> {
    let mut command = Command::new(find_bin_dir().map_err(anyhow::Error::msg)?.join("pg_ctl"));
    command.args(args).arg("-D").arg(data).current_dir("/").stdout(Stdio::null()).stderr(Stdio::null());
    if rustix::process::geteuid().is_root() {
        let user = os_user::find(OS_USER_DEFAULT)?.context("there is no user postgres")?;
        command.uid(user.uid).gid(user.gid);
    }
    ensure!(command.status()?.success(), "pg_ctl {} failed", args.join(" "));
    Ok(())
}
