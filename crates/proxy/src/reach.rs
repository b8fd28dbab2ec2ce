//! By which way a server is reached: the Unix socket that the settings name for its node, or TCP.
//!
//! A socket of this host's is only used for a node whose address is one of this host's: a line that was forgotten when a
//! node moved would otherwise lead to whichever server has the socket now, and what is told of one server happen on another.
//! Where the socket cannot be connected TCP is taken at once. What the server says after that counts, though: its rules for
//! `local` may refuse whom those for `host` let in, and nobody gets around a refusal by coming again another way.

use crate::ring::Ring;
use crate::stream::Stream;
use crate::worker::Worker;
use cluster::view::Server;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use tokio::net::lookup_host;

/// What a connection to a server goes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Tcp,
    /// Nobody is in between, so there is no TLS (libpq does the same: src/interfaces/libpq/fe-connect.c, `PQconnectPoll`).
    Unix,
}

/// Who has checked the client for whom the server is reached. Over a Unix socket the server sees the user that the proxy runs as, and may
/// believe it without a password (`peer` in pg_hba.conf): the client is not that user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The proxy, as its configuration says, or it comes on its own behalf.
    Checked,
    /// Nobody: the server is to do it.
    Unchecked,
}

/// Which nodes are reached by TCP though the settings name a socket, and why: so that it is told once.
#[derive(Debug, Default)]
pub struct Detours {
    known: Mutex<BTreeMap<String, String>>,
}

impl Detours {
    fn taken(&self, node: &str, why: String) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.get(node) != Some(&why) {
            tracing::warn!("{node} is reached by TCP, not by its Unix socket: {why}");
            known.insert(node.to_owned(), why);
        }
    }

    fn not_needed(&self, node: &str) {
        if self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(node).is_some() {
            tracing::info!("{node} is reached by its Unix socket again");
        }
    }
}

/// Connects, without TLS so far.
///
/// # Errors
/// Those of looking up the name and of connecting.
pub async fn connect(server: &Server, identity: Identity, worker: &Worker) -> io::Result<(Stream, Way)> {
    let ring = worker.ring.as_ref();
    if server.host.starts_with('/') {
        let path = socket_in(Path::new(&server.host), server.port);
        return Ok((Stream::connect_unix(&path, ring).await?, Way::Unix));
    }
    let settings = worker.shared.settings();
    let socket = settings.server_sockets.get(&server.node).filter(|_| identity == Identity::Checked);
    let Some(dir) = socket else {
        return Ok((Stream::connect(&server.host, server.port, ring).await?, Way::Tcp));
    };
    let path = socket_in(dir, server.port);
    let connected = match Ring::beside(ring, is_on_this_host(server)).await {
        true => {
            Stream::connect_unix(&path, ring).await.map_err(|error| format!("{}: {error}", path.display()))
        }
        false => Err(format!("{} is no address of this host", server.host)),
    };
    match connected {
        Ok(stream) => {
            worker.shared.detours.not_needed(&server.node);
            Ok((stream, Way::Unix))
        }
        Err(why) => {
            let stream = Stream::connect(&server.host, server.port, ring).await?;
            // A server that is down has neither: that is told elsewhere.
            worker.shared.detours.taken(&server.node, why);
            Ok((stream, Way::Tcp))
        }
    }
}

/// As PostgreSQL calls it (src/include/libpq/pqcomm.h, `UNIXSOCK_PATH`).
fn socket_in(dir: &Path, port: u16) -> PathBuf {
    dir.join(format!(".s.PGSQL.{port}"))
}

async fn is_on_this_host(server: &Server) -> bool {
    let Ok(addresses) = lookup_host((server.host.as_str(), server.port)).await else { return false };
    let mut addresses = addresses.peekable();
    addresses.peek().is_some() && addresses.all(|address| is_own(address.ip()))
}

/// Nothing is sent. Any address can be bound to where `net.ipv4.ip_nonlocal_bind` says so; but only from an own one is
/// there a route then (net/ipv4/route.c, `ip_route_output_key_hash_rcu`).
fn is_own(address: IpAddr) -> bool {
    let bound = UdpSocket::bind((address, 0));
    bound.and_then(|socket| socket.connect(socket.local_addr()?)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn own_addresses_are_told_from_others() {
        assert!(is_own(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        // Of a network that is kept for documentation (RFC 5737).
        assert!(!is_own(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))));
    }
}
