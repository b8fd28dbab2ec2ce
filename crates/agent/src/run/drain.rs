//! The nodes' parts in a switchover. The primary: have its clients come to rest, and where did its server stop? The next
//! one: tell at once when it has the last of the primary's WAL.

use super::{Event, Run};
use crate::postgres::probe::Clients;
use cluster::Moment;
use cluster::handover::{Handover, Progress, Stage, Stopped};
use std::time::Duration;

/// Without any client in a transaction, and none that came or went, for so long: what the proxies had under way when
/// they were told to hold has come or gone.
const REST: Duration = Duration::from_millis(100);

/// How far the clients have come to rest.
#[derive(Default)]
pub(super) struct Drain {
    /// Of this switchover.
    id: String,
    open_transactions: usize,
    /// The clients, and since when they are the same and idle.
    resting: Option<(Clients, Moment)>,
    drained: bool,
}

impl Drain {
    /// Takes in a probe.
    pub(super) fn see(&mut self, handover: Option<&Handover>, clients: Option<Clients>, now: Moment) {
        let (Some(handover), Some(clients)) = (handover, clients) else { return };
        if self.id != handover.id {
            *self = Drain { id: handover.id.clone(), ..Drain::default() };
        }
        self.open_transactions = usize::try_from(clients.busy).unwrap_or(0);
        if handover.stage != Stage::Holding || clients.busy > 0 {
            self.resting = None;
            return;
        }
        let since = match &self.resting {
            Some((before, since)) if *before == clients => *since,
            _ => now,
        };
        let nobody = clients.sessions == 0;
        self.resting = Some((clients, since));
        self.drained |= nobody || now.since(since) >= REST.as_millis() as u64;
    }
}

impl Run {
    /// Whether this node hands over and its clients are to be watched.
    pub(super) fn draining(&self) -> bool {
        let handover = self.state.handover.as_ref();
        handover.is_some_and(|h| h.from == *self.me() && h.stage == Stage::Holding)
    }

    /// Whether this node takes over as soon as it has all that the old primary wrote.
    pub(super) fn taking_over(&self) -> bool {
        let handover = self.state.handover.as_ref();
        handover.is_some_and(|h| h.to == *self.me() && h.stage == Stage::Stopping)
    }

    /// What to tell the leader.
    pub(super) fn handover_progress(&self) -> Option<Progress> {
        let handover = self.state.handover.as_ref().filter(|h| h.from == *self.me())?;
        let same = self.drain.id == handover.id;
        let stopped = self.acting.stopped.as_ref().filter(|(id, _)| *id == handover.id);
        Some(Progress {
            id: handover.id.clone(),
            checkpointed: self.local.checkpointed.as_ref() == Some(&handover.id),
            drained: same && self.drain.drained,
            open_transactions: if same { self.drain.open_transactions } else { 0 },
            stopped: stopped.map(|(_, how)| *how),
        })
    }

    /// The server has ended: if it was to stop in order, look whether it did.
    pub(super) fn note_orderly_stop(&self) {
        let handover = self.state.handover.as_ref();
        let stops = |h: &&Handover| h.from == *self.me() && h.stage == Stage::Stopping && !h.is_in_place();
        let Some(handover) = handover.filter(stops) else { return };
        let Some(hands) = self.parts.hands.clone() else { return };
        let (events, id) = (self.events.clone(), handover.id.clone());
        tokio::spawn(async move {
            match hands.shut_down_at().await {
                Ok(at) => {
                    let how = at.map_or(Stopped::Badly, |at| Stopped::InOrder { at });
                    drop(events.send(Event::StoppedFor(id, how)).await);
                }
                Err(e) => tracing::warn!("where the server stopped is not known: {e}"),
            }
        });
    }
}
