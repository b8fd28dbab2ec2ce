//! `GET /v1/view`: what a proxy may know. `GET /v1/view/watch`: the same, one JSON line at once, one at every change, and
//! at least one every half second as a sign of life, until the certificate of who watches does not hold any more.

use super::{Shared, access};
use crate::http::Guest;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, State};
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use cluster::state::State as Cluster;
use cluster::status;
use cluster::view::View;
use futures::Stream;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch::Receiver;

const SIGN_OF_LIFE: Duration = Duration::from_millis(500);

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/v1/view", get(view)).route("/v1/view/watch", get(watch))
}

async fn view(State(shared): State<Shared>) -> Json<View> {
    Json(status::view(&shared.store.state()))
}

async fn watch(State(shared): State<Shared>, ConnectInfo(guest): ConnectInfo<Guest>) -> Response {
    let credentials = shared.caller.credentials().cloned();
    let events = shared.events.clone();
    // Nor when the loop is over: who watches asks whoever follows.
    let holds =
        move || !events.is_closed() && access::standing(&guest.who, credentials.as_ref()).refusal().is_none();
    Response::new(Body::from_stream(lines(shared.store.watch(), holds)))
}

/// The view now and at every change, as long as `holds` says so: an answer without an end is not asked for anew.
fn lines(
    states: Receiver<Arc<Cluster>>,
    holds: impl Fn() -> bool + Send + 'static,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    futures::stream::unfold((states, holds, true), |(mut states, holds, first)| async move {
        if !first && matches!(tokio::time::timeout(SIGN_OF_LIFE, states.changed()).await, Ok(Err(_))) {
            return None;
        }
        if !holds() {
            return None;
        }
        let view = status::view(&states.borrow_and_update());
        let mut line = serde_json::to_vec(&view).ok()?;
        line.push(b'\n');
        Some((Ok(Bytes::from(line)), (states, holds, false)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[tokio::test]
    async fn the_view_is_told_until_who_watches_may_not_see_it() {
        let (_keep, states) = tokio::sync::watch::channel(Arc::new(Cluster::default()));
        let may = Arc::new(AtomicBool::new(true));
        let asks = Arc::clone(&may);
        let mut told = Box::pin(lines(states, move || asks.load(Ordering::Relaxed)));
        assert!(told.next().await.is_some());
        assert!(told.next().await.is_some(), "a sign of life");
        may.store(false, Ordering::Relaxed);
        assert!(told.next().await.is_none());
    }
}
