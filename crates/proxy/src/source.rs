//! Who is at the other end of a connection, as far as the kernel says it.

use rustix::net::sockopt::socket_peercred;
use socket2::SockRef;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;

/// The other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Over TCP.
    Tcp(SocketAddr),
    /// Over a Unix socket: the user of this host who has connected it, or has listened on it.
    Unix {
        /// The number of the user.
        uid: u32,
    },
}

/// What clients that belong together have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// A host.
    Address(IpAddr),
    /// A user of this host.
    User {
        /// The number of the user.
        uid: u32,
    },
}

impl Peer {
    /// Of a connection.
    ///
    /// # Errors
    /// It is broken.
    pub fn of(socket: impl AsFd) -> io::Result<Peer> {
        let address = SockRef::from(&socket).peer_addr()?;
        match address.as_socket() {
            Some(address) => Ok(Peer::Tcp(address)),
            None if address.is_unix() => Ok(Peer::Unix { uid: socket_peercred(&socket)?.uid.as_raw() }),
            None => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Where it comes from.
    pub fn source(&self) -> Source {
        match self {
            Peer::Tcp(address) => Source::Address(address.ip().to_canonical()),
            Peer::Unix { uid } => Source::User { uid: *uid },
        }
    }
}

impl Source {
    /// Whether it is this host.
    pub fn is_here(&self) -> bool {
        match self {
            Source::Address(address) => address.to_canonical().is_loopback(),
            Source::User { .. } => true,
        }
    }

    /// A host has as many addresses of IPv6 as it likes in its network: they are taken for one.
    pub fn network(&self) -> Source {
        match self {
            Source::Address(address) => match address.to_canonical() {
                IpAddr::V6(address) => {
                    let [a, b, c, d, ..] = address.segments();
                    Source::Address(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into())
                }
                v4 => Source::Address(v4),
            },
            Source::User { .. } => *self,
        }
    }
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Source {
        Source::Address(address)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Tcp(address) => address.fmt(f),
            Peer::Unix { .. } => self.source().fmt(f),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Address(address) => address.fmt(f),
            Source::User { uid } => write!(f, "user {uid} of this host"),
        }
    }
}
