//! The tables of clients, server connections and prepared statements. Columns that PgBouncer has, too, mean the same there.

use super::facts::{Client, Prepared, Server, Work};
use super::stamp::{Moment, stamp};
use super::table::{Kind, Table, Value};
use crate::source::Peer;
use std::net::SocketAddr;
use std::time::Duration;

fn ip(address: Option<SocketAddr>) -> Value {
    address.map(|address| address.ip().to_string()).into()
}

fn port(address: Option<SocketAddr>) -> Value {
    address.map(|address| u64::from(address.port())).into()
}

fn peer_ip(peer: Option<Peer>) -> Value {
    match peer {
        Some(Peer::Unix { .. }) => "unix".into(),
        Some(Peer::Tcp(address)) => ip(Some(address)),
        None => Value::Null,
    }
}

fn peer_port(peer: Option<Peer>) -> Value {
    match peer {
        Some(Peer::Tcp(address)) => port(Some(address)),
        Some(Peer::Unix { .. }) | None => Value::Null,
    }
}

fn replication(is: bool) -> Value {
    // Whether it is logical or physical replication, only its server knows.
    Value::from(if is { "replication" } else { "none" })
}

/// SHOW CLIENTS; `held` is why no server can be had at the moment.
pub fn clients(clients: &[Client], held: Option<&str>) -> Table {
    let mut table = Table::new(&[
        ("type", Kind::Text),
        ("user", Kind::Text),
        ("database", Kind::Text),
        ("replication", Kind::Text),
        ("state", Kind::Text),
        ("addr", Kind::Text),
        ("port", Kind::Number),
        ("local_addr", Kind::Text),
        ("local_port", Kind::Number),
        ("connect_time", Kind::Text),
        ("wait", Kind::Number),
        ("wait_us", Kind::Number),
        ("ptr", Kind::Text),
        ("link", Kind::Text),
        ("application_name", Kind::Text),
        ("prepared_statements", Kind::Number),
        ("id", Kind::Number),
        ("doing", Kind::Text),
    ]);
    for client in clients {
        let (state, waits) = state(&client.work);
        let link = match &client.work {
            Work::Linked { server, .. } => Value::Text(format!("s{server}")),
            Work::OnItsOwn { .. } => Value::Text(format!("s{}", client.id)),
            Work::LoggingIn | Work::Idle { .. } | Work::Waiting { .. } | Work::Looking { .. } => Value::Null,
        };
        table.add(vec![
            "C".into(),
            Value::bytes(&client.who.user),
            Value::bytes(&client.who.database),
            replication(client.who.replication),
            state.into(),
            peer_ip(client.peer),
            peer_port(client.peer),
            ip(client.local),
            port(client.local),
            stamp(client.connected).into(),
            waits.as_secs().into(),
            u64::from(waits.subsec_micros()).into(),
            format!("c{}", client.id).into(),
            link,
            Value::bytes(&client.who.application_name),
            client.prepared.into(),
            client.id.into(),
            words(&client.work, held).into(),
        ]);
    }
    table
}

/// In PgBouncer's words, and how long it has waited.
fn state(work: &Work) -> (&'static str, Duration) {
    match work {
        Work::LoggingIn => ("login", Duration::ZERO),
        Work::Idle { .. } => ("idle", Duration::ZERO),
        Work::Waiting { since, .. } | Work::Looking { since } => ("waiting", since.ago),
        Work::Linked { .. } | Work::OnItsOwn { .. } => ("active", Duration::ZERO),
    }
}

/// What a client does, or what it waits for.
fn words(work: &Work, held: Option<&str>) -> String {
    match work {
        Work::LoggingIn => "logs in".to_owned(),
        Work::Idle { since } => format!("idle since {}", since.text()),
        Work::Waiting { since, paused: true } => {
            format!("waits since {}: the database is paused", since.text())
        }
        Work::Waiting { since, paused: false } | Work::Looking { since } => match (held, work) {
            (Some(reason), _) => format!("held since {}: {reason}", since.text()),
            (None, Work::Looking { .. }) => format!("connects to the primary since {}", since.text()),
            (None, _) => format!("waits for a server connection since {}", since.text()),
        },
        Work::Linked { runs, since, transaction_since, pins, .. } => {
            let mut words = linked(*runs, since, transaction_since.as_ref());
            if !pins.is_empty() {
                words.push_str(&format!("; keeps its server: {pins}"));
            }
            words
        }
        Work::OnItsOwn { node, epoch, since } => {
            format!("has a connection of its own to {node} (epoch {epoch}) since {}", since.text())
        }
    }
}

fn linked(runs: bool, since: &Moment, transaction_since: Option<&Moment>) -> String {
    match (transaction_since, runs) {
        (Some(begun), true) => {
            format!("in a transaction since {}, a statement runs since {}", begun.text(), since.text())
        }
        (Some(begun), false) => {
            format!("in a transaction since {}, says nothing since {}", begun.text(), since.text())
        }
        (None, true) => format!("a statement runs since {}", since.text()),
        (None, false) => format!("idle since {}", since.text()),
    }
}

