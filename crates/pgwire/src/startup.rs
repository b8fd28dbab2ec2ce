//! The first packet of a connection: it has a length but no type byte.

use crate::cancel::CancelKey;
use crate::message::split_string;
use thiserror::Error;

/// Longest start-up packet without its length word; `MAX_STARTUP_PACKET_LENGTH` in PostgreSQL's
/// src/include/libpq/pqcomm.h. Bytes.
pub const BODY_LEN_MAX: usize = 10_000;

/// Shortest one: the version number alone (src/backend/postmaster/postmaster.c, `ProcessStartupPacket`). Bytes.
pub const BODY_LEN_MIN: usize = 4;

/// Longest name of a role or a database; `NAMEDATALEN` - 1, src/include/pg_config_manual.h. Bytes.
pub const NAME_LEN_MAX: usize = 63;

/// `CANCEL_REQUEST_CODE`, src/include/libpq/pqcomm.h.
pub const CANCEL_REQUEST_CODE: u32 = (1234 << 16) | 5678;

/// `NEGOTIATE_SSL_CODE`, src/include/libpq/pqcomm.h.
pub const SSL_REQUEST_CODE: u32 = (1234 << 16) | 5679;

/// `NEGOTIATE_GSS_CODE`, src/include/libpq/pqcomm.h.
pub const GSSENC_REQUEST_CODE: u32 = (1234 << 16) | 5680;

/// The byte that begins a TLS connection to which no request led: the type of a handshake record, as PostgreSQL 17 takes it
/// (src/backend/tcop/backend_startup.c, `ProcessSSLStartup`). No start-up packet is long enough to begin with it.
pub const TLS_HANDSHAKE: u8 = 0x16;

/// The name by which such a connection must ask for PostgreSQL; `PG_ALPN_PROTOCOL`, src/include/libpq/pqcomm.h.
pub const ALPN_PROTOCOL: &[u8] = b"postgresql";

/// Why a start-up packet was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StartupError {
    /// The length word is outside PostgreSQL's limits: most likely another protocol, so an answer would not be understood.
    #[error(
        "the first packet announces {0} bytes, a start-up packet has 8 to 10004: not PostgreSQL's protocol"
    )]
    Length(u32),
    /// A version other than 3.x.
    #[error("unsupported protocol {major}.{minor}: only 3.x is supported")]
    Version {
        /// Major version asked for.
        major: u16,
        /// Minor version asked for.
        minor: u16,
    },
    /// Not a list of names and values closed by a zero byte.
    #[error(
        "invalid start-up packet: the parameters are not pairs of zero-terminated strings closed by a zero byte"
    )]
    Layout,
    /// A cancel request whose key has an impossible length. Bytes.
    #[error("invalid cancel request: a key of {0} bytes, 4 to 256 are allowed")]
    CancelKey(usize),
}

/// What the first packet of a connection asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Startup<'a> {
    /// The client would like TLS; answer with one byte.
    SslRequest,
    /// The client would like GSSAPI encryption; answer with one byte.
    GssEncRequest,
    /// Cancel the statement of another session; nothing is answered.
    Cancel(CancelKey),
    /// A session begins.
    Session(StartupMessage<'a>),
}

/// A name and its value as they were sent.
pub type Parameter<'a> = (&'a [u8], &'a [u8]);

/// A StartupMessage; names and values are bytes because their encoding is not known yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartupMessage<'a> {
    /// Minor version of protocol 3 that the client asks for.
    pub minor: u16,
    /// Names and values in the order sent; of the names of a role and of a database as much as PostgreSQL takes.
    pub parameters: Vec<Parameter<'a>>,
}

impl<'a> StartupMessage<'a> {
    /// The last value given for `name`; PostgreSQL lets the last one win as well.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.parameters.iter().rev().find(|(n, _)| *n == name.as_bytes()).map(|(_, v)| *v)
    }
}

/// The whole SSLRequest packet, length word included.
#[must_use]
pub fn encode_ssl_request() -> [u8; 8] {
    let mut packet = [0, 0, 0, 8, 0, 0, 0, 0];
    packet[4..].copy_from_slice(&SSL_REQUEST_CODE.to_be_bytes());
    packet
}

/// Length of the body that follows the length word, in bytes.
///
/// # Errors
/// [`StartupError::Length`] outside PostgreSQL's limits; nothing more should be read then.
pub fn body_len(length_word: [u8; 4]) -> Result<usize, StartupError> {
    let announced = u32::from_be_bytes(length_word);
    let len = (announced as usize).checked_sub(4).ok_or(StartupError::Length(announced))?;
    if (BODY_LEN_MIN..=BODY_LEN_MAX).contains(&len) { Ok(len) } else { Err(StartupError::Length(announced)) }
}

/// Room for as many as most clients send.
const PARAMETERS_USUAL: usize = 8;

/// Reads the body of a start-up packet (all after the length word).
///
/// # Errors
/// Every variant of [`StartupError`]; the packet must not be passed on then.
pub fn parse_body(body: &[u8]) -> Result<Startup<'_>, StartupError> {
    let Some((code, rest)) = body.split_first_chunk::<4>() else {
        return Err(StartupError::Length(body.len() as u32 + 4));
    };
    if rest.len() > BODY_LEN_MAX - 4 {
        return Err(StartupError::Length((body.len() as u64 + 4).min(u64::from(u32::MAX)) as u32));
    }
    let code = u32::from_be_bytes(*code);
    match code {
        SSL_REQUEST_CODE => Ok(Startup::SslRequest),
        GSSENC_REQUEST_CODE => Ok(Startup::GssEncRequest),
        CANCEL_REQUEST_CODE => CancelKey::parse(rest)
            .map(Startup::Cancel)
            .ok_or(StartupError::CancelKey(rest.len().saturating_sub(4))),
        _ => {
            let (major, minor) = ((code >> 16) as u16, code as u16);
            if major != 3 {
                return Err(StartupError::Version { major, minor });
            }
            Ok(Startup::Session(StartupMessage { minor, parameters: parse_parameters(rest)? }))
        }
    }
}

