//! Lets a client in: finds its pool, checks it, tells it what a server would.

use super::md5;
use super::pools::{Login, Secret, give_back, want};
use super::post::Told;
use super::secrets::find_verifier;
use crate::crowd::Place;
use crate::error::Refusal;
use crate::guesses::{Standing, until_beat};
use crate::hba::Way;
use crate::lend::{ClientId, PoolId, Returned};
use crate::logical::{Logical, Owner, Reported};
use crate::roster::Seat;
use crate::stream::Stream;
use crate::tls::TlsStream;
use crate::worker::Worker;
use pgwire::message::{put, split_string};
use pgwire::scram::{Mechanism, ScramError, Server, ServerChannel, Verifier};
use pgwire::{CancelKey, StartupMessage, WholeMessages};
use std::rc::Rc;
use std::time::Instant;
use tokio::time::{sleep, timeout};

/// Room for what most clients are told when they are let in. Bytes.
const GREETING_USUAL: usize = 512;

/// Room for what a start-up packet has beside its parameters, and for a database that the client did not name. Bytes.
const PACKET_SPARE: usize = 96;

/// A client that was let in.
#[derive(Debug)]
pub struct Admitted<'a> {
    pub pool: PoolId,
    pub id: ClientId,
    pub logical: Logical,
    /// It has logged in by SCRAM.
    pub has_shown: bool,
    /// It counts as a client of its user and its database as long as this is kept.
    /// Boxed, because mostly there is none.
    _place: Option<Box<Place<'a>>>,
}

impl<'a> Admitted<'a> {
    /// One of this pool, with its session, that counts there, and whether it has logged in by SCRAM.
    pub fn new(
        pool: PoolId,
        id: ClientId,
        (logical, has_shown): (Logical, bool),
        place: Option<Place<'a>>,
    ) -> Admitted<'a> {
        Admitted { pool, id, logical, has_shown, _place: place.map(Box::new) }
    }
}

/// Why a client was not.
#[derive(Debug)]
pub enum NotAdmitted {
    Gone,
    Refused(Refusal),
    /// The server's own words.
    RefusedByServer(Rc<[u8]>),
}

impl From<Refusal> for NotAdmitted {
    fn from(refusal: Refusal) -> NotAdmitted {
        NotAdmitted::Refused(refusal)
    }
}

impl From<std::io::Error> for NotAdmitted {
    fn from(_: std::io::Error) -> NotAdmitted {
        NotAdmitted::Gone
    }
}

/// Lets a client in whose start-up message is `message`, in that way.
pub async fn admit<'a>(
    stream: &mut Stream,
    (message, way): (&StartupMessage<'_>, Way),
    key: &CancelKey,
    seat: &Seat,
    worker: &'a Rc<Worker>,
) -> Result<Admitted<'a>, NotAdmitted> {
    let user = message.get("user").filter(|user| !user.is_empty()).ok_or(Refusal::NoUser)?;
    let mut greeting = Vec::with_capacity(GREETING_USUAL);
    negotiate(message, &mut greeting);
    let of_pool = packet_of_pool(user, message);
    let limit = worker.shared.settings().startup_timeout;
    let secret = match way {
        Way::Scram => {
            stream.write_all(&std::mem::take(&mut greeting)).await?;
            timeout(limit, check(stream, user, worker)).await.map_err(|_| NotAdmitted::Gone)??
        }
        Way::Md5 => {
            stream.write_all(&std::mem::take(&mut greeting)).await?;
            timeout(limit, md5::check(stream, user, worker)).await.map_err(|_| NotAdmitted::Gone)??
        }
        Way::Trust => Secret::None,
    };
    let place = match &worker.shared.settings().pool {
        Some(pool) => worker.shared.crowd.enter(user, &seat.who.database, &pool.limits)?,
        None => None,
    };
    let (pool, login) = worker.pools.borrow_mut().pool(&of_pool).ok_or(Refusal::TooManyPools)?;
    let has_shown = matches!(secret, Secret::Key(..));
    if let Secret::Key(..) | Secret::Md5(_) = secret {
        *login.secret.borrow_mut() = secret;
    }
    let id = ClientId(seat.number);
    let reported = reported(stream, pool, id, &login, worker).await?;
    let name = message.get("application_name").unwrap_or_default();
    let (settings, told) = login.greetings.get(name, &reported);
    let logical = Logical::new(Owner(u64::from(id.0)), settings, told.clone())
        .counted_in(Rc::clone(&login.tally))
        .told_as(key.pid());
    let settings = worker.shared.settings();
    let whole = settings.pool.as_ref().is_some_and(|pool| pool.whole_sessions.has(user, &seat.who.database));
    let logical = if whole { logical.kept_whole() } else { logical };
    put(b'R', &[&0_u32.to_be_bytes()], &mut greeting);
    told.tell_all(&mut greeting);
    put(b'K', &[&key.to_bytes()], &mut greeting);
    put(b'Z', &[b"I"], &mut greeting);
    stream.write_all(&greeting).await?;
    Ok(Admitted::new(pool, id, (logical, has_shown), place))
}

