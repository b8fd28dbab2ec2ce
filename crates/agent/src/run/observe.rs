//! Puts together what this node tells the leader, and what the leader's answer means.

use super::{Event, Run, now};
use crate::heartbeat::Outgoing;
use crate::messages::HeartbeatAnswer;
use crate::reach;
use cluster::brake;
use cluster::command::first_promotion_id;
use cluster::exposure::Exposure;
use cluster::lease;
use cluster::observe::{Observation, Promoted, Seen, Server};
use cluster::reason::Reason;
use cluster::state::{Fork, Phase};
use cluster::{Millis, Moment, NodeName, Timeline};
use identity::{Credentials, certificate};
use std::time::Duration;

/// Part of the lease that is kept for ending the server: the guard's deadline is so much earlier.
const GUARD_SHARE: u64 = 20;

/// The last observation, and how often something urgent was in it.
#[derive(Default)]
pub(super) struct Last {
    number: u64,
    urgent: u64,
    digest: Option<Observation>,
    forks: Option<(Timeline, Vec<Fork>)>,
    /// The deadline that the guard was last told; `Some(None)`: told that there is none.
    pub(super) guard_told: Option<Option<u64>>,
}

/// What is left of the own certificate's time, once it is late to renew it.
fn certificate_left_ms(credentials: &Credentials) -> Option<Millis> {
    let (current, now) = (credentials.current(), certificate::now());
    // A renewal that works is done at once when a third is left, and not seen here.
    let left = if now < current.good.0 { Duration::ZERO } else { current.good.1.saturating_sub(now) };
    current.is_left(3, now).then(|| u64::try_from(left.as_millis()).unwrap_or(Millis::MAX))
}

impl Run {
    /// Builds the observation and hands it to the heartbeat task.
    pub(super) fn tell(&mut self) {
        // Nobody hears a node that was struck out.
        if self.struck_out_since.is_some() {
            self.tasks.outgoing.send_replace(None);
            return;
        }
        self.forget_recorded_rejoin();
        let observation = self.observation();
        let digest = self.digest(&observation);
        if self.observed.digest.as_ref() != Some(&digest) {
            self.observed.digest = Some(digest);
            self.observed.urgent += 1;
        }
        self.tasks.outgoing.send_replace(Some(Outgoing { observation, urgent: self.observed.urgent }));
    }

    pub(super) fn observation(&mut self) -> Observation {
        let at = now();
        let heard = reach::heard(&self.heard);
        let asked = heard.target.as_ref().is_some_and(|t| t.epoch == self.state.epoch);
        let own_lsn = match &self.local.server {
            Server::Primary { lsn, .. } if self.state.primary() == Some(self.me()) => Some(*lsn),
            _ => None,
        };
        let (doing, failed) = self.acting.describe();
        let promoted = self.promoted();
        let streams_from_primary =
            self.local.following.as_ref().is_some_and(|(epoch, _)| *epoch == self.state.epoch);
        self.observed.number += 1;
        Observation {
            serial: (self.parts.run.clone(), self.observed.number),
            epoch: self.state.epoch,
            revision: self.state.revision,
            seen: Seen::of(&self.state),
            member: Some(self.parts.member.clone()),
            data: self.local.data.clone(),
            server: match self.local.server.clone() {
                Server::Stopped if self.acting.starts_server() => Server::Starting,
                // Whose guard is lost and that is not found is no better than one that does not answer.
                Server::Unknown if self.acting.seeks_server() => {
                    Server::Unresponsive { silent_ms: at.since(self.server.answered_at) }
                }
                server => server,
            },
            seal: self.local.seal.clone().filter(|s| s.epoch == self.state.epoch),
            copied: self.local.copied,
            promoted,
            primary_agent_silent_ms: asked.then(|| at.since(Moment(heard.at_ms))),
            wal_silent_ms: self.server.wal_silent_ms.filter(|_| streams_from_primary),
            primary_lsn: own_lsn.or(heard.lsn),
            replicas: self.server.replicas.clone(),
            sync_applied: self.server.sync.applied().cloned(),
            brake: own_lsn.and_then(|_| brake::brake(&self.state, self.me(), &self.local)),
            exposure: own_lsn.map(|lsn| {
                let nearest = brake::nearest(&self.state, self.me(), &self.local.standbys, lsn);
                Exposure::of(nearest, &self.server.written, lsn, at)
            }),
            opted_out: self.server.opted_out.clone(),
            rejoined: self.acting.rejoined.clone(),
            handover: self.handover_progress(),
            copying: self.parts.hands.as_ref().and_then(|h| h.progress()),
            hindrances: self.server.hindrances.clone(),
            configured: self.local.configured,
            pending: self.server.pending.clone(),
            restarted: self.local.restarted.clone(),
            leased_again: self.leased_again(),
            certificate_left_ms: self.parts.caller.credentials().and_then(certificate_left_ms),
            lease_left_ms: self
                .local
                .lease
                .filter(|(e, _)| *e == self.state.epoch)
                .map(|(_, until)| until.since(at)),
            doing,
            problem: failed.or_else(|| self.server.problem.clone()),
            ..Observation::blank(self.me().clone())
        }
    }

