//! A server connection that listens for many clients of a pool: its task tells the server what they want to hear, and
//! them what it says. Who hears what is [`crate::hearing`].
//!
//! It was the server of the first client that kept one only to listen. Whoever listens loses notifications with it, so all
//! its clients end when it does.

use super::pools::{Lent, give_back};
use crate::hearing::{Hearing, Next};
use crate::lend::{ClientId, PoolId, Returned, ServerId};
use crate::logical::{Channel, Logical};
use crate::relay::{Unsent, poll_chunk};
use crate::worker::Worker;
use pgwire::WholeMessages;
use pgwire::message::{put_query, split_string};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;
use tokio::task::spawn_local;

/// Nothing of its client's settings is left, and no limit of time ends it. `idle_session_timeout` there is since PostgreSQL 14.
const SETTLING: &str = "RESET ROLE; RESET ALL; SET application_name = 'pgkeel listener'; \
    SELECT pg_catalog.set_config(s.name, '0', false) FROM pg_catalog.pg_settings s \
    WHERE s.name OPERATOR(pg_catalog.=) ANY (ARRAY['idle_session_timeout', 'statement_timeout', 'lock_timeout']::pg_catalog.text[]);";

/// Most bytes that a client is told at once.
const TOLD_MAX: usize = 16 * 1024;

/// See the module.
#[derive(Debug)]
pub struct Ear {
    marker: String,
    /// In which it says texts.
    encoding: Box<[u8]>,
    hearing: RefCell<Hearing>,
    wakers: RefCell<HashMap<ClientId, Waker>>,
    task: RefCell<Option<Waker>>,
    /// It has come to its end.
    lost: Cell<bool>,
}

/// A client for which somebody listens; dropping it ends that.
#[derive(Debug)]
pub struct Subscribed {
    ear: Rc<Ear>,
    client: ClientId,
    /// The marker of what it wants was sent: it comes.
    marked: Cell<bool>,
}

/// What a client is told of its channels.
pub enum News {
    Nothing,
    /// Notifications.
    Messages(Vec<u8>),
    /// Some may have been missed: the connection broke, or the primary changed.
    Missed,
    /// More have come than are kept.
    TooMuch,
    /// They cannot be told in the encoding that the client has set since.
    OtherEncoding,
}

/// Why the task ends.
enum End {
    /// Nobody is left.
    Deserted,
    Lost,
}

impl Ear {
    fn wake_task(&self) {
        if let Some(task) = &*self.task.borrow() {
            task.wake_by_ref();
        }
    }

    fn wake(&self, clients: &[ClientId]) {
        let wakers = self.wakers.borrow();
        clients.iter().filter_map(|client| wakers.get(client)).for_each(Waker::wake_by_ref);
    }

    fn end(&self) {
        self.lost.set(true);
        self.wakers.borrow().values().for_each(Waker::wake_by_ref);
    }

    /// A client's task, which calls this, is about to want something.
    pub fn subscribe(self: &Rc<Ear>, client: ClientId, cx: &Context<'_>) -> Subscribed {
        self.wakers.borrow_mut().insert(client, cx.waker().clone());
        Subscribed { ear: Rc::clone(self), client, marked: Cell::new(false) }
    }

    /// Whether it says texts as this client takes them.
    pub fn speaks_to(&self, logical: &Logical) -> bool {
        logical.client_encoding() == Some(&*self.encoding)
    }
}

impl Drop for Subscribed {
    fn drop(&mut self) {
        self.ear.wakers.borrow_mut().remove(&self.client);
        self.ear.hearing.borrow_mut().leave(self.client);
        self.ear.wake_task();
    }
}

impl Subscribed {
    /// As [`Ear::speaks_to`].
    pub fn speaks_to(&self, logical: &Logical) -> bool {
        self.ear.speaks_to(logical)
    }

    /// The client wants these channels as well.
    pub fn want(&self, channels: &[Channel]) {
        self.marked.set(false);
        self.ear.hearing.borrow_mut().want(self.client, channels);
        self.ear.wake_task();
    }

    /// Whether it wants some that it does not hear yet.
    pub fn wants(&self) -> bool {
        self.ear.hearing.borrow().wants(self.client)
    }

