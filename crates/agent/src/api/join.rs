//! Who has an invitation and no certificate yet may ask two things. `GET /v1/authority`: the authority's certificate, which he
//! compares with the fingerprint in his invitation. `POST /v1/join`: a certificate for the name under which he wants to belong to
//! the cluster. The invitation is used up by a decision of the leader, so that two copies of it serve one: after all else has been
//! done, so that it is not lost when something fails, and before anything is handed out.

use super::Shared;
use super::elsewhere::blocking;
use super::leader::Local;
use crate::http::{self, Guest};
use crate::messages::{AuthorityAnswer, JoinAnswer, JoinAsked, OrderAsked};
use crate::run::Event;
use aws_lc_rs::digest::{SHA256, digest};
use axum::extract::{ConnectInfo, DefaultBodyLimit};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, extract};
use cluster::NodeName;
use cluster::decide::switchover::{Order, Ordered};
use cluster::handover::Obstacle;
use cluster::membership::TokenRole;
use cluster::state::State;
use identity::authority::{CannotSign, GOOD_DEFAULT};
use identity::{Folder, Role, Subject, Who};
use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

/// Largest request, in bytes.
const ASKED_MAX: usize = 32 * 1024;
/// How long the leader may take to record that the invitation is used.
const LEADER_LIMIT: Duration = Duration::from_secs(5);

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/v1/authority", get(authority))
        .route("/v1/join", post(join).layer(DefaultBodyLimit::max(ASKED_MAX)))
}

fn no(status: StatusCode, said: impl Into<String>) -> Response {
    (status, said.into()).into_response()
}

impl Shared {
    fn folder(&self) -> Result<Folder, Response> {
        let folder = self.caller.credentials().map(|credentials| credentials.folder().clone());
        folder.ok_or_else(|| {
            no(
                StatusCode::CONFLICT,
                "this cluster has no TLS, and without it nobody can be invited; see pgkeel cert",
            )
        })
    }
}

async fn authority(
    extract::State(shared): extract::State<Shared>,
) -> Result<Json<AuthorityAnswer>, Response> {
    let folder = shared.folder()?;
    let read = blocking(move || fs::read_to_string(folder.authorities())).await?;
    let authorities =
        read.map_err(|e| no(StatusCode::CONFLICT, format!("the authority cannot be read: {e}")))?;
    Ok(Json(AuthorityAnswer { authorities }))
}

async fn join(
    extract::State(shared): extract::State<Shared>,
    ConnectInfo(guest): ConnectInfo<Guest>,
    Json(asked): Json<JoinAsked>,
) -> Result<Json<JoinAnswer>, Response> {
    let folder = shared.folder()?;
    if guest.who == Who::Unasked {
        return Err(no(StatusCode::FORBIDDEN, "an invitation is taken over TLS only"));
    }
    if !folder.has_authority_key() {
        return Err(no(StatusCode::CONFLICT, no_key(&shared)));
    }
    let state = shared.store.state();
    if let Some(said) = hindrance(&state, shared.store.is_elsewhere(), asked.role, &asked.node) {
        return Err(no(StatusCode::CONFLICT, said));
    }
    if let Some(said) = foreign(&state, &asked) {
        return Err(no(StatusCode::CONFLICT, said));
    }
    let Some(settings) = state.settings.clone() else {
        return Err(no(
            StatusCode::CONFLICT,
            "the cluster is not formed yet: wait until pgkeel status shows a primary",
        ));
    };
    let role = match asked.role {
        TokenRole::Data | TokenRole::Witness => Role::Agent,
        TokenRole::Proxy => Role::Proxy,
    };
    let subject = Subject::new(&state.cluster, role, asked.node.as_str());
    let subject = subject.map_err(|e| no(StatusCode::BAD_REQUEST, e))?;
    let wanted = asked.clone();
    let signed = blocking(move || sign(&folder, &wanted, &subject)).await?;
    let (certificate, authorities, authority_key) = signed.map_err(|(status, said)| {
        tracing::warn!("{} at {} did not get in: {said}", asked.node, guest.from.ip());
        no(status, format!("{said}; the invitation has not been used"))
    })?;
    redeem(&shared, &asked, &guest).await?;
    let primary = state.primary().and_then(|node| state.members.get(node));
    Ok(Json(JoinAnswer {
        cluster: state.cluster.clone(),
        certificate,
        authorities,
        authority_key,
        agents: state.members.iter().map(|(name, member)| (name.clone(), member.agent.clone())).collect(),
        settings,
        configuration: state.configuration.content().clone(),
        postgres_port: primary.and_then(|member| member.postgres.as_ref()).map(|postgres| postgres.port),
    }))
}

