//! `POST /v1/certificate`: a process of the cluster whose certificate runs out asks for another one, for a key of its own. It gets
//! one for whom it has shown itself to be, and for nobody else. People's certificates end.

use super::Shared;
use super::elsewhere::blocking;
use crate::http::Guest;
use crate::messages::{CertificateAsked, CertificateSigned};
use axum::extract::ConnectInfo;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router, extract};
use cluster::NodeName;
use cluster::state::State;
use identity::authority::CannotSign;
use identity::{Role, Subject, Who};

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/v1/certificate", post(sign))
}

async fn sign(
    extract::State(shared): extract::State<Shared>,
    ConnectInfo(guest): ConnectInfo<Guest>,
    Json(asked): Json<CertificateAsked>,
) -> Result<Json<CertificateSigned>, Response> {
    let no = |status: StatusCode, said: &str| (status, said.to_owned()).into_response();
    let holder = match guest.who {
        Who::Known(holder) if matches!(holder.role, Role::Agent | Role::Proxy) => holder,
        _ => return Err(no(StatusCode::FORBIDDEN, "only agents and proxies renew their certificates so")),
    };
    if let Some(said) = gone(&shared.store.state(), &holder) {
        tracing::warn!("refused POST /v1/certificate from {}: {said}", guest.from.ip());
        return Err(no(StatusCode::FORBIDDEN, &said));
    }
    let folder = shared.caller.credentials().map(|credentials| credentials.folder().clone());
    let no_key = "this host has no key of the authority";
    let Some(folder) = folder else { return Err(no(StatusCode::CONFLICT, no_key)) };
    let subject = holder.clone();
    // For as long as the one was made that has been shown, and not for how long somebody says.
    let signing = blocking(move || {
        if !folder.has_authority_key() {
            return Err((StatusCode::CONFLICT, no_key.to_owned()));
        }
        let authority = folder.authority().map_err(|e| (StatusCode::CONFLICT, e.to_string()))?;
        let signed = authority.sign(&asked.request, &subject, subject.lifetime());
        signed.map_err(|e| match e {
            CannotSign::Request(_) => (StatusCode::BAD_REQUEST, e.to_string()),
            CannotSign::Authority(_) | CannotSign::Clock | CannotSign::Failed(_) => {
                (StatusCode::CONFLICT, e.to_string())
            }
        })
    });
    let certificate = signing.await?.map_err(IntoResponse::into_response)?;
    tracing::info!("signed a new certificate for {}, who asked from {}", *holder, guest.from.ip());
    Ok(Json(CertificateSigned { certificate }))
}

/// A node that was removed takes part no more: what it can still show ends.
fn gone(state: &State, holder: &Subject) -> Option<String> {
    let named = |node: &NodeName| node.as_str() == holder.name;
    let is_gone = holder.role == Role::Agent && state.removed.iter().any(named);
    let is_gone = is_gone && !state.seated().any(named);
    is_gone.then(|| {
        format!(
            "{} was removed from the cluster, and the certificate of its agent is not renewed; to bring that host back, empty its \
             directories and run pgkeel join with another --node",
            holder.name
        )
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_agent_of_a_node_that_was_removed_gets_no_other_certificate() {
        let holder = |role, name| Subject::new("shop", role, name).unwrap();
        let mut state = State::default();
        state.removed.insert("n3".parse().unwrap());
        let said = gone(&state, &holder(Role::Agent, "n3")).unwrap();
        assert!(said.starts_with("n3 was removed from the cluster"), "{said}");
        assert_eq!(gone(&state, &holder(Role::Agent, "n2")), None);
        assert_eq!(gone(&state, &holder(Role::Proxy, "n3")), None, "proxies have names of their own");
        let seat = cluster::membership::Seat { address: "h:1".into(), raft_id: 1 };
        state.admitted.insert("n3".parse().unwrap(), seat);
        assert_eq!(gone(&state, &holder(Role::Agent, "n3")), None);
    }
}
