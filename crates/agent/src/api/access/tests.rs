#![allow(clippy::unwrap_used)]
use super::*;
use crate::audit::Verdict;
use crate::http::{self, Connection, HttpError};
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use axum::{Json, Router};
use identity::{Acceptor, Authority, Caller, Folder, Plain, Role, Token};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

#[test]
fn looking_ordering_and_taking_part_are_three_things() {
    for path in TO_SEE {
        assert_eq!(needed(&Method::GET, path), Right::See);
        assert_eq!(needed(&Method::POST, path), Right::TakePart, "{path}");
    }
    for path in TO_OPERATE {
        assert_eq!(needed(&Method::POST, path), Right::Operate);
        assert_eq!(needed(&Method::GET, path), Right::TakePart, "{path}");
    }
    for path in TO_REVIEW {
        assert_eq!(needed(&Method::GET, path), Right::Review);
    }
    assert_eq!(needed(&Method::POST, "/v1/audit"), Right::TakePart);
    assert_eq!(needed(&Method::POST, TO_VERIFY), Right::Verify);
    assert_eq!(needed(&Method::GET, TO_VERIFY), Right::TakePart);
    for path in [
        "/v1/heartbeat",
        "/v1/config/judge",
        "/v1/etcd/pulse",
        "/v1/raft/append",
        "/v1/raft/hello",
        "/v1/store/opening",
        "/v1/store/judge",
        "/v1/new",
        "/v1/order/",
        "",
    ] {
        assert_eq!(needed(&Method::POST, path), Right::TakePart, "{path}");
        assert_eq!(needed(&Method::GET, path), Right::TakePart, "{path}");
    }
}

#[test]
fn who_is_not_known_is_told_what_to_show_and_who_is_what_he_lacks() {
    let known = |role| Subject::new("shop", role, "alice").unwrap();
    let status = |who: &Who, right| refusal(who, right).map(|(status, _)| status.as_u16());
    let lack = |role, right| lacks(&known(role), right).map(|(status, _)| status.as_u16());
    assert_eq!(status(&Who::Nameless, Right::See), Some(401));
    assert_eq!(lack(Role::Viewer, Right::See), None);
    assert_eq!(lack(Role::Viewer, Right::Operate), Some(403));
    assert_eq!(lack(Role::Admin, Right::TakePart), Some(403));
    assert_eq!(lack(Role::Agent, Right::TakePart), None);
    assert_eq!([Role::Proxy, Role::Agent].map(|role| lack(role, Right::Verify)), [None; 2]);
    for role in [Role::Viewer, Role::Operator, Role::Admin] {
        assert_eq!(lack(role, Right::Verify), Some(403), "nobody who orders needs to guess passwords");
    }
    assert_eq!(status(&Who::Unasked, Right::TakePart), None);
    for path in OVER_TLS_ONLY {
        let asked = [(true, &Who::Unasked), (false, &Who::Unasked), (true, &Who::Nameless)];
        let refused = asked.map(|(has_tls, who)| is_too_open(who, path, has_tls).is_some());
        assert_eq!(refused, [true, false, false], "{path}");
    }
    assert_eq!(is_too_open(&Who::Unasked, "/v1/heartbeat", true), None);
    let (_, said) = lacks(&known(Role::Operator), Right::TakePart).unwrap();
    assert_eq!(said, "alice is known as an operator, who may not take part as an agent");
}

