#![allow(clippy::unwrap_used)]
use super::super::{Inner, Limits, Store, StoreKind, StoreOptions, moving};
use crate::http::serve;
use cluster::NodeName;
use cluster::command::{Change, Command};
use cluster::membership::Seat;
use cluster::moving::Home;
use cluster::moving::Moved;
use cluster::state::{Appointment, Member, Phase, State};
use identity::{Acceptor, Caller};
use moving::Opening;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::TcpListener;

const PATIENCE: Duration = Duration::from_secs(20);

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn options(stores: &Path, node: &str, address: &str, opening: Option<Opening>) -> StoreOptions {
    StoreOptions {
        dir: moving::dir(stores, opening.as_ref().map_or(0, |opening| opening.number)),
        cluster: "c".into(),
        node: name(node),
        address: address.into(),
        members: BTreeMap::from([(name(node), address.into())]),
        detect: Duration::from_millis(1500),
        founded: true,
        kind: StoreKind::Embedded,
        opening,
        caller: Caller::plain(),
    }
}

async fn start(listener: TcpListener, options: StoreOptions) -> Store {
    let store = Store::open_with(options, Limits::default()).await.unwrap();
    tokio::spawn(serve(listener, Acceptor::with(None), store.router(), std::future::pending()));
    let forms = store.clone();
    tokio::spawn(async move { forms.form().await.unwrap() });
    store
}

async fn until(what: &str, mut found: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !found() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited in vain: {what}");
}

fn sealed(voters: BTreeMap<NodeName, Seat>) -> State {
    let member = |seat: &Seat| Member {
        agent: seat.address.clone(),
        postgres: None,
        tags: Default::default(),
        data_dir: None,
    };
    let appointment = Appointment {
        node: name("n1"),
        promotion_id: "p".into(),
        sealed_timeline: 1,
        sealed_lsn: cluster::Lsn(0),
        parent: None,
    };
    State {
        cluster: "c".into(),
        members: voters.iter().map(|(node, seat)| (node.clone(), member(seat))).collect(),
        phase: Phase::Serving { appointment },
        epoch: 7,
        revision: 40,
        moves: 1,
        moved: Some(Moved { number: 2, to: Home::Embedded { voters }, by: "alice".into(), at: 3 }),
        ..State::default()
    }
}

fn by(change: Change) -> Command {
    Command { by: name("n1"), at: 4, change, reasons: Vec::new() }
}

struct Three {
    root: PathBuf,
    stores: Vec<Store>,
    opening: Opening,
}

impl Three {
    async fn begin(test: &str) -> Three {
        let root = std::env::temp_dir().join(format!("pgkeel-begin-{test}-{}", std::process::id()));
        drop(std::fs::remove_dir_all(&root));
        let (mut listeners, mut voters) = (Vec::new(), BTreeMap::new());
        for node in ["n1", "n2", "n3"] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let raft_id = moving::prepare(&root.join(node), 2, "c", &name(node)).await.unwrap();
            let again = moving::prepare(&root.join(node), 2, "c", &name(node)).await.unwrap();
            assert_eq!(raft_id, again, "asked twice, it says the same");
            voters.insert(name(node), Seat { address: address.clone(), raft_id });
            listeners.push((node, listener, address));
        }
        let opening = Opening::of(&sealed(voters)).unwrap();
        let mut stores = Vec::new();
        for (node, listener, address) in listeners {
            let options = options(&root.join(node), node, &address, Some(opening.clone()));
            stores.push(start(listener, options).await);
        }
        Three { root, stores, opening }
    }

    /// The command that moves the record to the same agents, as move `number`.
    fn seal(&self, number: u64) -> Command {
        let members = self.opening.state.members.iter();
        let seat = |(member, raft_id): ((&NodeName, &Member), u64)| {
            (member.0.clone(), Seat { address: member.1.agent.clone(), raft_id })
        };
        let to = Home::Embedded { voters: members.zip(1..).map(seat).collect() };
        by(Change::MoveStore { number, to, by: "alice".into() })
    }

    async fn leader(&self) -> Store {
        until("a leader", || self.stores.iter().any(|s| s.standing().borrow().leading)).await;
        self.stores.iter().find(|s| s.standing().borrow().leading).unwrap().clone()
    }
}

impl Drop for Three {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.root));
    }
}

/// Everybody begins with the record that was sealed, and so does who is let in later and has none of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_begin_with_the_sealed_record() {
    let three = Three::begin("all").await;
    for store in &three.stores {
        assert_eq!(*store.state(), three.opening.state, "before anybody leads");
        assert_eq!(store.number(), 2);
    }
    let leader = three.leader().await;
    leader.propose(by(Change::Note { epoch: 7 })).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let late = start(listener, options(&three.root.join("n4"), "n4", &address, None)).await;
    let Inner::Embedded(here) = &late.inner else { unreachable!() };
    let seat = Seat { address, raft_id: here.owner.id };
    leader.propose(by(Change::Admit { node: name("n4"), seat })).await.unwrap();
    let known = leader.state();
    assert_eq!((known.epoch, known.moves, known.revision), (7, 2, 43));
    until("n4 has the record", || *late.state() == *known).await;
    until("n4 votes", || leader.standing().borrow().voters.len() == 4).await;
    assert_eq!(late.number(), 2);
}

