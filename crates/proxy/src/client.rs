//! One client from its first byte to its last: start-up, hold, relay, moves to other servers, farewell.

use crate::console;
use crate::error::{Refusal, Successor};
use crate::hold::{NoServer, Wanted, find_server};
use crate::park::{self, Move, Parked};
use crate::peers;
use crate::pooled;
use crate::reach::Identity;
use crate::relay::{End, Relay, Stop, Unsent};
use crate::roster::{Seat, sit_down};
use crate::server::{Answered, Until, forward_cancel};
use crate::session::{Purpose, Session};
use crate::source::Peer;
use crate::stream::Stream;
use crate::wish::{NoWish, Wish, read_wish};
use crate::worker::{Worker, stopped};
use pgwire::startup::parse_body;
use pgwire::{CancelKey, Startup, StartupMessage};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// How long a client may take to accept its last message and close.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// Bytes of a client that are read and thrown away after its last message.
const FAREWELL_BYTES_MAX: usize = 1024 * 1024;

/// Serves one connection to its end; a client of the pooled mode until it is let in, which takes much more memory than the
/// session that begins then.
pub async fn serve<'a>(
    client: Stream,
    peer: Peer,
    worker: &'a Rc<Worker>,
) -> Option<Box<pooled::Client<'a>>> {
    let shared = &worker.shared;
    let mut stop = worker.stop.clone();
    let limit = shared.settings().startup_timeout;
    let wish = tokio::select! {
        () = stopped(&mut stop) => return None,
        // What is large is kept apart while it is needed: of the session mode, this is kept.
        wish = timeout(limit, Box::pin(read_wish(client, worker))) => wish,
    };
    match wish {
        Err(_) => shared.log_bad_client(peer, &format_args!("no whole start-up packet came in {limit:?}")),
        Ok(Err(NoWish::Gone)) => {}
        Ok(Err(NoWish::NotPostgres(error))) => shared.log_bad_client(peer, &error),
        Ok(Err(NoWish::NoTls(error))) => {
            shared.log_bad_client(peer, &format_args!("the TLS handshake failed: {error}"));
        }
        Ok(Err(NoWish::NotForPostgres)) => {
            shared.log_bad_client(peer, &"it began TLS without asking for \"postgresql\" (ALPN)");
        }
        Ok(Err(NoWish::Refused(mut client, refusal))) => {
            if let Refusal::BadStartup(error) = &refusal {
                shared.log_bad_client(peer, error);
            }
            Box::pin(farewell(&mut client, &refusal)).await;
        }
        Ok(Ok((_client, Wish::Cancel(key)))) => Box::pin(cancel(&key, worker)).await,
        Ok(Ok((client, Wish::Session(packet)))) => {
            return Box::pin(serve_session((client, peer), packet, worker)).await;
        }
    }
    None
}

async fn cancel(key: &CancelKey, worker: &Worker) {
    let (key, was_passed_on) = peers::read(key);
    if cancel_here(&key, worker).await {
        return;
    }
    // An unknown key is not answered and not logged as trouble: the session may just have ended.
    tracing::debug!("cancel request for process {}, which has no session here", key.pid());
    if !was_passed_on {
        peers::ask(&key, worker).await;
    }
}

/// Cancels what has this key, here or in an older process that still has clients; whether it is known.
pub async fn cancel_here(key: &CancelKey, worker: &Worker) -> bool {
    if worker.shared.cancels.forward(key, worker).await {
        return true;
    }
    let Some((server, key)) = worker.shared.pool.cancels(key) else {
        let Ok(_permit) = worker.to_predecessor.try_acquire() else { return false };
        return worker.shared.predecessor.cancel(key).await;
    };
    if let Err(error) = forward_cancel(&server, &key, worker).await {
        tracing::warn!("cannot pass a cancel request on to {}: {error}; the statement goes on", server.node);
    }
    true
}

