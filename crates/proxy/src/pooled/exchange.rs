//! Moves bytes between a client and the server that it is lent, until the server can be given back, or one of them ends.

use super::ear::Subscribed;
use super::pools::Lent;
use crate::error::Refusal;
use crate::lend::PoolId;
use crate::logical::{Broken, Changes, Logical, Progress};
use crate::relay::{Unsent, poll_chunk};
use crate::roster::{Order, Seat};
use crate::stream::Stream;
use crate::worker::{Outgoing, Worker};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

/// Why an exchange ends.
#[derive(Debug)]
pub enum Stop {
    /// The server can be given back.
    Free,
    /// It was set apart, and listens from now on for this client and for others.
    Apart,
    /// Notifications may not have reached the client.
    Missed(Box<Refusal>),
    /// The client said goodbye.
    Terminated,
    ClientGone,
    ServerGone,
    Broken(Broken),
    /// A newer epoch than the server's has been seen.
    EpochChanged,
    /// The proxy stops.
    Stopping,
    /// Somebody, or a limit, ends this client.
    Ordered(Order),
}

/// A client, beyond its session.
#[derive(Debug)]
pub struct Front {
    pub stream: Stream,
    /// Where others see what it is doing.
    pub seat: Rc<Seat>,
    /// Bytes of the client that were not taken yet; one message that has not come whole, mostly none.
    pub input: Vec<u8>,
    /// Bytes that the client has not taken yet.
    pub unsent: Unsent,
    /// It sends nothing more.
    pub has_ended: bool,
    /// Who listens for it, if somebody does.
    pub ear: Option<Box<Subscribed>>,
}

/// What is to be sent to the server, and to the client.
type Out<'a> = (&'a mut Vec<u8>, &'a mut Vec<u8>);

/// See the module.
#[derive(Debug)]
pub struct Exchange<'a> {
    pub front: &'a mut Front,
    pub lent: &'a mut Lent,
    pub logical: &'a mut Logical,
    pub worker: &'a Worker,
    pub(super) pool: PoolId,
    pub(super) to_server: Unsent,
}

impl<'a> Exchange<'a> {
    pub fn new(
        front: &'a mut Front,
        lent: &'a mut Lent,
        logical: &'a mut Logical,
        (worker, pool): (&'a Worker, PoolId),
    ) -> Exchange<'a> {
        Exchange { front, lent, logical, worker, pool, to_server: Unsent::default() }
    }

    /// Begins on the server that has just been lent: its settings become the client's, then the client's bytes are taken.
    pub fn begin(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> Result<(), Stop> {
        let mut outgoing = self.worker.outgoing.borrow_mut();
        let Outgoing { to_client, to_server } = &mut *outgoing;
        let round = self.worker.shared.rounds.of_code();
        let heard = self.lent.heard();
        self.logical.place((&mut self.lent.holding, heard), round, to_server, to_client);
        self.tell_client(to_client, cx)?;
        // Mostly nothing is to be put in place, and the first message goes along with what is.
        self.say(bytes, (to_server, to_client), cx).map(|_| ())
    }

    pub async fn run(&mut self) -> Stop {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Stop> {
        match self.step(cx) {
            Ok(()) => {
                self.front.seat.rests(self.logical, self.worker.roster.now());
                if self.logical.keeps_begin() {
                    self.worker.begins.keep(&self.front.seat);
                }
                Poll::Pending
            }
            Err(stop) => Poll::Ready(stop),
        }
    }

    /// Moves what can be moved now.
    fn step(&mut self, cx: &mut Context<'_>) -> Result<(), Stop> {
        loop {
            if self.worker.bell.is_stopping() {
                return Err(Stop::Stopping);
            }
            if let Some(order) = self.front.seat.order() {
                return Err(Stop::Ordered(order));
            }
            // Asked before every write: nothing may reach a server of an older epoch.
            if self.worker.views.newest_epoch() != self.lent.epoch {
                return Err(Stop::EpochChanged);
            }
            if let Poll::Ready(Err(_)) = self.front.unsent.poll_send(&mut self.front.stream, cx) {
                return Err(Stop::ClientGone);
            }
            if let Poll::Ready(Err(_)) = self.to_server.poll_send(&mut self.lent.stream, cx) {
                return Err(Stop::ServerGone);
            }
            if self.logical.keeps_begin() && self.worker.begins.is_due(&self.front.seat) {
                self.send_begin(cx)?;
            }
            self.hear_ear(cx)?;
            let heard = self.front.unsent.is_empty() && self.hear_server(cx)?;
            // Before it leaves: what the client has said already may have waited for its settings.
            let said = self.to_server.is_empty() && self.hear_client(cx)?;
            if !said && self.to_server.is_empty() && self.logical.may_leave(&self.lent.holding) {
                return Err(Stop::Free);
            }
            let asked = !heard && !said && (self.examine(cx)? || self.share(cx)?);
            if !heard && !said && !asked {
                return Ok(());
            }
        }
    }

    /// The client was answered its BEGIN a while ago, and has said nothing since.
    fn send_begin(&mut self, cx: &mut Context<'_>) -> Result<(), Stop> {
        let mut outgoing = self.worker.outgoing.borrow_mut();
        self.logical.send_begin_alone(&mut self.lent.holding, &mut outgoing.to_server);
        self.send_server(&mut outgoing.to_server, cx)
    }

    /// Others wait for a server, and this client keeps one: whether it was asked if it still has to.
    fn examine(&mut self, cx: &mut Context<'_>) -> Result<bool, Stop> {
        let is_due = self.to_server.is_empty()
            && self.logical.can_examine(&self.lent.holding)
            && self.worker.pools.borrow().is_scarce(self.pool);
        if is_due {
            let mut outgoing = self.worker.outgoing.borrow_mut();
            self.logical.examine(&mut self.lent.holding, &mut outgoing.to_server);
            self.send_server(&mut outgoing.to_server, cx)?;
        }
        Ok(is_due)
    }

    /// Whether something came from the server.
    fn hear_server(&mut self, cx: &mut Context<'_>) -> Result<bool, Stop> {
        let mut chunk = self.worker.chunk.borrow_mut();
        let bytes = match poll_chunk(&mut self.lent.stream, &mut chunk, cx) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Ok(bytes)) if !bytes.is_empty() => bytes,
            Poll::Ready(_) => return Err(Stop::ServerGone),
        };
        self.logical.tally().sent(bytes.len());
        let mut outgoing = self.worker.outgoing.borrow_mut();
        let heard = self.logical.server_sent(bytes, &mut self.lent.holding, &mut outgoing.to_client);
        if self.logical.is_quiet() {
            // Before anybody hears of it; and it may keep its server for long.
            self.worker.shared.rounds.note(self.logical.take_changes());
        }
        let told = self.tell_client(&mut outgoing.to_client, cx);
        heard.map_err(Stop::Broken)?;
        told.map(|()| true)
    }

