//! What is told of which course of events.

use super::*;
use cluster::Lsn;
use cluster::observe::Standby;
use cluster::reason::Position;
use cluster::state::{Appointment, Entry, Member, OldLease, PgAddress, Published, Replication, Settings};

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn member(witness: bool) -> Member {
    let postgres = (!witness).then(|| PgAddress { host: "h".to_owned(), port: 5432 });
    Member { agent: "h:1".to_owned(), postgres, tags: Default::default(), data_dir: None }
}

fn state() -> State {
    let replication = Replication::Async { max_loss_bytes: 0, loss_bound_bytes: None };
    State {
        settings: Some(Settings { replication, detect_ms: 1_000, drift_ppm: 0 }),
        members: [("n1", false), ("n2", false), ("w", true)].map(|(n, w)| (name(n), member(w))).into(),
        system_identifier: Some(7),
        ..State::default()
    }
}

/// Opens an epoch.
fn seal(state: &mut State) {
    state.epoch += 1;
    state.phase = Phase::Sealing { lease: OldLease::MayRun };
}

/// Publishes a primary, on the word of the leader `by`.
fn publish(state: &mut State, node: &str, by: &str) {
    let appointment = Appointment {
        node: name(node),
        promotion_id: state.epoch.to_string(),
        sealed_timeline: 1,
        sealed_lsn: Lsn(1),
        parent: None,
    };
    state.promotions.push(Promotion {
        epoch: state.epoch,
        node: name(node),
        promotion_id: appointment.promotion_id.clone(),
        parent: None,
        sealed_timeline: 1,
        sealed_lsn: Lsn(1),
        published: Some(Published { timeline: 2, forks: Vec::new() }),
    });
    state.phase = Phase::Serving { appointment };
    let reason = Reason::Published { node: name(node), timeline: 2 };
    state.history.push(Entry { at: 0, epoch: state.epoch, by: name(by), reason });
}

fn standby() -> Server {
    Server::Standby(Standby {
        timeline: 1,
        lsn: Lsn(1),
        replay_lsn: Lsn(1),
        upstream: None,
        streaming: true,
        replay_lag_ms: None,
    })
}

fn primary() -> Server {
    Server::Primary { timeline: 1, lsn: Lsn(1) }
}

fn look(noticed: &mut Noticed, me: &str, state: &State, server: &Server) -> Vec<Happened> {
    noticed.look(&Facts { me: &name(me), state, server, seen: None, now: Moment(0) })
}

fn role(from: Role, to: Role) -> Happened {
    Happened::Role { from, to }
}

#[test]
fn a_primary_dies_and_comes_back_as_a_standby() {
    let mut state = state();
    seal(&mut state);
    let mut n1 = Noticed::new(&state);
    assert_eq!(look(&mut n1, "n1", &state, &primary()), [], "not published yet");
    publish(&mut state, "n1", "n2");
    assert_eq!(look(&mut n1, "n1", &state, &primary()), [role(Role::None, Role::Primary)]);
    let hung = Server::Unresponsive { silent_ms: 9 };
    assert_eq!(look(&mut n1, "n1", &state, &hung), [], "it may answer again");
    assert_eq!(look(&mut n1, "n1", &state, &Server::Stopped), [role(Role::Primary, Role::None)]);
    seal(&mut state);
    assert_eq!(look(&mut n1, "n1", &state, &Server::Starting), []);
    assert_eq!(look(&mut n1, "n1", &state, &standby()), [role(Role::None, Role::Standby)]);
    assert_eq!(
        look(&mut n1, "n1", &state, &Server::Stopped),
        [],
        "a standby that restarts goes on to be one"
    );
    assert_eq!(look(&mut n1, "n1", &state, &standby()), []);
}

#[test]
fn an_epoch_that_is_over_ends_the_role() {
    let mut state = state();
    seal(&mut state);
    publish(&mut state, "n1", "n2");
    let mut n1 = Noticed::new(&state);
    assert_eq!(look(&mut n1, "n1", &state, &primary()), [role(Role::None, Role::Primary)]);
    seal(&mut state);
    assert_eq!(look(&mut n1, "n1", &state, &primary()), [role(Role::Primary, Role::None)]);
}

#[test]
fn another_primary_is_told_of_once_where_it_was_recorded() {
    let mut state = state();
    seal(&mut state);
    let (mut n1, mut n2, mut w) = (Noticed::new(&state), Noticed::new(&state), Noticed::new(&state));
    publish(&mut state, "n1", "w");
    let told = |noticed: &mut Noticed, me: &str, state: &State| look(noticed, me, state, &Server::Unknown);
    assert_eq!(told(&mut w, "w", &state), [], "the first primary replaces nobody");
    seal(&mut state);
    assert_eq!(told(&mut w, "w", &state), []);
    publish(&mut state, "n2", "w");
    let change = Happened::Primary { epoch: 2, old: name("n1"), new: name("n2"), way: Way::Failover };
    assert_eq!(told(&mut w, "w", &state), [change]);
    assert_eq!(told(&mut w, "w", &state), [], "once");
    assert_eq!(told(&mut n1, "n1", &state), [], "another agent recorded it");
    assert_eq!(told(&mut Noticed::new(&state), "w", &state), [], "an agent that starts now was not there");
    // The same node again: nobody was replaced, and a command that ends the old primary must not be run.
    seal(&mut state);
    publish(&mut state, "n2", "n2");
    assert_eq!(told(&mut n2, "n2", &state), []);
}