#[test]
fn invitations_are_made_by_admins_and_nodes_let_in_by_agents() {
    use cluster::membership::{Seat, TokenRole};
    let node = || "n4".parse::<cluster::NodeName>().unwrap();
    let (id, hash) = (|| "i".to_owned(), || "h".to_owned());
    let invitations = [TokenRole::Data, TokenRole::Witness, TokenRole::Proxy].map(|role| Order::Invite {
        id: id(),
        hash: hash(),
        role,
        until: 0,
        uses: 1,
    });
    let asked_of = |has_tls, who: Who, order: &Order| {
        let guest = Guest { from: "192.0.2.1:5".parse().unwrap(), who };
        check_order(&guest, order, has_tls).err().map_or(200, |answer| answer.status().as_u16())
    };
    let asked = |who, order: &Order| asked_of(false, who, order);
    let allowed = |role, order: &Order| order_lacks(&Subject::new("shop", role, "alice").unwrap(), order);
    let admit = Order::Admit { node: node(), seat: Seat { address: "h:1".into(), raft_id: 7 } };
    let redeem = Order::Redeem { id: id(), hash: hash(), role: TokenRole::Data, node: node() };
    for order in invitations.iter().chain([&Order::Uninvite { id: id() }]) {
        let may = Role::ALL.into_iter().filter(|role| allowed(*role, order).is_none());
        assert_eq!(may.collect::<Vec<_>>(), [Role::Admin, Role::Agent], "{order:?}");
        assert_eq!(asked_of(true, Who::Unasked, order), 403);
        assert_eq!((asked(Who::Unasked, order), asked(Who::Nameless, order)), (200, 401));
    }
    let moves = Order::MoveStore { to: cluster::moving::Home::Embedded { voters: Default::default() } };
    let may = Role::ALL.into_iter().filter(|role| allowed(*role, &moves).is_none());
    assert_eq!(may.collect::<Vec<_>>(), [Role::Admin, Role::Agent]);
    assert_eq!((asked_of(true, Who::Unasked, &moves), asked(Who::Nameless, &moves)), (403, 401));
    for order in [&admit, &redeem] {
        let may = Role::ALL.into_iter().filter(|role| allowed(*role, order).is_none());
        assert_eq!(may.collect::<Vec<_>>(), [Role::Agent], "{order:?}");
        assert_eq!((asked(Who::Unasked, order), asked(Who::Nameless, order)), (200, 401));
    }
    assert_eq!(allowed(Role::Operator, &Order::Resume), None);
    assert_eq!(allowed(Role::Operator, &Order::Remove { node: node(), insist: false }), None);
    let (status, said) = allowed(Role::Operator, &invitations[0]).unwrap();
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(said.starts_with("alice is known as an operator, who may not make or take back"), "{said}");
}

/// A host of the cluster that answers what the table allows, over real TLS; its directory, and that of a caller.
struct Host {
    dir: PathBuf,
    credentials: Credentials,
    address: String,
    audit: Audit,
    /// Whether n3 belongs to the cluster.
    n3: Arc<Mutex<Belongs>>,
    /// Of tom, a viewer.
    token: Token,
}