/// SHOW SERVERS
pub fn servers(servers: &[Server]) -> Table {
    let mut table = Table::new(&[
        ("type", Kind::Text),
        ("user", Kind::Text),
        ("database", Kind::Text),
        ("replication", Kind::Text),
        ("state", Kind::Text),
        ("addr", Kind::Text),
        ("port", Kind::Number),
        ("local_addr", Kind::Text),
        ("local_port", Kind::Number),
        ("connect_time", Kind::Text),
        ("close_needed", Kind::Number),
        ("ptr", Kind::Text),
        ("link", Kind::Text),
        ("remote_pid", Kind::Number),
        ("application_name", Kind::Text),
        ("id", Kind::Number),
        ("node", Kind::Text),
        ("epoch", Kind::Number),
        ("state_since", Kind::Text),
    ]);
    for server in servers {
        table.add(vec![
            "S".into(),
            Value::bytes(&server.of.user),
            Value::bytes(&server.of.database),
            replication(server.replication),
            server.state.into(),
            peer_ip(server.remote),
            peer_port(server.remote),
            ip(server.local),
            port(server.local),
            server.opened.map(stamp).into(),
            u64::from(server.outdated).into(),
            format!("s{}", server.id).into(),
            server.client.map(|client| format!("c{client}")).into(),
            server.pid.map(u64::from).into(),
            Value::bytes(&server.application_name),
            server.id.into(),
            server.node.clone().into(),
            server.epoch.into(),
            server.since.text().into(),
        ]);
    }
    table
}

/// Whether texts of statements, in which secrets may stand, are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Texts {
    Shown,
    Hidden,
}

/// SHOW PREPARED; each list is of one worker.
pub fn prepared(lists: &[(usize, Vec<Prepared>)], texts: Texts) -> Table {
    let mut table = Table::new(&[
        ("worker", Kind::Number),
        ("name", Kind::Text),
        ("query", Kind::Text),
        ("uses", Kind::Number),
    ]);
    for (worker, prepared) in lists.iter().flat_map(|(worker, list)| list.iter().map(move |p| (*worker, p))) {
        let query = match texts {
            Texts::Shown => Value::from(prepared.text.as_str()),
            Texts::Hidden => Value::Null,
        };
        table.add(vec![worker.into(), prepared.name.as_str().into(), query, prepared.uses.into()]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::{Pin, Pins};
    use std::time::UNIX_EPOCH;

    const SINCE: Moment = Moment { ago: Duration::from_millis(2_500), at: UNIX_EPOCH };

    fn linked_with(transaction_since: Option<Moment>, runs: bool, pins: Pins) -> Work {
        Work::Linked { server: 3, runs, since: SINCE, transaction_since, pins }
    }

    #[test]
    fn each_state_is_told_in_words() {
        let at = "1970-01-01 00:00:00 UTC";
        let waiting = Work::Waiting { since: SINCE, paused: false };
        let held = Some("epoch 2 has no primary");
        let cases = [
            (Work::LoggingIn, None, "logs in".to_owned()),
            (Work::Idle { since: SINCE }, held, format!("idle since {at}")),
            (waiting.clone(), None, format!("waits for a server connection since {at}")),
            (waiting, held, format!("held since {at}: epoch 2 has no primary")),
            (
                Work::Waiting { since: SINCE, paused: true },
                held,
                format!("waits since {at}: the database is paused"),
            ),
            (
                linked_with(Some(SINCE), false, Pins::NONE),
                None,
                format!("in a transaction since {at}, says nothing since {at}"),
            ),
            (
                linked_with(None, false, Pin::Temporary.into()),
                None,
                format!("idle since {at}; keeps its server: it may have temporary objects"),
            ),
            (linked_with(None, true, Pins::NONE), None, format!("a statement runs since {at}")),
            (Work::Looking { since: SINCE }, None, format!("connects to the primary since {at}")),
            (
                Work::OnItsOwn { node: "n1".into(), epoch: 3, since: SINCE },
                None,
                format!("has a connection of its own to n1 (epoch 3) since {at}"),
            ),
        ];
        for (work, held, expected) in cases {
            assert_eq!(words(&work, held), expected);
        }
    }

    #[test]
    fn who_may_only_look_sees_no_texts() {
        let one = Prepared { name: "pgkeel:1".into(), text: "select 1".into(), uses: 2 };
        let lists = [(0, vec![one.clone()]), (1, vec![one])];
        let shown = prepared(&lists, Texts::Shown);
        assert_eq!((shown.rows.len(), &shown.rows[1][2]), (2, &Value::from("select 1")));
        assert!(prepared(&lists, Texts::Hidden).rows.iter().all(|row| row[2] == Value::Null));
    }
}