    /// It does not want them any more, unless its marker was sent.
    pub fn want_no_more(&self) {
        if !self.marked.get() && self.wants() {
            self.ear.hearing.borrow_mut().want_no_more(self.client);
            self.ear.wake_task();
        }
    }

    /// Its marker was not sent after all.
    pub fn marker_failed(&self) {
        self.marked.set(false);
        self.want_no_more();
    }

    /// It does not hear these any more.
    pub fn give_up(&self, channels: &[Channel]) {
        self.ear.hearing.borrow_mut().give_up(self.client, channels);
        self.ear.wake_task();
    }

    /// The marker, and the text that the client's own server is to send to it now: all that it wants is listened on. Once.
    pub fn take_marker(&self) -> Option<(String, String)> {
        if self.marked.get() || self.ear.lost.get() {
            return None;
        }
        let text = self.ear.hearing.borrow().marker_text(self.client)?.to_owned();
        self.marked.set(true);
        Some((self.ear.marker.clone(), text))
    }

    /// Whether nobody listens for it any more.
    pub fn is_lost(&self) -> bool {
        self.ear.lost.get()
    }

    /// What the client is to be told now, while it is idle.
    pub fn news(&self, logical: &Logical) -> News {
        let mut bytes = Vec::new();
        while bytes.len() < TOLD_MAX {
            let next = self.ear.hearing.borrow_mut().next_for(self.client);
            match next {
                // Behind type, length and process id are the texts.
                Next::Message(message)
                    if message.get(9..).is_some_and(<[u8]>::is_ascii) || self.ear.speaks_to(logical) =>
                {
                    bytes.extend_from_slice(&message);
                }
                Next::Message(_) => return News::OtherEncoding,
                Next::Nothing | Next::TooMuch if !bytes.is_empty() => break,
                Next::TooMuch => return News::TooMuch,
                Next::Nothing if self.ear.lost.get() => return News::Missed,
                Next::Nothing => return News::Nothing,
            }
        }
        News::Messages(bytes)
    }
}

/// Whether the server of a client, which keeps it only to listen, can listen for others as well.
pub fn can_become_ear(worker: &Worker, pool: PoolId, lent: &Lent, logical: &Logical) -> bool {
    let pools = worker.pools.borrow();
    let Some(login) = pools.logins.get(pool.0 as usize) else { return false };
    let usual = login.reported.borrow().clone();
    let of_all = usual.as_ref().and_then(|usual| usual.get(b"client_encoding"));
    // Its settings are to be those of the beginning: what comes before them must not be in another encoding.
    of_all.is_some()
        && of_all == logical.client_encoding()
        && of_all == lent.holding.reported().get(b"client_encoding")
        && lent.holding.is_clean()
}

/// The client's server, which listens on these channels and was set apart, listens for it and for others from now on.
/// `None` if the system gives no random bytes.
pub fn become_ear(
    worker: &Rc<Worker>,
    pool: PoolId,
    lent: Box<Lent>,
    (client, channels): (ClientId, &[Channel]),
    cx: &Context<'_>,
) -> Option<Subscribed> {
    let Some(nonce) = super::nonce() else {
        give_back(worker, lent, Returned::Unclean);
        return None;
    };
    let marker = format!("pgkeel_{nonce}");
    let ear = Rc::new(Ear {
        hearing: RefCell::new(Hearing::of_server(&marker, client, channels)),
        encoding: lent.holding.reported().get(b"client_encoding").unwrap_or_default().into(),
        marker,
        wakers: RefCell::default(),
        task: RefCell::default(),
        lost: Cell::new(false),
    });
    let subscribed = ear.subscribe(client, cx);
    worker.pools.borrow_mut().ears.insert(pool, Rc::clone(&ear));
    tracing::debug!("server connection {} listens for many clients now", lent.id.0);
    spawn_local(serve(Rc::clone(worker), pool, ear, lent));
    Some(subscribed)
}

