//! A client that keeps its server only to listen has somebody else listen for it: what of that is done at the client's
//! side. When, and why nothing is lost, [`crate::logical`] says (channels.rs).

use super::ear::{Ear, News, become_ear, can_become_ear, set_apart};
use super::exchange::{Exchange, Front, Stop};
use super::pools::Lent;
use super::{Client, Last};
use crate::error::Refusal;
use crate::lend::ClientId;
use crate::logical::Logical;
use crate::worker::Outgoing;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

/// Why a client is not told its notifications.
pub enum Unheard {
    Gone,
    /// It has to be ended.
    Missed(Box<Refusal>),
}

fn missed(why: &str) -> Refusal {
    Refusal::NotContinued { why: format!("notifications may be missing: {why}") }
}

impl Front {
    /// The client's number where somebody listens for it.
    fn as_hearer(&self) -> ClientId {
        ClientId(self.seat.number)
    }

    /// Tells the client what was heard for it, if it is between two requests and outside a transaction.
    pub fn hear_ear(&mut self, logical: &mut Logical, cx: &mut Context<'_>) -> Result<(), Unheard> {
        if self.ear.is_none() {
            return Ok(());
        }
        self.mind_ear(logical);
        let Some(ear) = &self.ear else { return Ok(()) };
        while self.unsent.is_empty() && logical.is_quiet() && !logical.is_moving_channels() {
            let why = match ear.news(logical) {
                News::Nothing => return Ok(()),
                News::Messages(bytes) => match self.unsent.add(&mut self.stream, &bytes, cx) {
                    Ok(()) => continue,
                    Err(_) => return Err(Unheard::Gone),
                },
                News::Missed => "the server connection that listened for it is lost",
                News::TooMuch => "it has not taken them for too long",
                News::OtherEncoding => "they cannot be told in its client_encoding",
            };
            return Err(Unheard::Missed(Box::new(missed(why))));
        }
        // What is left is sent when the client takes it.
        match self.unsent.poll_send(&mut self.stream, cx) {
            Poll::Ready(Err(_)) => Err(Unheard::Gone),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }

    /// Whoever listens for the client is told what it does not want to hear any more.
    pub fn mind_ear(&mut self, logical: &mut Logical) {
        let given_up = logical.take_given_up();
        // Whether or not somebody still listens for it: it belongs to this move, not to the next one.
        let marker_failed = logical.take_marker_failure();
        // Who has not been moved yet misses nothing when the other one is lost.
        let is_unused = !logical.hears_by_others() && !logical.is_moving_channels();
        let is_lost = is_unused && self.ear.as_ref().is_some_and(|ear| ear.is_lost());
        if is_lost || !logical.shares_channels() {
            self.ear = None;
        }
        let Some(ear) = &self.ear else { return };
        if !given_up.is_empty() {
            ear.give_up(&given_up);
        }
        if marker_failed {
            ear.marker_failed();
        }
        if logical.offered_channels().is_none() && !logical.is_moving_channels() {
            ear.want_no_more();
        }
    }
}

impl Exchange<'_> {
    /// As [`Front::hear_ear`]; not in the middle of what the server says.
    pub(super) fn hear_ear(&mut self, cx: &mut Context<'_>) -> Result<(), Stop> {
        if self.front.ear.is_none() || !self.lent.holding.is_between_messages() {
            return Ok(());
        }
        self.front.hear_ear(self.logical, cx).map_err(|unheard| match unheard {
            Unheard::Gone => Stop::ClientGone,
            Unheard::Missed(refusal) => Stop::Missed(refusal),
        })
    }

    /// The client keeps its server only to listen: whether the next step was made to have somebody else listen.
    pub(super) fn share(&mut self, cx: &mut Context<'_>) -> Result<bool, Stop> {
        if !self.logical.shares_channels() || !self.to_server.is_empty() || !self.lent.holding.is_clean() {
            return Ok(false);
        }
        let mut outgoing = self.worker.outgoing.borrow_mut();
        let Outgoing { to_server, .. } = &mut *outgoing;
        if self.logical.stop_listening(to_server) {
            return self.send_server(to_server, cx).map(|()| true);
        }
        let Some(offered) = self.logical.offered_channels() else { return Ok(false) };
        let ear = match &self.front.ear {
            Some(ear) if ear.speaks_to(self.logical) => ear,
            Some(_) => return Ok(false),
            None => match self.ear() {
                Some(ear) if ear.speaks_to(self.logical) => {
                    let client = self.front.as_hearer();
                    &*self.front.ear.insert(Box::new(ear.subscribe(client, cx)))
                }
                Some(_) => return Ok(false),
                None => return self.become_ear(),
            },
        };
        if !ear.wants() {
            ear.want(offered);
        }
        let Some((marker, text)) = ear.take_marker() else { return Ok(false) };
        self.logical.mark_channels(&marker, &text, &mut self.lent.holding, to_server);
        self.send_server(to_server, cx).map(|()| true)
    }

    /// Who listens for the clients of this pool.
    fn ear(&self) -> Option<Rc<Ear>> {
        self.worker.pools.borrow().ears.get(&self.pool).cloned()
    }

    fn become_ear(&self) -> Result<bool, Stop> {
        let can = can_become_ear(self.worker, self.pool, self.lent, self.logical)
            && set_apart(self.worker, self.pool, self.lent.id);
        if can { Err(Stop::Apart) } else { Ok(false) }
    }
}

impl Client<'_> {
    /// The client's server was set apart: it listens for the client, which has none any more.
    pub(super) async fn set_apart(&mut self, lent: Box<Lent>) -> Result<(), Option<Box<Last>>> {
        let worker = self.worker;
        worker.shared.rounds.note(self.admitted.logical.take_changes());
        // A cancel request that is under way must not hit what is sent there next.
        if !self.entry.is_given_back() {
            self.entry.given_back().await;
        }
        let logical = &mut self.admitted.logical;
        let channels = logical.offered_channels().unwrap_or_default().to_vec();
        let client = (self.front.as_hearer(), &channels[..]);
        let mut lent = Some(lent);
        let subscribed = poll_fn(|cx| {
            let lent = lent.take();
            Poll::Ready(lent.and_then(|lent| become_ear(worker, self.admitted.pool, lent, client, cx)))
        });
        let Some(subscribed) = subscribed.await else {
            return Err(Last::refusal(missed("the system gives no random bytes")));
        };
        logical.leave_channels();
        self.front.ear = Some(Box::new(subscribed));
        self.front.seat.gave_back(logical, worker.roster.now());
        self.liked = None;
        Ok(())
    }
}
