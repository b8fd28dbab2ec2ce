//! One connection's TLS as bytes: ciphertext in, plaintext and ciphertext out. No socket, no waiting.
//!
//! On rustls' interface without buffers, so that a connection on which nothing happens holds none: what comes is decrypted
//! where it was read, in the worker's buffer, and only the piece of a record that has not come whole is kept.

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError, UnbufferedStatus,
    WriteTraffic,
};
use rustls::{ClientConfig, CommonState, Error, ServerConfig};
use std::fmt;
use std::sync::Arc;

/// What one record adds to its content at most: header, nonce, type and tag.
const RECORD_EXTRA: usize = 64;

/// Most content of one record.
const RECORD_LEN_MAX: usize = 16 * 1024;

/// See the module.
pub struct Channel {
    side: Side,
    /// Ciphertext of a record or a handshake message that has not come whole.
    partial: Vec<u8>,
    peer_has_ended: bool,
    /// rustls is not asked again after its first error.
    failed: Option<Box<Error>>,
}

enum Side {
    /// Towards a client.
    Server(UnbufferedServerConnection),
    /// Towards a server.
    Client(UnbufferedClientConnection),
}

/// Where the bytes of one step go.
pub struct Sinks<'a> {
    /// Takes plaintext, piece by piece.
    pub plain: &'a mut dyn FnMut(&[u8]),
    /// Takes ciphertext for the peer.
    pub sealed: &'a mut Vec<u8>,
}

/// What is to be said to the peer.
#[derive(Clone, Copy, Debug)]
pub enum Say<'a> {
    /// Nothing but what TLS itself has to say.
    Nothing,
    /// These bytes.
    Data(&'a [u8]),
    /// That nothing more will come.
    Goodbye,
}

/// What a step came to.
enum Turn {
    /// There may be more.
    Again,
    /// Nothing more can be done with what has come.
    Done,
    /// The peer says that it sends nothing more.
    PeerEnded,
    Failed(Error),
}

impl Channel {
    /// The proxy's side of a client's connection.
    ///
    /// # Errors
    /// rustls', of a configuration that cannot work.
    pub fn server(config: Arc<ServerConfig>) -> Result<Channel, Error> {
        Ok(Channel::of(Side::Server(UnbufferedServerConnection::new(config)?)))
    }

    /// The proxy's side of a connection to the server of this name.
    ///
    /// # Errors
    /// rustls', of a configuration that cannot work.
    pub fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Channel, Error> {
        Ok(Channel::of(Side::Client(UnbufferedClientConnection::new(config, name)?)))
    }

    fn of(side: Side) -> Channel {
        Channel { side, partial: Vec::new(), peer_has_ended: false, failed: None }
    }

    /// What rustls knows of the connection.
    pub fn facts(&self) -> &CommonState {
        match &self.side {
            Side::Server(connection) => connection,
            Side::Client(connection) => connection,
        }
    }

    /// Whether the peer has said that it sends nothing more.
    pub fn peer_has_ended(&self) -> bool {
        self.peer_has_ended
    }

    /// Ciphertext that is kept until more of it comes; new bytes are read behind so much room.
    pub fn partial_len(&self) -> usize {
        self.partial.len()
    }

    /// Begins with bytes that were read before it was known that they are TLS.
    pub fn begin_with(&mut self, bytes: &[u8]) {
        self.partial.extend_from_slice(bytes);
    }

    /// Takes what has come: it stands in `buffer`, behind room for what is kept.
    ///
    /// # Errors
    /// rustls': the connection is over. `sealed` then has what the peer is to be told.
    pub fn receive(&mut self, buffer: &mut [u8], sinks: &mut Sinks<'_>) -> Result<(), Error> {
        let kept = std::mem::take(&mut self.partial);
        buffer[..kept.len()].copy_from_slice(&kept);
        let (used, outcome) = self.drive(buffer, Say::Nothing, sinks);
        let rest = buffer.get(used..).unwrap_or_default();
        if !rest.is_empty() {
            self.partial = rest.to_vec();
        }
        outcome
    }

    /// Seals what is to be said.
    ///
    /// # Errors
    /// rustls': the connection is over, or nothing can be said on it yet.
    pub fn say(&mut self, say: Say<'_>, sinks: &mut Sinks<'_>) -> Result<(), Error> {
        // rustls remembers how far it has read in what it was not yet able to use, so it is shown the same bytes each time.
        let mut kept = std::mem::take(&mut self.partial);
        let (used, outcome) = self.drive(&mut kept, say, sinks);
        kept.drain(..used.min(kept.len()));
        self.partial = kept;
        outcome
    }

