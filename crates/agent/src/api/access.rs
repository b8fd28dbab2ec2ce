//! Who may ask an agent for what. What is not listed here is for agents only. A connection is asked for each request whether what it
//! began with still holds: it can be years old.

use crate::http::{Guest, NAMELESS};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{CONNECTION, HeaderValue};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use cluster::decide::switchover::Order;
use identity::{Credentials, Right, Role, Standing, Subject, Who, certificate};

/// What anybody of the cluster may look at.
const TO_SEE: [&str; 16] = [
    "/v1/aside",
    "/v1/config",
    "/v1/config/own",
    "/v1/lost",
    "/v1/ping",
    "/v1/process",
    "/v1/size",
    "/v1/status",
    "/v1/store",
    "/v1/view",
    "/v1/view/watch",
    "/v1/wal",
    "/v1/whatif",
    "/v1/why",
    "/v1/why/not",
    "/v1/why/now",
];

/// What is done for whoever may give orders.
const TO_OPERATE: [&str; 5] = ["/v1/aside/prune", "/v1/clone", "/v1/order", "/v1/reload", "/v1/upgrade"];

/// What is for who has an invitation and nothing else; it looks for itself at that.
fn is_for_all(method: &Method, path: &str) -> bool {
    matches!((method.as_str(), path), ("GET", "/v1/authority") | ("POST", "/v1/join"))
}

fn needed(method: &Method, path: &str) -> Right {
    match *method {
        // It looks for itself at who asks.
        Method::POST if path == "/v1/certificate" => Right::See,
        Method::GET | Method::HEAD if TO_SEE.contains(&path) => Right::See,
        Method::POST if TO_OPERATE.contains(&path) => Right::Operate,
        _ => Right::TakePart,
    }
}

/// Lets a request pass, or says why not.
pub(super) async fn check(
    State(credentials): State<Option<Credentials>>,
    ConnectInfo(guest): ConnectInfo<Guest>,
    request: Request,
    next: Next,
) -> Response {
    let standing = standing(&guest.who, credentials.as_ref());
    let right = needed(request.method(), request.uri().path());
    let refused = match standing.refusal() {
        Some(said) => {
            Some((StatusCode::UNAUTHORIZED, format!("{said}; connect again with one that is good")))
        }
        None if is_for_all(request.method(), request.uri().path()) => None,
        None => refusal(&guest.who, right),
    };
    let mut response = match refused {
        None => next.run(request).await,
        Some((status, said)) => {
            let (method, path) = (request.method(), request.uri().path());
            tracing::warn!("refused {method} {path} from {}: {said}", guest.from.ip());
            (status, said).into_response()
        }
    };
    if standing != Standing::Good {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// What the certificate that a connection began with is worth now.
pub(super) fn standing(who: &Who, credentials: Option<&Credentials>) -> Standing {
    match (who, credentials) {
        (Who::Known(holder), Some(credentials)) => {
            holder.standing(&credentials.current(), certificate::now())
        }
        (Who::Known(_) | Who::Unasked | Who::Nameless, _) => Standing::Good,
    }
}

fn refusal(who: &Who, right: Right) -> Option<(StatusCode, String)> {
    match who {
        Who::Unasked => None,
        Who::Nameless => Some((StatusCode::UNAUTHORIZED, NAMELESS.to_owned())),
        Who::Known(holder) => lacks(holder, right),
    }
}

fn lacks(subject: &Subject, right: Right) -> Option<(StatusCode, String)> {
    (!subject.role.may(right)).then(|| may_not(subject, right.words()))
}

fn may_not(subject: &Subject, what: &str) -> (StatusCode, String) {
    let (name, role) = (&subject.name, subject.role);
    let said = format!("{name} is known as {} {role}, who may not {what}", article(role.word()));
    (StatusCode::FORBIDDEN, said)
}

/// What an order needs beyond the right to give some, if anything. With an invitation comes the key of the authority, which makes
/// certificates for every role: whoever could invite could give himself any right.
fn order_lacks(subject: &Subject, order: &Order) -> Option<(StatusCode, String)> {
    let (enough, what): (&[Role], _) = match order {
        Order::Invite { .. } | Order::Uninvite { .. } => (
            &[Role::Admin, Role::Agent],
            "make or take back invitations; ask somebody with the certificate of an admin, or do it on the host of an agent",
        ),
        Order::Admit { .. } | Order::Redeem { .. } => (
            &[Role::Agent],
            "let anybody into the cluster; only agents do that: run pgkeel join with an invitation on the host that is to come",
        ),
        // It names files, which agents read, and where to what is in them goes.
        Order::MoveStore { .. } => (
            &[Role::Admin, Role::Agent],
            "have the record kept elsewhere; ask somebody with the certificate of an admin, or do it on the host of an agent",
        ),
        Order::Switchover { .. }
        | Order::Cancel { .. }
        | Order::Pause { .. }
        | Order::Resume
        | Order::Failover { .. }
        | Order::Maintain { .. }
        | Order::Unmaintain { .. }
        | Order::Configure { .. }
        | Order::Remove { .. }
        | Order::Keep { .. }
        | Order::Restart { .. } => return None,
    };
    (!enough.contains(&subject.role)).then(|| may_not(subject, what))
}

/// Lets an order pass, or says why not. The agent that is asked first does so: the leader hears of it from an agent. While a cluster goes
/// over to TLS (`has_tls`) people without it may do what they could before, but the key of the authority is not for them.
pub(super) fn check_order(guest: &Guest, order: &Order, has_tls: bool) -> Result<(), Response> {
    let invites = matches!(order, Order::Invite { .. } | Order::Uninvite { .. });
    let moves = matches!(order, Order::MoveStore { .. });
    let refused = match &guest.who {
        Who::Known(holder) => order_lacks(holder, order),
        Who::Unasked if has_tls && invites => Some((
            StatusCode::FORBIDDEN,
            "invitations are made and taken back over TLS only; use --tls, or do it on the host of an agent"
                .to_owned(),
        )),
        Who::Unasked if has_tls && moves => Some((
            StatusCode::FORBIDDEN,
            "the record is moved over TLS only; use --tls, or do it on the host of an agent".to_owned(),
        )),
        who @ (Who::Unasked | Who::Nameless) => refusal(who, Right::Operate),
    };
    let Some((status, said)) = refused else { return Ok(()) };
    tracing::warn!("refused POST /v1/order from {}: {said}", guest.from.ip());
    Err((status, said).into_response())
}

fn article(word: &str) -> &'static str {
    if word.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{self, Connection, HttpError};
    use axum::middleware::from_fn_with_state;
    use axum::routing::{get, post};
    use axum::{Json, Router};
    use identity::{Acceptor, Authority, Caller, Folder, Plain, Role};
    use std::path::{Path, PathBuf};
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
        assert_eq!(status(&Who::Unasked, Right::TakePart), None);
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
            let router = Router::new()
                .route("/v1/status", get(answer))
                .route("/v1/order", post(answer))
                .route("/v1/aside/prune", post(answer))
                .layer(from_fn_with_state(Some(credentials.clone()), check));
            let acceptor = Acceptor::with(Some(credentials.clone()));
            tokio::spawn(http::serve(listener, acceptor, router, std::future::pending()));
            Host { dir, credentials, address }
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
        assert_eq!(
            bob.post_json::<_, u64>("/v1/order", &0, LIMIT).await.unwrap(),
            7,
            "while both are trusted"
        );
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
}