    /// The observation without what changes all the time: a change of it is urgent.
    fn digest(&self, observation: &Observation) -> Observation {
        let detect = self.detect_ms();
        let mut digest = observation.clone();
        digest.primary_agent_silent_ms =
            observation.primary_agent_silent_ms.map(|ms| u64::from(ms >= detect));
        digest.wal_silent_ms = observation.wal_silent_ms.map(|ms| u64::from(ms >= detect));
        digest.serial = (String::new(), 0);
        digest.primary_lsn = None;
        digest.exposure = None;
        if let Some(brake) = &mut digest.brake {
            brake.nearest = None;
        }
        // Appointed and without a lease: every millisecond until the leader hears of it is an outage.
        let wants_lease = self.state.lease_holder() == Some(self.me()) && observation.lease_left_ms.is_none();
        digest.lease_left_ms = wants_lease.then_some(0);
        digest.problem = None;
        digest.copying = None;
        digest.certificate_left_ms = None;
        digest.doing = String::new();
        match &mut digest.server {
            Server::Standby(_) if self.taking_over() => {}
            Server::Standby(s) => {
                s.lsn = cluster::Lsn(0);
                s.replay_lsn = cluster::Lsn(0);
                s.replay_lag_ms = None;
            }
            Server::Primary { lsn, .. } => *lsn = cluster::Lsn(0),
            Server::Unresponsive { silent_ms } => *silent_ms = 0,
            Server::Unknown | Server::Stopped | Server::Starting => {}
        }
        for replica in digest.replicas.values_mut() {
            replica.flush_lsn = cluster::Lsn(0);
            replica.replay_lsn = cluster::Lsn(0);
        }
        digest
    }

    /// The promotion that this node's data shows, while the cluster waits for it.
    fn promoted(&mut self) -> Option<Promoted> {
        let Server::Primary { timeline, .. } = self.local.server else { return None };
        let expected = match &self.state.phase {
            Phase::Initialising { node } if node == self.me() => first_promotion_id(node),
            Phase::Promoting { appointment } if appointment.node == *self.me() => {
                appointment.promotion_id.clone()
            }
            _ => return None,
        };
        if self.local.line.as_deref() != Some(expected.as_str()) || self.local.unfinished.is_some() {
            return None;
        }
        let cluster::observe::DataDir::Present { system_identifier } = self.local.data else { return None };
        let forks = self.forks(timeline)?;
        Some(Promoted { epoch: self.state.epoch, timeline, forks, system_identifier })
    }

    fn forks(&mut self, timeline: Timeline) -> Option<Vec<Fork>> {
        if let Some((known, forks)) = &self.observed.forks
            && *known == timeline
        {
            return Some(forks.clone());
        }
        let hands = self.parts.hands.as_ref()?;
        match crate::postgres::history::read_forks(&hands.place, timeline) {
            Ok(forks) => {
                self.observed.forks = Some((timeline, forks.clone()));
                Some(forks)
            }
            Err(e) => {
                tracing::warn!("{e}");
                None
            }
        }
    }

    fn forget_recorded_rejoin(&mut self) {
        let me: &NodeName = &self.parts.me;
        if let Some(rejoined) = &self.acting.rejoined {
            let reason = Reason::Rejoined { node: me.clone(), rejoined: rejoined.clone() };
            let recorded = self.state.history.iter().any(|e| e.reason == reason);
            if recorded
                && let Some(hands) = &self.parts.hands
                && let Err(e) = hands.remember(|f| f.lost = None)
            {
                tracing::warn!("{e}");
            }
            if recorded || rejoined.epoch != self.state.epoch {
                self.acting.rejoined = None;
            }
        }
    }

    /// The lease counts from the moment the heartbeat was sent. It is ours only once the guard holds its end.
    pub(super) fn on_answer(&mut self, sent_at_ms: u64, answer: &HeartbeatAnswer) {
        let Some(left_ms) = answer.lease_ms.filter(|_| answer.epoch == self.state.epoch) else {
            self.free_standby_from_deadline();
            return;
        };
        if self.lease_is_off() {
            return;
        }
        let until = Moment(sent_at_ms).plus(left_ms);
        let epoch = answer.epoch;
        if self.local.lease.is_some_and(|(e, u)| e == epoch && u >= until) {
            return;
        }
        let guard = self.parts.hands.as_ref().and_then(|h| h.guard());
        if !lease::may_take(&self.state, guard.is_some(), Moment(sent_at_ms), self.server.ended_at) {
            return;
        }
        let Some((hands, guard)) = self.parts.hands.clone().zip(guard) else {
            self.local.lease = Some((epoch, until));
            return;
        };
        let deadline = self.deadline_of(until);
        self.observed.guard_told = Some(Some(deadline));
        self.leash.telling();
        let (events, generation, turn) = (self.events.clone(), self.server.generation, hands.turn());
        tokio::spawn(async move {
            let told = hands.hold_to(&guard, turn, Some(deadline)).await;
            let lease = told.is_ok().then_some((epoch, until));
            if let Err(e) = told {
                tracing::warn!("the guard did not take the lease: {e}");
            }
            let _ = events.send(Event::LeaseHeld { generation, lease }).await;
        });
    }

    /// When the guard is to end the server whose lease lasts until then.
    pub(super) fn deadline_of(&self, until: Moment) -> u64 {
        until.0.saturating_sub(self.settings().lease_ms() / GUARD_SHARE)
    }

    /// A standby needs no lease: its guard must not end it when an old one runs out.
    fn free_standby_from_deadline(&mut self) {
        let is_standby = matches!(self.local.server, Server::Standby(_));
        // One that was told to promote may be a primary any moment.
        let may_promote =
            self.state.lease_holder() == Some(self.me()) || self.local.told_to_promote.is_some();
        if !is_standby || may_promote || self.observed.guard_told == Some(None) {
            return;
        }
        let Some(hands) = self.parts.hands.clone() else { return };
        let Some(guard) = hands.guard() else { return };
        self.observed.guard_told = Some(None);
        let turn = hands.turn();
        tokio::spawn(async move {
            if let Err(e) = hands.hold_to(&guard, turn, None).await {
                tracing::warn!("the guard did not forget the old lease: {e}");
            }
        });
    }
}
