use super::*;
use crate::command::{Command, apply};
use crate::decide::switchover::{Order, Ordered, order};
use crate::decide::{Now, Proposed, Record};
use crate::handover::Obstacle;
use crate::observe::{Observation, Observations};
use crate::state::{Appointment, Member, PgAddress, Replication, Settings, SyncSet};
use crate::{Lsn, Moment};
use std::collections::BTreeMap;

fn name(text: &str) -> NodeName {
    text.parse().unwrap_or_else(|e| panic!("{e}"))
}

fn seat(of: &str, raft_id: u64) -> Seat {
    Seat { address: format!("{of}:7"), raft_id }
}

fn member(of: &str) -> Member {
    let postgres = Some(PgAddress { host: of.to_owned(), port: 5432 });
    Member { agent: format!("{of}:7"), postgres, tags: Default::default(), data_dir: None }
}

/// n1 is primary, n2 and n3 confirm.
fn state() -> State {
    let appointment = Appointment {
        node: name("n1"),
        promotion_id: "p".into(),
        sealed_timeline: 1,
        sealed_lsn: Lsn(0),
        parent: None,
    };
    let replication = Replication::Quorum { k: 1, degrade: Default::default() };
    let mut state = State {
        settings: Some(Settings { replication, detect_ms: 1500, drift_ppm: 0 }),
        members: ["n1", "n2", "n3"].map(|n| (name(n), member(n))).into(),
        epoch: 1,
        phase: Phase::Serving { appointment: appointment.clone() },
        last_appointed: Some(appointment),
        ..State::default()
    };
    state.sync.in_force = vec![SyncSet { k: 1, members: [name("n2"), name("n3")].into() }];
    state
}

fn record(state: &mut State, change: Change, at: WallMs) -> Result<(), Refusal> {
    let before = state.clone();
    let outcome = apply(state, &Command { by: name("n1"), at, change, reasons: Vec::new() });
    if outcome.is_err() {
        assert_eq!(
            State { revision: before.revision + 1, ..before },
            *state,
            "refused, and changed all the same"
        );
    }
    outcome
}

fn leave(state: &mut State, node: &str) -> Result<(), Refusal> {
    let leaving = Some(Leaving { by: "ada".into(), at: 0 });
    record(state, Change::Leave { node: name(node), leaving }, 0)
}

fn remove(state: &mut State, node: &str) -> Result<(), Refusal> {
    record(state, Change::Remove { node: name(node) }, 0)
}

fn ask(state: &mut State, asked: &Order, wall: WallMs) -> Result<Ordered, Vec<Obstacle>> {
    let mut seen = Observations::new(name("n1"), Moment(0));
    for node in ["n1", "n2", "n3"] {
        seen.hear(state, Observation::blank(name(node)), Moment(5000));
    }
    let settings = state.settings.clone().unwrap_or_else(|| panic!("set"));
    let proposed = Proposed {
        cluster: String::new(),
        settings,
        names: BTreeSet::new(),
        record: Record::Nodes,
        adopt: None,
    };
    let now = Now { at: Moment(5000), wall, nonce: "nonce".into() };
    let (command, ordered) = order(state, &seen, &proposed, asked, "ada", &now)?;
    apply(state, &command).unwrap_or_else(|e| panic!("{e}"));
    Ok(ordered)
}

fn barred(outcome: Result<Ordered, Vec<Obstacle>>) -> Option<Bar> {
    let because = match outcome {
        Ok(Ordered::Refused { because }) | Err(because) => because,
        Ok(_) => return None,
    };
    because.into_iter().find_map(|obstacle| match obstacle {
        Obstacle::Membership { bar } => Some(bar),
        _ => None,
    })
}

#[test]
fn an_old_record_is_read() {
    let mut value = serde_json::to_value(state()).unwrap_or_else(|e| panic!("{e}"));
    let fields = value.as_object_mut().unwrap_or_else(|| panic!("an object"));
    for new in ["admitted", "leaving", "removed", "tokens"] {
        assert!(fields.remove(new).is_some());
    }
    assert_eq!(serde_json::from_value::<State>(value).ok(), Some(state()));
}

#[test]
fn the_record_goes_on_from_the_files() {
    let mut state = state();
    let files: BTreeSet<NodeName> = ["n1", "n2", "n3"].map(name).into();
    record(&mut state, Change::Admit { node: name("n4"), seat: seat("n4", 4) }, 0).unwrap();
    state.removed.insert(name("n2"));
    assert_eq!(state.names(&files), ["n1", "n3", "n4"].map(name).into());
    assert_eq!(state.seated().count(), 4, "n4 has not reported yet");
}

