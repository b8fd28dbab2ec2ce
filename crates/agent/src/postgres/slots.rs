//! Replication slots: each node keeps one for every other data node, so that no standby is cut off by a failover.
//!
//! On the primary a connected standby moves its own slot. On a standby nobody does, so the agent moves the slots there:
//! each to the position its node is known to have flushed.

use super::connection::{connect, within};
use super::{PgError, Place};
use cluster::{Lsn, NodeName};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio_postgres::Client;

const LIMIT: Duration = Duration::from_secs(10);

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
        "select slot_name::text, active, restart_lsn::text, pg_is_in_recovery() from pg_replication_slots
          where slot_type = 'physical' and slot_name like 'pgkeel\\_%'",
        &[],
    );
    let mut idle: BTreeMap<String, Option<Lsn>> = BTreeMap::new();
    let mut present = BTreeSet::new();
    let mut recovery = false;
    for row in within("listing replication slots", LIMIT, rows).await? {
        let name: String = row.try_get(0)?;
        recovery = row.try_get(3)?;
        if !row.try_get::<_, bool>(1)? {
            let restart: Option<String> = row.try_get(2)?;
            idle.insert(name.clone(), restart.and_then(|r| r.parse().ok()));
        }
        present.insert(name);
    }
    let wanted: BTreeMap<String, &NodeName> =
        others.iter().filter(|n| *n != me).map(|n| (n.slot(), n)).collect();
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
