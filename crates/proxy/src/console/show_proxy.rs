//! The tables of the proxy itself: help, version, configuration, and what the cluster lets it do.

use super::table::{Kind, Table};
use crate::hold::hold_reason;
use crate::reload::CHANGEABLE;
use crate::route::open_primary;
use crate::settings::{ClientAuth, Io, Settings, Verifiers};
use cluster::view::View;
use std::time::Duration;

/// The version, as SHOW VERSION tells it.
pub const VERSION: &str = concat!("pgkeel ", env!("CARGO_PKG_VERSION"));

/// What a client is told as `server_version` when it connects: a number comes first, for those who read it.
pub const SERVER_VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "/pgkeel");

const COMMANDS: [(&str, &str); 19] = [
    ("SHOW POOLS", "clients and servers of each database and user"),
    ("SHOW CLIENTS", "each client, and what it does or waits for"),
    ("SHOW SERVERS", "each server connection, and who has it"),
    ("SHOW STATS", "what was counted since the proxy started, by database"),
    ("SHOW STATS_TOTALS", "the same, under the names that exporters read"),
    ("SHOW DATABASES", "databases that clients have used"),
    ("SHOW USERS", "users that clients have used"),
    ("SHOW LISTS", "how many there are of what"),
    ("SHOW PREPARED", "statements that clients have prepared"),
    ("SHOW HOLD", "the primary, and why clients are held, if they are"),
    ("SHOW CONFIG", "settings of this proxy"),
    ("SHOW VERSION", "the proxy's version"),
    ("PAUSE [database]", "lends no servers any more, and waits until all are given back"),
    ("RESUME [database]", "lends again"),
    ("RECONNECT [database]", "replaces servers as soon as they are given back"),
    ("KILL CLIENT id", "ends a client"),
    ("KILL database", "ends all clients of a database, and pauses it"),
    ("RELOAD", "reads the configuration file again"),
    ("SHUTDOWN", "not here: send the process SIGTERM"),
];

/// SHOW HELP
pub fn help() -> Table {
    let mut table = Table::new(&[("command", Kind::Text), ("meaning", Kind::Text)]);
    COMMANDS.iter().for_each(|(command, meaning)| table.add(vec![(*command).into(), (*meaning).into()]));
    table
}

/// SHOW VERSION
pub fn version() -> Table {
    let mut table = Table::new(&[("version", Kind::Text)]);
    table.add(vec![VERSION.into()]);
    table
}

/// The value of one setting.
pub fn parameter(name: &'static str, value: &str) -> Table {
    let mut table = Table::new(&[(name, Kind::Text)]);
    table.add(vec![value.into()]);
    table
}

/// SHOW HOLD; `held` is how many clients, or pools, wait for a primary.
pub fn hold(view: &View, held: usize) -> Table {
    let mut table = Table::new(&[
        ("cluster", Kind::Text),
        ("epoch", Kind::Number),
        ("primary", Kind::Text),
        ("host", Kind::Text),
        ("port", Kind::Number),
        ("state", Kind::Text),
        ("reason", Kind::Text),
        ("held", Kind::Number),
    ]);
    let primary = view.primary.as_ref();
    let reason = held_because(view);
    let state = if reason.is_some() { "held" } else { "open" };
    table.add(vec![
        view.cluster.as_str().into(),
        view.epoch.into(),
        primary.map(|server| server.node.clone()).into(),
        primary.map(|server| server.host.clone()).into(),
        primary.map(|server| u64::from(server.port)).into(),
        state.into(),
        reason.into(),
        held.into(),
    ]);
    table
}

/// Why no server can be had at the moment.
pub fn held_because(view: &View) -> Option<String> {
    open_primary(view).is_none().then(|| hold_reason(view))
}