    /// Goes on as far as it gets; how many bytes of `buffer` were used.
    fn drive(
        &mut self,
        buffer: &mut [u8],
        say: Say<'_>,
        sinks: &mut Sinks<'_>,
    ) -> (usize, Result<(), Error>) {
        if let Some(error) = &self.failed {
            return (0, Err((**error).clone()));
        }
        let mut used = 0;
        loop {
            let (more, turn) = self.step(&mut buffer[used..], say, sinks);
            used += more;
            match turn {
                Turn::Again => {}
                Turn::Done => return (used, Ok(())),
                Turn::PeerEnded => self.peer_has_ended = true,
                Turn::Failed(error) => {
                    // The alert that tells the peer why: everything earlier was taken before.
                    let (more, _) = self.step(&mut buffer[used..], Say::Nothing, sinks);
                    self.failed = Some(Box::new(error.clone()));
                    return (used + more, Err(error));
                }
            }
        }
    }

    fn step(&mut self, buffer: &mut [u8], say: Say<'_>, sinks: &mut Sinks<'_>) -> (usize, Turn) {
        match &mut self.side {
            Side::Server(connection) => heed(connection.process_tls_records(buffer), say, sinks),
            Side::Client(connection) => heed(connection.process_tls_records(buffer), say, sinks),
        }
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let facts = self.facts();
        let version = facts.protocol_version();
        f.debug_struct("Channel").field("version", &version).field("partial", &self.partial.len()).finish()
    }
}

/// Does what one state of rustls asks for; how many bytes it has used.
fn heed<Data>(status: UnbufferedStatus<'_, '_, Data>, say: Say<'_>, sinks: &mut Sinks<'_>) -> (usize, Turn) {
    let UnbufferedStatus { mut discard, state } = status;
    let turn = match state {
        Err(error) => Turn::Failed(error),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                Some(Ok(record)) => {
                    discard += record.discard;
                    (sinks.plain)(record.payload);
                }
                Some(Err(error)) => break Turn::Failed(error),
                None => break Turn::Again,
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            encode(&mut data, sinks.sealed);
            Turn::Again
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            // It goes out with everything else in `sealed`, in this order.
            data.done();
            Turn::Again
        }
        Ok(ConnectionState::PeerClosed) => Turn::PeerEnded,
        Ok(ConnectionState::WriteTraffic(mut traffic)) => match say {
            Say::Nothing => Turn::Done,
            Say::Data(_) | Say::Goodbye => seal(&mut traffic, say, sinks.sealed),
        },
        Ok(ConnectionState::BlockedHandshake | ConnectionState::Closed) => match say {
            Say::Data(_) => Turn::Failed(Error::HandshakeNotComplete),
            Say::Nothing | Say::Goodbye => Turn::Done,
        },
        Ok(_) => Turn::Failed(Error::General("a state of TLS that was not asked for".to_owned())),
    };
    (discard, turn)
}

fn encode<Data>(data: &mut EncodeTlsData<'_, Data>, sealed: &mut Vec<u8>) {
    let from = sealed.len();
    let mut room = 512;
    loop {
        sealed.resize(from + room, 0);
        match data.encode(&mut sealed[from..]) {
            Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size }))
                if required_size > room =>
            {
                room = required_size;
            }
            outcome => return sealed.truncate(from + outcome.unwrap_or(0)),
        }
    }
}

fn seal<Data>(traffic: &mut WriteTraffic<'_, Data>, say: Say<'_>, sealed: &mut Vec<u8>) -> Turn {
    let bytes = match say {
        Say::Data(bytes) => bytes,
        Say::Nothing | Say::Goodbye => &[],
    };
    let from = sealed.len();
    let mut room = bytes.len() + (bytes.len() / RECORD_LEN_MAX + 2) * RECORD_EXTRA;
    loop {
        sealed.resize(from + room, 0);
        let written = match say {
            Say::Goodbye => traffic.queue_close_notify(&mut sealed[from..]),
            Say::Data(_) | Say::Nothing => traffic.encrypt(bytes, &mut sealed[from..]),
        };
        match written {
            Ok(len) => {
                sealed.truncate(from + len);
                return Turn::Done;
            }
            Err(EncryptError::InsufficientSize(InsufficientSizeError { required_size }))
                if required_size > room =>
            {
                room = required_size;
            }
            Err(error) => {
                sealed.truncate(from);
                return Turn::Failed(Error::General(error.to_string()));
            }
        }
    }
}

#[cfg(test)]
mod tests;
