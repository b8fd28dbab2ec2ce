//! What of the requests goes into the audit list, and how it comes there: requests that change something with what came of them, and
//! whatever is refused. An order that an agent passes on is in the list of the agent that somebody asked.

use super::access::Door;
use crate::audit::{Known, Verdict, Wish, words};
use crate::http::Guest;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use identity::{Role, Who};
use std::time::Duration;

/// What changes something for whoever asks.
const TO_LIST: [&str; 7] =
    ["/v1/aside/prune", "/v1/certificate", "/v1/clone", "/v1/join", "/v1/order", "/v1/reload", "/v1/upgrade"];
/// What of that may be asked for often, and changes nothing that anybody would look for.
const ROUTINE: [&str; 2] = ["/v1/certificate", "/v1/reload"];
/// Largest request that is listed, in bytes; as much as any of these takes.
const REQUEST_MAX: usize = 2 * 1024 * 1024;
/// The same of somebody who is not known, who can only want to join.
const STRANGER_MAX: usize = 64 * 1024;
/// So much is read, in so long a time, of a request that is refused: only to say what it was.
const REFUSED_MAX: usize = 64 * 1024;
const REFUSED_LIMIT: Duration = Duration::from_secs(1);
/// Largest answer.
const ANSWER_MAX: usize = crate::http::BODY_MAX;

/// Whether what becomes of a request that was let pass goes into this agent's list.
pub(super) fn is_listed(request: &Request, guest: &Guest, has_tls: bool) -> bool {
    if request.method() != Method::POST || !TO_LIST.contains(&request.uri().path()) {
        return false;
    }
    // Without TLS nobody can be told from an agent. While a cluster goes over to TLS, people could say so as well: then rather twice.
    let from_agent = match &guest.who {
        Who::Known(holder) => holder.role == Role::Agent,
        Who::Unasked => !has_tls,
        Who::Nameless | Who::User(_) => false,
    };
    !(from_agent && is_passed_on(request.uri().query().unwrap_or_default()))
}

fn is_passed_on(query: &str) -> bool {
    let is_set = |part: &str| {
        let value = ["local=", "passed_on="].iter().find_map(|name| part.strip_prefix(name));
        value.is_some_and(|value| value != "0")
    };
    query.split('&').any(is_set)
}

/// Who somebody is, for the list.
fn shown(who: &Who) -> (String, Known) {
    match who {
        Who::Known(holder) => (format!("{} {}", holder.role, holder.name), Known::Yes),
        Who::User(user) => (format!("user {}, {}", user.name, user.role), Known::Yes),
        Who::Unasked => ("without TLS".to_owned(), Known::Yes),
        Who::Nameless => ("no certificate".to_owned(), Known::No),
    }
}

struct Asked {
    method: Method,
    path: String,
    query: String,
}

impl Asked {
    fn of(request: &Request) -> Asked {
        Asked {
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            query: request.uri().query().unwrap_or_default().to_owned(),
        }
    }

    fn wish(&self, door: &Door, guest: &Guest, body: &[u8]) -> (Wish, bool) {
        let deed = words::deed(&door.me, self.method.as_str(), &self.path, &self.query, body);
        let (shown, known) = shown(&guest.who);
        let who = match (known, deed.invitation) {
            (Known::No, Some(invitation)) => invitation,
            (Known::No, None) | (Known::Yes, _) => shown,
        };
        let routine = ROUTINE.contains(&self.path.as_str());
        let wish = Wish { who, known, says: deed.says, from: guest.from.ip(), what: deed.what, routine };
        (wish, deed.only_try)
    }
}

/// Lists a request that was refused at the door. What it would have been is read as far as it comes soon.
pub(super) async fn refused(door: &Door, guest: &Guest, request: Request, (status, why): (StatusCode, &str)) {
    let asked = Asked::of(&request);
    let body = match TO_LIST.contains(&asked.path.as_str()) {
        true => {
            let body = to_bytes(request.into_body(), REFUSED_MAX);
            tokio::time::timeout(REFUSED_LIMIT, body).await.ok().and_then(Result::ok).unwrap_or_default()
        }
        false => Bytes::new(),
    };
    let (mut wish, _) = asked.wish(door, guest, &body);
    // An agent that was struck out asks for many things before it ends: that is one.
    if status == StatusCode::GONE && !TO_LIST.contains(&asked.path.as_str()) {
        "take part".clone_into(&mut wish.what);
    }
    door.audit.ended(wish, Verdict::Refused, why);
}

/// Has a request carried out, and lists what came of it.
pub(super) async fn carried_out(door: &Door, guest: &Guest, request: Request, next: Next) -> Response {
    let asked = Asked::of(&request);
    let (parts, body) = request.into_parts();
    let bytes_max = if guest.who == Who::Nameless { STRANGER_MAX } else { REQUEST_MAX };
    let Ok(body) = to_bytes(body, bytes_max).await else {
        let said = format!("the request is not whole, or has more than {bytes_max} bytes");
        door.audit.ended(asked.wish(door, guest, &[]).0, Verdict::Refused, &said);
        return (StatusCode::PAYLOAD_TOO_LARGE, said).into_response();
    };
    let (wish, only_try) = asked.wish(door, guest, &body);
    let attempt = door.audit.begin(wish);
    let (parts, answer) = next.run(Request::from_parts(parts, Body::from(body))).await.into_parts();
    let Ok(answer) = to_bytes(answer, ANSWER_MAX).await else {
        let said = "the answer cannot be read";
        attempt.ended(Verdict::Failed, said);
        return (StatusCode::INTERNAL_SERVER_ERROR, said).into_response();
    };
    match outcome(&asked.path, parts.status, &answer) {
        (Verdict::Done, _) if only_try => attempt.was_only_tried(),
        (result, why) => attempt.ended(result, &why),
    }
    Response::from_parts(parts, Body::from(answer))
}

fn outcome(path: &str, status: StatusCode, answer: &[u8]) -> (Verdict, String) {
    if status.is_success() {
        return words::answered(path, answer);
    }
    let said = String::from_utf8_lossy(answer).into_owned();
    match status.is_client_error() && status != StatusCode::MISDIRECTED_REQUEST {
        true => (Verdict::Refused, said),
        false => (Verdict::Failed, said),
    }
}

#[cfg(test)]
mod tests;