/// The newest protocol that is spoken with clients.
const PROTOCOL_MINOR_MAX: u16 = 2;

/// Which protocol is spoken with a client that asks for this one: 3.2 makes cancel keys longer, and changes nothing else.
pub fn minor(message: &StartupMessage<'_>) -> u16 {
    message.minor.min(PROTOCOL_MINOR_MAX)
}

/// Tells a client that asks for a newer protocol, or for options of it, which one is spoken, and that there are no options
/// (NegotiateProtocolVersion; src/backend/tcop/backend_startup.c, `SendNegotiateProtocolVersion`, puts the whole version
/// there, not the minor one alone).
pub fn negotiate(message: &StartupMessage<'_>, greeting: &mut Vec<u8>) {
    let options: Vec<&[u8]> =
        message.parameters.iter().map(|(name, _)| *name).filter(|name| name.starts_with(b"_pq_.")).collect();
    if message.minor <= PROTOCOL_MINOR_MAX && options.is_empty() {
        return;
    }
    let mut body = ((3_u32 << 16) | u32::from(minor(message))).to_be_bytes().to_vec();
    body.extend_from_slice(&u32::try_from(options.len()).unwrap_or(u32::MAX).to_be_bytes());
    for option in options {
        body.extend_from_slice(option);
        body.push(0);
    }
    put(b'v', &[&body], greeting);
}

/// The start-up packet of the pool's own servers: all that the client gave but the application's name, which is put in
/// place like a setting.
pub(super) fn packet_of_pool(user: &[u8], message: &StartupMessage<'_>) -> Vec<u8> {
    let database = message.get("database").filter(|database| !database.is_empty()).unwrap_or(user);
    let given: usize = message.parameters.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
    let mut packet = Vec::with_capacity(given + PACKET_SPARE);
    // Its length comes first, and is known last.
    packet.extend_from_slice(&[0; 4]);
    packet.extend_from_slice(&(3_u32 << 16).to_be_bytes());
    let mut add = |name: &[u8], value: &[u8]| {
        for part in [name, b"\0", value, b"\0"] {
            packet.extend_from_slice(part);
        }
    };
    add(b"user", user);
    add(b"database", database);
    for (name, value) in &message.parameters {
        let is_own = matches!(*name, b"user" | b"database" | b"application_name" | b"replication");
        if !is_own && !name.starts_with(b"_pq_.") {
            add(name, value);
        }
    }
    packet.push(0);
    let len = u32::try_from(packet.len()).unwrap_or(u32::MAX);
    packet[..4].copy_from_slice(&len.to_be_bytes());
    packet
}

/// What servers of the pool report. The first client has to wait for one.
async fn reported(
    stream: &mut Stream,
    pool: PoolId,
    id: ClientId,
    login: &Login,
    worker: &Rc<Worker>,
) -> Result<Reported, NotAdmitted> {
    let known = login.reported.borrow().clone();
    if let Some(reported) = known {
        return Ok(reported);
    }
    let waiting = match want(worker, pool, id, None, &Rc::default()) {
        Ok(lent) => {
            let reported = lent.holding.reported().clone();
            give_back(worker, lent, Returned::Clean);
            return Ok(reported);
        }
        Err(waiting) => waiting,
    };
    loop {
        let told = tokio::select! {
            biased;
            told = waiting.told() => told,
            () = stream.gone() => return Err(NotAdmitted::Gone),
        };
        match told {
            Told::Lent(lent) => {
                let reported = lent.holding.reported().clone();
                give_back(worker, lent, Returned::Clean);
                return Ok(reported);
            }
            Told::Waits => {}
            Told::GivenUp(waited) => return Err(Refusal::QueryWait { waited }.into()),
            Told::Refused(refusal) => return Err((*refusal).into()),
            Told::RefusedByServer(message) => return Err(NotAdmitted::RefusedByServer(message)),
        }
    }
}

