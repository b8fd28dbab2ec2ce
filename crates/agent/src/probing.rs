//! Asks the server regularly, while there is one.

use crate::postgres::probe::Prober;
use crate::postgres::session::Session;
use crate::run::Event;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};

/// What to probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Grows with each start of the server: an answer of an earlier server is not mistaken for a later one's.
    pub generation: u64,
    /// Bytes in a WAL segment.
    pub segment_bytes: u64,
    /// Whether to look at the clients' sessions too.
    pub watch_clients: bool,
    /// The version of the cluster-wide configuration in its files.
    pub configured: u64,
    /// Pause between two questions.
    pub every: Duration,
}

/// Runs until the loop drops its end. `hurry` asks for an answer now.
pub async fn probe(
    session: Arc<Session>,
    mut targets: watch::Receiver<Option<Target>>,
    hurry: Arc<Notify>,
    events: mpsc::Sender<Event>,
    limit: Duration,
) {
    let mut prober: Option<(u64, Prober)> = None;
    loop {
        let target = targets.borrow_and_update().clone();
        let every = match &target {
            None => {
                prober = None;
                Duration::from_secs(3600)
            }
            Some(target) => {
                if prober.as_ref().is_none_or(|(generation, _)| *generation != target.generation) {
                    prober =
                        Some((target.generation, Prober::new(Arc::clone(&session), target.segment_bytes)));
                }
                if let Some((generation, prober)) = &mut prober {
                    prober.watch_clients = target.watch_clients;
                    prober.note_configured(target.configured);
                    let found = prober.ask(limit).await.map_err(|e| e.to_string());
                    let probed = Event::Probed { generation: *generation, found: Box::new(found) };
                    if events.send(probed).await.is_err() {
                        return;
                    }
                }
                target.every
            }
        };
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = hurry.notified() => {}
            changed = targets.changed() => if changed.is_err() { return },
        }
    }
}
