//! The clients of one worker, as people are shown them, and the word by which one of them is ended.
//!
//! Each client's task writes down what it is doing, on its own thread, in cells: no lock, and no clock but the worker's,
//! which is set at each tick. What is read there is true within a tick.

use crate::lend::ServerId;
use crate::logical::Logical;
use crate::source::Peer;
use crate::sql::Pins;
use crate::stream::Stream;
use crate::who::{Known, Who};
use crate::worker::Worker;
use cluster::view::Server;
use pgwire::StartupMessage;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

/// See the module.
#[derive(Debug)]
pub struct Roster {
    seats: RefCell<BTreeMap<u32, Rc<Seat>>>,
    clock: Cell<Instant>,
    known: Known,
}

/// Where a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It is not let in yet.
    LoggingIn,
    /// In a pool, without a server, and it needs none.
    Idle,
    /// In a pool, and it waits for a server.
    Waiting,
    /// In a pool, lent this server.
    Lent(ServerId),
    /// In the session mode, looking for a server.
    Looking,
    /// In the session mode, on a server of its own.
    OnItsOwn,
}

/// Why a client is ended, though it has done nothing wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Somebody said so at the console.
    Killed,
    /// It has sat in a transaction for so long.
    IdleInTransaction(Duration),
    /// It has said nothing for so long.
    Idle(Duration),
}

/// Why a client that is idle stays with this process, though another one could have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bound {
    /// By its TLS connection, whose keys are here.
    Tls,
    /// Another server connection listens for it.
    Listens,
    /// Its session cannot be described, or would be too long.
    TooMuch,
    /// The other process would not have it.
    Refused,
}

/// How long clients may sit and say nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Patience {
    pub idle_in_transaction_max: Option<Duration>,
    pub idle_max: Option<Duration>,
}

/// One client.
#[derive(Debug)]
pub struct Seat {
    pub number: u32,
    pub who: Rc<Who>,
    pub peer: Option<Peer>,
    pub local: Option<SocketAddr>,
    pub connected: SystemTime,
    waker: Waker,
    order: Cell<Option<Order>>,
    stage: Cell<Stage>,
    /// Since when it is at this stage, or on a server: since when it runs a statement, or does not.
    since: Cell<Instant>,
    transaction_since: Cell<Option<Instant>>,
    runs: Cell<bool>,
    answers: Cell<u64>,
    pins: Cell<Pins>,
    prepared: Cell<usize>,
    own_server: RefCell<Option<(Arc<Server>, u64)>>,
    bound: Cell<Option<Bound>>,
    begin_kept: Cell<Option<u64>>,
}

/// What a client is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doing {
    pub stage: Stage,
    pub since: Instant,
    pub transaction_since: Option<Instant>,
    /// A statement is under way.
    pub runs: bool,
    pub pins: Pins,
    pub prepared: usize,
}

/// A client that is on the roster; dropping it takes it off.
#[derive(Debug)]
pub struct Seated<'a> {
    roster: &'a Roster,
    seat: Rc<Seat>,
}

impl Deref for Seated<'_> {
    type Target = Rc<Seat>;

    fn deref(&self) -> &Rc<Seat> {
        &self.seat
    }
}

impl Drop for Seated<'_> {
    fn drop(&mut self) {
        self.roster.seats.borrow_mut().remove(&self.seat.number);
        self.roster.known.leaves(&self.seat.who);
    }
}

impl Roster {
    /// Of nobody.
    pub fn new(now: Instant) -> Roster {
        Roster { seats: RefCell::default(), clock: Cell::new(now), known: Known::default() }
    }

    /// The time of the last tick.
    pub fn now(&self) -> Instant {
        self.clock.get()
    }

    /// Every client.
    pub fn seats(&self) -> Vec<Rc<Seat>> {
        self.seats.borrow().values().cloned().collect()
    }

    /// The client of this number.
    pub fn find(&self, number: u32) -> Option<Rc<Seat>> {
        self.seats.borrow().get(&number).cloned()
    }

    /// Time passes: who has said nothing for too long is ended.
    pub fn tick(&self, now: Instant, patience: &Patience) {
        self.clock.set(now);
        if *patience == Patience::default() {
            return;
        }
        for seat in self.seats.borrow().values() {
            if let Some(order) = patience.judge(&seat.doing(), now) {
                seat.give(order);
            }
        }
    }
}

