#![allow(clippy::unwrap_used)]
use super::*;
use crate::api::access;
use crate::audit::{Audit, Entry};
use axum::extract::ConnectInfo;
use axum::middleware::from_fn_with_state;
use axum::routing::post;
use axum::{Extension, Json, Router};
use cluster::decide::switchover::{Order, Ordered};
use hyper_util::service::TowerToHyperService;
use std::path::PathBuf;

/// A router behind the door, in a cluster without TLS.
struct Host {
    dir: PathBuf,
    audit: Audit,
    router: Router,
}

impl Host {
    fn up(test: &str) -> Host {
        Host::asked_by(test, Who::Unasked)
    }

    fn asked_by(test: &str, who: Who) -> Host {
        let dir = std::env::temp_dir().join(format!("pgkeel-listing-{test}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let me: cluster::NodeName = "n1".parse().unwrap();
        let audit = Audit::open(&dir, me.clone());
        let roll: access::Roll = std::sync::Arc::new(|_| access::Belongs::Yes);
        let door =
            Door { me, credentials: None, roll, users: std::sync::Arc::new(|_| None), audit: audit.clone() };
        let order = |Json(asked): Json<crate::messages::OrderAsked>| async move {
            match asked.order {
                Order::Resume => Ok(Json(Ordered::Recorded { id: String::new(), to: None })),
                Order::Pause { .. } => {
                    Ok(Json(Ordered::Refused { because: vec![cluster::handover::Obstacle::Paused] }))
                }
                Order::Cancel { .. } => std::future::pending().await,
                _ => Err((StatusCode::SERVICE_UNAVAILABLE, "nobody leads")),
            }
        };
        let guest = Guest { from: "192.0.2.1:5".parse().unwrap(), who };
        let router = Router::new()
            .route("/v1/order", post(order))
            .layer(from_fn_with_state(door, access::check))
            .layer(Extension(ConnectInfo(guest)));
        Host { dir, audit, router }
    }

    async fn asks(&self, path: &str, order: Order, only_try: bool) -> StatusCode {
        use hyper::service::Service as _;
        let asked = crate::messages::OrderAsked { order, by: "a@b".to_owned(), only_try };
        let body = Body::from(serde_json::to_vec(&asked).unwrap());
        let request = Request::post(path).header("content-type", "application/json").body(body).unwrap();
        TowerToHyperService::new(self.router.clone()).call(request).await.unwrap().status()
    }

    async fn told(&self) -> Vec<String> {
        let entries: Vec<Entry> = self.audit.tell(50).await.unwrap();
        let mut told: Vec<String> =
            entries.iter().map(|it| format!("{}: {}", it.what, words::outcome(it))).collect();
        // Of one millisecond those that were done come first.
        told.sort();
        told
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn pause() -> Order {
    Order::Pause { fencing: cluster::state::Fencing::Suspended }
}

#[tokio::test]
async fn an_order_is_listed_with_what_came_of_it() {
    let host = Host::up("outcome");
    assert_eq!(host.asks("/v1/order", Order::Resume, false).await, StatusCode::OK);
    assert_eq!(host.asks("/v1/order", Order::Resume, true).await, StatusCode::OK);
    host.asks("/v1/order", pause(), false).await;
    let failover = Order::Failover { to: "n2".parse().unwrap(), accept: None, stopped: None };
    assert_eq!(host.asks("/v1/order", failover, false).await, StatusCode::SERVICE_UNAVAILABLE);
    let paused = format!("pause: refused: {}", cluster::handover::Obstacle::Paused);
    assert_eq!(host.told().await, ["failover to n2: failed: nobody leads", &paused, "resume: done"]);
}

/// Or somebody could give orders of which the list knows nothing.
#[tokio::test]
async fn who_goes_away_before_the_answer_is_listed_all_the_same() {
    let host = Host::up("away");
    let asks = host.asks("/v1/order", Order::Cancel { id: "7".into() }, false);
    assert!(tokio::time::timeout(Duration::from_millis(50), asks).await.is_err());
    assert_eq!(host.told().await, ["cancel 7: not known: the connection ended before the answer"]);
}

#[tokio::test]
async fn of_whoever_is_not_known_little_is_read() {
    let host = Host::asked_by("stranger", Who::Nameless);
    let joins = async |bytes: usize| {
        use hyper::service::Service as _;
        let request = Request::post("/v1/join").body(Body::from("x".repeat(bytes))).unwrap();
        TowerToHyperService::new(host.router.clone()).call(request).await.unwrap().status()
    };
    assert_eq!(joins(STRANGER_MAX).await, StatusCode::NOT_FOUND, "this router has no such route");
    assert_eq!(joins(STRANGER_MAX + 1).await, StatusCode::PAYLOAD_TOO_LARGE);
    let said =
        format!("POST /v1/join: refused: the request is not whole, or has more than {STRANGER_MAX} bytes");
    assert_eq!(host.told().await, ["POST /v1/join: refused", &said]);
    let entries = host.audit.tell(10).await.unwrap();
    assert!(entries.iter().all(|it| it.who == "no certificate"), "{entries:?}");
}

#[tokio::test]
async fn what_an_agent_passes_on_is_listed_where_it_was_asked() {
    let host = Host::up("passed-on");
    host.asks("/v1/order?local=1", Order::Resume, false).await;
    host.asks("/v1/order?node=n1&passed_on=1", Order::Resume, false).await;
    assert!(host.told().await.is_empty());
    host.asks("/v1/order?local=0", Order::Resume, false).await;
    assert_eq!(host.told().await, ["resume: done"]);
    let guest = |who| Guest { from: "192.0.2.1:5".parse().unwrap(), who };
    let request = Request::post("/v1/order?local=1").body(Body::empty()).unwrap();
    assert!(is_listed(&request, &guest(Who::Unasked), true), "where agents could show who they are");
    assert!(is_listed(&request, &guest(Who::Nameless), true));
}
