//! Finds a server for a new session, or for one that moves: does what [`crate::route`] says, and waits when it says so.

use crate::error::Refusal;
use crate::reach::Identity;
use crate::route::{Failure, Route, Target, Wait, open_primary, route};
use crate::server::{Answered, Until, begin_session};
use crate::stats::{Held, HeldEnd};
use crate::stream::Stream;
use crate::watch::Views;
use crate::worker::{Worker, stopped};
use cluster::view::View;
use std::pin::pin;
use std::time::Instant;
use tokio::sync::SemaphorePermit;
use tokio::time::sleep_until;

/// Why a session found no server.
#[derive(Debug)]
pub enum NoServer {
    /// The client went away while it waited.
    ClientGone,
    /// The client is to be told this.
    Refused(Refusal),
}

/// What is wanted of a server.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// What the client sent first.
    pub startup_packet: &'a [u8],
    /// How far the login is to get.
    pub until: Until,
    /// Whether it is known who the client is.
    pub identity: Identity,
    /// Since when the client has been without a server.
    pub since: Instant,
}

/// How one attempt ended.
enum Attempt {
    Answered(Answered),
    Failed(Failure),
    /// A newer view names another primary, or none: whatever the attempt would bring is not wanted any more.
    Outdated,
}

/// Finds the server of a session. `client` is only watched for its end, nothing is taken from it.
pub async fn find_server(
    client: &mut Stream,
    wanted: &Wanted<'_>,
    worker: &Worker,
) -> Result<(Target, Answered), NoServer> {
    let mut stop = worker.stop.clone();
    tokio::select! {
        biased;
        () = stopped(&mut stop) => Err(NoServer::Refused(Refusal::Stopping)),
        () = client.gone() => Err(NoServer::ClientGone),
        found = follow_route(wanted, worker) => found.map_err(NoServer::Refused),
    }
}

/// Finds the server of a pool's next connection; no client in particular waits for it.
///
/// # Errors
/// What those are told who wait.
pub async fn find_for_pool(wanted: &Wanted<'_>, worker: &Worker) -> Result<(Target, Answered), Refusal> {
    let mut stop = worker.stop.clone();
    tokio::select! {
        biased;
        () = stopped(&mut stop) => Err(Refusal::Stopping),
        found = follow_route(wanted, worker) => found,
    }
}

async fn follow_route(wanted: &Wanted<'_>, worker: &Worker) -> Result<(Target, Answered), Refusal> {
    let settings = &worker.shared.settings();
    let mut views = worker.views.clone();
    let mut wait = Wait::new(wanted.since, settings.hold);
    let mut held: Option<Held<'_>> = None;
    let mut probe: Option<SemaphorePermit<'_>> = None;
    loop {
        let view = views.latest();
        match route(&view, &wait, Instant::now()) {
            Route::Connect(target) => match attempt(&target, wanted, &wait, &mut views, worker).await {
                Attempt::Answered(answered) => {
                    if let Some(held) = held {
                        held.end(HeldEnd::Served);
                    }
                    return Ok((target, answered));
                }
                Attempt::Failed(failure) => {
                    worker.shared.doubt.notify_waiters();
                    if let Failure::Tls(why) = &failure {
                        worker.shared.log_tls_trouble(&target.server.node, why);
                    }
                    wait.failed(&target, &view, failure, Instant::now());
                }
                Attempt::Outdated => {}
            },
            Route::HoldForView { until } => {
                probe = None;
                held.get_or_insert_with(|| worker.shared.stats.hold(&hold_reason(&view)));
                tokio::select! {
                    () = views.changed() => {}
                    () = sleep_until(until.into()) => {}
                }
            }
            Route::HoldForRetry { until } => {
                held.get_or_insert_with(|| worker.shared.stats.hold(&hold_reason(&view)));
                let pause = async {
                    if probe.is_none() {
                        probe = worker.probes.acquire().await.ok();
                    }
                    sleep_until(until.into()).await;
                };
                tokio::select! {
                    () = views.changed() => {}
                    () = sleep_until(wait.deadline().into()) => {}
                    () = pause => {}
                }
            }
            Route::GiveUp(why) => {
                if let Some(held) = held {
                    held.end(HeldEnd::GaveUp);
                }
                return Err(Refusal::NoPrimary { cluster: settings.cluster.clone(), why });
            }
        }
    }
}

/// One attempt, dropped at once when it is outdated: a frozen host would keep it for long.
async fn attempt(
    target: &Target,
    wanted: &Wanted<'_>,
    wait: &Wait,
    views: &mut Views,
    worker: &Worker,
) -> Attempt {
    let connect_timeout = worker.shared.settings().connect_timeout;
    let give_up = wait.deadline().max(Instant::now() + connect_timeout);
    let mut session = pin!(begin_session(target, wanted, worker));
    loop {
        tokio::select! {
            biased;
            () = views.changed() => {
                if !target.is_current(&views.latest()) {
                    return Attempt::Outdated;
                }
            }
            result = &mut session => return match result {
                Ok(answered) if views.newest_epoch() == target.epoch => Attempt::Answered(answered),
                Ok(_) => Attempt::Outdated,
                Err(failure) => Attempt::Failed(failure),
            },
            () = sleep_until(give_up.into()) => {
                let waited = wait.waited(Instant::now()).as_secs_f64();
                return Attempt::Failed(Failure::NoAnswer(format!("nothing came in {waited:.1} s")));
            }
        }
    }
}

/// Why the view names no server that could be used.
pub fn hold_reason(view: &View) -> String {
    let View { epoch, waiting, hold, .. } = view;
    if let Some(hold) = hold {
        return format!("nothing new begins in epoch {epoch}: {hold}");
    }
    match (open_primary(view), waiting) {
        (Some(server), _) => format!("the primary {} of epoch {epoch} takes no connections yet", server.node),
        (None, Some(waiting)) => format!("epoch {epoch} has no primary: {waiting}"),
        (None, None) => format!("epoch {epoch} has no primary"),
    }
}