impl Patience {
    fn judge(&self, doing: &Doing, now: Instant) -> Option<Order> {
        let silent = now.saturating_duration_since(doing.since);
        match doing.stage {
            Stage::Lent(_) if doing.transaction_since.is_some() && !doing.runs => {
                self.idle_in_transaction_max.filter(|max| silent >= *max).map(Order::IdleInTransaction)
            }
            Stage::Idle => self.idle_max.filter(|max| silent >= *max).map(Order::Idle),
            // It keeps a server for something, but has no transaction.
            Stage::Lent(_) if !doing.runs => self.idle_max.filter(|max| silent >= *max).map(Order::Idle),
            Stage::LoggingIn | Stage::Waiting | Stage::Lent(_) | Stage::Looking | Stage::OnItsOwn => None,
        }
    }
}

/// The task that calls this, whose start-up message is `message`, takes its seat.
/// Its connection comes from `peer`.
pub async fn sit_down<'a>(
    (stream, peer): (&Stream, Peer),
    message: &StartupMessage<'_>,
    worker: &'a Worker,
) -> Seated<'a> {
    let ends = (Some(peer), stream.local_addr().ok());
    sit_down_again(ends, SystemTime::now(), Who::of(message), worker).await
}

/// As [`sit_down`], for a client with these ends (the other one, and this one) that has connected then.
pub async fn sit_down_again<'a>(
    (peer, local): (Option<Peer>, Option<SocketAddr>),
    connected: SystemTime,
    who: Who,
    worker: &'a Worker,
) -> Seated<'a> {
    let waker = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
    let number = worker.pools.borrow_mut().client().0;
    let seat = Rc::new(Seat {
        number,
        who: worker.roster.known.the(who),
        peer,
        local,
        connected,
        waker,
        order: Cell::new(None),
        stage: Cell::new(Stage::LoggingIn),
        since: Cell::new(Instant::now()),
        transaction_since: Cell::new(None),
        runs: Cell::new(false),
        answers: Cell::new(0),
        pins: Cell::new(Pins::NONE),
        prepared: Cell::new(0),
        own_server: RefCell::new(None),
        bound: Cell::new(None),
        begin_kept: Cell::new(None),
    });
    worker.roster.seats.borrow_mut().insert(number, Rc::clone(&seat));
    Seated { roster: &worker.roster, seat }
}

impl Seat {
    /// What it is doing.
    pub fn doing(&self) -> Doing {
        Doing {
            stage: self.stage.get(),
            since: self.since.get(),
            transaction_since: self.transaction_since.get(),
            runs: self.runs.get(),
            pins: self.pins.get(),
            prepared: self.prepared.get(),
        }
    }

    /// It stays with this process.
    pub fn stays(&self, why: Bound) {
        self.bound.set(Some(why));
    }

    /// Why it stays, if it does when idle.
    pub fn bound(&self) -> Option<Bound> {
        self.bound.get()
    }

    /// It is in a pool, and has no server.
    pub fn is_idle(&self, now: Instant) {
        self.stage.set(Stage::Idle);
        self.since.set(now);
    }

    /// It is in a pool, and waits for a server.
    pub fn waits(&self, now: Instant) {
        self.stage.set(Stage::Waiting);
        self.since.set(now);
    }

    /// It was lent a server, because it has said something.
    pub fn is_lent(&self, server: ServerId, now: Instant) {
        self.stage.set(Stage::Lent(server));
        self.since.set(now);
        self.runs.set(true);
    }

    /// It was lent a server, and for the moment there is nothing to move.
    pub fn rests(&self, logical: &Logical, now: Instant) {
        let (runs, answers) = (logical.is_at_work(), logical.answers());
        if runs != self.runs.get() || answers != self.answers.get() {
            self.stops_keeping(logical, now);
            self.since.set(now);
            self.runs.set(runs);
            self.answers.set(answers);
        }
        if logical.in_transaction() != self.transaction_since.get().is_some() {
            self.transaction_since.set(logical.in_transaction().then_some(now));
        }
        self.pins.set(logical.pins());
        self.prepared.set(logical.prepared_count());
        if !logical.keeps_begin() {
            self.begin_kept.set(None);
        }
    }

    /// Its BEGIN was answered, and is not sent yet; `false` if that is known.
    pub fn keeps_begin(&self, round: u64) -> bool {
        let is_new = self.begin_kept.get().is_none();
        if is_new {
            self.begin_kept.set(Some(round));
        }
        is_new
    }

