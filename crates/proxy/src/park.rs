//! Moves a session to another server: asks its server whether it can move, leaves that server in order, and goes on where
//! the login was repeated. [`crate::portable`] and [`crate::relogin`] decide; this file does it.

use crate::error::{Refusal, Successor};
use crate::pool::OpenConnection;
use crate::portable::{Asking, Obstacle, Verdict, question};
use crate::relay::{End, Relay};
use crate::relogin::{NotRepeated, Repeated, Told, read};
use crate::session::{AtStake, Session};
use crate::worker::{Worker, stopped};
use cluster::view::Server;
use pgwire::CancelKey;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// Terminate: how a session ends in order.
const TERMINATE: &[u8] = b"X\0\0\0\x04";

/// How long Terminate may take to be sent; the server notices the end without it, too.
const TERMINATE_MAX: Duration = Duration::from_millis(100);

/// Most bytes of an answer that are read at once.
const ANSWER_LEN: usize = 4 * 1024;

/// Whether a quiet session moves.
#[derive(Debug)]
pub enum Move {
    /// It can; its server may be left.
    Can,
    /// It stays; the relay goes on.
    Stays,
    /// It ended meanwhile.
    Ended(End),
}

/// A session between two servers.
#[derive(Debug)]
pub struct Parked {
    node: String,
    epoch: u64,
    told: Told,
    key: Option<CancelKey>,
    /// Since when it has had no server.
    pub since: Instant,
    /// Bytes that the client is to have first.
    pub to_client: Vec<u8>,
}

/// Finds out whether the session of `relay`, which must be quiet, can move. If it cannot, `relay` knows it.
pub async fn ask(relay: &mut Relay<'_>) -> Move {
    if let Some(obstacle) = relay.session.obstacle() {
        return stay(relay, obstacle);
    }
    let worker = relay.worker;
    let (mut views, mut stop) = (worker.views.clone(), worker.stop.clone());
    let epoch = relay.session.epoch();
    let outdated = async {
        while views.newest_epoch() <= epoch {
            views.changed().await;
            views.latest();
        }
    };
    let verdict = tokio::select! {
        biased;
        () = outdated => Err(End::EpochChanged),
        () = stopped(&mut stop) => Err(End::Stopping),
        verdict = hear(relay) => verdict,
    };
    match verdict {
        Err(end) => Move::Ended(end),
        Ok(Verdict::Stays(obstacle)) => stay(relay, obstacle),
        // Something may have come behind the answer, or the replacement was given up; the relay will see that.
        Ok(Verdict::Portable) if !relay.session.is_quiet() || is_given_up(relay) => Move::Stays,
        Ok(Verdict::Portable) => Move::Can,
    }
}

fn is_given_up(relay: &Relay<'_>) -> bool {
    !relay.is_outdated() && relay.worker.views.clone().latest().hold.is_none()
}

fn stay(relay: &mut Relay<'_>, obstacle: Obstacle) -> Move {
    tracing::debug!("a session stays on {}: {obstacle}", relay.session.node());
    relay.stay(obstacle);
    Move::Stays
}

async fn hear(relay: &mut Relay<'_>) -> Result<Verdict, End> {
    // A server that is gone may still have said why.
    let _ = relay.server.write_all(&question()).await;
    let mut asking = Asking::default();
    let mut bytes = Vec::with_capacity(ANSWER_LEN);
    loop {
        bytes.clear();
        if relay.server.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return Err(End::ServerGone);
        }
        let mut to_client = Vec::new();
        let verdict = asking.server_sent(&bytes, &mut to_client).map_err(End::ServerGarbled)?;
        relay.add_for_client(&to_client).map_err(End::ServerGarbled)?;
        if let Some(verdict) = verdict {
            return Ok(verdict);
        }
    }
}

/// Leaves the server of a session that can move. What `relay` borrowed can be dropped after this, except the client.
pub async fn leave(relay: &mut Relay<'_>) -> Parked {
    let _ = timeout(TERMINATE_MAX, relay.server.write_all(TERMINATE)).await;
    let (node, epoch) = (relay.session.node().to_string(), relay.session.epoch());
    let (told, key) = (relay.session.take_told(), relay.connection.key_of_client());
    let to_client = std::mem::take(&mut relay.to_client).into_rest();
    Parked { node, epoch, told, key, since: Instant::now(), to_client }
}

impl Parked {
    /// Goes on where `answer` is the whole answer to the repeated login. Returns the session and the bytes that its client
    /// gets first.
    ///
    /// # Errors
    /// What the client is told, as bytes.
    pub fn resume(
        self,
        server: Arc<Server>,
        epoch: u64,
        answer: &[u8],
        connection: &OpenConnection<'_>,
        worker: &Worker,
    ) -> Result<(Session, Vec<u8>), Vec<u8>> {
        let Parked { node, epoch: old_epoch, told, key: given, mut to_client, .. } = self;
        match read(answer, &told) {
            Ok(Repeated { to_client: news, key }) => {
                if let (Some(given), Some(key)) = (given, key) {
                    connection.set_keys(given, key);
                }
                tracing::debug!("a session moved from {node} (epoch {old_epoch}) to {}", server.node);
                to_client.extend_from_slice(&news);
                Ok((Session::resumed(server, epoch, told), to_client))
            }
            Err(NotRepeated::Refused(message)) => {
                to_client.extend_from_slice(&message);
                Err(to_client)
            }
            Err(error) => {
                tracing::warn!("a session could not move from {node} to {}: {error}", server.node);
                let now = Successor { epoch, node: Some(server.node.clone()) };
                let cluster = worker.shared.settings().cluster.clone();
                let at_stake = AtStake::Nothing;
                Refusal::EpochChanged { cluster, node, epoch: old_epoch, at_stake, now }
                    .encode(&mut to_client);
                Err(to_client)
            }
        }
    }
}
