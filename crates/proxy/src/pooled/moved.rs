//! A client goes on in another process, or comes from one.

use super::bell::Listener;
use super::login::{Admitted, packet_of_pool};
use super::pools::Secret;
use super::{Client, Front};
use crate::cancel::Entry;
use crate::hba::Way;
use crate::lend::ClientId;
use crate::logical::{Logical, Owner};
use crate::peers;
use crate::relay::Unsent;
use crate::roster::{Bound, Seated, sit_down_again};
use crate::settings::ClientTlsMode;
use crate::socket::Socket;
use crate::source::Peer;
use crate::stats::Counted;
use crate::stream::Stream;
use crate::takeover::{Arrival, BODY_LEN_MAX, Outcome, Session};
use crate::tls::Clients;
use crate::who::Who;
use crate::worker::Worker;
use pgwire::Startup;
use pgwire::startup::parse_body;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::OwnedSemaphorePermit;

/// Waiting for its turn.
type Turn = Pin<Box<dyn Future<Output = Option<OwnedSemaphorePermit>>>>;

/// Whether a client goes to another process.
#[derive(Default)]
pub enum Going {
    /// Not now.
    #[default]
    NotYet,
    /// When it is its turn.
    InQueue(Turn),
    Now {
        _turn: OwnedSemaphorePermit,
    },
    /// Never.
    Stays,
}

impl Going {
    /// The client has something else to do first.
    pub fn later(&mut self) {
        if !matches!(self, Going::NotYet | Going::Stays) {
            *self = Going::NotYet;
        }
    }
}

impl Client<'_> {
    /// Whether the session can go now, of a client that has no server: then nobody reads from its socket any more.
    pub(super) fn poll_going(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        // Who listens by somebody else's server could miss something on the way.
        let listens = self.front.ear.is_some();
        if listens {
            self.front.seat.stays(Bound::Listens);
        }
        let is_bound = matches!(self.going, Going::Stays) || listens;
        let is_busy = !self.front.unsent.is_empty() || self.admitted.logical.in_transaction();
        if is_bound || is_busy || self.front.has_ended {
            return Poll::Ready(false);
        }
        if self.front.stream.tls().is_some() {
            self.stays(Bound::Tls);
            return Poll::Ready(false);
        }
        if matches!(self.going, Going::NotYet)
            && let Some(ferry) = &*self.worker.ferry.borrow()
        {
            self.going = Going::InQueue(Box::pin(ferry.turn()));
        }
        if let Going::InQueue(turn) = &mut self.going {
            match turn.as_mut().poll(cx) {
                Poll::Pending => return Poll::Ready(false),
                Poll::Ready(Some(permit)) => self.going = Going::Now { _turn: permit },
                Poll::Ready(None) => {
                    self.stays(Bound::Refused);
                    return Poll::Ready(false);
                }
            }
        }
        let rests = self.front.stream.poll_rest(cx);
        if rests == Poll::Ready(false) {
            // Others may go meanwhile.
            self.going.later();
        }
        rests
    }

    fn stays(&mut self, why: Bound) {
        self.going = Going::Stays;
        self.front.seat.stays(why);
    }

    /// Passes the session on; whether nothing is to be done for the client here any more.
    pub(super) async fn moves(&mut self) -> bool {
        let ferry = self.worker.ferry.borrow().clone();
        let (Some(ferry), Some((body, socket))) = (ferry, self.pack()) else {
            self.stays(Bound::TooMuch);
            return false;
        };
        let outcome = ferry.pass_on(body, socket).await;
        // With it, its turn ends.
        self.going = Going::Stays;
        match outcome {
            Outcome::Taken | Outcome::Unknown => true,
            Outcome::Stays => {
                self.stays(Bound::Refused);
                false
            }
        }
    }

    fn pack(&self) -> Option<(Vec<u8>, OwnedFd)> {
        let logical = self.admitted.logical.described()?;
        let (unread, socket) = self.front.stream.to_parts().ok()?;
        let connected = self.front.seat.connected.duration_since(UNIX_EPOCH).unwrap_or_default();
        let pools = self.worker.pools.borrow();
        let login = pools.logins.get(self.admitted.pool.0 as usize)?;
        let secret = match &*login.secret.borrow() {
            Secret::Key(key, verifier) => Some((key.clone(), verifier.clone())),
            Secret::None | Secret::Md5(_) | Secret::Password(_) => None,
        };
        let session = Session {
            packet: named(&login.packet, &self.front.seat.who.application_name),
            key: self.entry.key().to_bytes(),
            connected_us: u64::try_from(connected.as_micros()).unwrap_or_default(),
            secret,
            has_shown: self.admitted.has_shown,
            input: [&self.front.input[..], &unread].concat(),
            logical,
        };
        let body = session.encode();
        (body.len() <= BODY_LEN_MAX).then_some((body, socket))
    }
}

