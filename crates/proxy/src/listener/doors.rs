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
use std::rc::Rc;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::spawn_local;

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
    /// The ring, if there is one, reads them nevertheless.
    Plain(TcpListener, Option<Rc<Ring>>),
    Ring(Acceptor, Rc<Ring>),
    /// From this host; as the first.
    Unix(UnixListener, Option<Rc<Ring>>),
}

impl Door {
    /// Where another process may have the socket too it is never one that blocks, as the ring wants it: that would be so
    /// for both of them.
    pub(super) fn open(
        socket: StdListener,
        ring: Option<&Rc<Ring>>,
        may_be_shared: bool,
    ) -> io::Result<Door> {
        match ring {
            Some(ring) if !may_be_shared => Ok(Door::Ring(Acceptor::new(socket, ring)?, Rc::clone(ring))),
            _ => Ok(Door::Plain(TcpListener::from_std(socket)?, ring.cloned())),
        }
    }

    async fn accept(&self) -> io::Result<(Stream, Peer)> {
        match self {
            Door::Plain(listener, None) => {
                let (socket, peer) = listener.accept().await?;
                Ok((Stream::Plain(Socket::Epoll(socket)), Peer::Tcp(peer)))
            }
            Door::Plain(listener, Some(ring)) => {
                let (socket, peer) = listener.accept().await?;
                Ok((Stream::Plain(Socket::adopt(socket.into_std()?, Some(ring))?), Peer::Tcp(peer)))
            }
            Door::Ring(acceptor, ring) => {
                let (socket, peer) = acceptor.accept().await?;
                Ok((by_ring(socket, ring), peer))
            }
            Door::Unix(listener, ring) => {
                by_unix(OwnedFd::from(listener.accept().await?.0.into_std()?), ring.as_ref())
            }
        }
    }

    /// Somebody who has knocked before the next process had its own socket in this one's place. Sockets of TCP are the next
    /// one's as well; this one's end with it, and would end who waits there.
    fn accept_last(&self) -> Option<(Stream, Peer)> {
        let Door::Unix(listener, ring) = self else { return None };
        loop {
            match accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(socket) => {
                    if let Ok(accepted) = by_unix(socket, ring.as_ref()) {
                        return Some(accepted);
                    }
                }
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(_) => return None,
            }
        }
    }
}

/// A connection that does not block.
fn by_unix(socket: OwnedFd, ring: Option<&Rc<Ring>>) -> io::Result<(Stream, Peer)> {
    let socket = TcpStream::from(socket);
    let peer = Peer::of(&socket)?;
    let Some(ring) = ring else { return Ok((Stream::Plain(Socket::by_epoll(socket)?), peer)) };
    socket.set_nonblocking(false)?;
    Ok((by_ring(socket, ring), peer))
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
