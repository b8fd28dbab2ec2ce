//! `POST /v1/certificate`: a process of the cluster whose certificate runs out asks for another one, for a key of its own. It gets
//! one for whom it has shown itself to be, and for nobody else; the agent of a node that was removed is not let in (`access`).
//! People's certificates end.

use super::Shared;
use super::elsewhere::blocking;
use crate::http::Guest;
use crate::messages::{CertificateAsked, CertificateSigned};
use axum::extract::ConnectInfo;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router, extract};
use identity::authority::CannotSign;
use identity::{Role, Who};

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