/// A pool's start-up packet, with the name that the application gave itself.
fn named(packet: &[u8], name: &[u8]) -> Vec<u8> {
    let without_end = packet.strip_suffix(b"\0").unwrap_or(packet);
    let body = without_end.get(4..).unwrap_or_default();
    let body = [body, b"application_name\0", name, b"\0\0"].concat();
    [&u32::try_from(body.len() + 4).unwrap_or(u32::MAX).to_be_bytes()[..], &body].concat()
}

/// Goes on with the session of a client of another process; `None` if that one keeps it.
pub async fn take_in<'a>(arrival: Arrival, worker: &'a Rc<Worker>) -> Option<Box<Client<'a>>> {
    let Arrival { session, socket, reply } = arrival;
    let room = match make_room(&session, &socket, worker).await {
        Ok(room) => room,
        Err(why) => {
            reply.refused(&why);
            return None;
        }
    };
    // Up to here nothing was done to the socket; from here on, the other process does nothing with it.
    reply.taken().ok()?;
    let adopted = Socket::adopt(socket, worker.ring.as_ref());
    let adopted =
        adopted.inspect_err(|error| tracing::warn!("a client that was handed over is lost: {error}"));
    let stream = Stream::Plain(adopted.ok()?);
    let Room { admitted, entry, seat, listener, counted } = room;
    seat.gave_back(&admitted.logical, worker.roster.now());
    let (unsent, input) = (Unsent::default(), session.input);
    let front = Front { stream, seat: (*seat).clone(), input, unsent, has_ended: false, ear: None };
    let (post, going, is_here) = (Rc::default(), Going::default(), (seat, listener, counted));
    Some(Box::new(Client { front, admitted, entry, worker, liked: None, post, going, _is_here: is_here }))
}

/// All of a client but its connection.
struct Room<'a> {
    admitted: Admitted<'a>,
    entry: Entry<'a>,
    seat: Seated<'a>,
    listener: Listener<'a>,
    counted: Counted<'a>,
}

/// Does what a login does, as far as it can without the client; otherwise says why not.
async fn make_room<'a>(
    session: &Session,
    socket: &TcpStream,
    worker: &'a Rc<Worker>,
) -> Result<Room<'a>, String> {
    let (shared, settings) = (&worker.shared, worker.shared.settings());
    let pool_settings = settings.pool.as_ref().ok_or("it has no pools")?;
    let peer = Peer::of(socket).map_err(|error| format!("the socket is of no use: {error}"))?;
    match (shared.tls.clients.as_ref().map(Clients::mode), peer) {
        (Some(ClientTlsMode::Verify), _) | (Some(ClientTlsMode::Require), Peer::Tcp(_)) => {
            return Err("it takes clients with TLS only".to_owned());
        }
        (Some(ClientTlsMode::Require | ClientTlsMode::Allow) | None, _) => {}
    }
    let Some(Ok(Startup::Session(message))) = session.packet.get(4..).map(parse_body) else {
        return Err("its start-up packet is none".to_owned());
    };
    let user = message.get("user").filter(|user| !user.is_empty()).ok_or("it has no user")?;
    let way = shared.way_from(peer, &message).map_err(|_| "the rules do not admit it")?;
    let secret = match (way, &session.secret) {
        // Servers may ask for what another client of its pool has shown.
        (Way::Trust, secret) => secret.as_ref(),
        (Way::Scram | Way::Md5, Some(secret)) if session.has_shown => Some(secret),
        (Way::Scram | Way::Md5, _) => return Err("it has shown no password, or one of MD5".to_owned()),
    };
    let counted = shared.stats.client(settings.clients_max).ok_or("there are too many clients")?;
    let of_pool = packet_of_pool(user, &message);
    let who = Who::of(&message);
    let place = shared.crowd.enter(user, &who.database, &pool_settings.limits);
    let place = place.map_err(|_| "its user or its database has too many clients")?;
    let key = session.cancel_key().filter(|key| !peers::read(key).1).ok_or("its key is none")?;
    let entry = shared.cancels.enter_with(key).ok_or("another client has its key")?;
    let (pool, login) = worker.pools.borrow_mut().pool(&of_pool).ok_or("there are too many pools")?;
    if let Some((key, verifier)) = secret {
        login.use_if_none(Secret::Key(key.clone(), verifier.clone()));
    }
    let listener = worker.bell.listen().await;
    let connected = UNIX_EPOCH.checked_add(Duration::from_micros(session.connected_us));
    let connected = connected.unwrap_or_else(SystemTime::now);
    let seat = sit_down_again((Some(peer), socket.local_addr().ok()), connected, who, worker).await;
    let id = ClientId(seat.number);
    let logical = {
        let mut texts = worker.texts.borrow_mut();
        texts.begin_round(shared.rounds.of_relations());
        Logical::restored(&session.logical, Owner(u64::from(id.0)), &mut texts)
    };
    let logical = logical.ok_or("its session is too large")?.counted_in(Rc::clone(&login.tally));
    let whole = pool_settings.whole_sessions.has(user, &seat.who.database);
    let logical = if whole { logical.kept_whole() } else { logical };
    let admitted = Admitted::new(pool, id, (logical, session.has_shown), place);
    Ok(Room { admitted, entry, seat, listener, counted })
}