fn no_key(shared: &Shared) -> String {
    let state = shared.store.state();
    let others = state.data_nodes().filter(|(node, _)| **node != shared.files.me);
    let others: Vec<&str> =
        others.filter_map(|(n, _)| state.members.get(n)).map(|m| m.agent.as_str()).collect();
    format!("{} has no key of the authority; ask another agent: {}", shared.files.me, others.join(", "))
}

/// Why no node of this name can come, by what is recorded as far as this agent knows; the leader looks again before it lets one in.
/// Proxies are not in the record.
fn hindrance(state: &State, is_elsewhere: bool, role: TokenRole, node: &NodeName) -> Option<String> {
    if role == TokenRole::Proxy {
        return None;
    }
    if is_elsewhere {
        return Some(format!(
            "the record of this cluster is kept in an etcd, and {node} would need access to that, which an invitation does not give: \
             write the configuration file of {node} by hand, with the section [store] of the other nodes (docs/configuration.md)"
        ));
    }
    if state.removed.contains(node) {
        return Some(format!(
            "a node {node} was removed from this cluster, and a name is not given again; choose another by --node"
        ));
    }
    let registered = state.members.get(node).map(|member| &member.agent);
    let taken = registered.or_else(|| state.admitted.get(node).map(|seat| &seat.address))?;
    Some(format!("{node} is the name of the node at {taken}; choose another by --node"))
}

/// Why what it brings along cannot be one of this cluster's copies.
fn foreign(state: &State, asked: &JoinAsked) -> Option<String> {
    let brought = asked.system_identifier.filter(|brought| Some(*brought) != state.system_identifier)?;
    let own = state.system_identifier.map_or_else(|| "none yet".to_owned(), |own| own.to_string());
    Some(format!(
        "the data directory of {} holds another database (system identifier {brought}) than this cluster ({own}); to begin with a \
         copy, name an empty one and leave out --adopt",
        asked.node
    ))
}

/// Uses the invitation up.
async fn redeem(shared: &Shared, asked: &JoinAsked, guest: &Guest) -> Result<(), Response> {
    let order = OrderAsked {
        order: Order::Redeem {
            id: asked.id.clone(),
            hash: hash(&asked.secret),
            role: asked.role,
            node: asked.node.clone(),
        },
        by: format!("somebody at {}", guest.from.ip()),
        only_try: false,
    };
    let there = |agent: String| {
        let order = order.clone();
        async move {
            http::post_json::<_, Ordered>(&shared.caller, &agent, "/v1/order?local=1", &order, LEADER_LIMIT)
                .await
        }
    };
    let here = || shared.ask(|reply| Event::Order { asked: order.clone(), reply });
    match shared.of_leader(Local::default(), there, here).await? {
        Ordered::Refused { because } => {
            let said: Vec<String> = because.iter().map(Obstacle::to_string).collect();
            tracing::warn!("{} did not get in: {}", guest.from.ip(), said.join("; "));
            Err(no(StatusCode::FORBIDDEN, said.join("; ")))
        }
        _ => Ok(()),
    }
}

/// SHA-256 in hexadecimal: what the record holds of a secret.
fn hash(secret: &str) -> String {
    digest(&SHA256, secret.as_bytes()).as_ref().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The certificate, the authorities, and for a node with data the authority's key.
fn sign(
    folder: &Folder,
    asked: &JoinAsked,
    subject: &Subject,
) -> Result<(String, String, Option<String>), (StatusCode, String)> {
    let authority = folder.authority().map_err(|e| (StatusCode::CONFLICT, e.to_string()))?;
    let certificate = authority.sign(&asked.request, subject, GOOD_DEFAULT).map_err(|e| match e {
        CannotSign::Request(_) => (StatusCode::BAD_REQUEST, e.to_string()),
        CannotSign::Authority(_) | CannotSign::Clock | CannotSign::Failed(_) => {
            (StatusCode::CONFLICT, e.to_string())
        }
    })?;
    let unreadable = |e| (StatusCode::CONFLICT, format!("the authority cannot be read: {e}"));
    let read = |path| fs::read_to_string(path).map_err(unreadable);
    let key = match asked.role {
        TokenRole::Data => Some(read(folder.authority_key())?),
        TokenRole::Witness | TokenRole::Proxy => None,
    };
    Ok((certificate, read(folder.authorities())?, key))
}

#[cfg(test)]
mod tests;