/// Checks a client by SCRAM-SHA-256, bound to its TLS connection where both can (src/backend/libpq/auth-scram.c). An unknown
/// user, one without a password and a wrong password get the same answers.
async fn check(stream: &mut Stream, user: &[u8], worker: &Rc<Worker>) -> Result<Secret, NotAdmitted> {
    let (source, since) = (stream.peer()?.source(), Instant::now());
    let standing = worker.shared.guesses.standing(source, since);
    let found = find_verifier(user, worker).await?;
    if standing == Standing::Suspect {
        sleep(until_beat(since.elapsed())).await;
    }
    check_with(stream, user, found, worker).await
}

/// Checks a client whose verifier was found.
pub async fn check_with(
    stream: &mut Stream,
    user: &[u8],
    found: Verifier,
    worker: &Rc<Worker>,
) -> Result<Secret, NotAdmitted> {
    let mut messages = WholeMessages::default();
    let (channel, offered) = match stream.tls().and_then(TlsStream::end_point) {
        Some(hash) => (ServerChannel::Tls(hash.to_vec()), &[Mechanism::Plus, Mechanism::Plain][..]),
        None => (ServerChannel::Open, &[Mechanism::Plain][..]),
    };
    let list: Vec<u8> =
        offered.iter().flat_map(|mechanism| [mechanism.name(), "\0"].concat().into_bytes()).collect();
    say(stream, 10, &[&list[..], b"\0"].concat()).await?;
    let first = hear(stream, &mut messages).await?;
    let broken = |why: &str| Refusal::ClientBroke { why: why.to_owned() };
    let (chosen, rest) = split_string(&first).ok_or(broken("malformed SASLInitialResponse"))?;
    let mechanism = Mechanism::of_name(chosen)
        .filter(|mechanism| offered.contains(mechanism))
        .ok_or(broken("client selected an invalid SASL authentication mechanism"))?;
    let data = rest.get(4..).ok_or(broken("malformed SASLInitialResponse"))?;
    let nonce = super::nonce().ok_or(broken("no random bytes"))?;
    let refused = |error: ScramError| match error {
        ScramError::OtherChannel => Refusal::OtherChannel,
        ScramError::WrongProof => Refusal::WrongPassword { user: String::from_utf8_lossy(user).into_owned() },
        error => Refusal::ClientBroke { why: error.to_string() },
    };
    let begun = Server::begin(data, mechanism, &channel, found.clone(), &nonce).map_err(refused)?;
    say(stream, 11, &begun.answer).await?;
    let last = hear(stream, &mut messages).await?;
    let (source, guesses) = (stream.peer()?.source(), &worker.shared.guesses);
    // Here, where nothing comes between this question and its consequence.
    if guesses.standing(source, Instant::now()) == Standing::Shut {
        return Err(Refusal::TooManyFailures { source }.into());
    }
    match begun.server.finish(&last) {
        Ok((client_key, answer)) => {
            say(stream, 12, &answer).await?;
            Ok(Secret::Key(client_key, found))
        }
        Err(error) => {
            // The password may have been changed: the next attempt looks again.
            worker.secrets.borrow_mut().forget(user);
            if error == ScramError::WrongProof {
                let failure = guesses.failed(source, Instant::now());
                sleep(failure.pause).await;
            }
            Err(refused(error).into())
        }
    }
}

/// Sends a request for authentication.
pub async fn say(stream: &mut Stream, request: u32, data: &[u8]) -> std::io::Result<()> {
    let mut out = Vec::new();
    put(b'R', &[&request.to_be_bytes(), data], &mut out);
    stream.write_all(&out).await
}

/// The body of the client's next message, which must be a `p`.
pub async fn hear(stream: &mut Stream, messages: &mut WholeMessages) -> Result<Vec<u8>, NotAdmitted> {
    loop {
        let taken = messages.take().map_err(|error| Refusal::ClientBroke { why: error.to_string() })?;
        if let Some(message) = taken {
            return match message.kind() {
                b'p' => Ok(message.body().to_vec()),
                _ => Err(Refusal::ClientBroke { why: "expected SASL response".to_owned() }.into()),
            };
        }
        let mut bytes = Vec::with_capacity(1_024);
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(NotAdmitted::Gone);
        }
        messages.push(&bytes);
    }
}