/// A leader gives no lease from before it seals the record, and never again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_seals_the_record_gives_no_lease() {
    let three = Three::begin("seals").await;
    let leader = three.leader().await;
    until("a round is confirmed", || leader.quorum_age().is_some()).await;
    let seal = |number| three.seal(number);
    assert!(leader.propose(seal(9)).await.is_err());
    assert!(leader.quorum_age().is_some(), "that was refused");
    leader.propose(seal(3)).await.unwrap();
    assert_eq!(leader.quorum_age(), None);
    assert!(leader.propose(by(Change::Note { epoch: 7 })).await.is_err());
    assert_eq!(leader.quorum_age(), None);
    let told = leader.whereabouts();
    assert_eq!((told.number, told.opening.map(|opening| opening.number)), (2, Some(3)));
}

/// Who has lost the prepared file must not vote under another number.
#[tokio::test]
async fn another_file_is_not_begun() {
    let root = std::env::temp_dir().join(format!("pgkeel-begin-lost-{}", std::process::id()));
    drop(std::fs::remove_dir_all(&root));
    let raft_id = moving::prepare(&root, 2, "c", &name("n1")).await.unwrap();
    let voters = BTreeMap::from([(name("n1"), Seat { address: "127.0.0.1:1".into(), raft_id })]);
    let opening = Opening::of(&sealed(voters)).unwrap();
    std::fs::remove_dir_all(&root).unwrap();
    let options = options(&root, "n1", "127.0.0.1:1", Some(opening));
    let refused = Store::open_with(options, Limits::default()).await.err().unwrap();
    assert!(refused.to_string().contains("has lost the file"), "{refused}");
    drop(std::fs::remove_dir_all(&root));
}

/// Whoever asks later is told that the record has begun, by the agent that has seen it begin.
#[tokio::test]
async fn a_store_that_has_begun_says_so() {
    let root = std::env::temp_dir().join(format!("pgkeel-begin-says-{}", std::process::id()));
    drop(std::fs::remove_dir_all(&root));
    let state = State { moves: 3, moved: None, ..sealed(BTreeMap::new()) };
    let opening = Opening::for_test(state.clone());
    let StoreKind::Etcd(etcd) = opening.kind(&StoreKind::Embedded).unwrap() else { unreachable!() };
    let mut stores = Vec::new();
    for node in ["n1", "n2"] {
        let kind = StoreKind::Etcd(etcd.clone());
        let here = options(&root.join(node), node, "127.0.0.1:1", Some(opening.clone()));
        stores.push(Store::open(StoreOptions { kind, ..here }).await.unwrap());
    }
    let nodes = [name("n1"), name("n2")].into();
    let judged = |answers: &[super::super::Whereabouts]| {
        super::super::elsewhere::none_later(("c", &name("n1")), (3, state.revision), &nodes, answers)
    };
    assert_eq!(judged(&[stores[1].whereabouts()]), Ok(()));
    let Inner::Etcd(there) = &stores[1].inner else { unreachable!() };
    there.has_begun();
    let told = stores[1].whereabouts();
    assert!(judged(&[told]).unwrap_err().starts_with("n2 says that it has begun there"));
    for store in stores {
        store.close().await;
    }
    drop(std::fs::remove_dir_all(root));
}

/// A leader whose followers have gone on to another store goes on to believe that it leads; it has to ask.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_followers_is_not_led() {
    let three = Three::begin("alone").await;
    let leader = three.leader().await;
    let detect = Duration::from_millis(1500);
    until("all are led", || three.stores.iter().all(|store| store.is_led(detect))).await;
    for store in &three.stores {
        if !store.standing().borrow().leading {
            store.close().await;
        }
    }
    until("it has to ask", || !leader.is_led(detect)).await;
    assert!(leader.standing().borrow().leading, "it believes to lead");
}

/// A store that records nothing is not sealed either, and nobody goes without leases for the attempt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_recorded_withholds_nothing() {
    let three = Three::begin("not-recorded").await;
    let leader = three.leader().await;
    until("a round is confirmed", || leader.quorum_age().is_some()).await;
    for store in &three.stores {
        if !store.standing().borrow().leading {
            store.close().await;
        }
    }
    assert!(leader.propose(three.seal(3)).await.is_err());
    assert!(leader.quorum_age().is_some(), "its rounds only get older");
}

/// Who does not know whether the record is sealed finds out, or has another one lead; leases go on in either case.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_know_what_came_of_it_goes_on_asking() {
    let three = Three::begin("unknown").await;
    let leader = three.leader().await;
    until("a round is confirmed", || leader.quorum_age().is_some()).await;
    let term = leader.standing().borrow().term;
    leader.grants.withhold_in(term);
    assert_eq!(leader.quorum_age(), None);
    let asked = tokio::time::timeout(PATIENCE, leader.clone().gives_up(term, name("n1"))).await;
    assert!(asked.is_ok());
    until("somebody gives leases", || three.stores.iter().any(|store| store.quorum_age().is_some())).await;
}
