//! Replication slots: each node keeps one for every other data node, so that no standby is cut off by a failover.
//!
//! On the primary a connected standby moves its own slot. On a standby nobody does, so the agent moves the slots there:
//! each to the position its node is known to have flushed.

use super::configuration::Upstream;
use super::connection::{connect, connect_to, within};
use super::{PgError, Place};
use cluster::{Lsn, NodeName};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

const LIMIT: Duration = Duration::from_secs(10);
/// Slots are looked after every five seconds.
const KEPT_LIMIT: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Makes the slots of `others`, drops those of nodes that are no members, and moves the idle ones to `flushed`.
///
/// # Errors
/// When the server does not answer or refuses.
pub async fn keep(
    place: &Place,
    me: &NodeName,
    others: &BTreeSet<NodeName>,
    flushed: &BTreeMap<NodeName, Lsn>,
) -> Result<(), PgError> {
    let client = connect(place, LIMIT).await?;
    let rows = client.query(
        "select slot_name::text, active, restart_lsn::text, pg_is_in_recovery(), coalesce(wal_status = 'lost', false)
           from pg_replication_slots
          where slot_type = 'physical' and slot_name like 'pgkeel\\_%'",
        &[],
    );
    let mut idle: BTreeMap<String, Option<Lsn>> = BTreeMap::new();
    let (mut present, mut lost) = (BTreeSet::new(), BTreeSet::new());
    let mut recovery = false;
    for row in within("listing replication slots", LIMIT, rows).await? {
        let name: String = row.try_get(0)?;
        recovery = row.try_get(3)?;
        if !row.try_get::<_, bool>(1)? {
            let restart: Option<String> = row.try_get(2)?;
            idle.insert(name.clone(), restart.and_then(|r| r.parse().ok()));
            if row.try_get(4)? {
                lost.insert(name.clone());
            }
        }
        present.insert(name);
    }
    let wanted: BTreeMap<String, &NodeName> =
        others.iter().filter(|n| *n != me).map(|n| (n.slot(), n)).collect();
    // One that was left too far behind keeps nothing any more, and some versions refuse to use it.
    for slot in lost.iter().filter(|slot| wanted.contains_key(*slot)) {
        ask(&client, "select pg_drop_replication_slot($1)", slot).await?;
        present.remove(slot);
    }
    for slot in wanted.keys().filter(|slot| !present.contains(*slot)) {
        ask(&client, "select pg_create_physical_replication_slot($1, true)", slot).await?;
    }
    for slot in idle.keys().filter(|slot| !wanted.contains_key(*slot)) {
        ask(&client, "select pg_drop_replication_slot($1)", slot).await?;
    }
    if recovery {
        for (slot, node) in &wanted {
            let at = idle.get(slot).copied().flatten();
            if let (Some(at), Some(to)) = (at, flushed.get(*node))
                && at < *to
            {
                advance(&client, slot, *to).await?;
            }
        }
    }
    Ok(())
}

/// Waits until the primary keeps WAL for `me`, whose copy may come from another node.
///
/// # Errors
/// When the primary does not answer, or its agent has made no slot after a while.
pub async fn wait_until_kept(primary: &Upstream, me: &NodeName) -> Result<(), PgError> {
    let client = connect_to(primary, LIMIT).await?;
    let began = Instant::now();
    loop {
        let slot = me.slot();
        let query = "select 1 from pg_replication_slots
                      where slot_name = $1 and restart_lsn is not null and wal_status is distinct from 'lost'";
        let asked = async { client.query_opt(query, &[&slot]).await };
        if within("looking for the replication slot", LIMIT, asked).await?.is_some() {
            return Ok(());
        }
        if began.elapsed() > KEPT_LIMIT {
            let doing = format!("waiting for the replication slot {slot} on {}", primary.node);
            return Err(PgError::Slow { doing, limit_s: KEPT_LIMIT.as_secs() });
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn ask(client: &Client, sql: &str, slot: &String) -> Result<(), PgError> {
    within("changing a replication slot", LIMIT, client.query_one(sql, &[slot])).await.map(|_| ())
}

/// Not further than this server has replayed: there the server itself refuses to go.
async fn advance(client: &Client, slot: &String, to: Lsn) -> Result<(), PgError> {
    let sql = "select pg_replication_slot_advance($1, least($2::text::pg_lsn, pg_last_wal_replay_lsn()))
                where (select restart_lsn from pg_replication_slots where slot_name = $1)
                      < least($2::text::pg_lsn, pg_last_wal_replay_lsn())";
    within("moving a replication slot", LIMIT, client.query_opt(sql, &[slot, &to.to_string()]))
        .await
        .map(|_| ())
}