    /// In which round its BEGIN was answered, if it is not sent yet.
    pub fn begin_kept(&self) -> Option<u64> {
        self.begin_kept.get()
    }

    /// Its task looks at what it has to do.
    pub fn wake(&self) {
        self.waker.wake_by_ref();
    }

    /// It has given its server back.
    pub fn gave_back(&self, logical: &Logical, now: Instant) {
        self.stops_keeping(logical, now);
        self.answers.set(logical.answers());
        self.transaction_since.set(None);
        self.begin_kept.set(None);
        self.runs.set(false);
        self.pins.set(Pins::NONE);
        self.prepared.set(logical.prepared_count());
        self.is_idle(now);
    }

    fn stops_keeping(&self, logical: &Logical, now: Instant) {
        if !self.runs.get() && self.transaction_since.get().is_none() {
            logical.tally().kept(now.saturating_duration_since(self.since.get()));
        }
    }

    /// In the session mode: it looks for a server.
    pub fn looks(&self) {
        self.stage.set(Stage::Looking);
        self.since.set(Instant::now());
        *self.own_server.borrow_mut() = None;
    }

    /// In the session mode: it has found one.
    pub fn found(&self, server: Arc<Server>, epoch: u64) {
        self.stage.set(Stage::OnItsOwn);
        self.since.set(Instant::now());
        *self.own_server.borrow_mut() = Some((server, epoch));
    }

    /// In the session mode: its server, and of which epoch.
    pub fn own_server(&self) -> Option<(Arc<Server>, u64)> {
        self.own_server.borrow().clone()
    }

    /// Ends it. Of several words the first counts.
    pub fn give(&self, order: Order) {
        if self.order.get().is_none() {
            self.order.set(Some(order));
            self.waker.wake_by_ref();
        }
    }

    /// Why it is to end, if it is.
    pub fn order(&self) -> Option<Order> {
        self.order.get()
    }

    /// Returns when it is to end. To be waited for by the task that sat down.
    pub async fn ordered(&self) -> Order {
        poll_fn(|_| self.order.get().map_or(Poll::Pending, Poll::Ready)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doing(stage: Stage, since: Instant) -> Doing {
        Doing { stage, since, transaction_since: None, runs: false, pins: Pins::NONE, prepared: 0 }
    }

    #[test]
    fn only_who_says_nothing_for_too_long_is_ended() {
        let seconds = Duration::from_secs;
        let patience = Patience { idle_in_transaction_max: Some(seconds(10)), idle_max: Some(seconds(60)) };
        let (start, lent) = (Instant::now(), Stage::Lent(ServerId(3)));
        let at = |n| start + seconds(n);
        let sits = Doing { transaction_since: Some(start), ..doing(lent, start) };
        assert_eq!(patience.judge(&sits, at(9)), None);
        assert_eq!(patience.judge(&sits, at(10)), Some(Order::IdleInTransaction(seconds(10))));
        assert_eq!(patience.judge(&Doing { runs: true, ..sits }, at(100)), None, "its statement runs");
        assert_eq!(patience.judge(&Doing { runs: true, ..doing(lent, start) }, at(100)), None);
        for quiet in [doing(Stage::Idle, start), doing(lent, start)] {
            assert_eq!(patience.judge(&quiet, at(59)), None);
            assert_eq!(patience.judge(&quiet, at(60)), Some(Order::Idle(seconds(60))));
        }
        for other in [Stage::LoggingIn, Stage::Waiting, Stage::Looking, Stage::OnItsOwn] {
            assert_eq!(patience.judge(&doing(other, start), at(1_000)), None);
        }
        assert_eq!(Patience::default().judge(&sits, at(1_000)), None);
    }

    #[test]
    fn who_it_is_says_the_startup_packet() {
        let packet = |parameters: &[u8]| [b"\0\0\0\x7f\0\x03\0\0", parameters, b"\0"].concat();
        let ann = Who::of_packet(&packet(b"user\0ann\0application_name\0psql\0"));
        assert_eq!(
            (&*ann.user, &*ann.database, &*ann.application_name),
            (&b"ann"[..], &b"ann"[..], &b"psql"[..])
        );
        let other = Who::of_packet(&packet(b"user\0ann\0database\0shop\0replication\0database\0"));
        assert!(&*other.database == b"shop" && other.replication);
        assert_eq!(Who::of_packet(b""), Who::default());
    }
}
