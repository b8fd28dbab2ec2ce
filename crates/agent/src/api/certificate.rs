//! `POST /v1/certificate`: a process of the cluster whose certificate runs out asks for another one, for a key of its own. It gets
//! one for whom it has shown itself to be, and for nobody else. People's certificates end.

use super::Shared;
use crate::http::Guest;
use crate::messages::{CertificateAsked, CertificateSigned};
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use identity::authority::GOOD_DEFAULT;
use identity::{Role, Who};

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/v1/certificate", post(sign))
}

async fn sign(
    State(shared): State<Shared>,
    ConnectInfo(guest): ConnectInfo<Guest>,
    Json(asked): Json<CertificateAsked>,
) -> Result<Json<CertificateSigned>, Response> {
    let no = |status: StatusCode, said: &str| (status, said.to_owned()).into_response();
    let subject = match guest.who {
        Who::Known(subject) if matches!(subject.role, Role::Agent | Role::Proxy) => subject,
        _ => return Err(no(StatusCode::FORBIDDEN, "only agents and proxies renew their certificates so")),
    };
    let folder = shared.caller.credentials().map(|credentials| credentials.folder().clone());
    let Some(folder) = folder.filter(identity::Folder::has_authority_key) else {
        return Err(no(StatusCode::CONFLICT, "this host has no key of the authority"));
    };
    let authority = folder.authority().map_err(|e| no(StatusCode::CONFLICT, &e.to_string()))?;
    let signed = authority.sign(&asked.request, &subject, GOOD_DEFAULT);
    let certificate = signed.map_err(|e| no(StatusCode::BAD_REQUEST, &e.to_string()))?;
    tracing::info!("signed a new certificate for {subject}, who asked from {}", guest.from);
    Ok(Json(CertificateSigned { certificate }))
}
