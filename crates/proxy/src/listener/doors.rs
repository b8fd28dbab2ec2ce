//! By which clients come in: sockets that are listened on, and the line from an older process.

use crate::client;
use crate::pooled;
use crate::ring::{Acceptor, Ahead, Ring, RingSocket};
use crate::socket::Socket;
use crate::source::Peer;
use crate::stream::Stream;
use crate::takeover::{Arrival, Arrivals};
use crate::worker::Worker;
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use std::io;
use std::net::{TcpListener as StdListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::{consume_budget, spawn_local};

/// Pause after accepting failed: usually no file descriptor is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections beyond `clients_max`: those in start-up, cancel requests, and those that are told there are too many.
const CONNECTIONS_SPARE: usize = 128;

/// Whether clients are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doors {
    /// Not all workers have started.
    NotYet,
    Open,
    /// Another process does it.
    Closed,
}

/// By which clients come in.
pub(super) enum Door {
    Plain(TcpListener),
    /// From this host.
    Unix(UnixListener),
    Ring(Acceptor, Rc<Ring>),
    /// From this host.
    UnixByRing(Acceptor, Rc<Ring>),
}

impl Door {
    /// Where another process may have the socket too it is never one that blocks, as the ring wants it: that would be so
    /// for both of them.
    pub(super) fn open(
        socket: StdListener,
        ring: Option<&Rc<Ring>>,
        may_be_shared: bool,
    ) -> io::Result<Door> {
        Ok(match (ring, may_be_shared) {
            (Some(ring), false) => Door::Ring(Acceptor::new(socket, ring)?, Rc::clone(ring)),
            (Some(ring), true) => Door::Ring(Acceptor::of_shared(socket, ring)?, Rc::clone(ring)),
            (None, _) => Door::Plain(TcpListener::from_std(socket)?),
        })
    }

    /// Other workers have it as well.
    pub(super) fn open_unix(socket: StdUnixListener, ring: Option<&Rc<Ring>>) -> io::Result<Door> {
        Ok(match ring {
            Some(ring) => Door::UnixByRing(Acceptor::of_shared(socket, ring)?, Rc::clone(ring)),
            None => Door::Unix(UnixListener::from_std(socket)?),
        })
    }

    async fn accept(&self) -> io::Result<(Stream, Peer)> {
        match self {
            Door::Plain(listener) => {
                let (socket, peer) = listener.accept().await?;
                Ok((Stream::Plain(Socket::Epoll(socket)), Peer::Tcp(peer)))
            }
            Door::Unix(listener) => by_unix(OwnedFd::from(listener.accept().await?.0.into_std()?)),
            Door::Ring(acceptor, ring) | Door::UnixByRing(acceptor, ring) => {
                let (socket, peer) = acceptor.accept().await?;
                Ok((by_ring(socket, ring), peer))
            }
        }
    }

    /// Somebody who has knocked before the next process had its own socket in this one's place. Sockets of TCP are the next
    /// one's as well; this one's end with it, and would end who waits there.
    fn accept_last(&self) -> Option<(Stream, Peer)> {
        match self {
            Door::Plain(_) | Door::Ring(..) => None,
            Door::UnixByRing(acceptor, ring) => {
                let (socket, peer) = acceptor.accept_now()?;
                Some((by_ring(socket, ring), peer))
            }
            Door::Unix(listener) => loop {
                match accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                    Ok(socket) => {
                        if let Ok(accepted) = by_unix(socket) {
                            return Some(accepted);
                        }
                    }
                    Err(Errno::INTR | Errno::CONNABORTED) => {}
                    Err(_) => return None,
                }
            },
        }
    }
}

/// A connection that does not block.
fn by_unix(socket: OwnedFd) -> io::Result<(Stream, Peer)> {
    let socket = TcpStream::from(socket);
    let peer = Peer::of(&socket)?;
    Ok((Stream::Plain(Socket::by_epoll(socket)?), peer))
}

fn by_ring(socket: TcpStream, ring: &Rc<Ring>) -> Stream {
    Stream::Plain(Socket::Ring(RingSocket::new(socket, Ahead::One, ring)))
}

pub(super) async fn accept(door: Door, worker: Rc<Worker>, mut doors: watch::Receiver<Doors>) {
    let mut complained = false;
    if doors.wait_for(|doors| *doors != Doors::NotYet).await.is_err() {
        return;
    }
    loop {
        let accepted = tokio::select! {
            biased;
            _ = doors.wait_for(|doors| *doors == Doors::Closed) => break,
            accepted = door.accept() => accepted,
        };
        match accepted {
            Ok((client, peer)) => {
                complained = false;
                spawn_local(serve_counted(client, peer, Rc::clone(&worker), doors.clone()));
                // However many wait, those who have come are counted and served meanwhile.
                consume_budget().await;
            }
            Err(error) => {
                if !complained {
                    tracing::warn!(
                        "cannot accept clients: {error}; trying again (is the limit of open files too low?)"
                    );
                }
                complained = true;
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    while let Some((client, peer)) = door.accept_last() {
        spawn_local(serve_counted(client, peer, Rc::clone(&worker), doors.clone()));
    }
}

/// Sessions come from an older process, as long as this one accepts clients.
pub(super) async fn arrive(mut arrivals: Arrivals, worker: Rc<Worker>, mut doors: watch::Receiver<Doors>) {
    loop {
        let arrival = tokio::select! {
            biased;
            _ = doors.wait_for(|doors| *doors == Doors::Closed) => return,
            arrival = arrivals.recv() => arrival,
        };
        let Some(arrival) = arrival else { return };
        spawn_local(serve_arrived(arrival, Rc::clone(&worker), doors.clone()));
    }
}

/// As [`serve_counted`].
async fn serve_arrived(arrival: Arrival, worker: Rc<Worker>, doors: watch::Receiver<Doors>) {
    let connections_max = worker.shared.settings().clients_max.saturating_add(CONNECTIONS_SPARE);
    let Some(_counted) = worker.shared.stats.connection(connections_max) else {
        return arrival.reply.refused("there are too many connections");
    };
    drop(doors);
    if let Some(client) = Box::pin(pooled::take_in(arrival, &worker)).await {
        client.live().await;
    }
}

/// `doors` is held until the client is counted, so that a proxy that closes them does not overlook it.
async fn serve_counted(client: Stream, peer: Peer, worker: Rc<Worker>, doors: watch::Receiver<Doors>) {
    let connections_max = worker.shared.settings().clients_max.saturating_add(CONNECTIONS_SPARE);
    let counted = worker.shared.stats.connection(connections_max);
    drop(doors);
    match counted {
        Some(_counted) => {
            if let Some(session) = Box::pin(client::serve(client, peer, &worker)).await {
                session.live().await;
            }
        }
        None => worker.shared.log_bad_client(peer, &"the proxy has its maximum of connections"),
    }
}
