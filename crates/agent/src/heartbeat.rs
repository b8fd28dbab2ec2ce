//! Sends this node's observation to the leader: regularly, and at once when something changed.

use crate::clock::boottime_ms;
use crate::http::{BODY_MAX, Connection};
use crate::messages::HeartbeatAnswer;
use crate::run::Event;
use cluster::NodeName;
use cluster::observe::Observation;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// To whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leader {
    /// Nobody leads.
    None,
    /// This agent leads.
    Me,
    /// Another agent, at `host:port`.
    Other {
        /// Its name.
        node: NodeName,
        /// `host:port`.
        agent: String,
    },
}

/// What to send; a change of `urgent` makes the heartbeat go at once.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// The observation.
    pub observation: Observation,
    /// Grows when something changed that the leader should know now.
    pub urgent: u64,
}

/// Runs until the loop drops its end. Heartbeats never overtake each other: one is under way at a time.
pub async fn send(
    mut outgoing: watch::Receiver<Option<Outgoing>>,
    mut leaders: watch::Receiver<Leader>,
    events: mpsc::Sender<Event>,
    every: Duration,
    limit: Duration,
) {
    let mut wire: Option<(String, Connection)> = None;
    loop {
        let now = outgoing.borrow_and_update().clone();
        let leader = leaders.borrow_and_update().clone();
        let sent_urgent = now.as_ref().map_or(0, |o| o.urgent);
        if let Some(out) = now {
            let sent_at_ms = boottime_ms();
            let answer = match leader {
                Leader::None => None,
                Leader::Me => to_myself(&events, out.observation, limit).await,
                Leader::Other { agent, .. } => {
                    let fits = wire.as_ref().is_some_and(|(address, _)| *address == agent);
                    if !fits {
                        wire = Some((agent.clone(), Connection::new(&agent, BODY_MAX)));
                    }
                    let Some((_, connection)) = &mut wire else { continue };
                    tokio::select! {
                        answer = connection.post_json("/v1/heartbeat", &out.observation, limit) => answer.ok(),
                        // The leader that is asked may be gone: do not wait for it when there is another.
                        changed = leaders.changed() => {
                            if changed.is_err() {
                                return;
                            }
                            None
                        }
                    }
                }
            };
            if let Some(answer) = answer
                && events.send(Event::Answered { sent_at_ms, answer }).await.is_err()
            {
                return;
            }
        }
        if !until_next(&mut outgoing, &mut leaders, sent_urgent, every).await {
            return;
        }
    }
}

async fn to_myself(
    events: &mpsc::Sender<Event>,
    observation: Observation,
    limit: Duration,
) -> Option<HeartbeatAnswer> {
    let (reply, answer) = oneshot::channel();
    events.send(Event::Heartbeat { observation: Box::new(observation), reply }).await.ok()?;
    tokio::time::timeout(limit, answer).await.ok()?.ok()
}

/// Waits for the next regular moment, a new leader, or something urgent; `false`: the loop is gone.
async fn until_next(
    outgoing: &mut watch::Receiver<Option<Outgoing>>,
    leaders: &mut watch::Receiver<Leader>,
    sent_urgent: u64,
    every: Duration,
) -> bool {
    let pause = tokio::time::sleep(every);
    tokio::pin!(pause);
    loop {
        tokio::select! {
            () = &mut pause => return true,
            changed = leaders.changed() => return changed.is_ok(),
            changed = outgoing.changed() => {
                if changed.is_err() {
                    return false;
                }
                if outgoing.borrow().as_ref().is_some_and(|o| o.urgent != sent_urgent) {
                    return true;
                }
            }
        }
    }
}
