//! Choices of a source, as the leader's status gives cause.

use super::*;

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn node(text: &str, role: Role, state: &str, sync: bool, lag_bytes: u64) -> NodeStatus {
    NodeStatus {
        node: name(text),
        agent: format!("{text}:1"),
        postgres: Some(format!("{text}:2")),
        role,
        state: state.to_owned(),
        epoch: Some(4),
        timeline: Some(3),
        lsn: None,
        lag_bytes: Some(lag_bytes),
        lag_ms: None,
        lease_left_ms: None,
        sync,
        heard_ms: None,
        copying: None,
        configured: 0,
        pending: Vec::new(),
        certificate_left_ms: None,
        why: String::new(),
    }
}

/// n1 is primary, n2 confirms commits, n3 does not, n4 is to be copied.
fn status() -> Status {
    Status {
        cluster: "c".to_owned(),
        asked: name("n1"),
        leader: None,
        epoch: 4,
        revision: 1,
        phase: "serving".to_owned(),
        primary: Some(name("n1")),
        replication: String::new(),
        configuration: 0,
        planned: Vec::new(),
        nodes: vec![
            node("n1", Role::Primary, "running", false, 0),
            node("n2", Role::Standby, "streaming", true, 0),
            node("n3", Role::Standby, "streaming", false, 5000),
            node("n4", Role::None, "stopped", false, 0),
        ],
        why: Vec::new(),
        exposure: None,
        opted_out: Vec::new(),
        readiness: None,
    }
}

fn chosen(status: &Status, named: Option<&str>, failed: &[&str]) -> String {
    let failed = failed.iter().map(|n| name(n)).collect();
    let choice = choose(status, &name("n4"), &name("n1"), named.map(name).as_ref(), &failed);
    format!("{}: {}", choice.node, choice.why)
}

#[test]
fn the_least_busy_standby_is_taken() {
    let mut s = status();
    assert_eq!(chosen(&s, None, &[]), "n3: the least busy standby (0 other copies, 5.0 kB behind)");
    assert_eq!(chosen(&s, None, &["n3"]), "n2: the least busy standby (0 other copies, 0 B behind)");
    assert_eq!(chosen(&s, None, &["n2", "n3"]), "n1: the primary; n2 failed just now; n3 failed just now");
    assert_eq!(chosen(&s, Some("n2"), &[]), "n2: named by a person");
    assert_eq!(chosen(&s, Some("n1"), &[]), "n1: named by a person");
    let mut fifth = node("n5", Role::None, "stopped", false, 0);
    fifth.copying = Some(CopyProgress { from: name("n3"), done_bytes: 1, total_bytes: 4 });
    s.nodes.push(fifth);
    assert_eq!(chosen(&s, None, &[]), "n2: the least busy standby (0 other copies, 0 B behind)");
}

#[test]
fn who_is_behind_or_elsewhere_is_no_source() {
    let mut s = status();
    s.nodes[1].epoch = Some(3);
    s.nodes[2].lag_bytes = Some(1 << 30);
    assert_eq!(chosen(&s, None, &[]), "n1: the primary; n2 is streaming; n3 is 1.1 GB behind");
    s.nodes[2].lag_bytes = Some(0);
    s.nodes[2].timeline = Some(2);
    assert!(chosen(&s, Some("n3"), &[]).starts_with("n1: the primary"));
}

#[test]
fn a_copy_is_refused_where_it_would_harm() {
    use crate::state::{Appointment, Degrade, Settings};
    let appointment = Appointment {
        node: name("n1"),
        promotion_id: "p".to_owned(),
        sealed_timeline: 1,
        sealed_lsn: Lsn(1),
        parent: None,
    };
    let settings = Settings {
        replication: Replication::Quorum { k: 1, degrade: Degrade::Strict },
        detect_ms: 1500,
        drift_ppm: 1,
    };
    let mut state =
        State { phase: Phase::Serving { appointment }, settings: Some(settings), ..State::default() };
    let s = status();
    let ask = |state: &State, node: &str, from: Option<&str>| {
        permit(state, &s, &name(node), from.map(name).as_ref()).map_err(|e| e.to_string())
    };
    assert_eq!(ask(&state, "n3", None), Ok(()));
    assert_eq!(ask(&state, "n3", Some("n2")), Ok(()));
    assert!(ask(&state, "n3", Some("n4")).unwrap_err().contains("from n4: it is stopped"));
    assert!(ask(&state, "n1", None).unwrap_err().contains("is the primary"));
    assert!(ask(&state, "n2", None).unwrap_err().contains("commits would wait"));
    state.phase = Phase::Empty;
    assert!(ask(&state, "n3", None).unwrap_err().contains("no primary"));
}

#[test]
fn progress_is_told_in_words() {
    let progress = CopyProgress { from: name("n2"), done_bytes: 1_200_000_000, total_bytes: 3_400_000_000 };
    assert_eq!(progress.to_string(), "35 %, 1.2 GB of 3.4 GB from n2");
}
