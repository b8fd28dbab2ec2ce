//! What people do at the servers themselves, past pgkeel: they read for long on standbys, they set what pgkeel sets.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cluster::status::Status;
use pgkeel::demo::session::Session;
use testkit::lab::{Lab, LabOptions, SETTLE_LIMIT, SHORT_LIMIT, TEST_LIMIT, run};
use tokio::time::{sleep, timeout};

/// Rows that a reader still sees are removed on the primary, and nothing may end the reader: replay stands.
#[test]
fn failover_to_standbys_that_wait_for_snapshots() -> Result<()> {
    failover_while_replay_stands("repeatable read", "delete from old; vacuum old", "RecoveryConflictSnapshot")
}

/// The same with a table that is changed, and readers that hold nothing but a lock on it.
#[test]
fn failover_to_standbys_that_wait_for_locks() -> Result<()> {
    failover_while_replay_stands("read committed", "alter table old add column more int", "relation")
}

fn failover_while_replay_stands(isolation: &str, change: &str, event: &str) -> Result<()> {
    run(LabOptions::quorum(), TEST_LIMIT, async |lab: &mut Lab| {
        let status = lab.up().await?;
        let primary = lab.primary(&status)?;
        let on_primary = session(lab, primary).await?;
        on_primary
            .client
            .batch_execute("create table old as select id from generate_series(1, 1000) id")
            .await?;
        let mut readers = Vec::new();
        for standby in lab.others(primary) {
            readers.push(reader(lab, standby, isolation).await?);
        }
        for statement in change.split(';') {
            on_primary.client.batch_execute(statement).await?;
        }
        for standby in lab.others(primary) {
            replay_stands(lab, standby, event).await?;
        }
        // Received and confirmed, and not replayed before the reader is gone.
        on_primary.client.batch_execute("create table late (id int); insert into late values (1)").await?;
        lab.cluster.kill_host(primary)?;
        let taken_over = |now: &Status| now.epoch > status.epoch && now.primary.is_some();
        let after = lab.cluster.wait_until("a standby is primary", SETTLE_LIMIT, taken_over).await?;
        let new = lab.primary(&after)?;
        let late = session(lab, new).await?.client.query_one("select count(*) from late", &[]).await?;
        ensure!(late.get::<_, i64>(0) == 1, "an acknowledged row is lost");
        let mut ended = 0;
        for reader in readers {
            ended += usize::from(reader.client.query_one("select count(*) from old", &[]).await.is_err());
        }
        ensure!(ended > 0, "no reader was ended, so none was in the way");
        Ok(())
    })
}

/// A transaction that has read, on a standby that lets nothing end it.
async fn reader(lab: &Lab, standby: usize, isolation: &str) -> Result<Session> {
    let reader = session(lab, standby).await?;
    reader.client.batch_execute("alter system set max_standby_streaming_delay = -1").await?;
    reader.client.batch_execute("select pg_reload_conf()").await?;
    let began = Instant::now();
    // The table may not have come yet.
    let begin = format!("begin isolation level {isolation}; select from old");
    while reader.client.batch_execute(&begin).await.is_err() {
        ensure!(began.elapsed() < SHORT_LIMIT, "the table does not come");
        reader.client.batch_execute("rollback").await?;
        sleep(Duration::from_millis(50)).await;
    }
    Ok(reader)
}

/// It waits for `event`, which is that of a conflict.
async fn replay_stands(lab: &Lab, standby: usize, event: &str) -> Result<()> {
    let looks = session(lab, standby).await?;
    let conflict = "select count(*) from pg_stat_activity where backend_type = 'startup'
                     and wait_event = $1";
    let began = Instant::now();
    while looks.client.query_one(conflict, &[&event]).await?.get::<_, i64>(0) == 0 {
        ensure!(began.elapsed() < SHORT_LIMIT, "replay does not wait for the reader");
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// ALTER SYSTEM holds over every file, and this one would let commits through that only the primary has.
#[test]
fn synchronous_standbys_set_by_hand_are_taken_back() -> Result<()> {
    run(LabOptions::quorum(), TEST_LIMIT, async |lab: &mut Lab| {
        let status = lab.up().await?;
        let primary = lab.primary(&status)?;
        let hand = session(lab, primary).await?;
        let managed = setting(&hand).await?;
        ensure!(managed.starts_with("ANY 1"), "{managed}");
        hand.client.batch_execute("alter system set synchronous_standby_names = ''").await?;
        hand.client.batch_execute("alter system set work_mem = '5MB'").await?;
        hand.client.batch_execute("select pg_reload_conf()").await?;
        let began = Instant::now();
        let mut seen = false;
        loop {
            let names = setting(&hand).await?;
            seen |= names.is_empty();
            if seen && names == managed {
                break;
            }
            ensure!(began.elapsed() < SHORT_LIMIT, "synchronous_standby_names is still '{names}'");
        }
        let kept = hand.client.query_one("show work_mem", &[]).await?;
        ensure!(kept.get::<_, &str>(0) == "5MB", "what is not pgkeel's was taken too");
        let after = lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
        ensure!(after.epoch == status.epoch, "the epoch is now {}", after.epoch);
        Ok(())
    })
}

async fn setting(session: &Session) -> Result<String> {
    Ok(session.client.query_one("show synchronous_standby_names", &[]).await?.get(0))
}

async fn session(lab: &Lab, node: usize) -> Result<Session> {
    Ok(timeout(SHORT_LIMIT, Session::open(&lab.node(node)?.place.server())).await??)
}
