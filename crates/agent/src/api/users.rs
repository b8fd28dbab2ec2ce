//! Users who show a token instead of a certificate: who a request comes from, and `GET /v1/users`, who there is.
//!
//! A token is taken from whoever has come over TLS and shown no certificate, and from nobody else. It is looked at with each request,
//! so a user who was removed is out as soon as this agent has heard of it.

use super::Shared;
use crate::http::{Guest, Release};
use crate::messages::UserTold;
use crate::store::Store;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::HeaderValue;
use axum::http::header::AUTHORIZATION;
use axum::routing::get;
use axum::{Json, Router};
use cluster::state::State as Record;
use cluster::users::UserRole;
use identity::{Role, Subject, Token, Who};
use std::sync::Arc;

/// Says whose token it is.
pub(super) type Users = Arc<dyn Fn(&Token) -> Option<Subject> + Send + Sync>;

const BEARER: &str = "Bearer ";
/// How the header with a token begins.
const OURS: &str = "Bearer pgkeeluser1-";
const OVER_TLS: &str = "a token is taken over TLS only; it has gone over the network for everybody to read: remove the user and add it \
    again, and use --tls";
const NOT_BOTH: &str = "show a certificate or a token, not both";
const UNKNOWN: &str = "that is no token of a user of this cluster; ask an admin for one (pgkeel user add)";

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/v1/users", get(told))
}

/// The users of a cluster as far as this agent knows.
pub(super) fn of(store: &Store) -> Users {
    let store = store.clone();
    Arc::new(move |token| whose(&store.state(), token))
}

fn whose(record: &Record, token: &Token) -> Option<Subject> {
    // All of them: how long it takes does not tell which one it is.
    let mut found = None;
    for (name, user) in &record.users {
        if token.has_hash(&user.hash) {
            found = Some((name, user.role));
        }
    }
    let (name, role) = found?;
    let role = match role {
        UserRole::Viewer => Role::Viewer,
        UserRole::Operator => Role::Operator,
        UserRole::Admin => Role::Admin,
    };
    Subject::new(&record.cluster, role, name).ok()
}

/// Makes of a guest with a token the user whose it is, for the handlers as well.
///
/// # Errors
/// Why the token is not taken.
pub(super) fn recognised(
    guest: &mut Guest,
    request: &mut Request,
    users: &Users,
) -> Result<(), &'static str> {
    let Some(shown) = request.headers().get(AUTHORIZATION) else { return Ok(()) };
    // What is meant for somebody in between is nothing to us.
    let is_ours = shown.as_bytes().starts_with(OURS.as_bytes());
    match guest.who {
        Who::Nameless => {}
        Who::Unasked | Who::Known(_) if !is_ours => return Ok(()),
        Who::Unasked => return Err(OVER_TLS),
        Who::Known(_) | Who::User(_) => return Err(NOT_BOTH),
    }
    guest.who = Who::User(of_header(shown).and_then(|token| users(&token)).ok_or(UNKNOWN)?);
    request.extensions_mut().insert(ConnectInfo(guest.clone()));
    if let Some(release) = request.extensions().get::<Release>() {
        release.now();
    }
    Ok(())
}

fn of_header(shown: &HeaderValue) -> Option<Token> {
    shown.to_str().ok()?.strip_prefix(BEARER)?.parse().ok()
}

async fn told(State(shared): State<Shared>) -> Json<Vec<UserTold>> {
    let state = shared.store.state();
    let users = state.users.iter().map(|(name, user)| UserTold {
        name: name.clone(),
        role: user.role,
        by: user.by.clone(),
        made: user.made,
    });
    Json(users.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use cluster::users::User;

    fn record(users: &[(&str, UserRole, &Token)]) -> Record {
        let user = |role, token: &Token| User { role, hash: token.hash(), by: String::new(), made: 1 };
        let users = users.iter().map(|(name, role, token)| ((*name).to_owned(), user(*role, token)));
        Record { cluster: "shop".to_owned(), users: users.collect(), ..Record::default() }
    }

    /// Who somebody is with this header.
    fn comes(who: Who, header: &str, record: Record) -> Result<Who, &'static str> {
        let users: Users = Arc::new(move |token| whose(&record, token));
        let mut guest = Guest { from: "192.0.2.1:5".parse().unwrap(), who };
        let mut request =
            Request::get("/v1/status").header("authorization", header).body(Body::empty()).unwrap();
        recognised(&mut guest, &mut request, &users)?;
        let ConnectInfo(seen) = request.extensions().get::<ConnectInfo<Guest>>().unwrap().clone();
        assert_eq!(seen, guest, "the handlers see the same");
        Ok(guest.who)
    }

    #[test]
    fn whoever_shows_a_user_s_token_over_tls_is_that_user() {
        let (alice, bob) = (Token::make().unwrap(), Token::make().unwrap());
        let all = || record(&[("alice", UserRole::Viewer, &alice), ("bob", UserRole::Admin, &bob)]);
        let bearer = |token: &Token| format!("Bearer {}", token.word());
        let known = |role, name| Ok(Who::User(Subject::new("shop", role, name).unwrap()));
        assert_eq!(comes(Who::Nameless, &bearer(&alice), all()), known(Role::Viewer, "alice"));
        assert_eq!(comes(Who::Nameless, &bearer(&bob), all()), known(Role::Admin, "bob"));
        assert_eq!(comes(Who::Unasked, &bearer(&bob), all()), Err(OVER_TLS));
        assert_eq!(comes(Who::Nameless, &bearer(&Token::make().unwrap()), all()), Err(UNKNOWN));
        assert_eq!(comes(Who::Nameless, &bearer(&bob), record(&[])), Err(UNKNOWN), "after he was removed");
        let whole = bob.word();
        for header in [
            "",
            "Bearer",
            "Bearer ",
            "Basic YTpi",
            &whole,
            &format!("Bearer {}", bob.hash()),
            &format!("bearer {whole}"),
        ] {
            assert_eq!(comes(Who::Nameless, header, all()), Err(UNKNOWN), "{header}");
        }
        let holder = Subject::new("shop", Role::Viewer, "eve").unwrap();
        assert_eq!(comes(Who::User(holder), &bearer(&bob), all()), Err(NOT_BOTH));
    }
}