#[test]
fn a_switchover_is_told_from_a_failover_and_no_epoch_is_skipped() {
    let mut state = state();
    seal(&mut state);
    publish(&mut state, "n1", "w");
    let mut w = Noticed::new(&state);
    seal(&mut state);
    let safe = Safe::StoppedInOrder { node: name("n1"), at: Lsn(1) };
    let at = Position { timeline: 1, lsn: Lsn(1) };
    let chosen = Reason::Chosen { node: name("n2"), at, safe, others: BTreeMap::new() };
    state.history.push(Entry { at: 0, epoch: 2, by: name("w"), reason: chosen });
    publish(&mut state, "n2", "w");
    seal(&mut state);
    publish(&mut state, "n1", "w");
    let change =
        |epoch, old: &str, new: &str, way| Happened::Primary { epoch, old: name(old), new: name(new), way };
    let expected = [change(2, "n1", "n2", Way::Switchover), change(3, "n2", "n1", Way::Failover)];
    assert_eq!(look(&mut w, "w", &state, &Server::Unknown), expected);
}

/// A leader, and what its nodes said last.
struct Hearing {
    state: State,
    seen: Observations,
    noticed: Noticed,
}

impl Hearing {
    fn new() -> Hearing {
        let mut state = state();
        seal(&mut state);
        publish(&mut state, "n1", "w");
        let noticed = Noticed::new(&state);
        Hearing { seen: Observations::new(name("w"), Moment(0)), state, noticed }
    }

    fn hear(&mut self, node: &str, server: Server, data: DataDir, now: u64) {
        let observation = Observation { server, data, ..Observation::blank(name(node)) };
        self.seen.hear(&self.state, observation, Moment(now));
    }

    /// All three are well at `now`, but for those in `silent`.
    fn well(&mut self, now: u64, silent: &[&str]) {
        for (node, server, data) in [
            ("n1", primary(), DataDir::Present { system_identifier: 7 }),
            ("n2", standby(), DataDir::Present { system_identifier: 7 }),
            ("w", Server::Stopped, DataDir::Witness),
        ] {
            if !silent.contains(&node) {
                self.hear(node, server, data, now);
            }
        }
    }

    fn look(&mut self, now: u64) -> Vec<Happened> {
        let (me, server) = (name("w"), Server::Stopped);
        let seen = Some(&self.seen);
        self.noticed.look(&Facts { me: &me, state: &self.state, server: &server, seen, now: Moment(now) })
    }
}

#[test]
fn a_node_is_down_after_twice_detect_and_up_at_once() {
    let mut leader = Hearing::new();
    let mut told = Vec::new();
    for now in (0..10_000).step_by(100) {
        let silent: &[&str] = if (2_000..7_000).contains(&now) { &["n2"] } else { &[] };
        leader.well(now, silent);
        told.extend(leader.look(now).into_iter().map(|happened| (now, happened)));
    }
    // Last heard at 1900, missed from 2900 on.
    assert_eq!(told, [(4_900, Happened::Down(name("n2"))), (7_000, Happened::Up(name("n2")))]);
}

#[test]
fn a_short_restart_is_not_told() {
    let mut leader = Hearing::new();
    for now in (0..6_000).step_by(100) {
        leader.well(now, &[]);
        if (2_000..3_500).contains(&now) {
            leader.hear("n1", Server::Stopped, DataDir::Present { system_identifier: 7 }, now);
        }
        assert_eq!(leader.look(now), [], "at {now}");
    }
}

#[test]
fn a_node_that_is_made_for_the_first_time_is_not_down() {
    let mut leader = Hearing::new();
    for now in (0..20_000).step_by(100) {
        leader.well(now, &["n2"]);
        leader.hear("n2", Server::Stopped, DataDir::Absent, now);
        assert_eq!(leader.look(now), [], "at {now}");
    }
    leader.well(20_000, &[]);
    assert_eq!(leader.look(20_000), [], "and nobody was told that it was down");
    // But data that went while it was up are missed.
    let mut told = Vec::new();
    for now in (20_100..30_000).step_by(100) {
        leader.well(now, &["n2"]);
        leader.hear("n2", Server::Stopped, DataDir::Absent, now);
        told.extend(leader.look(now));
    }
    assert_eq!(told, [Happened::Down(name("n2"))]);
}

#[test]
fn a_new_leader_tells_again_who_is_down() {
    let mut leader = Hearing::new();
    let mut told = Vec::new();
    for now in (0..10_000).step_by(100) {
        if now == 5_000 {
            leader.seen = Observations::new(name("w"), Moment(now));
        }
        leader.well(now, &["n1"]);
        told.extend(leader.look(now).into_iter().map(|happened| (now, happened)));
    }
    assert_eq!(told, [(2_000, Happened::Down(name("n1"))), (7_000, Happened::Down(name("n1")))]);
}