#[test]
fn a_name_an_address_and_a_number_belong_to_one_node() {
    let mut state = state();
    let mut admit = |node: &str, seat: Seat| record(&mut state, Change::Admit { node: name(node), seat }, 0);
    assert!(admit("n2", seat("n9", 9)).is_err());
    assert!(admit("n4", seat("n2", 4)).is_err());
    assert!(admit("n4", seat("n4", 4)).is_ok());
    assert!(admit("n4", seat("n4", 4)).is_err(), "a second time; asked for again nothing is recorded");
    assert!(admit("n5", seat("n5", 4)).is_err());
    assert!(admit("n5", seat("n5", 5)).is_ok());
    for number in 6..=NODES_MAX as u64 {
        assert!(admit(&format!("n{number}"), seat(&format!("n{number}"), number)).is_ok());
    }
    assert!(admit("one-more", seat("one-more", 99)).is_err());
}

#[test]
fn a_node_is_struck_out_when_nothing_needs_it() {
    let mut state = state();
    assert!(remove(&mut state, "n3").is_err(), "nobody said that it leaves");
    assert!(leave(&mut state, "n1").is_err(), "the primary");
    leave(&mut state, "n3").unwrap();
    assert!(remove(&mut state, "n3").is_err(), "in the sync set");
    state.sync.in_force.push(SyncSet { k: 1, members: [name("n2")].into() });
    assert!(remove(&mut state, "n3").is_err(), "the old set is still in force");
    state.sync.in_force.remove(0);
    state.phase = Phase::Sealing { lease: crate::state::OldLease::MayRun };
    assert!(remove(&mut state, "n3").is_err(), "no primary serves");
    state.phase = self::state().phase;
    remove(&mut state, "n3").unwrap();
    assert!(!state.has_seat(&name("n3")) && state.leaving.is_empty() && state.removed.contains(&name("n3")));
    assert!(record(&mut state, Change::Register { node: name("n3"), member: member("n3") }, 0).is_err());
    let next = SyncSet { k: 1, members: [name("n3")].into() };
    assert!(record(&mut state, Change::SyncSetNext { epoch: 1, next }, 0).is_err());
    let again = record(&mut state, Change::Admit { node: name("n3"), seat: seat("n3", 33) }, 0);
    assert!(again.is_err(), "an old copy may still confirm commits under that name");
}

#[test]
fn what_is_struck_out_is_not_appointed() {
    let mut state = state();
    state.phase = Phase::Sealing { lease: crate::state::OldLease::MayRun };
    state.removed.insert(name("n4"));
    let appointment = Appointment {
        node: name("n4"),
        promotion_id: "q".into(),
        sealed_timeline: 1,
        sealed_lsn: Lsn(0),
        parent: None,
    };
    let change = Change::Appoint { epoch: 1, appointment, sync: BTreeSet::new() };
    assert!(record(&mut state, change, 0).is_err());
}

#[test]
fn one_that_a_person_makes_primary_stays() {
    let mut state = state();
    leave(&mut state, "n2").unwrap();
    state.phase = Phase::Sealing { lease: crate::state::OldLease::MayRun };
    let appointment = Appointment {
        node: name("n2"),
        promotion_id: "q".into(),
        sealed_timeline: 1,
        sealed_lsn: Lsn(0),
        parent: None,
    };
    record(&mut state, Change::Appoint { epoch: 1, appointment, sync: BTreeSet::new() }, 0).unwrap();
    assert!(state.leaving.is_empty());
}

#[test]
fn late_words_of_what_was_struck_out_count_for_nothing() {
    let mut state = state();
    let mut seen = Observations::new(name("n1"), Moment(0));
    let mut word = Observation::blank(name("n3"));
    word.primary_lsn = Some(Lsn(700));
    state.promotions.push(crate::state::Promotion {
        epoch: 1,
        node: name("n1"),
        promotion_id: "p".into(),
        parent: None,
        sealed_timeline: 0,
        sealed_lsn: Lsn(0),
        published: None,
    });
    seen.hear(&state, word.clone(), Moment(10));
    state.members.remove(&name("n3"));
    state.removed.insert(name("n3"));
    seen.see_state(&state, Moment(20));
    assert!(seen.nodes.is_empty());
    assert_eq!(seen.primary_reached, Some((1, Lsn(700))), "of the primary it told what was true");
    seen.hear(&state, word, Moment(30));
    assert!(seen.nodes.is_empty());
}

