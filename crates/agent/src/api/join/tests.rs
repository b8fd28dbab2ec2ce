#![allow(clippy::unwrap_used)]
use super::*;
use crate::api::{Files, Follows};
use crate::store::{Store, StoreOptions};
use crate::successor::Successor;
use crate::successor::fit::Used;
use cluster::command::{Change, Command};
use cluster::membership::Seat;
use cluster::state::{Member, Replication, Settings};
use identity::{Acceptor, Authority, Caller, Credentials, Plain, authority};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::mpsc;

#[test]
fn the_record_holds_the_digest_of_a_secret() {
    // FIPS 180-2, appendix B.1.
    assert_eq!(hash("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

#[test]
fn no_node_comes_under_a_name_that_is_or_was_held() {
    let mut state = State::default();
    let member = Member { agent: "a:1".into(), postgres: None, tags: Default::default(), data_dir: None };
    state.members.insert(name("n1"), member);
    state.admitted.insert(name("n2"), Seat { address: "b:1".into(), raft_id: 2 });
    state.removed.insert(name("n3"));
    let why = |node: &str, role| hindrance(&state, false, role, &name(node));
    for role in [TokenRole::Data, TokenRole::Witness] {
        assert_eq!(why("n1", role).unwrap(), "n1 is the name of the node at a:1; choose another by --node");
        assert!(why("n2", role).unwrap().contains("at b:1"));
        let gone = why("n3", role).unwrap();
        assert!(gone.contains("n3 was removed") && gone.ends_with("choose another by --node"), "{gone}");
        assert_eq!(why("n4", role), None);
    }
    assert_eq!(why("n1", TokenRole::Proxy), None, "proxies have names of their own");
}

#[test]
fn no_node_joins_by_an_invitation_where_the_record_is_in_an_etcd() {
    let why = |role| hindrance(&State::default(), true, role, &name("n4"));
    for role in [TokenRole::Data, TokenRole::Witness] {
        assert!(why(role).unwrap().contains("kept in an etcd"));
    }
    assert_eq!(why(TokenRole::Proxy), None, "a proxy asks agents only");
}

/// An agent that leads a cluster of one, and the number of orders, such as to use an invitation up, that reached its loop.
struct Host {
    dir: PathBuf,
    shared: Shared,
    used_up: Arc<AtomicUsize>,
}

impl Host {
    async fn up(test: &str) -> Host {
        let dir = std::env::temp_dir().join(format!("pgkeel-joining-{test}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let folder = Folder::at(&dir.join("tls"));
        folder.write_authority(&Authority::found("shop").unwrap()).unwrap();
        let subject = Subject::new("shop", Role::Agent, "n1").unwrap();
        folder.write_own(&folder.authority().unwrap().issue(&subject, GOOD_DEFAULT).unwrap()).unwrap();
        let caller = Caller::with(Some(Credentials::load(folder, Plain::Refused).unwrap()));
        let (events, mut inbox) = mpsc::channel(8);
        let used_up = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&used_up);
        tokio::spawn(async move {
            while let Some(event) = inbox.recv().await {
                if let Event::Order { asked: OrderAsked { .. }, reply } = event {
                    count.fetch_add(1, Ordering::Relaxed);
                    let _ = reply.send(Some(Ordered::Recorded { id: String::new(), to: None }));
                }
            }
        });
        let used = Used {
            cluster: "shop".into(),
            node: "n1".into(),
            dir: dir.clone(),
            listen: "127.0.0.1:1".into(),
            postgres: None,
        };
        let shared = Shared {
            events,
            store: founded(&dir, caller.clone()).await,
            files: Files { me: name("n1"), place: None, hands: None },
            caller,
            audit: crate::audit::Audit::open(&dir.join("audit"), name("n1")),
            follows: Follows {
                successor: Successor::none("a test"),
                used,
                configured: Default::default(),
                home: String::new(),
                file_differs: None,
            },
        };
        Host { dir, shared, used_up }
    }

    /// Who calls with a certificate of this cluster.
    fn caller(&self, role: Role) -> Caller {
        let folder = Folder::at(&self.dir.join(role.word()));
        folder.write_authorities(self.folder().authority().unwrap().certificate()).unwrap();
        let subject = Subject::new("shop", role, "alice").unwrap();
        folder.write_own(&self.folder().authority().unwrap().issue(&subject, GOOD_DEFAULT).unwrap()).unwrap();
        Caller::with(Some(Credentials::load(folder, Plain::Refused).unwrap()))
    }

    fn folder(&self) -> Folder {
        Folder::at(&self.dir.join("tls"))
    }

    /// The answer, and how many invitations were used up for it.
    async fn asks(&self, request: &str) -> (Result<JoinAnswer, u16>, usize) {
        let before = self.used_up.load(Ordering::Relaxed);
        let asked = JoinAsked {
            id: "i".into(),
            secret: "s".into(),
            role: TokenRole::Data,
            node: name("n2"),
            request: request.to_owned(),
            system_identifier: None,
        };
        let guest = Guest { from: "192.0.2.1:5".parse().unwrap(), who: Who::Nameless };
        let answer = join(extract::State(self.shared.clone()), ConnectInfo(guest), Json(asked)).await;
        let answer = answer.map(|Json(answer)| answer).map_err(|no| no.status().as_u16());
        (answer, self.used_up.load(Ordering::Relaxed) - before)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

async fn founded(dir: &Path, caller: Caller) -> Store {
    let options = StoreOptions {
        dir: dir.join("store"),
        cluster: "shop".into(),
        node: name("n1"),
        address: "127.0.0.1:1".into(),
        members: BTreeMap::from([(name("n1"), "127.0.0.1:1".to_owned())]),
        detect: Duration::from_millis(300),
        founded: false,
        opening: None,
        kind: Default::default(),
        caller,
    };
    let store = Store::open(options).await.unwrap();
    store.form().await.unwrap();
    store.standing().wait_for(|now| now.leading).await.unwrap();
    let replication = Replication::Async { max_loss_bytes: 0, loss_bound_bytes: None };
    let settings = Settings { replication, detect_ms: 300, drift_ppm: 0 };
    let change = Change::Configure { cluster: "shop".into(), settings };
    store.propose(Command { by: name("n1"), at: 0, change, reasons: Vec::new() }).await.unwrap();
    store
}

/// It costs a person a second one, and whoever made it must be found for that.
#[tokio::test]
async fn an_invitation_is_used_up_only_for_what_was_signed() {
    let host = Host::up("order").await;
    let (_, request) = authority::request().unwrap();
    let (answer, used) = host.asks("no request").await;
    assert_eq!((answer.err(), used), (Some(400), 0));
    let key = fs::read_to_string(host.folder().authority_key()).unwrap();
    host.folder().write_authority_key(&Authority::found("shop").unwrap().key).unwrap();
    let (answer, used) = host.asks(&request).await;
    assert_eq!((answer.err(), used), (Some(409), 0), "the key is of another authority");
    host.folder().write_authority_key(&key).unwrap();
    let (answer, used) = host.asks(&request).await;
    let answer = answer.unwrap_or_else(|status| unreachable!("{status}"));
    assert_eq!((used, answer.cluster.as_str()), (1, "shop"));
    assert_eq!(answer.authority_key, Some(key));
}

/// With an invitation comes the authority's key: an operator who could make one could make himself anything.
#[tokio::test]
async fn an_operator_is_refused_before_the_cluster_hears_of_an_order_to_let_somebody_in() {
    let host = Host::up("roles").await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let router = crate::api::order::routes().with_state(host.shared.clone());
    let acceptor = Acceptor::with(host.shared.caller.credentials().cloned());
    tokio::spawn(http::serve(listener, acceptor, router, std::future::pending()));
    let (id, by) = ("i".to_owned(), "alice".to_owned());
    let role = TokenRole::Data;
    let invite = Order::Invite { id: id.clone(), hash: hash("s"), role, until: 1, uses: 1 };
    let admit = Order::Admit { node: name("n2"), seat: Seat { address: "b:1".into(), raft_id: 2 } };
    let redeem = Order::Redeem { id: id.clone(), hash: hash("s"), role, node: name("n2") };
    let all = [invite, Order::Uninvite { id }, admit, redeem, Order::Resume];
    for (role, allowed) in [
        (Role::Operator, [false, false, false, false, true]),
        (Role::Admin, [true, true, false, false, true]),
        (Role::Agent, [true; 5]),
    ] {
        let caller = host.caller(role);
        for (order, allowed) in all.iter().zip(allowed) {
            let before = host.used_up.load(Ordering::Relaxed);
            let asked = OrderAsked { order: order.clone(), by: by.clone(), only_try: false };
            let answer =
                http::post_json::<_, Ordered>(&caller, &address, "/v1/order", &asked, LEADER_LIMIT).await;
            assert_eq!(answer.is_ok(), allowed, "{role} {order:?}: {answer:?}");
            assert_eq!(host.used_up.load(Ordering::Relaxed) - before, usize::from(allowed));
            if let Err(refused) = answer {
                let said = refused.to_string();
                assert!(said.contains("403") && said.contains("alice is known as an"), "{said}");
            }
        }
    }
}
