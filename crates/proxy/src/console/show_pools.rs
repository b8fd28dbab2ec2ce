//! The tables of pools and of what is counted for them. Columns that PgBouncer has, too, mean the same there.

use super::facts::{Of, Pool};
use super::table::{Column, Kind, Table, Value};
use crate::settings::Settings;
use cluster::view::View;
use std::collections::BTreeMap;
use std::time::Duration;

/// Every worker's pools, put together.
pub type Pools = BTreeMap<Of, Pool>;

fn us(time: Duration) -> Value {
    Value::from(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}

fn mode(pool: &Pool) -> Value {
    Value::from(if pool.is_pooled { "pooled" } else { "session" })
}

/// Put together by something that pools have.
fn sums<K: Ord + Clone>(pools: &Pools, key: impl Fn(&Of) -> &K) -> BTreeMap<K, Pool> {
    let mut all: BTreeMap<K, Pool> = BTreeMap::new();
    for (of, pool) in pools {
        all.entry(key(of).clone()).or_default().add(pool);
    }
    all
}

/// SHOW POOLS
pub fn pools(pools: &Pools) -> Table {
    let mut table = Table::new(&[
        ("database", Kind::Text),
        ("user", Kind::Text),
        ("cl_active", Kind::Number),
        ("cl_waiting", Kind::Number),
        ("sv_active", Kind::Number),
        ("sv_idle", Kind::Number),
        ("sv_login", Kind::Number),
        ("maxwait", Kind::Number),
        ("maxwait_us", Kind::Number),
        ("pool_mode", Kind::Text),
        ("cl_linked", Kind::Number),
        ("cl_keeping", Kind::Number),
        ("cl_login", Kind::Number),
        ("pools", Kind::Number),
        ("paused", Kind::Number),
    ]);
    for (of, pool) in pools {
        table.add(vec![
            Value::bytes(&of.database),
            Value::bytes(&of.user),
            (pool.idle + pool.linked).into(),
            pool.waiting.into(),
            pool.servers_lent.into(),
            pool.servers_idle.into(),
            pool.servers_opening.into(),
            (pool.longest_us / 1_000_000).into(),
            (pool.longest_us % 1_000_000).into(),
            mode(pool),
            pool.linked.into(),
            pool.keeping.into(),
            pool.logging_in.into(),
            pool.pools.into(),
            u64::from(pool.paused).into(),
        ]);
    }
    table
}

const TOTALS: [&str; 9] = [
    "total_xact_count",
    "total_query_count",
    "total_server_assignment_count",
    "total_received",
    "total_sent",
    "total_xact_time",
    "total_wait_time",
    "total_lent_time",
    "total_given_up_count",
];

/// As PgBouncer names them in SHOW STATS_TOTALS.
const TOTALS_ALONE: [&str; 9] = [
    "xact_count",
    "query_count",
    "server_assignment_count",
    "bytes_received",
    "bytes_sent",
    "xact_time",
    "wait_time",
    "lent_time",
    "given_up_count",
];

/// SHOW STATS
pub fn stats(pools: &Pools) -> Table {
    stats_named(pools, &TOTALS)
}

/// SHOW STATS_TOTALS
pub fn stats_totals(pools: &Pools) -> Table {
    stats_named(pools, &TOTALS_ALONE)
}

fn stats_named(pools: &Pools, names: &[&'static str; 9]) -> Table {
    let mut columns: Vec<Column> = vec![("database", Kind::Text)];
    columns.extend(names.iter().map(|name| (*name, Kind::Number)));
    let mut table = Table::new(&columns);
    // In the session mode, nothing is counted.
    for (database, pool) in sums(pools, |of| &of.database).iter().filter(|(_, pool)| pool.is_pooled) {
        let (counts, lendings) = (&pool.counts, &pool.lendings);
        table.add(vec![
            Value::bytes(database),
            counts.transactions.into(),
            counts.queries.into(),
            lendings.count.into(),
            counts.received.into(),
            counts.sent.into(),
            us(lendings.time.saturating_sub(counts.kept)),
            us(lendings.waited),
            us(lendings.time),
            lendings.given_up.into(),
        ]);
    }
    table
}

/// SHOW DATABASES
pub fn databases(pools: &Pools, settings: &Settings, view: &View) -> Table {
    let mut table = Table::new(&[
        ("name", Kind::Text),
        ("host", Kind::Text),
        ("port", Kind::Number),
        ("database", Kind::Text),
        ("force_user", Kind::Text),
        ("pool_size", Kind::Number),
        ("min_pool_size", Kind::Number),
        ("reserve_pool_size", Kind::Number),
        ("server_lifetime", Kind::Number),
        ("pool_mode", Kind::Text),
        ("current_connections", Kind::Number),
        ("max_client_connections", Kind::Number),
        ("current_client_connections", Kind::Number),
        ("paused", Kind::Number),
    ]);
    let (primary, bounds) = (view.primary.as_ref(), settings.pool.as_ref());
    for (database, pool) in sums(pools, |of| &of.database) {
        table.add(vec![
            Value::bytes(&database),
            primary.map(|server| server.host.clone()).into(),
            primary.map(|server| u64::from(server.port)).into(),
            Value::bytes(&database),
            Value::Null,
            bounds.map(|bounds| bounds.servers_max).into(),
            bounds.map(|bounds| bounds.servers_min).into(),
            bounds.map(|bounds| bounds.reserve).into(),
            bounds.map(|bounds| bounds.age_max.as_secs()).into(),
            mode(&pool),
            pool.servers().into(),
            bounds.and_then(|bounds| bounds.limits.per_database_max).into(),
            pool.clients().into(),
            u64::from(pool.paused).into(),
        ]);
    }
    table
}

/// SHOW USERS
pub fn users(pools: &Pools, settings: &Settings) -> Table {
    let mut table = Table::new(&[
        ("name", Kind::Text),
        ("pool_mode", Kind::Text),
        ("current_connections", Kind::Number),
        ("max_user_client_connections", Kind::Number),
        ("current_client_connections", Kind::Number),
        ("console", Kind::Text),
    ]);
    let limit = settings.pool.as_ref().and_then(|pool| pool.limits.per_user_max);
    let has = |list: &[String], user: &[u8]| list.iter().any(|name| name.as_bytes() == user);
    for (user, pool) in sums(pools, |of| &of.user) {
        let console = match &settings.console {
            console if has(&console.users, &user) => Some("all"),
            console if has(&console.viewers, &user) => Some("view"),
            _ => None,
        };
        table.add(vec![
            Value::bytes(&user),
            mode(&pool),
            pool.servers().into(),
            limit.into(),
            pool.clients().into(),
            console.into(),
        ]);
    }
    table
}

/// SHOW LISTS
pub fn lists(pools: &Pools, workers: usize, consoles: usize) -> Table {
    let mut all = Pool::default();
    pools.values().for_each(|pool| all.add(pool));
    let mut table = Table::new(&[("list", Kind::Text), ("items", Kind::Number)]);
    let items = [
        ("databases", sums(pools, |of| &of.database).len()),
        ("users", sums(pools, |of| &of.user).len()),
        ("pools", pools.len()),
        ("used_clients", all.clients() - all.logging_in),
        ("login_clients", all.logging_in),
        ("used_servers", all.servers()),
        ("idle_clients", all.idle),
        ("waiting_clients", all.waiting),
        ("linked_clients", all.linked),
        ("keeping_clients", all.keeping),
        ("idle_servers", all.servers_idle),
        ("lent_servers", all.servers_lent),
        ("opening_servers", all.servers_opening),
        ("consoles", consoles),
        ("workers", workers),
    ];
    for (list, count) in items {
        table.add(vec![list.into(), count.into()]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lend::Lendings;
    use crate::logical::Counts;

    fn of(database: &str, user: &str) -> Of {
        Of { database: database.as_bytes().into(), user: user.as_bytes().into() }
    }

    fn some() -> Pools {
        let counts =
            Counts { queries: 7, transactions: 5, received: 100, sent: 900, kept: Duration::from_secs(2) };
        let lendings = Lendings {
            count: 4,
            time: Duration::from_secs(3),
            waited: Duration::from_micros(1_500_000),
            given_up: 1,
        };
        let pool = Pool {
            pools: 1,
            is_pooled: true,
            idle: 3,
            waiting: 2,
            linked: 1,
            servers_lent: 1,
            longest_us: 3_500_000,
            counts,
            lendings,
            ..Pool::default()
        };
        [(of("shop", "ann"), pool), (of("shop", "bob"), pool), (of("other", "ann"), pool)].into()
    }

    fn cell(table: &Table, row: usize, column: &str) -> Value {
        let at = table.columns.iter().position(|(name, _)| *name == column).unwrap();
        table.rows[row][at].clone()
    }

    #[test]
    fn pools_are_of_a_database_and_a_user() {
        let table = pools(&some());
        assert_eq!(table.rows.len(), 3);
        assert_eq!(cell(&table, 1, "database"), "shop".into());
        assert_eq!(cell(&table, 1, "user"), "ann".into());
        assert_eq!(cell(&table, 1, "cl_active"), Value::Number(4));
        assert_eq!(cell(&table, 1, "maxwait"), Value::Number(3));
        assert_eq!(cell(&table, 1, "maxwait_us"), Value::Number(500_000));
    }

    #[test]
    fn what_is_counted_is_summed_up_for_a_database() {
        for (table, prefix) in [(stats(&some()), "total_"), (stats_totals(&some()), "")] {
            assert_eq!(table.rows.len(), 2);
            let shop = |name: &str| cell(&table, 1, &format!("{prefix}{name}"));
            assert_eq!((shop("xact_count"), shop("query_count")), (Value::Number(10), Value::Number(14)));
            assert_eq!(shop("xact_time"), Value::Number(2_000_000), "without what was kept");
            assert_eq!(shop("wait_time"), Value::Number(3_000_000));
        }
        let session = [(of("a", "b"), Pool { is_pooled: false, ..Pool::default() })].into();
        assert!(stats(&session).rows.is_empty(), "nothing is invented");
    }

    #[test]
    fn lists_count_each_once() {
        let table = lists(&some(), 2, 1);
        let get = |name: &str| {
            let row = table.rows.iter().find(|row| row[0] == name.into()).unwrap();
            row[1].clone()
        };
        assert_eq!(
            (get("databases"), get("users"), get("pools")),
            (2_usize.into(), 2_usize.into(), 3_usize.into())
        );
        assert_eq!((get("used_clients"), get("waiting_clients")), (18_usize.into(), 6_usize.into()));
    }
}