    /// Whether something of the client was taken.
    fn hear_client(&mut self, cx: &mut Context<'_>) -> Result<bool, Stop> {
        let mut outgoing = self.worker.outgoing.borrow_mut();
        if !self.front.input.is_empty() {
            let input = std::mem::take(&mut self.front.input);
            let Outgoing { to_client, to_server } = &mut *outgoing;
            let (taken, progress) = self.take_and_send(&input, (to_server, to_client), cx)?;
            self.front.input = input;
            self.front.input.drain(..taken);
            if self.front.input.is_empty() {
                self.front.input = Vec::new();
            }
            match progress {
                Progress::Terminated => return Err(Stop::Terminated),
                Progress::Waits => return Ok(taken > 0),
                Progress::All if taken > 0 => return Ok(true),
                Progress::All => {}
            }
        }
        let waits = self.logical.is_placing() || self.logical.is_moving_channels();
        if waits || !self.to_server.is_empty() {
            return Ok(false);
        }
        if self.front.has_ended {
            // What runs without the client runs to its end, as on a server itself.
            let runs = self.logical.awaits_answer() && !self.logical.is_waited_for();
            return if runs { Ok(false) } else { Err(Stop::ClientGone) };
        }
        let mut chunk = self.worker.chunk.borrow_mut();
        let bytes = match poll_chunk(&mut self.front.stream, &mut chunk, cx) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Ok(bytes)) => bytes,
            Poll::Ready(Err(_)) => return Err(Stop::ClientGone),
        };
        if bytes.is_empty() {
            self.front.has_ended = true;
            return Ok(true);
        }
        if !self.front.input.is_empty() {
            self.front.input.extend_from_slice(bytes);
            return Ok(true);
        }
        let Outgoing { to_client, to_server } = &mut *outgoing;
        self.say(bytes, (to_server, to_client), cx)
    }

    /// Takes bytes that have just come from the client, when none are left of earlier ones.
    fn say(&mut self, bytes: &[u8], out: Out<'_>, cx: &mut Context<'_>) -> Result<bool, Stop> {
        let (taken, progress) = self.take_and_send(bytes, out, cx)?;
        self.front.input.extend_from_slice(&bytes[taken..]);
        match progress {
            Progress::Terminated => Err(Stop::Terminated),
            Progress::All | Progress::Waits => Ok(true),
        }
    }

    fn take_and_send(
        &mut self,
        bytes: &[u8],
        (to_server, to_client): Out<'_>,
        cx: &mut Context<'_>,
    ) -> Result<(usize, Progress), Stop> {
        let taken = self.take(bytes, (to_server, to_client));
        let sent = self.send_server(to_server, cx);
        let told = if to_client.is_empty() { Ok(()) } else { self.tell_client(to_client, cx) };
        let taken = taken?;
        sent?;
        told.map(|()| taken)
    }

    fn take(&mut self, bytes: &[u8], out: Out<'_>) -> Result<(usize, Progress), Stop> {
        let mut texts = self.worker.texts.borrow_mut();
        texts.begin_round(self.worker.shared.rounds.of_relations());
        let taken = self.logical.client_sent(bytes, &mut self.lent.holding, &mut texts, out);
        let taken = taken.map_err(Stop::Broken)?;
        self.logical.tally().received(taken.0);
        if self.logical.takes_database() {
            self.worker.shared.rounds.note(Changes { databases: true, ..Changes::default() });
        }
        Ok(taken)
    }

    fn tell_client(&mut self, bytes: &mut Vec<u8>, cx: &mut Context<'_>) -> Result<(), Stop> {
        let told = self.front.unsent.add(&mut self.front.stream, bytes, cx);
        bytes.clear();
        told.map_err(|_| Stop::ClientGone)
    }

    pub(super) fn send_server(&mut self, bytes: &mut Vec<u8>, cx: &mut Context<'_>) -> Result<(), Stop> {
        let sent = self.to_server.add(&mut self.lent.stream, bytes, cx);
        bytes.clear();
        sent.map_err(|_| Stop::ServerGone)
    }
}
