#![allow(clippy::unwrap_used)]
use super::*;
use crate::basics::{Lsn, Moment};
use crate::command::{Change, Command, apply};
use crate::decide::switchover::{Order, Ordered, order};
use crate::decide::{Now, Proposed, Record, decide};
use crate::handover::{Handover, Obstacle, Stage};
use crate::lease;
use crate::membership::Leaving;
use crate::observe::{DataDir, Heard, Observation, Observations, Seen, Server, Standby};
use crate::reason::Reason;
use crate::state::{Appointment, Member, OldLease, PgAddress, Replication, Settings, SyncSet};

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn etcd() -> Home {
    let access = Access {
        endpoints: vec!["http://h:2379".into()],
        prefix: "/pgkeel/c/".into(),
        ca: None,
        cert: None,
        key: None,
        user: None,
        password_file: None,
    };
    Home::Etcd { access }
}

fn voters(of: &[(&str, u64)]) -> Home {
    let seat = |(n, id): &(&str, u64)| (name(n), Seat { address: format!("{n}:1"), raft_id: *id });
    Home::Embedded { voters: of.iter().map(seat).collect() }
}

fn settings() -> Settings {
    let replication = Replication::Async { max_loss_bytes: 0, loss_bound_bytes: None };
    Settings { replication, detect_ms: 1500, drift_ppm: 20_000 }
}

/// n1 is primary, n2 its standby, n3 was let in later.
fn serving() -> State {
    let member = |n: &str| {
        let postgres = Some(PgAddress { host: n.into(), port: 5432 });
        (name(n), Member { agent: format!("{n}:1"), postgres, tags: Default::default(), data_dir: None })
    };
    let appointment = Appointment {
        node: name("n1"),
        promotion_id: "p".into(),
        sealed_timeline: 1,
        sealed_lsn: Lsn(0),
        parent: None,
    };
    State {
        cluster: "c".into(),
        settings: Some(settings()),
        members: ["n1", "n2", "n3"].map(member).into(),
        admitted: [(name("n3"), Seat { address: "n3:1".into(), raft_id: 33 })].into(),
        epoch: 4,
        phase: Phase::Serving { appointment },
        revision: 70,
        ..State::default()
    }
}

fn command(change: Change) -> Command {
    Command { by: name("n2"), at: 9, change, reasons: Vec::new() }
}

fn seal(state: &mut State, number: u64, to: Home) -> Result<(), Refusal> {
    apply(state, &command(Change::MoveStore { number, to, by: "alice".into() }))
}

#[test]
fn a_sealed_record_takes_nothing_and_stays_as_it_is() {
    let mut state = serving();
    seal(&mut state, 1, etcd()).unwrap();
    let sealed = state.clone();
    assert_eq!(sealed.revision, 71);
    for change in [
        Change::Note { epoch: 4 },
        Change::OpenEpoch { epoch: 5, lease: OldLease::MayRun },
        Change::Resume,
        Change::MoveStore { number: 2, to: etcd(), by: "bob".into() },
    ] {
        let refused = apply(&mut state, &command(change));
        assert_eq!(refused, Err(Refusal::Moved { number: 1 }));
        // Whoever reads more of the log than another must not come to another beginning.
        assert_eq!(state, sealed);
    }
}

#[test]
fn the_next_store_begins_with_all_that_this_one_held() {
    let mut state = serving();
    assert_eq!(state.moved_on(), None);
    seal(&mut state, 1, etcd()).unwrap();
    let next = state.moved_on().unwrap();
    assert_eq!((next.moves, &next.moved, next.revision), (1, &None, 72));
    assert_eq!((next.epoch, &next.phase, &next.members), (4, &state.phase, &state.members));
    assert_eq!(next.admitted[&name("n3")].raft_id, 0, "nobody votes there");
    assert!(next.history.is_empty(), "no reason was given here");
    let (older, newer) = (crate::status::view(&state), crate::status::view(&next));
    assert!(newer.is_newer_than(&older));
    let mut back = next;
    seal(&mut back, 2, voters(&[("n1", 5), ("n2", 6), ("n3", 7)])).unwrap();
    let last = back.moved_on().unwrap();
    assert_eq!((last.moves, last.admitted[&name("n3")].raft_id), (2, 7));
}

