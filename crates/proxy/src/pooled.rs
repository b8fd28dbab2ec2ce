//! The pooled mode: a client is lent a server for a transaction, and keeps it longer only while there is a reason to.
//!
//! A client's session is [`crate::logical`]; which server it is lent, [`crate::lend`] says and [`pools`] does; [`exchange`]
//! moves the bytes. One task for each client, which holds the server that it is lent: nothing crosses threads.

mod agents;

mod begins;

mod bell;

mod ear;

mod exchange;

mod greeting;

mod login;

mod md5;

mod loss;

mod moved;

mod open;

mod pause;

mod pools;

mod post;

mod quotas;
mod rounds;

mod secrets;

mod share;

mod staying;

pub use begins::Begins;
pub use bell::Bell;
pub use login::{NotAdmitted, check_with, negotiate};
pub use moved::take_in;
pub use open::log_in;
pub use pause::{Chosen, pause, reconnect, resume};
pub use pools::{Login, Pools, settle};
pub use quotas::Quotas;
pub use rounds::Rounds;
pub use secrets::{Secrets, find_verifier};
pub use staying::{Staying, tell_who_stays};

use crate::cancel::Entry;
use crate::client::{farewell, farewell_with};
use crate::error::{Refusal, Successor};
use crate::hba::Way;
use crate::lend::{Returned, ServerId};
use crate::logical::{Broken, Changes, Goodbye, Logical};
use crate::relay::{Unsent, poll_chunk};
use crate::roster::{Seated, sit_down};
use crate::session::AtStake;
use crate::source::Peer;
use crate::stats::Counted;
use crate::stream::Stream;
use crate::worker::Worker;
use bell::Listener;
use exchange::{Exchange, Front, Stop};
use login::Admitted;
use moved::Going;
use pgwire::cancel::KEY_LEN_MIN;
use pgwire::message::put;
use pgwire::{ErrorFields, Severity, StartupMessage, encode_notice_response};
use pools::{Lent, Waiting, give_back, tick, want};
use post::{Post, Told};
use share::Unheard;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

/// Of a cancel key of protocol 3.2, as PostgreSQL's (src/include/storage/procsignal.h, `MAX_CANCEL_KEY_LENGTH`). Bytes.
const LONG_SECRET_LEN: usize = 32;

/// How often a worker looks for what time brings: clients that have waited for too long, servers idle for long.
const TICK: Duration = Duration::from_millis(100);

/// How often servers are asked what code their databases have. Others may have defined some.
const CODE_EVERY: Duration = Duration::from_secs(60);

/// What a client without a server came to.
enum Awake<'a> {
    /// It was lent a server, on which its bytes have begun.
    Lent(Box<Lent>, Result<(), Stop>),
    /// It has to wait for one.
    Waits(Waiting<'a>),
    Gone,
    /// Another process can go on with its session.
    Moves,
    Ended(Box<Refusal>),
}

/// Random characters for one SCRAM exchange; `None` if the system gives none.
pub fn nonce() -> Option<String> {
    let mut bytes = [0; 18];
    aws_lc_rs::rand::fill(&mut bytes).ok()?;
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Lets a client in whose start-up message has come; one that is not let in has been told why.
pub async fn let_in<'a>(
    (mut stream, peer): (Stream, Peer),
    message: &StartupMessage<'_>,
    way: Way,
    counted: Counted<'a>,
    worker: &'a Rc<Worker>,
) -> Option<Box<Client<'a>>> {
    let listener = worker.bell.listen().await;
    let seat = sit_down((&stream, peer), message, worker).await;
    let entry = worker.shared.cancels.enter(if login::minor(message) >= 2 {
        LONG_SECRET_LEN
    } else {
        KEY_LEN_MIN
    })?;
    let admitted = match login::admit(&mut stream, (message, way), entry.key(), &seat, worker).await {
        Ok(admitted) => admitted,
        Err(not_admitted) => {
            match not_admitted {
                login::NotAdmitted::Gone => {}
                login::NotAdmitted::Refused(refusal) => farewell(&mut stream, &refusal).await,
                login::NotAdmitted::RefusedByServer(message) => farewell_with(&mut stream, &message).await,
            }
            return None;
        }
    };
    seat.is_idle(worker.roster.now());
    let front = Front {
        stream,
        seat: (*seat).clone(),
        input: Vec::new(),
        unsent: Unsent::default(),
        has_ended: false,
        ear: None,
    };
    let (post, is_here) = (Rc::default(), (seat, listener, counted));
    Some(Box::new(Client {
        front,
        admitted,
        entry,
        worker,
        liked: None,
        post,
        going: Going::default(),
        _is_here: is_here,
    }))
}