async fn serve(worker: Rc<Worker>, pool: PoolId, ear: Rc<Ear>, lent: Box<Lent>) {
    // It wakes the task when the primary changes.
    let _listener = worker.bell.listen().await;
    let mut task = Task {
        ear: &ear,
        lent,
        unsent: Unsent::default(),
        messages: WholeMessages::default(),
        settled: false,
    };
    let end = poll_fn(|cx| task.poll(&worker, cx)).await;
    // Nobody comes between: there is no pause from here to the end.
    let is_this = |known: &Rc<Ear>| Rc::ptr_eq(known, &ear);
    {
        let mut pools = worker.pools.borrow_mut();
        if pools.ears.get(&pool).is_some_and(is_this) {
            pools.ears.remove(&pool);
        }
    }
    let lent = task.lent;
    match end {
        End::Lost => {
            tracing::warn!(
                "the server connection that listened for several clients is lost; those are told to connect again"
            );
            ear.end();
        }
        End::Deserted => tracing::debug!("server connection {} listens no more", lent.id.0),
    }
    give_back(&worker, lent, Returned::Unclean);
}

struct Task<'a> {
    ear: &'a Ear,
    lent: Box<Lent>,
    unsent: Unsent,
    messages: WholeMessages,
    /// It was told to forget its client's settings.
    settled: bool,
}

impl Task<'_> {
    fn poll(&mut self, worker: &Worker, cx: &mut Context<'_>) -> Poll<End> {
        if self.ear.hearing.borrow().is_deserted() {
            return Poll::Ready(End::Deserted);
        }
        if worker.views.newest_epoch() != self.lent.epoch || self.tell_server(cx).is_err() {
            return Poll::Ready(End::Lost);
        }
        let mut chunk = worker.chunk.borrow_mut();
        match poll_chunk(&mut self.lent.stream, &mut chunk, cx) {
            Poll::Pending => {
                *self.ear.task.borrow_mut() = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(Ok(bytes)) if !bytes.is_empty() => self.messages.push(bytes),
            Poll::Ready(_) => return Poll::Ready(End::Lost),
        }
        drop(chunk);
        if !self.hear() {
            return Poll::Ready(End::Lost);
        }
        // Those who were woken run before this task does again, on the same thread: what they can take is not left waiting.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn tell_server(&mut self, cx: &mut Context<'_>) -> std::io::Result<()> {
        if let Some(sql) = self.ear.hearing.borrow_mut().next_statements() {
            let first = if std::mem::replace(&mut self.settled, true) { "" } else { SETTLING };
            let mut query = Vec::new();
            put_query(format!("{first}{sql}").as_bytes(), &mut query);
            self.unsent.add(&mut self.lent.stream, &query, cx)?;
        }
        match self.unsent.poll_send(&mut self.lent.stream, cx) {
            Poll::Ready(Err(error)) => Err(error),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }

    /// Whether what the server says is what it should.
    fn hear(&mut self) -> bool {
        loop {
            let message = match self.messages.take() {
                Ok(Some(message)) => message,
                Ok(None) => return true,
                Err(_) => return false,
            };
            let mut hearing = self.ear.hearing.borrow_mut();
            let concerned = match (message.kind(), message.body()) {
                (b'A', body) => {
                    let named = body.get(4..).and_then(split_string);
                    let Some((channel, rest)) = named else { return false };
                    let Some((payload, _)) = split_string(rest) else { return false };
                    hearing.heard(channel, payload, &message.raw)
                }
                (b'Z', b"I") => hearing.answered(),
                (b'S', body) => {
                    self.lent.holding.note_setting(body);
                    let encoding = self.lent.holding.reported().get(b"client_encoding");
                    if encoding != Some(&*self.ear.encoding) {
                        return false;
                    }
                    Vec::new()
                }
                (b'C' | b'T' | b'D' | b'N', _) => Vec::new(),
                _ => return false,
            };
            drop(hearing);
            self.ear.wake(&concerned);
        }
    }
}

/// Sets the server of a client apart, if the pool can do without it and nobody listens for the pool yet.
pub fn set_apart(worker: &Worker, pool: PoolId, server: ServerId) -> bool {
    let mut pools = worker.pools.borrow_mut();
    !pools.ears.contains_key(&pool) && pools.lending.set_apart(server, Instant::now())
}
