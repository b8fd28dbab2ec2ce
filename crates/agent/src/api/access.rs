//! Who may ask an agent for what. What is not listed here is for agents only. A connection is asked for each request whether what it
//! began with still holds: it can be years old.

use crate::http::{Guest, NAMELESS};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{CONNECTION, HeaderValue};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use identity::{Credentials, Right, Standing, Subject, Who, certificate};

/// What anybody of the cluster may look at.
const TO_SEE: [&str; 13] = [
    "/v1/aside",
    "/v1/lost",
    "/v1/ping",
    "/v1/process",
    "/v1/size",
    "/v1/status",
    "/v1/view",
    "/v1/view/watch",
    "/v1/wal",
    "/v1/whatif",
    "/v1/why",
    "/v1/why/not",
    "/v1/why/now",
];

/// What is done for whoever may give orders.
const TO_OPERATE: [&str; 4] = ["/v1/aside/prune", "/v1/clone", "/v1/order", "/v1/upgrade"];

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
fn standing(who: &Who, credentials: Option<&Credentials>) -> Standing {
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
    if subject.role.may(right) {
        return None;
    }
    let said = format!(
        "{} is known as {} {}, who may not {}",
        subject.name,
        article(subject.role.word()),
        subject.role,
        right.words()
    );
    Some((StatusCode::FORBIDDEN, said))
}

fn article(word: &str) -> &'static str {
    if word.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use identity::Role;

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
        for path in ["/v1/heartbeat", "/v1/raft/append", "/v1/raft/hello", "/v1/new", "/v1/order/", ""] {
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
}