/// A client that was let in.
pub struct Client<'a> {
    front: Front,
    admitted: Admitted<'a>,
    entry: Entry<'a>,
    worker: &'a Rc<Worker>,
    /// The server that it would rather have again than another.
    liked: Option<ServerId>,
    /// Where it hears of a server that it waits for.
    post: Rc<Post>,
    /// Whether its session goes to another process.
    going: Going,
    _is_here: (Seated<'a>, Listener<'a>, Counted<'a>),
}

impl<'a> Client<'a> {
    /// Serves it to its end.
    pub async fn live(mut self: Box<Self>) {
        loop {
            let (mut lent, begun) = match poll_fn(|cx| self.poll_idle(cx)).await {
                Awake::Lent(lent, begun) => (lent, begun),
                Awake::Waits(waiting) => match self.wait(waiting).await {
                    Ok(found) => found,
                    Err(last) => return Box::pin(self.leave(last)).await,
                },
                Awake::Gone => return,
                Awake::Moves => match Box::pin(self.moves()).await {
                    true => return,
                    false => continue,
                },
                Awake::Ended(refusal) => return Box::pin(self.leave(Last::refusal(*refusal))).await,
            };
            let worker = self.worker;
            let stop = match begun {
                Ok(()) => {
                    Exchange::new(
                        &mut self.front,
                        &mut lent,
                        &mut self.admitted.logical,
                        (worker, self.admitted.pool),
                    )
                    .run()
                    .await
                }
                Err(stop) => stop,
            };
            if let Stop::Apart = stop {
                match Box::pin(self.set_apart(lent)).await {
                    Ok(()) => continue,
                    Err(last) => return Box::pin(self.leave(last)).await,
                }
            }
            let last = self.last_word(&stop, &lent);
            let goes_on = self.outlives(&stop, &mut lent).await;
            worker.shared.rounds.note(self.admitted.logical.take_changes());
            if !self.entry.is_given_back() {
                Box::pin(self.entry.given_back()).await;
            }
            if let Stop::Terminated | Stop::ClientGone = stop {
                self.admitted.logical.forget_begin();
            }
            let clean = matches!(stop, Stop::Free | Stop::Terminated | Stop::ClientGone)
                && self.admitted.logical.may_leave(&lent.holding)
                && lent.holding.is_clean();
            self.front.seat.gave_back(&self.admitted.logical, worker.roster.now());
            self.liked = self.admitted.logical.likes_server().then_some(lent.id);
            give_back(worker, lent, returned(clean, self.liked));
            match stop {
                _ if goes_on => {}
                Stop::Free => {}
                Stop::Terminated | Stop::ClientGone => return,
                Stop::ServerGone
                | Stop::Broken(_)
                | Stop::EpochChanged
                | Stop::Apart
                | Stop::Missed(_)
                | Stop::Stopping
                | Stop::Ordered(_) => {
                    return Box::pin(self.leave(last)).await;
                }
            }
        }
    }