async fn serve_session<'a>(
    (mut client, peer): (Stream, Peer),
    packet: Vec<u8>,
    worker: &'a Rc<Worker>,
) -> Option<Box<pooled::Client<'a>>> {
    let shared = &worker.shared;
    // That it can be read is known; what it says is borrowed from here on.
    let Some(Ok(Startup::Session(message))) = packet.get(4..).map(parse_body) else { return None };
    let way = match shared.way_of(&client, &message) {
        Ok(way) => way,
        Err(refusal) => {
            if let Refusal::NotAdmitted { .. } = &refusal {
                shared.log_not_admitted(&client, &refusal);
            }
            Box::pin(farewell(&mut client, &refusal)).await;
            return None;
        }
    };
    // Before clients are counted: it is wanted most when there are too many.
    if console::is_meant(&message) {
        Box::pin(console::serve(client, &message, worker)).await;
        return None;
    }
    let clients_max = shared.settings().clients_max;
    let Some(counted) = shared.stats.client(clients_max) else {
        Box::pin(farewell(&mut client, &Refusal::TooManyClients { clients_max })).await;
        return None;
    };
    if shared.settings().pool.is_some() && purpose(&message) == Purpose::Sql {
        return Box::pin(pooled::let_in((client, peer), &message, way, counted, worker)).await;
    }
    let purpose = purpose(&message);
    let seat = sit_down((&client, peer), &message, worker).await;
    drop(message);
    // Kept as long as the session: it may have to log in again.
    let packet = packet.into_boxed_slice();
    let ended = tokio::select! {
        biased;
        order = seat.ordered() => Some(order),
        () = Box::pin(on_its_own_servers(&mut client, (&packet, purpose), &seat, worker)) => None,
    };
    if let Some(order) = ended {
        // The client cannot be told: its server may have begun a message.
        tracing::debug!("a session ends: {order:?}");
    }
    None
}

async fn on_its_own_servers(
    client: &mut Stream,
    (packet, purpose): (&[u8], Purpose),
    seat: &Seat,
    worker: &Worker,
) {
    let mut parked = None;
    loop {
        seat.looks();
        match on_one_server(client, (packet, purpose), parked, seat, worker).await {
            Some(moving) => parked = Some(moving),
            None => return,
        }
    }
}

/// Serves a session until its client has heard the last word, or until it moves to another server.
async fn on_one_server(
    client: &mut Stream,
    (packet, purpose): (&[u8], Purpose),
    parked: Option<Parked>,
    seat: &Seat,
    worker: &Worker,
) -> Option<Parked> {
    let identity = Identity::Unchecked;
    let wanted = match &parked {
        None => Wanted { startup_packet: packet, until: Until::FirstAnswer, identity, since: Instant::now() },
        Some(parked) => {
            Wanted { startup_packet: packet, until: Until::LoggedIn, identity, since: parked.since }
        }
    };
    let (target, Answered { stream: mut server, first }) = match find_server(client, &wanted, worker).await {
        Ok(found) => found,
        Err(NoServer::ClientGone) => return None,
        Err(NoServer::Refused(refusal)) => {
            let mut last = parked.map_or_else(Vec::new, |parked| parked.to_client);
            refusal.encode(&mut last);
            farewell_with(client, &last).await;
            return None;
        }
    };
    let node = Arc::new(target.server);
    let Some(connection) = worker.shared.pool.open(Arc::clone(&node), target.epoch) else {
        let clients_max = worker.shared.settings().clients_max;
        farewell(client, &Refusal::TooManyClients { clients_max }).await;
        return None;
    };
    seat.found(Arc::clone(&node), target.epoch);
    let (mut session, first) = match parked {
        None => (Session::new(node, target.epoch, purpose), first),
        Some(parked) => match parked.resume(node, target.epoch, &first, &connection, worker) {
            Ok(resumed) => resumed,
            Err(last) => {
                farewell_with(client, &last).await;
                return None;
            }
        },
    };
    let mut relay = Relay::new(client, &mut server, &mut session, &connection, worker);
    let end = match relay.begin_with(first) {
        Ok(()) => match until_end_or_move(&mut relay).await {
            Ok(moving) => return Some(moving),
            Err(end) => end,
        },
        Err(error) => End::ServerGarbled(error),
    };
    let client_has_ended = relay.client_has_ended();
    let unsent = std::mem::take(&mut relay.to_client);
    // The server need not wait until the client has heard of it.
    drop(server);
    drop(connection);
    let last_word = last_word(&end, &session, worker);
    if client_has_ended || !session.at_boundary() || flush(client, unsent).await.is_err() {
        return None;
    }
    match last_word {
        Some(refusal) => farewell(client, &refusal).await,
        // The server's own last word is to be read as well.
        None => farewell_with(client, &[]).await,
    }
    None
}

