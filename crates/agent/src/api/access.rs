//! Who may ask an agent for what. What is not listed here is for agents only. A connection is asked for each request whether what it
//! began with still holds: it can be years old.
//!
//! The agent of a node that was struck out is refused by its name, whatever it shows. It may ask one thing, which is how it learns
//! that; and as long as Raft's list of members still has it, it may do its part in being taken off that.

use super::{listing, users};
use crate::audit::Audit;
use crate::http::{Guest, NAMELESS};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{CONNECTION, HeaderValue};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use cluster::NodeName;
use cluster::decide::switchover::Order;
use cluster::state::State as Record;
use identity::{Credentials, Right, Role, Standing, Subject, Who, certificate};
use std::sync::Arc;

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

/// What whoever may give orders may look at besides.
const TO_REVIEW: [&str; 2] = ["/v1/audit", "/v1/users"];

/// What is done for whoever may give orders.
const TO_OPERATE: [&str; 5] = ["/v1/aside/prune", "/v1/clone", "/v1/order", "/v1/reload", "/v1/upgrade"];

/// What proxies ask to let clients in.
const TO_VERIFY: &str = "/v1/verifier";

/// What is for who has an invitation and nothing else; it looks for itself at that.
fn is_for_all(method: &Method, path: &str) -> bool {
    matches!((method.as_str(), path), ("GET", "/v1/authority") | ("POST", "/v1/join"))
}

/// How somebody hears that he was struck out.
const TO_LEARN: &str = "/v1/raft/hello";
/// What members of the store say to each other.
const OF_THE_STORE: &str = "/v1/raft/";

/// What is asked only by who has shown who he is, wherever there is TLS. Of agents: it tells the whole record, or has files read and
/// what is in them sent elsewhere. Of proxies: verifiers, against which passwords can be tried.
const OVER_TLS_ONLY: [&str; 3] = ["/v1/store/judge", "/v1/store/opening", TO_VERIFY];

fn is_too_open(who: &Who, path: &str, has_tls: bool) -> Option<(StatusCode, String)> {
    let refused = has_tls && *who == Who::Unasked && OVER_TLS_ONLY.contains(&path);
    refused.then(|| (StatusCode::FORBIDDEN, "this is asked over TLS only, by agents and proxies".to_owned()))
}

fn needed(method: &Method, path: &str) -> Right {
    match *method {
        // It looks for itself at who asks.
        Method::POST if path == "/v1/certificate" => Right::See,
        Method::GET | Method::HEAD if TO_SEE.contains(&path) => Right::See,
        Method::GET | Method::HEAD if TO_REVIEW.contains(&path) => Right::Review,
        Method::POST if TO_OPERATE.contains(&path) => Right::Operate,
        Method::POST if path == TO_VERIFY => Right::Verify,
        _ => Right::TakePart,
    }
}

/// Whether a node belongs to the cluster, as far as this agent knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Belongs {
    /// Nothing speaks against it.
    Yes,
    /// It was struck out, and is still a member of the store.
    InStoreOnly,
    /// It was struck out.
    No,
}

/// Says so of a name.
pub(super) type Roll = Arc<dyn Fn(&str) -> Belongs + Send + Sync>;

/// What the record says of a name; `in_store` says whether the store still has it.
pub(super) fn belongs(state: &Record, name: &str, in_store: impl FnOnce(&NodeName) -> bool) -> Belongs {
    match name.parse::<NodeName>() {
        Ok(node) if state.removed.contains(&node) && !state.has_seat(&node) => match in_store(&node) {
            true => Belongs::InStoreOnly,
            false => Belongs::No,
        },
        Ok(_) | Err(_) => Belongs::Yes,
    }
}

/// Why the holder of a certificate is not listened to any more, if his node was struck out.
fn struck_out(who: &Who, path: &str, roll: &Roll) -> Option<(StatusCode, String)> {
    let Who::Known(holder) = who else { return None };
    if holder.role != Role::Agent || path == TO_LEARN {
        return None;
    }
    match roll(&holder.name) {
        Belongs::Yes => None,
        Belongs::InStoreOnly if path.starts_with(OF_THE_STORE) => None,
        Belongs::InStoreOnly | Belongs::No => Some((
            StatusCode::GONE,
            format!(
                "{} was removed from the cluster, and the certificate of its agent is not accepted any more; to bring that host back, \
                 empty its directories and run pgkeel join with another --node",
                holder.name
            ),
        )),
    }
}

/// What is known where requests come in.
#[derive(Clone)]
pub(super) struct Door {
    /// This node.
    pub(super) me: NodeName,
    /// None: there is no TLS.
    pub(super) credentials: Option<Credentials>,
    /// Who was struck out.
    pub(super) roll: Roll,
    /// Who comes with a token.
    pub(super) users: users::Users,
    /// Where is listed what they change, and who is refused.
    pub(super) audit: Audit,
}

/// Lets a request pass, or says why not.
pub(super) async fn check(
    State(door): State<Door>,
    ConnectInfo(mut guest): ConnectInfo<Guest>,
    mut request: Request,
    next: Next,
) -> Response {
    let shown = users::recognised(&mut guest, &mut request, &door.users);
    let standing = standing(&guest.who, door.credentials.as_ref());
    let right = needed(request.method(), request.uri().path());
    let refused = match standing.refusal() {
        _ if shown.is_err() => shown.err().map(|said| (StatusCode::UNAUTHORIZED, said.to_owned())),
        Some(said) => {
            Some((StatusCode::UNAUTHORIZED, format!("{said}; connect again with one that is good")))
        }
        None => struck_out(&guest.who, request.uri().path(), &door.roll)
            .or_else(|| is_too_open(&guest.who, request.uri().path(), door.credentials.is_some()))
            .or_else(|| match is_for_all(request.method(), request.uri().path()) {
                true => None,
                false => refusal(&guest.who, right),
            }),
    };
    let mut response = match refused {
        None if listing::is_listed(&request, &guest, door.credentials.is_some()) => {
            listing::carried_out(&door, &guest, request, next).await
        }
        None => next.run(request).await,
        Some((status, said)) => {
            let (method, path) = (request.method(), request.uri().path());
            tracing::warn!("refused {method} {path} from {}: {said}", guest.from.ip());
            listing::refused(&door, &guest, request, (status, &said)).await;
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
        (Who::Known(_) | Who::User(_) | Who::Unasked | Who::Nameless, _) => Standing::Good,
    }
}

fn refusal(who: &Who, right: Right) -> Option<(StatusCode, String)> {
    match who {
        Who::Unasked => None,
        Who::Nameless => Some((StatusCode::UNAUTHORIZED, NAMELESS.to_owned())),
        Who::Known(holder) => lacks(holder, right),
        Who::User(user) => lacks(user, right),
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
        Order::AddUser { .. } | Order::RemoveUser { .. } => (
            &[Role::Admin, Role::Agent],
            "add or remove users; ask somebody with the certificate or the token of an admin, or do it on the host of an agent",
        ),
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
    let of_users = matches!(order, Order::AddUser { .. } | Order::RemoveUser { .. });
    let moves = matches!(order, Order::MoveStore { .. });
    let refused = match &guest.who {
        Who::Known(holder) => order_lacks(holder, order),
        Who::User(user) => refusal(&guest.who, Right::Operate).or_else(|| order_lacks(user, order)),
        Who::Unasked if of_users => Some((
            StatusCode::FORBIDDEN,
            "users with tokens are added and removed over TLS only; use --tls, or do it on the host of an agent"
                .to_owned(),
        )),
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
mod tests;