    /// Waits for the client's next statement, without any server.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<Awake<'a>> {
        loop {
            if self.worker.bell.is_stopping() {
                return Poll::Ready(Awake::Ended(Box::new(Refusal::Stopping)));
            }
            if let Some(order) = self.front.seat.order() {
                return Poll::Ready(Awake::Ended(Box::new(Refusal::Ordered(order))));
            }
            if let Poll::Ready(Err(_)) = self.front.unsent.poll_send(&mut self.front.stream, cx) {
                return Poll::Ready(Awake::Gone);
            }
            match self.front.hear_ear(&mut self.admitted.logical, cx) {
                Ok(()) => {}
                Err(Unheard::Gone) => return Poll::Ready(Awake::Gone),
                Err(Unheard::Missed(refusal)) => return Poll::Ready(Awake::Ended(refusal)),
            }
            if self.worker.ferry.borrow().is_some() && ready!(self.poll_going(cx)) {
                return Poll::Ready(Awake::Moves);
            }
            if Logical::needs_server(&self.front.input) {
                return Poll::Ready(self.ask(&[], cx));
            }
            if self.front.has_ended || self.front.input.first() == Some(&b'X') {
                return Poll::Ready(Awake::Gone);
            }
            let mut chunk = self.worker.chunk.borrow_mut();
            let bytes = match poll_chunk(&mut self.front.stream, &mut chunk, cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(bytes)) if !bytes.is_empty() => bytes,
                Poll::Ready(_) => return Poll::Ready(Awake::Gone),
            };
            if self.front.input.is_empty() && Logical::needs_server(bytes) {
                return Poll::Ready(self.ask(bytes, cx));
            }
            self.front.input.extend_from_slice(bytes);
            if !could_begin_a_message(&self.front.input) {
                return Poll::Ready(Awake::Gone);
            }
        }
    }

    /// Asks for a server; what was read goes to it at once, or has to wait.
    fn ask(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> Awake<'a> {
        self.going.later();
        match want(self.worker, self.admitted.pool, self.admitted.id, self.liked, &self.post) {
            Ok(mut lent) => {
                let begun = self.begin(&mut lent, bytes, cx);
                Awake::Lent(lent, begun)
            }
            Err(waiting) => {
                self.front.input.extend_from_slice(bytes);
                Awake::Waits(waiting)
            }
        }
    }

    fn begin(&mut self, lent: &mut Lent, bytes: &[u8], cx: &mut Context<'_>) -> Result<(), Stop> {
        self.entry.lent(&lent.running);
        self.front.seat.is_lent(lent.id, self.worker.roster.now());
        Exchange::new(&mut self.front, lent, &mut self.admitted.logical, (self.worker, self.admitted.pool))
            .begin(bytes, cx)
    }

    /// Waits for a server. The client's end is seen meanwhile.
    async fn wait(
        &mut self,
        waiting: Waiting<'a>,
    ) -> Result<(Box<Lent>, Result<(), Stop>), Option<Box<Last>>> {
        self.front.seat.waits(self.worker.roster.now());
        poll_fn(|cx| {
            let mut lent = ready!(poll_queue(&waiting, &mut self.front, cx))?;
            let begun = self.begin(&mut lent, &[], cx);
            Poll::Ready(Ok((lent, begun)))
        })
        .await
    }

    /// What the client is told when its session ends so, if anything.
    fn last_word(&self, stop: &Stop, lent: &Lent) -> Option<Box<Last>> {
        if matches!(stop, Stop::Free | Stop::Apart) {
            return None;
        }
        let pins = self.admitted.logical.pins();
        if !pins.is_empty() {
            tracing::debug!("a client kept its server to the end: {pins}");
        }
        let shared = &self.worker.shared;
        let (cluster, node) = (shared.settings().cluster.clone(), lent.running.server.node.clone());
        let logical = &self.admitted.logical;
        let at_stake = match (logical.awaits_answer(), logical.in_transaction()) {
            (false, false) => AtStake::Nothing,
            (true, false) => AtStake::Statement,
            (false, true) => AtStake::Transaction,
            (true, true) => AtStake::StatementInTransaction,
        };
        // It says so itself.
        match (stop, lent.holding.goodbye()) {
            (Stop::ServerGone, Goodbye::Kept(body)) => {
                let mut message = Vec::new();
                put(b'E', &[body], &mut message);
                return Some(Box::new(Last::Message(message.into())));
            }
            (Stop::ServerGone, Goodbye::Told) => return Some(Box::new(Last::Nothing)),
            _ => {}
        }
        let refusal = match stop {
            Stop::Free | Stop::Apart | Stop::Terminated | Stop::ClientGone => return None,
            Stop::Missed(refusal) => (**refusal).clone(),
            Stop::ServerGone => Refusal::ServerBroke { cluster, node, epoch: lent.epoch, at_stake },
            Stop::EpochChanged => {
                shared.stats.session_ended(lent.epoch);
                let view = self.worker.views.clone().latest();
                let node_now = view.primary.as_ref().map(|server| server.node.clone());
                let now = Successor { epoch: view.epoch, node: node_now };
                Refusal::EpochChanged { cluster, node, epoch: lent.epoch, at_stake, now }
            }
            Stop::Stopping => Refusal::Stopping,
            Stop::Ordered(order) => Refusal::Ordered(*order),
            Stop::Broken(broken @ (Broken::Client(_) | Broken::ClientMessage(_) | Broken::Statements)) => {
                Refusal::ClientBroke { why: broken.to_string() }
            }
            Stop::Broken(broken @ Broken::Begin(_)) => Refusal::NotContinued { why: broken.to_string() },
            Stop::Broken(broken @ (Broken::Server(_) | Broken::Settings(_))) => {
                tracing::warn!("a session on {node} ends: {broken}");
                Refusal::NotContinued { why: broken.to_string() }
            }
        };
        // In the middle of a message, nothing can be said.
        Last::refusal(refusal).filter(|_| lent.holding.is_between_messages())
    }

    async fn leave(mut self: Box<Self>, last: Option<Box<Last>>) {
        let Some(last) = last else { return };
        if crate::client::flush(&mut self.front.stream, self.front.unsent).await.is_err() {
            return;
        }
        match *last {
            Last::Refusal(refusal) => farewell(&mut self.front.stream, &refusal).await,
            Last::Message(message) => farewell_with(&mut self.front.stream, &message).await,
            Last::Nothing => farewell_with(&mut self.front.stream, &[]).await,
        }
    }
}

