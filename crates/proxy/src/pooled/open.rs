//! Opens a server connection for a pool: finds the primary, logs in.

use super::pools::{Lent, Login, NotOpened, Secret, not_opened, opened};
use crate::cancel::Running;
use crate::error::Refusal;
use crate::hold::{Wanted, find_for_pool};
use crate::lend::{PoolId, ServerId};
use crate::logical::{Holding, Reported};
use crate::reach::Identity;
use crate::route::Target;
use crate::server::{Answered, Until};
use crate::stream::Stream;
use crate::tls::TlsStream;
use crate::worker::Worker;
use pgwire::message::put;
use pgwire::scram::{Client, ClientChannel, Mechanism, Proving, Secret as ScramSecret};
use pgwire::{CancelKey, WholeMessages};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;
use thiserror::Error;
use tokio::time::timeout;

/// Why a login failed.
#[derive(Debug, Error)]
pub enum LoginError {
    /// The server's whole ErrorResponse.
    #[error("the server refuses it")]
    Refused(Vec<u8>),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Frame(#[from] pgwire::FrameError),
    #[error("{0}")]
    Scram(#[from] pgwire::scram::ScramError),
    #[error("it wants a kind of secret that cannot be passed on (authentication request {0})")]
    Method(u32),
    #[error("it wants a secret, and none is known")]
    NoSecret,
    #[error("its answer is not that to a login")]
    Strange,
}

/// Opens one, and tells the pool what came of it.
pub async fn open(worker: Rc<Worker>, pool: PoolId, server: ServerId, login: Rc<Login>) {
    let wanted = Wanted {
        startup_packet: &login.packet,
        until: Until::LoggedIn,
        identity: Identity::Checked,
        since: Instant::now(),
    };
    let (target, answered) = match find_for_pool(&wanted, &worker).await {
        Ok(found) => found,
        Err(refusal) => return not_opened(&worker, pool, server, &NotOpened::Refusal(refusal)),
    };
    let Target { server: node, epoch } = target;
    let limit = worker.shared.settings().startup_timeout;
    let outcome = timeout(limit, log_in(answered, &login)).await;
    let why = match outcome {
        Ok(Ok((stream, reported, key))) => {
            let mut known = login.reported.borrow_mut();
            let reported =
                known.as_ref().map_or_else(|| reported.clone(), |k| reported.clone().shared_with(k));
            *known = Some(reported.clone());
            drop(known);
            let holding = Holding::new(reported).of_process(key.pid());
            let running = Arc::new(Running { server: Arc::new(node), key });
            let rests_since = Instant::now();
            let lent = Lent { id: server, stream, holding, running, epoch, rests_since };
            return opened(&worker, Box::new(lent));
        }
        Ok(Err(LoginError::Refused(message))) => {
            return not_opened(&worker, pool, server, &NotOpened::ByServer(message.into()));
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer in {} s", limit.as_secs()),
    };
    tracing::warn!("cannot log in to {}: {why}", node.node);
    let refusal = Refusal::NoLogin { node: node.node, why };
    not_opened(&worker, pool, server, &NotOpened::Refusal(refusal));
}

/// Logs in to a server that has answered: the connection, what it reports, and its cancel key.
///
/// # Errors
/// It refuses, does not speak the protocol, or the connection broke.
pub async fn log_in(answered: Answered, login: &Login) -> Result<(Stream, Reported, CancelKey), LoginError> {
    let Answered { mut stream, first } = answered;
    let mut messages = WholeMessages::default();
    messages.push(&first);
    let (mut reported, mut key) = (Reported::default(), None);
    let mut exchange = None;
    loop {
        while let Some(message) = messages.take()? {
            match (message.kind(), message.body()) {
                (b'R', body) => answer(body, &mut exchange, login, &mut stream).await?,
                (b'S', body) => reported.note_body(body),
                (b'K', body) => key = CancelKey::parse(body),
                (b'E', _) => return Err(LoginError::Refused(message.raw)),
                (b'Z', b"I") => {
                    let key = key.ok_or(LoginError::Strange)?;
                    return Ok((stream, reported, key));
                }
                (b'N' | b'v', _) => {}
                _ => return Err(LoginError::Strange),
            }
        }
        let mut bytes = Vec::with_capacity(2_048);
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        messages.push(&bytes);
    }
}

/// Where a SCRAM exchange is.
enum Exchange {
    Begun(Client),
    Proven(Proving),
}

/// Answers a request for authentication.
async fn answer(
    body: &[u8],
    exchange: &mut Option<Exchange>,
    login: &Login,
    stream: &mut Stream,
) -> Result<(), LoginError> {
    let (kind, data) = body.split_first_chunk::<4>().ok_or(LoginError::Strange)?;
    let mut out = Vec::new();
    match (u32::from_be_bytes(*kind), exchange.take()) {
        (0, None) => return Ok(()),
        (10, None) if offers(data, Mechanism::Plain) => {
            let secret = match login.secret.borrow().clone() {
                Secret::None | Secret::Md5(_) => return Err(LoginError::NoSecret),
                Secret::Key(key, verifier) => ScramSecret::Key(key, verifier),
                Secret::Password(password) => ScramSecret::Password(password),
            };
            let channel = match stream.tls().and_then(TlsStream::end_point) {
                None => ClientChannel::Open,
                Some(hash) if offers(data, Mechanism::Plus) => ClientChannel::Tls(hash),
                Some(_) => ClientChannel::NotOffered,
            };
            let client = Client::new(secret, channel, &super::nonce().ok_or(LoginError::NoSecret)?);
            let first = client.first();
            let length = u32::try_from(first.len()).map_err(|_| LoginError::Strange)?;
            let name = client.mechanism().name().as_bytes();
            put(b'p', &[name, b"\0", &length.to_be_bytes(), &first], &mut out);
            *exchange = Some(Exchange::Begun(client));
        }
        (5, None) => {
            // Only a client that was let in so has given it; of no other secret is a hash given away that can be guessed at.
            let Secret::Md5(verifier) = login.secret.borrow().clone() else {
                return Err(LoginError::Method(5));
            };
            let salt = data.try_into().map_err(|_| LoginError::Strange)?;
            put(b'p', &[&verifier.answer(salt), b"\0"], &mut out);
        }
        (11, Some(Exchange::Begun(client))) => {
            let (proving, last) = client.prove(data)?;
            put(b'p', &[&last], &mut out);
            *exchange = Some(Exchange::Proven(proving));
        }
        (12, Some(Exchange::Proven(proving))) => proving.finish(data)?,
        (method, _) => return Err(LoginError::Method(method)),
    }
    stream.write_all(&out).await?;
    Ok(())
}

/// Whether a server's list of mechanisms has this one.
fn offers(list: &[u8], mechanism: Mechanism) -> bool {
    list.split(|&byte| byte == 0).any(|name| name == mechanism.name().as_bytes())
}
