//! Sends this node's observation to the leader: regularly, and at once when something changed.

use crate::clock::boottime_ms;
use crate::http::{BODY_MAX, Connection};
use crate::messages::HeartbeatAnswer;
use crate::run::Event;
use cluster::NodeName;
use cluster::observe::Observation;
use identity::Caller;
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

/// Runs until the loop drops its end. Heartbeats never overtake each other: one is under way at a time. None goes without
/// a new observation: an agent whose loop hangs is to be silent, as nobody decides or steps for it.
pub async fn send(
    caller: Caller,
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
                        wire = Some((agent.clone(), Connection::new(&caller, &agent, BODY_MAX)));
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

/// Waits for the next regular moment and an observation to send then, for a new leader, or for something urgent; `false`: the
/// loop is gone.
async fn until_next(
    outgoing: &mut watch::Receiver<Option<Outgoing>>,
    leaders: &mut watch::Receiver<Leader>,
    sent_urgent: u64,
    every: Duration,
) -> bool {
    let pause = tokio::time::sleep(every);
    tokio::pin!(pause);
    let mut fresh = false;
    loop {
        tokio::select! {
            () = &mut pause, if fresh => return true,
            changed = leaders.changed() => return changed.is_ok(),
            changed = outgoing.changed() => {
                if changed.is_err() {
                    return false;
                }
                fresh = true;
                if outgoing.borrow().as_ref().is_some_and(|o| o.urgent != sent_urgent) {
                    return true;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_millis(5);
    const LONG: Duration = Duration::from_secs(20);

    fn outgoing(number: u64) -> Option<Outgoing> {
        let me = "n1".parse().expect("a name");
        let observation = Observation { serial: (String::new(), number), ..Observation::blank(me) };
        Some(Outgoing { observation, urgent: 0 })
    }

    async fn next(events: &mut mpsc::Receiver<Event>) -> u64 {
        match tokio::time::timeout(LONG, events.recv()).await {
            Ok(Some(Event::Heartbeat { observation, .. })) => observation.serial.1,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn nothing_is_said_twice_when_the_loop_hangs() {
        let (sender, mut events) = mpsc::channel(8);
        let (tell, told) = watch::channel(outgoing(1));
        let (_leads, leaders) = watch::channel(Leader::Me);
        let sending = tokio::spawn(send(Caller::plain(), told, leaders, sender, EVERY, LONG));
        assert_eq!(next(&mut events).await, 1);
        assert!(tokio::time::timeout(20 * EVERY, events.recv()).await.is_err(), "it was said again");
        tell.send_replace(outgoing(2));
        assert_eq!(next(&mut events).await, 2);
        sending.abort();
    }
}