#[test]
fn what_is_left_must_be_a_majority_that_is_heard() {
    let mut state = state();
    state.sync.in_force.clear();
    for node in ["n4", "n5", "n6"] {
        record(&mut state, Change::Admit { node: name(node), seat: seat(node, 0) }, 0).unwrap();
    }
    // Three of six are heard.
    let bar = barred(ask(&mut state, &Order::Remove { node: name("n2"), insist: true }, 0));
    assert!(matches!(bar, Some(Bar::NoMajority { of: 5, .. })), "{bar:?}");
    assert_eq!(barred(ask(&mut state, &Order::Remove { node: name("n5"), insist: true }, 0)), None);
    assert_eq!(barred(ask(&mut state, &Order::Remove { node: name("n6"), insist: true }, 0)), None);
}

#[test]
fn an_invitation_is_good_for_a_time_a_role_and_a_number_of_nodes() {
    let mut state = state();
    let hash = "ab".repeat(32);
    let invite = |id: &str| Order::Invite {
        id: id.into(),
        hash: hash.clone(),
        role: TokenRole::Data,
        until: 5000,
        uses: 2,
    };
    let redeem = |id: &str, hash: &str, role| Order::Redeem {
        id: id.into(),
        hash: hash.into(),
        role,
        node: name("n4"),
    };
    assert_eq!(barred(ask(&mut state, &invite("t"), 1000)), None);
    assert!(matches!(barred(ask(&mut state, &invite("t"), 1000)), Some(Bar::BadInvitation { .. })));
    let wrong = barred(ask(&mut state, &redeem("t", "cd", TokenRole::Data), 1000));
    let unknown = barred(ask(&mut state, &redeem("u", &hash, TokenRole::Data), 1000));
    assert_eq!((wrong, unknown), (Some(Bar::NotInvited), Some(Bar::NotInvited)));
    let role = barred(ask(&mut state, &redeem("t", &hash, TokenRole::Witness), 1000));
    assert_eq!(role, Some(Bar::OtherRole { role: TokenRole::Data }));
    let late = barred(ask(&mut state, &redeem("t", &hash, TokenRole::Data), 5000));
    assert_eq!(late, Some(Bar::Expired { until: 5000 }));
    assert_eq!(state.history.iter().filter(|e| is_knock(e)).count(), 1, "one in a minute");
    for left in [1, 0] {
        assert_eq!(barred(ask(&mut state, &redeem("t", &hash, TokenRole::Data), 2000)), None);
        assert_eq!(state.tokens.get("t").map_or(0, |t| t.left), left);
    }
    assert_eq!(barred(ask(&mut state, &redeem("t", &hash, TokenRole::Data), 2000)), Some(Bar::NotInvited));
}

#[test]
fn who_knocks_drives_nothing_out_of_the_history() {
    let mut state = state();
    let redeem =
        Order::Redeem { id: "x".repeat(5000), hash: String::new(), role: TokenRole::Data, node: name("n4") };
    for minute in 0..500 {
        assert!(barred(ask(&mut state, &redeem, minute * 60_001)).is_some());
    }
    assert_eq!(state.history.len(), KNOCKS_MAX);
    assert!(state.history.last().is_some_and(|e| e.at > 499 * 60_000 && e.reason.to_string().len() < 300));
}

#[test]
fn expired_invitations_make_room() {
    let mut state = state();
    let token = |until| Token {
        hash: String::new(),
        role: TokenRole::Proxy,
        until,
        left: 1,
        by: String::new(),
        made: 0,
    };
    for number in 0..TOKENS_MAX as u64 {
        let invite = Change::Invite { id: format!("t{number}"), token: token(100 + number) };
        record(&mut state, invite, 0).unwrap();
    }
    let more = || Change::Invite { id: "more".into(), token: token(9000) };
    assert!(record(&mut state, more(), 50).is_err());
    record(&mut state, more(), 110).unwrap();
    let kept: BTreeMap<_, _> = state.tokens.iter().filter(|(_, t)| t.until <= 110).collect();
    assert!(kept.is_empty() && state.tokens.contains_key("more"));
}