/// Relays until the session moves, or ends.
async fn until_end_or_move(relay: &mut Relay<'_>) -> Result<Parked, End> {
    loop {
        match relay.run().await {
            Stop::Ended(end) => return Err(end),
            Stop::Quiet => match park::ask(relay).await {
                Move::Can => return Ok(park::leave(relay).await),
                Move::Stays => {}
                Move::Ended(end) => return Err(end),
            },
        }
    }
}

fn purpose(message: &StartupMessage<'_>) -> Purpose {
    match message.get("replication") {
        None => Purpose::Sql,
        Some(_) => Purpose::Replication,
    }
}

/// What the client is told at the end, if anything; counts and logs what was not the client's own doing.
fn last_word(end: &End, session: &Session, worker: &Worker) -> Option<Refusal> {
    let shared = &worker.shared;
    let (cluster, node) = (shared.settings().cluster.clone(), session.node().to_string());
    let (epoch, at_stake) = (session.epoch(), session.at_stake());
    match end {
        End::ClientGone => None,
        End::ServerGone if session.end_was_announced() => None,
        End::ServerGone => {
            tracing::debug!("the connection to {node} (epoch {epoch}) broke under a session");
            Some(Refusal::ServerBroke { cluster, node, epoch, at_stake })
        }
        End::ServerGarbled(error) => {
            tracing::error!(
                "{node} (epoch {epoch}) does not speak PostgreSQL's protocol: {error}; its session is closed"
            );
            None
        }
        End::EpochChanged => {
            shared.stats.session_ended(epoch);
            let view = worker.views.clone().latest();
            let now = Successor {
                epoch: view.epoch,
                node: view.primary.as_ref().map(|server| server.node.clone()),
            };
            Some(Refusal::EpochChanged { cluster, node, epoch, at_stake, now })
        }
        End::Stopping => Some(Refusal::Stopping),
    }
}

/// Sends what is left for the client.
pub async fn flush(client: &mut Stream, mut unsent: Unsent) -> io::Result<()> {
    timeout(FAREWELL_MAX, poll_fn(|cx| unsent.poll_send(client, cx))).await?
}

/// Tells the client why its connection ends, and closes it.
pub async fn farewell(client: &mut Stream, refusal: &Refusal) {
    let mut message = Vec::new();
    refusal.encode(&mut message);
    farewell_with(client, &message).await;
}

/// Sends the last bytes and closes, so that the client gets to read them: closing while bytes of the client are unread
/// would reset the connection and take the message with it.
pub async fn farewell_with(client: &mut Stream, last: &[u8]) {
    let closing = async {
        client.write_all(last).await?;
        client.shutdown().await?;
        let (mut thrown_away, mut sink) = (0, vec![0; 1024]);
        while thrown_away < FAREWELL_BYTES_MAX {
            match client.read(&mut sink).await? {
                0 => break,
                n => thrown_away += n,
            }
        }
        io::Result::Ok(())
    };
    // Whether the client still listens is its own affair.
    let _ = timeout(FAREWELL_MAX, closing).await;
}