fn parse_parameters(mut rest: &[u8]) -> Result<Vec<Parameter<'_>>, StartupError> {
    let mut parameters = Vec::with_capacity(PARAMETERS_USUAL);
    loop {
        let name = take_string(&mut rest)?;
        if name.is_empty() {
            // The terminator must be the last byte (ProcessStartupPacket checks the same).
            return if rest.is_empty() { Ok(parameters) } else { Err(StartupError::Layout) };
        }
        let value = take_string(&mut rest)?;
        let is_name = matches!(name, b"user" | b"database");
        parameters.push((name, if is_name { as_name(value) } else { value }));
    }
}

/// What PostgreSQL takes of a name that is too long, whatever bytes that cuts in two (src/backend/tcop/backend_startup.c,
/// `ProcessStartupPacket`).
fn as_name(value: &[u8]) -> &[u8] {
    &value[..value.len().min(NAME_LEN_MAX)]
}

fn take_string<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], StartupError> {
    let (string, after) = split_string(rest).ok_or(StartupError::Layout)?;
    *rest = after;
    Ok(string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn session(minor: u16, tail: &[u8]) -> Vec<u8> {
        let mut body = ((3_u32 << 16) | u32::from(minor)).to_be_bytes().to_vec();
        body.extend_from_slice(tail);
        body
    }

    #[test]
    fn lengths_as_postgresql_allows_them() {
        assert_eq!(body_len(8_u32.to_be_bytes()), Ok(4));
        assert_eq!(body_len(10_004_u32.to_be_bytes()), Ok(10_000));
        for refused in [0_u32, 3, 4, 7, 10_005, u32::MAX, u32::from_be_bytes(*b"GET ")] {
            assert_eq!(body_len(refused.to_be_bytes()), Err(StartupError::Length(refused)));
        }
    }

    #[test]
    fn names_are_as_long_as_postgresql_takes_them() {
        let long = "n".repeat(70);
        let body =
            session(0, format!("user\0{long}\0database\0{long}\0application_name\0{long}\0\0").as_bytes());
        let Ok(Startup::Session(message)) = parse_body(&body) else { panic!("{body:?}") };
        for name in ["user", "database"] {
            assert_eq!(message.get(name), Some(&long.as_bytes()[..63]));
        }
        assert_eq!(message.get("application_name"), Some(long.as_bytes()));
    }

    #[test]
    fn a_session_with_parameters() {
        let body = session(2, b"user\0ann\0database\0shop\0user\0bob\0\0");
        let Ok(Startup::Session(message)) = parse_body(&body) else { panic!("not a session") };
        assert_eq!(message.minor, 2);
        assert_eq!(message.parameters.len(), 3);
        assert_eq!(message.get("user"), Some(&b"bob"[..]));
        assert_eq!(message.get("application_name"), None);
    }

    #[test]
    fn requests_before_the_session() {
        assert_eq!(parse_body(&SSL_REQUEST_CODE.to_be_bytes()), Ok(Startup::SslRequest));
        assert_eq!(parse_body(&GSSENC_REQUEST_CODE.to_be_bytes()), Ok(Startup::GssEncRequest));
        let (length, body) = encode_ssl_request().split_first_chunk().map(|(l, b)| (*l, b.to_vec())).unwrap();
        assert_eq!((body_len(length), parse_body(&body)), (Ok(4), Ok(Startup::SslRequest)));
        assert!(body_len([TLS_HANDSHAKE, 0, 0, 0]).is_err(), "they are told apart by the first byte");
    }

    #[test]
    fn wrong_layouts_are_refused() {
        for tail in [&b""[..], b"user", b"user\0", b"user\0ann", b"user\0ann\0", b"user\0ann\0\0x", b"\0\0"] {
            assert_eq!(parse_body(&session(0, tail)), Err(StartupError::Layout), "{tail:?}");
        }
    }

    #[test]
    fn other_versions_and_keys_are_refused() {
        let v2 = (2_u32 << 16).to_be_bytes();
        assert_eq!(parse_body(&v2), Err(StartupError::Version { major: 2, minor: 0 }));
        let mut cancel = CANCEL_REQUEST_CODE.to_be_bytes().to_vec();
        cancel.extend_from_slice(&[0; 7]);
        assert_eq!(parse_body(&cancel), Err(StartupError::CancelKey(3)));
        assert!(matches!(parse_body(&[0; 3]), Err(StartupError::Length(_))));
        assert!(matches!(parse_body(&[0; 10_001]), Err(StartupError::Length(_))));
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut random = Random::new(1);
        for round in crate::random::rounds(20_000) {
            let len = random.below(300);
            let mut body = random.bytes(len);
            let codes = [CANCEL_REQUEST_CODE, SSL_REQUEST_CODE, 3 << 16, (3 << 16) | 2];
            if round % 2 == 0 && body.len() >= 4 {
                body[..4].copy_from_slice(&codes[random.below(codes.len())].to_be_bytes());
            }
            if let Ok(Startup::Session(message)) = parse_body(&body) {
                let carried: usize = message.parameters.iter().map(|(n, v)| n.len() + v.len() + 2).sum();
                assert_eq!(carried + 5, body.len());
            }
        }
    }
}