/// SHOW CONFIG. Nothing can be changed while the proxy runs. Passwords are not shown.
pub fn config(settings: &Settings) -> Table {
    let mut table = Table::new(&[("key", Kind::Text), ("value", Kind::Text), ("changeable", Kind::Text)]);
    let mut add = |key: &str, value: Option<String>| {
        let changeable = if CHANGEABLE.contains(&key) { "yes" } else { "no" };
        table.add(vec![key.into(), value.into(), changeable.into()]);
    };
    let time = |time: Duration| Some(format!("{}s", time.as_secs_f64()));
    let list = |list: &[String]| Some(list.join(", "));
    let listen: Vec<String> = settings.listen.iter().map(ToString::to_string).collect();
    add("cluster", Some(settings.cluster.clone()));
    add("listen", list(&listen));
    let unix = settings.unix_listen.as_ref();
    add("unix_socket_dir", unix.map(|unix| unix.dir.display().to_string()));
    add("unix_socket_mode", unix.map(|unix| format!("{:04o}", unix.mode)));
    add("agents", list(&settings.agents));
    add("hold", time(settings.hold));
    add("connect_timeout", time(settings.connect_timeout));
    add("startup_timeout", time(settings.startup_timeout));
    let sockets = settings.server_sockets.iter().map(|(node, dir)| format!("{node}={}", dir.display()));
    add("server_sockets", list(&sockets.collect::<Vec<_>>()));
    add("peers", list(&settings.peers));
    add("takeover", settings.takeover.as_ref().map(|path| path.display().to_string()));
    add("takeover_drain", time(settings.drain));
    // By PgBouncer's name, which exporters read.
    add("max_client_conn", Some(settings.clients_max.to_string()));
    add("workers", Some(settings.workers.max(1).to_string()));
    add("console_users", list(&settings.console.users));
    add("console_viewers", list(&settings.console.viewers));
    add("lookup_user", settings.verifiers().and_then(Verifiers::role).map(|role| role.user.clone()));
    let Some(pool) = &settings.pool else {
        add("pool_mode", Some("session".to_owned()));
        return table;
    };
    add("io", Some(if pool.io == Io::Epoll { "epoll" } else { "auto" }.to_owned()));
    let auth = match pool.auth {
        ClientAuth::Trust => "trust",
        ClientAuth::Scram(_) => "scram",
        ClientAuth::Md5(_) => "md5",
        ClientAuth::Rules(..) => "hba",
    };
    let count = |count: Option<usize>| count.map(|count| count.to_string());
    add("pool_mode", Some("pooled".to_owned()));
    add("pool_size", Some(pool.servers_max.to_string()));
    add("pool_min", Some(pool.servers_min.to_string()));
    add("pool_reserve", Some(pool.reserve.to_string()));
    add("pool_reserve_after", time(pool.reserve_after));
    add("open_max", Some(pool.open_max.to_string()));
    add("query_wait", time(pool.query_wait));
    add("server_idle_max", time(pool.idle_max));
    add("server_age_max", time(pool.age_max));
    add("auth", Some(auth.to_owned()));
    if let ClientAuth::Rules(files, _) = &pool.auth {
        let path = |path: &std::path::PathBuf| path.display().to_string();
        add("hba_file", Some(path(&files.hba)));
        add("ident_file", files.ident.as_ref().map(path));
    }
    add("clients_max_per_user", count(pool.limits.per_user_max));
    add("clients_max_per_database", count(pool.limits.per_database_max));
    add("session_users", list(&pool.whole_sessions.users));
    add("session_databases", list(&pool.whole_sessions.databases));
    add("idle_in_transaction_max", pool.limits.idle_in_transaction_max.and_then(time));
    add("client_idle_max", pool.limits.idle_max.and_then(time));
    table
}

#[cfg(test)]
mod tests {
    use super::super::table::Value;
    use super::*;
    use cluster::view::Server;

    #[test]
    fn the_hold_tells_why() {
        let server = Server { node: "n1".into(), host: "10.0.0.1".into(), port: 5432 };
        let view = View { epoch: 4, primary: Some(server), ..View::default() };
        let state = |view: &View| (hold(view, 2).rows[0][5].clone(), hold(view, 2).rows[0][6].clone());
        assert_eq!(state(&view), ("open".into(), Value::Null));
        let handing_over = View { hold: Some("n1 hands over to n2.".into()), ..view };
        let because = "nothing new begins in epoch 4: n1 hands over to n2.";
        assert_eq!(state(&handing_over), ("held".into(), because.into()));
        let nobody = View { epoch: 5, waiting: Some("seals".into()), ..View::default() };
        assert_eq!(state(&nobody), ("held".into(), "epoch 5 has no primary: seals".into()));
    }

    #[test]
    fn every_show_is_in_the_help() {
        for (name, _) in super::super::read::SHOWS.iter().filter(|(name, _)| *name != "help") {
            let command = format!("SHOW {}", name.to_uppercase());
            assert!(COMMANDS.iter().any(|(known, _)| *known == command), "{command}");
        }
    }
}