impl Host {
    async fn up(name: &str) -> Host {
        let dir = std::env::temp_dir().join(format!("pgkeel-access-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        Folder::at(&dir.join("ca")).write_authority(&Authority::found("shop").unwrap()).unwrap();
        let credentials = issue(&dir, Role::Agent, "n1", Duration::from_secs(3600));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let answer = || async { Json(7) };
        let me: NodeName = "n1".parse().unwrap();
        let audit = Audit::open(&dir.join("audit"), me.clone());
        let removed = Arc::new(Mutex::new(Belongs::Yes));
        let roll: Roll = {
            let removed = Arc::clone(&removed);
            Arc::new(move |name| if name == "n3" { *removed.lock().unwrap() } else { Belongs::Yes })
        };
        let token = Token::make().unwrap();
        let users: users::Users = {
            let known = token.clone();
            Arc::new(move |shown| {
                (*shown == known).then(|| Subject::new("shop", Role::Viewer, "tom").unwrap())
            })
        };
        let door = Door { me, credentials: Some(credentials.clone()), roll, users, audit: audit.clone() };
        let router = Router::new()
            .route("/v1/status", get(answer))
            .route("/v1/order", post(answer))
            .route("/v1/aside/prune", post(answer))
            .route("/v1/heartbeat", post(answer))
            .route("/v1/raft/hello", post(answer))
            .route("/v1/raft/append", post(answer))
            .layer(from_fn_with_state(door, check));
        let acceptor = Acceptor::with(Some(credentials.clone()));
        tokio::spawn(http::serve(listener, acceptor, router, std::future::pending()));
        Host { dir, credentials, address, audit, n3: removed, token }
    }

    fn connection(&self, role: Role, good: Duration) -> Connection {
        let credentials = issue(&self.dir, role, "alice", good);
        Connection::new(&Caller::with(Some(credentials)), &self.address, 4096)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn issue(dir: &Path, role: Role, name: &str, good: Duration) -> Credentials {
    let authority = Folder::at(&dir.join("ca")).authority().unwrap();
    let folder = Folder::at(&dir.join(format!("{role}-{name}")));
    folder.write_authorities(authority.certificate()).unwrap();
    let subject = Subject::new("shop", role, name).unwrap();
    folder.write_own(&authority.issue(&subject, good).unwrap()).unwrap();
    Credentials::load(folder, Plain::Refused).unwrap()
}

const LIMIT: Duration = Duration::from_secs(10);
const HOUR: Duration = Duration::from_secs(3600);

fn refused(answer: Result<u64, HttpError>) -> (u16, String) {
    match answer.unwrap_err() {
        HttpError::Status { status, body, .. } => (status, body),
        other => unreachable!("{other}"),
    }
}

#[tokio::test]
async fn what_cannot_be_undone_is_done_for_those_only_who_give_orders() {
    let host = Host::up("prune").await;
    let mut viewer = host.connection(Role::Viewer, HOUR);
    assert_eq!(viewer.get::<u64>("/v1/status", LIMIT).await.unwrap(), 7);
    let (status, said) = refused(viewer.post_json("/v1/aside/prune?node=n2", &0, LIMIT).await);
    assert!(status == 403 && said.contains("alice is known as a viewer"), "{status} {said}");
    let (status, _) =
        refused(host.connection(Role::Proxy, HOUR).post_json("/v1/aside/prune", &0, LIMIT).await);
    assert_eq!(status, 403);
    let mut operator = host.connection(Role::Operator, HOUR);
    let asked = operator.post_json::<_, u64>("/v1/aside/prune", &0, LIMIT).await;
    assert_eq!(asked.unwrap(), 7);
}

#[tokio::test]
async fn a_user_with_a_token_may_what_his_role_may() {
    let host = Host::up("token").await;
    let calls = |token: &Token| {
        let folder = Folder::at(&host.dir.join("ca"));
        let authorities = identity::files::certificates("test", &folder.authorities()).unwrap();
        let caller = Caller::with_token(authorities, token.clone()).unwrap();
        Connection::new(&caller, &host.address, 4096)
    };
    assert_eq!(calls(&host.token).get::<u64>("/v1/status", LIMIT).await.unwrap(), 7);
    let (status, said) = refused(calls(&host.token).post_json("/v1/order", &0, LIMIT).await);
    assert!(status == 403 && said.contains("tom is known as a viewer"), "{status} {said}");
    let (status, said) = refused(calls(&Token::make().unwrap()).get("/v1/status", LIMIT).await);
    assert!(status == 401 && said.contains("no token of a user"), "{status} {said}");
    // Who has a certificate is not taken for somebody else as well.
    let mut both = host.connection(Role::Viewer, HOUR);
    both.show(Some(format!("Bearer {}", host.token.word())));
    let (status, said) = refused(both.get("/v1/status", LIMIT).await);
    assert!(status == 401 && said.contains("not both"), "{status} {said}");
    let listed = host.audit.tell(10).await.unwrap();
    let who: Vec<&str> = listed.iter().map(|it| it.who.as_str()).collect();
    assert_eq!(who.len(), 3, "{listed:?}");
    for wanted in ["user tom, viewer", "no certificate", "viewer alice"] {
        assert!(who.contains(&wanted), "{who:?}");
    }
}

#[test]
fn users_are_made_by_admins_and_agents_over_tls() {
    let orders = [
        Order::AddUser { name: "eve".into(), role: cluster::users::UserRole::Admin, hash: "h".into() },
        Order::RemoveUser { name: "eve".into() },
    ];
    let asked = |has_tls, who: Who, order: &Order| {
        let guest = Guest { from: "192.0.2.1:5".parse().unwrap(), who };
        check_order(&guest, order, has_tls).err().map_or(200, |answer| answer.status().as_u16())
    };
    let user = |role| Who::User(Subject::new("shop", role, "tom").unwrap());
    for order in &orders {
        let allowed = |role| order_lacks(&Subject::new("shop", role, "tom").unwrap(), order).is_none();
        let may = Role::ALL.into_iter().filter(|role| allowed(*role));
        assert_eq!(may.collect::<Vec<_>>(), [Role::Admin, Role::Agent]);
        for (role, status) in [(Role::Viewer, 403), (Role::Operator, 403), (Role::Admin, 200)] {
            assert_eq!(asked(true, user(role), order), status, "{role}");
        }
        assert_eq!([false, true].map(|tls| asked(tls, Who::Unasked, order)), [403, 403]);
        assert_eq!(asked(true, Who::Nameless, order), 401);
    }
    assert_eq!(asked(true, user(Role::Viewer), &Order::Resume), 403);
    assert_eq!(asked(true, user(Role::Operator), &Order::Resume), 200);
}

#[test]
fn who_was_struck_out_and_has_no_seat_does_not_belong() {
    let mut record = Record::default();
    record.removed.insert("n3".parse().unwrap());
    let of = |record: &Record, name: &str, in_store| belongs(record, name, |_| in_store);
    assert_eq!(of(&record, "n3", false), Belongs::No);
    assert_eq!(of(&record, "n3", true), Belongs::InStoreOnly);
    assert_eq!(of(&record, "n2", false), Belongs::Yes);
    let seat = cluster::membership::Seat { address: "h:1".into(), raft_id: 1 };
    record.admitted.insert("n3".parse().unwrap(), seat);
    assert_eq!(of(&record, "n3", false), Belongs::Yes);
}

#[tokio::test]
async fn the_agent_of_a_node_that_was_removed_may_only_learn_that() {
    let host = Host::up("removed").await;
    let named = |role, name| {
        let credentials = issue(&host.dir, role, name, HOUR);
        Connection::new(&Caller::with(Some(credentials)), &host.address, 4096)
    };
    let (mut n3, mut proxy) = (named(Role::Agent, "n3"), named(Role::Proxy, "n3"));
    assert_eq!(n3.post_json::<_, u64>("/v1/heartbeat", &0, LIMIT).await.unwrap(), 7);
    let paths = ["/v1/heartbeat", "/v1/raft/append", "/v1/raft/hello", "/v1/order"];
    for (belongs, allowed) in
        [(Belongs::InStoreOnly, &paths[1..3]), (Belongs::No, &paths[2..3]), (Belongs::Yes, &paths[..])]
    {
        *host.n3.lock().unwrap() = belongs;
        for path in paths {
            let answer = n3.post_json::<_, u64>(path, &0, LIMIT).await;
            if allowed.contains(&path) {
                assert_eq!(answer.unwrap(), 7, "{belongs:?} {path}");
            } else {
                let (status, said) = refused(answer);
                assert!(status == 410 && said.starts_with("n3 was removed"), "{path}: {status} {said}");
            }
        }
        assert_eq!(proxy.get::<u64>("/v1/status", LIMIT).await.unwrap(), 7, "another holder of that name");
    }
    let listed = host.audit.tell(10).await.unwrap();
    let n3: Vec<_> =
        listed.iter().filter(|it| it.who == "agent n3" && it.result == Verdict::Refused).collect();
    assert_eq!(
        n3.iter().map(|it| (it.what.as_str(), it.times)).collect::<Vec<_>>(),
        [("take part", 3), ("POST /v1/order", 2)]
    );
}

/// A connection that was let in once is not let in for good.
#[tokio::test]
async fn a_connection_ends_with_its_certificate() {
    let host = Host::up("time").await;
    let mut alice = host.connection(Role::Operator, Duration::from_secs(3));
    assert_eq!(alice.get::<u64>("/v1/status", LIMIT).await.unwrap(), 7);
    let lasting = open(&host, "operator-alice").await;
    tokio::time::sleep(Duration::from_millis(4100)).await;
    let said = ask(lasting).await;
    assert!(said.starts_with("HTTP/1.1 401") && said.contains("connection: close"), "{said}");
    assert!(said.contains("is not good at this time"), "{said}");
    assert!(alice.get::<u64>("/v1/status", LIMIT).await.is_err());
}

#[tokio::test]
async fn a_connection_ends_when_its_authority_is_taken_out() {
    let host = Host::up("authority").await;
    let mut bob = host.connection(Role::Operator, HOUR);
    assert_eq!(bob.post_json::<_, u64>("/v1/order", &0, LIMIT).await.unwrap(), 7);
    let new = Authority::found("shop").unwrap();
    let signs = Authority::load(&new.certificate, &new.key).unwrap();
    let folder = host.credentials.folder();
    let both = format!("{}{}", std::fs::read_to_string(folder.authorities()).unwrap(), new.certificate);
    folder.write_authorities(&both).unwrap();
    host.credentials.reload().unwrap();
    assert_eq!(bob.post_json::<_, u64>("/v1/order", &0, LIMIT).await.unwrap(), 7, "while both are trusted");
    let n1 = Subject::new("shop", Role::Agent, "n1").unwrap();
    folder.write_own(&signs.issue(&n1, HOUR).unwrap()).unwrap();
    folder.write_authorities(&new.certificate).unwrap();
    host.credentials.reload().unwrap();
    let (status, said) = refused(bob.post_json("/v1/order", &0, LIMIT).await);
    assert!(status == 401 && said.contains("not trusted any more"), "{status} {said}");
    assert!(bob.post_json::<_, u64>("/v1/order", &0, LIMIT).await.is_err(), "it was closed");
}

/// Let in, and silent so far.
async fn open(host: &Host, whose: &str) -> identity::Stream {
    let folder = Folder::at(&host.dir.join(whose));
    let caller = Caller::with(Some(Credentials::load(folder, Plain::Refused).unwrap()));
    caller.connect(&host.address).await.unwrap()
}

/// All that is answered until the other side closes.
async fn ask(mut stream: identity::Stream) -> String {
    stream.write_all(b"GET /v1/status HTTP/1.1\r\nhost: n1\r\n\r\n").await.unwrap();
    stream.flush().await.unwrap();
    let mut said = Vec::new();
    let _ = tokio::time::timeout(LIMIT, stream.read_to_end(&mut said)).await.unwrap();
    String::from_utf8_lossy(&said).into_owned()
}
