//! The sockets by which clients come in: one for each worker and address, new or taken over from an older process.

use crate::error::ProxyError;
use crate::socket::Socket;
use crate::takeover::{Listeners, Taken};
use socket2::{Domain, Protocol, Socket as RawSocket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};

/// Connections the kernel may keep ready to be accepted.
const BACKLOG: i32 = 4_096;

/// Of one worker.
pub type Sockets = Vec<TcpListener>;

/// What each of so many workers listens on; and each socket once, with its address, for who takes it over later.
///
/// Clients wait in each of the sockets that were taken over, so all of them are accepted from, however many workers there
/// are; and none is added to them, in which clients would wait who are lost if this process does not come to accept.
///
/// # Errors
/// An address cannot be listened on.
pub fn open(
    addresses: &[SocketAddr],
    workers: usize,
    taken: Option<&Taken>,
) -> Result<(Vec<Sockets>, Listeners), ProxyError> {
    let mut doors: Vec<Sockets> = (0..workers).map(|_| Vec::new()).collect();
    let mut all = Vec::new();
    for &address in addresses {
        let old = taken.map_or(&[][..], |taken| &taken.listeners).iter().filter(|(of, _)| *of == address);
        let old: io::Result<Vec<_>> = old.map(|(_, socket)| socket.try_clone()).collect();
        let mut sockets = old.map_err(|source| listen_error(address, source))?;
        if sockets.is_empty() {
            let bound = check_is_free(address)?;
            sockets = (0..workers).map(|_| listen(bound)).collect::<Result<_, _>>()?;
        }
        for number in 0..sockets.len().max(workers) {
            let socket = sockets[number % sockets.len()].try_clone();
            doors[number % workers].push(socket.map_err(|source| listen_error(address, source))?);
        }
        for socket in sockets {
            let bound = socket.local_addr().map_err(|source| listen_error(address, source))?;
            all.push((bound, socket));
        }
    }
    Ok((doors, all))
}

/// Sockets that share their port would not notice another proxy on it, so it is asked for alone first. Returns the
/// address with the port that port 0 turned into.
fn check_is_free(address: SocketAddr) -> Result<SocketAddr, ProxyError> {
    let bound = socket(address).and_then(|socket| {
        socket.bind(&address.into())?;
        TcpListener::from(socket).local_addr()
    });
    bound.map_err(|source| listen_error(address, source))
}

fn listen(address: SocketAddr) -> Result<TcpListener, ProxyError> {
    let bound = socket(address).and_then(|socket| {
        socket.set_reuse_port(true)?;
        Socket::prepare(&socket)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(TcpListener::from(socket))
    });
    bound.map_err(|source| listen_error(address, source))
}

fn socket(address: SocketAddr) -> io::Result<RawSocket> {
    let socket = RawSocket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Without it, connections of an earlier run that are not quite over would keep the port for a minute.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn listen_error(address: SocketAddr, source: io::Error) -> ProxyError {
    match source.kind() {
        io::ErrorKind::AddrInUse => ProxyError::PortTaken { address },
        _ => ProxyError::Listen { address, source },
    }
}