#[test]
fn moves_are_counted_and_begin_only_when_nothing_is_half_done() {
    let refused = |change: fn(&mut State), number, to: Home| {
        let mut state = serving();
        change(&mut state);
        let before = state.clone();
        let said = seal(&mut state, number, to).unwrap_err().to_string();
        assert_eq!((&state.moved, state.moves), (&before.moved, before.moves));
        said
    };
    assert!(refused(|_| (), 2, etcd()).contains("number 1"));
    assert!(refused(|s| s.moves = 1, 1, etcd()).contains("number 2"));
    assert!(refused(|s| s.phase = Phase::Empty, 1, etcd()).contains("while a primary serves"));
    assert!(refused(|s| s.phase = Phase::Sealing { lease: OldLease::MayRun }, 1, etcd()).contains("serves"));
    let leaves = |s: &mut State| drop(s.leaving.insert(name("n2"), Leaving { by: String::new(), at: 0 }));
    assert!(refused(leaves, 1, etcd()).contains("leaving"));
    let hands_over = |s: &mut State| {
        let (from, to, stage) = (name("n1"), name("n2"), Stage::Preparing);
        s.handover = Some(Handover { id: "h".into(), from, to, by: String::new(), stage });
    };
    assert!(refused(hands_over, 1, etcd()).contains("switchover"));
    let two_sets = |s: &mut State| {
        let set = |k| SyncSet { k, members: Default::default() };
        s.sync.in_force = vec![set(0), set(1)];
    };
    assert!(refused(two_sets, 1, etcd()).contains("synchronous"));
    let all = voters(&[("n1", 5), ("n2", 6), ("n3", 7)]);
    for wrong in [
        voters(&[("n1", 5), ("n2", 6)]),
        voters(&[("n1", 5), ("n2", 6), ("n3", 6)]),
        voters(&[("n1", 5), ("n2", 6), ("n3", 0)]),
        voters(&[("n1", 5), ("n2", 6), ("n3", 7), ("n9", 8)]),
    ] {
        refused(|_| (), 1, wrong);
    }
    let long = Home::Etcd {
        access: Access {
            prefix: "/".repeat(TEXT_MAX + 1),
            ..match etcd() {
                Home::Etcd { access } => access,
                Home::Embedded { .. } => unreachable!(),
            }
        },
    };
    refused(|_| (), 1, long);
    seal(&mut serving(), 1, all).unwrap();
}

fn report(node: &str, server: Server) -> Observation {
    let data = DataDir::Present { system_identifier: 1 };
    Observation {
        epoch: 4,
        revision: 70,
        seen: Seen::Published,
        data,
        server,
        ..Observation::blank(name(node))
    }
}

fn standby(streaming: bool) -> Server {
    let at = Lsn(8);
    let upstream = Some(name("n1"));
    Server::Standby(Standby {
        timeline: 1,
        lsn: at,
        replay_lsn: at,
        upstream,
        streaming,
        replay_lag_ms: None,
    })
}

fn well() -> Observations {
    let mut seen = Observations::new(name("n2"), Moment(0));
    let primary = Server::Primary { timeline: 1, lsn: Lsn(8) };
    for (node, server) in [("n1", primary), ("n2", standby(true)), ("n3", standby(true))] {
        let heard = Heard { at: Moment(1000), observation: report(node, server) };
        seen.nodes.insert(name(node), heard);
    }
    seen
}

fn proposed(record: Record) -> Proposed {
    Proposed { cluster: "c".into(), settings: settings(), names: Default::default(), record, adopt: None }
}

fn ordered(
    state: &State,
    seen: &Observations,
    record: Record,
    to: Home,
) -> Result<(Command, Ordered), Vec<Obstacle>> {
    let now = Now { at: Moment(1100), wall: 5, nonce: "0123456789".into() };
    order(state, seen, &proposed(record), &Order::MoveStore { to }, "alice", &now)
}

#[test]
fn it_is_ordered_only_while_all_nodes_are_well() {
    let state = serving();
    let (command, _) = ordered(&state, &well(), Record::Nodes, etcd()).unwrap();
    let mut sealed = state.clone();
    apply(&mut sealed, &command).unwrap();
    let told =
        "move 1: the record is kept in etcd at http://h:2379, below /pgkeel/c/ from now on, asked by alice";
    assert_eq!(sealed.history.last().unwrap().reason.to_string(), told);
    let said = |seen: &Observations, record, to| {
        let bars = ordered(&state, seen, record, to).unwrap_err();
        bars.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    };
    assert!(said(&well(), Record::Elsewhere, etcd()).contains("already"));
    assert!(said(&well(), Record::Nodes, voters(&[])).contains("already"));
    let mut silent = well();
    silent.nodes.remove(&name("n3"));
    assert!(said(&silent, Record::Nodes, etcd()).contains("n3 is not well: its agent was not heard"));
    let mut stale = well();
    stale.nodes.insert(name("n3"), Heard { at: Moment(1000), observation: report("n3", standby(false)) });
    assert!(said(&stale, Record::Nodes, etcd()).contains("does not stream"));
    let stopped = Heard { at: Moment(1000), observation: report("n1", Server::Stopped) };
    stale.nodes.insert(name("n1"), stopped);
    assert!(said(&stale, Record::Nodes, etcd()).contains("not known to take writes"));
}

#[test]
fn nothing_is_decided_and_no_lease_is_given_where_the_record_was() {
    let mut state = serving();
    let primary = report("n1", Server::Primary { timeline: 1, lsn: Lsn(8) });
    assert!(lease::grant(&state, &primary, Some(0)).is_some());
    seal(&mut state, 1, etcd()).unwrap();
    assert_eq!(lease::grant(&state, &primary, Some(0)), None);
    // The primary's server is gone: a failover would begin at once.
    let mut seen = well();
    let gone = Heard { at: Moment(1000), observation: report("n1", Server::Stopped) };
    seen.nodes.insert(name("n1"), gone);
    let now = Now { at: Moment(1100), wall: 5, nonce: "0123456789".into() };
    let decided = |state: &State| decide(state, &seen, &proposed(Record::Nodes), &now);
    let decision = decided(&state);
    assert_eq!((decision.command, decision.transfer), (None, None));
    assert!(matches!(decision.waits[..], [Reason::StoreMoved { number: 1, .. }]));
    let next = state.moved_on().unwrap();
    let decision = decided(&next);
    assert!(matches!(decision.command, Some(Command { change: Change::OpenEpoch { epoch: 5, .. }, .. })));
}