fn returned(clean: bool, liked: Option<ServerId>) -> Returned {
    match (clean, liked) {
        (false, _) => Returned::Unclean,
        (true, Some(_)) => Returned::Liked,
        (true, None) => Returned::Clean,
    }
}

/// The last that a client hears.
enum Last {
    Refusal(Refusal),
    /// A server's own words.
    Message(Rc<[u8]>),
    /// It has heard it already.
    Nothing,
}

impl Last {
    fn refusal(refusal: Refusal) -> Option<Box<Last>> {
        Some(Box::new(Last::Refusal(refusal)))
    }
}

/// Ready when a server is lent to a client that waits for one, or when its session ends.
fn poll_queue(
    waiting: &Waiting<'_>,
    front: &mut Front,
    cx: &mut Context<'_>,
) -> Poll<Result<Box<Lent>, Option<Box<Last>>>> {
    loop {
        let refusal = match waiting.poll_told(cx) {
            Poll::Ready(Told::Lent(lent)) => return Poll::Ready(Ok(lent)),
            Poll::Ready(Told::Waits) => {
                if front.unsent.add(&mut front.stream, &waiting_notice(), cx).is_err() {
                    return Poll::Ready(Err(None));
                }
                continue;
            }
            Poll::Ready(Told::GivenUp(waited)) => Refusal::QueryWait { waited },
            Poll::Ready(Told::Refused(refusal)) => *refusal,
            Poll::Ready(Told::RefusedByServer(message)) => {
                return Poll::Ready(Err(Some(Box::new(Last::Message(message)))));
            }
            Poll::Pending => match front.seat.order() {
                Some(order) => Refusal::Ordered(order),
                None => return front.stream.poll_gone(cx).map(|()| Err(None)),
            },
        };
        return Poll::Ready(Err(Last::refusal(refusal)));
    }
}

fn waiting_notice() -> Vec<u8> {
    let fields = ErrorFields {
        severity: Severity::Notice,
        sqlstate: "00000",
        message: "waiting for a server connection: all that the pool may have are in use",
        detail: None,
        hint: None,
    };
    let mut notice = Vec::new();
    encode_notice_response(&fields, &mut notice);
    notice
}

/// Whether more of the same could make a message; what cannot is not collected.
fn could_begin_a_message(bytes: &[u8]) -> bool {
    bytes.first_chunk().is_none_or(|header| pgwire::FrameHeader::parse(*header).is_ok())
}

/// What a worker does beside its clients.
pub async fn mind(worker: Rc<Worker>) {
    tokio::select! {
        () = worker.begins.mind() => {}
        () = mind_pools(&worker) => {}
    }
}

/// Rings the bell, renews the pools, minds the time.
async fn mind_pools(worker: &Rc<Worker>) {
    let mut views = worker.views.clone();
    let mut stop = worker.stop.clone();
    let mut known = views.latest();
    let mut leaving = worker.shared.leaving.subscribe();
    let mut databases_known = worker.shared.rounds.of_databases();
    let mut tick_at = tokio::time::interval(TICK);
    tick_at.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // Each worker says so: with several, servers are asked as much more often.
    let mut code_at = tokio::time::interval(
        CODE_EVERY * u32::try_from(worker.shared.settings().workers.max(1)).unwrap_or(1),
    );
    loop {
        tokio::select! {
            () = crate::worker::stopped(&mut stop) => return worker.bell.ring_for_stop(),
            () = views.changed() => {
                let view = views.latest();
                // What is idle leaves a primary that is to be replaced; nothing is lent there any more.
                if view.epoch != known.epoch || view.hold.is_some() != known.hold.is_some() {
                    worker.pools.borrow_mut().renew();
                    pools::do_deeds(worker);
                }
                known = view;
                worker.bell.ring();
            }
            Ok(()) = leaving.changed() => {
                worker.ferry.borrow_mut().clone_from(&leaving.borrow_and_update());
                worker.bell.ring();
            }
            () = worker.shared.quotas.called(worker.number) => tick(worker),
            _ = code_at.tick() => worker.shared.rounds.note(Changes { code: true, ..Changes::default() }),
            _ = tick_at.tick() => {
                let databases = worker.shared.rounds.of_databases();
                if databases != std::mem::replace(&mut databases_known, databases) {
                    worker.pools.borrow_mut().renew();
                    pools::do_deeds(worker);
                }
                worker.roster.tick(Instant::now(), &worker.shared.settings().patience());
                tick(worker);
            }
        }
    }
}
