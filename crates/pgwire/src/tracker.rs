//! Follows a stream of messages in chunks of any size, without holding the messages.
//!
//! Only a few small messages of a server are looked into, those that [`Notable`] names; of them at most [`KEPT_LEN_MAX`]
//! bytes are held, and only until they are complete. The texts of a client's statements are read for one word and not
//! held. All other bodies are counted and skipped.

use crate::cancel::{CancelKey, KEY_LEN_MAX};
use crate::error_response::ErrorSummary;
use crate::frame::{FrameError, FrameHeader, HEADER_LEN};
use crate::mention::Mention;

/// Most bytes of one body that are held: the longest BackendKeyData. Bytes.
pub const KEPT_LEN_MAX: usize = 4 + KEY_LEN_MAX;

/// The status that ReadyForQuery carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionStatus {
    /// No transaction is open.
    Idle,
    /// In a transaction block.
    InTransaction,
    /// In a transaction block that failed.
    Failed,
}

/// A message that [`FrameTracker::next`] reports when its last byte has passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notable {
    /// `K`: the key with which the session can be cancelled.
    BackendKey(CancelKey),
    /// `E` from a server.
    Error(ErrorSummary),
    /// `Z`: the server has answered everything up to a Sync or simple query.
    Ready(TransactionStatus),
    /// `R`: what the server asks for, 0 if the client is let in.
    Authentication(u32),
    /// `S`: a setting of which clients are told; its value is `None` if it was too long to be held.
    Parameter {
        /// Name of the setting.
        name: Vec<u8>,
        /// Its value.
        value: Option<Vec<u8>>,
    },
    /// `C` with the tag `SET` or `DO`: the session may now have a setting of its own.
    MaySet,
    /// Any other message, by its type byte.
    Other(u8),
}

/// Which side wrote the stream: the same type byte means different messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writer {
    Server,
    Client,
}

/// Knows where in a stream of messages a byte lies.
#[derive(Debug)]
pub struct FrameTracker {
    writer: Writer,
    /// First bytes of a header that a chunk's end cut.
    header: [u8; HEADER_LEN],
    header_len: usize,
    /// The message whose body is passing, and what is left of it. Bytes.
    body: Option<(u8, usize)>,
    kept: Vec<u8>,
    set_config: Mention,
}

impl FrameTracker {
    /// For what a server sends after the client's StartupMessage.
    #[must_use]
    pub fn of_server() -> FrameTracker {
        FrameTracker::new(Writer::Server)
    }

    /// For what a client sends after its StartupMessage; every message is reported as [`Notable::Other`].
    #[must_use]
    pub fn of_client() -> FrameTracker {
        FrameTracker::new(Writer::Client)
    }

    fn new(writer: Writer) -> FrameTracker {
        let (kept, set_config) = (Vec::new(), Mention::default());
        FrameTracker { writer, header: [0; HEADER_LEN], header_len: 0, body: None, kept, set_config }
    }

    /// Whether the next byte begins a message, so that another message may be put in between.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        self.header_len == 0 && self.body.is_none()
    }

    /// Whether a statement of the client has mentioned the function `set_config`.
    #[must_use]
    pub fn has_mentioned_set_config(&self) -> bool {
        self.set_config.is_seen()
    }

    /// Takes bytes off the front of `chunk` up to the end of the next message and reports it; `None` once the chunk is
    /// used up. Call it until then.
    ///
    /// # Errors
    /// [`FrameError`] if the stream is not made of messages. The tracker is of no use after that.
    pub fn next(&mut self, chunk: &mut &[u8]) -> Result<Option<Notable>, FrameError> {
        if self.body.is_none() {
            let taken = chunk.len().min(HEADER_LEN - self.header_len);
            let (head, rest) = chunk.split_at(taken);
            self.header[self.header_len..self.header_len + taken].copy_from_slice(head);
            self.header_len += taken;
            *chunk = rest;
            if self.header_len < HEADER_LEN {
                return Ok(None);
            }
            let header = FrameHeader::parse(self.header)?;
            self.header_len = 0;
            self.body = Some((header.kind, header.body_len));
        }
        Ok(self.pass_body(chunk))
    }

    fn pass_body(&mut self, chunk: &mut &[u8]) -> Option<Notable> {
        let (kind, left) = self.body?;
        let (passing, rest) = chunk.split_at(chunk.len().min(left));
        *chunk = rest;
        if self.is_looked_into(kind) {
            let room = KEPT_LEN_MAX - self.kept.len();
            self.kept.extend_from_slice(&passing[..passing.len().min(room)]);
        } else if self.is_statement(kind) {
            self.set_config.read(passing);
        }
        if passing.len() < left {
            self.body = Some((kind, left - passing.len()));
            return None;
        }
        self.body = None;
        self.set_config.text_ends();
        let notable = self.read_kept(kind);
        self.kept.clear();
        Some(notable)
    }

    fn is_looked_into(&self, kind: u8) -> bool {
        self.writer == Writer::Server && matches!(kind, b'K' | b'E' | b'Z' | b'R' | b'S' | b'C')
    }

    fn is_statement(&self, kind: u8) -> bool {
        self.writer == Writer::Client && matches!(kind, b'Q' | b'P')
    }

    fn read_kept(&self, kind: u8) -> Notable {
        if !self.is_looked_into(kind) {
            return Notable::Other(kind);
        }
        match (kind, self.kept.as_slice()) {
            (b'E', body) => Notable::Error(ErrorSummary::parse(body)),
            (b'K', body) => CancelKey::parse(body).map_or(Notable::Other(kind), Notable::BackendKey),
            (b'Z', b"I") => Notable::Ready(TransactionStatus::Idle),
            (b'Z', b"T") => Notable::Ready(TransactionStatus::InTransaction),
            (b'Z', b"E") => Notable::Ready(TransactionStatus::Failed),
            (b'R', [a, b, c, d, ..]) => Notable::Authentication(u32::from_be_bytes([*a, *b, *c, *d])),
            (b'S', body) => parameter(body).unwrap_or(Notable::Other(kind)),
            (b'C', b"SET\0" | b"DO\0") => Notable::MaySet,
            (_, _) => Notable::Other(kind),
        }
    }
}

/// Reads a ParameterStatus, of which the end may be missing.
fn parameter(kept: &[u8]) -> Option<Notable> {
    let mut parts = kept.splitn(2, |&b| b == 0);
    let (name, value) = (parts.next()?.to_vec(), parts.next()?);
    Some(Notable::Parameter { name, value: value.strip_suffix(&[0]).map(<[u8]>::to_vec) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut out = vec![kind];
        out.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
        out.extend_from_slice(body);
        out
    }

    fn feed(tracker: &mut FrameTracker, mut chunk: &[u8], out: &mut Vec<Notable>) -> Result<(), FrameError> {
        while let Some(notable) = tracker.next(&mut chunk)? {
            out.push(notable);
        }
        assert!(chunk.is_empty());
        Ok(())
    }

    fn login() -> Vec<u8> {
        let key = [&7_u32.to_be_bytes()[..], &[9; 32]].concat();
        [
            message(b'R', &[0; 4]),
            message(b'S', b"TimeZone\0UTC\0"),
            message(b'K', &key),
            message(b'Z', b"I"),
            message(b'D', &vec![b'x'; 70_000]),
            message(b'2', b""),
            message(b'E', b"SERROR\0VERROR\0C42601\0\0"),
            message(b'Z', b"E"),
        ]
        .concat()
    }

    #[test]
    fn the_same_messages_however_the_stream_is_cut() {
        let stream = login();
        let mut whole = Vec::new();
        feed(&mut FrameTracker::of_server(), &stream, &mut whole).unwrap();
        assert_eq!(whole.len(), 8);
        assert!(matches!(&whole[2], Notable::BackendKey(key) if key.pid() == 7));
        assert_eq!(whole[0], Notable::Authentication(0));
        let utc = Notable::Parameter { name: b"TimeZone".to_vec(), value: Some(b"UTC".to_vec()) };
        assert_eq!(whole[1], utc);
        assert_eq!(whole[3], Notable::Ready(TransactionStatus::Idle));
        assert!(matches!(&whole[6], Notable::Error(error) if error.is("42601") && !error.fatal));
        assert_eq!(whole[7], Notable::Ready(TransactionStatus::Failed));

        let mut random = Random::new(3);
        for _ in 0..300 {
            let (mut tracker, mut seen, mut rest) = (FrameTracker::of_server(), Vec::new(), &stream[..]);
            while !rest.is_empty() {
                let limit = if random.below(2) == 0 { 8 } else { 40_000 };
                let (chunk, after) = rest.split_at(rest.len().min(1 + random.below(limit)));
                feed(&mut tracker, chunk, &mut seen).unwrap();
                rest = after;
            }
            assert!(tracker.at_boundary());
            assert_eq!(seen, whole);
        }
    }

    #[test]
    fn the_boundary_is_only_between_messages() {
        let mut tracker = FrameTracker::of_server();
        let stream = message(b'D', b"abc");
        assert!(tracker.at_boundary());
        for (sent, byte) in stream.iter().enumerate() {
            assert_eq!(tracker.at_boundary(), sent == 0);
            feed(&mut tracker, &[*byte], &mut Vec::new()).unwrap();
        }
        assert!(tracker.at_boundary());
    }

    #[test]
    fn client_messages_are_not_looked_into() {
        let mut seen = Vec::new();
        let stream =
            [message(b'Q', b"select 1\0"), message(b'E', b"\0\0\0\0\0"), message(b'X', b"")].concat();
        feed(&mut FrameTracker::of_client(), &stream, &mut seen).unwrap();
        assert_eq!(seen, [Notable::Other(b'Q'), Notable::Other(b'E'), Notable::Other(b'X')]);
    }

    #[test]
    fn settings_that_no_catalog_shows_are_noticed() {
        let mut seen = Vec::new();
        let stream = [message(b'C', b"SET\0"), message(b'C', b"SELECT 1\0"), message(b'C', b"DO\0")].concat();
        feed(&mut FrameTracker::of_server(), &stream, &mut seen).unwrap();
        assert_eq!(seen, [Notable::MaySet, Notable::Other(b'C'), Notable::MaySet]);
        let mut client = FrameTracker::of_client();
        feed(&mut client, &message(b'd', b"set_config"), &mut Vec::new()).unwrap();
        assert!(!client.has_mentioned_set_config());
        feed(&mut client, &message(b'P', b"\0select set_config($1, $2, $3)\0\0\0"), &mut Vec::new()).unwrap();
        assert!(client.has_mentioned_set_config());
    }

    #[test]
    fn a_long_parameter_has_no_value() {
        let mut seen = Vec::new();
        let body = [&b"search_path\0"[..], &[b'x'; 500], b"\0"].concat();
        feed(&mut FrameTracker::of_server(), &message(b'S', &body), &mut seen).unwrap();
        assert_eq!(seen, [Notable::Parameter { name: b"search_path".to_vec(), value: None }]);
    }

    #[test]
    fn odd_bodies_are_ordinary_messages() {
        for (kind, body) in [(b'K', &b"short"[..]), (b'Z', b"?"), (b'Z', b""), (b'Z', b"II")] {
            let mut seen = Vec::new();
            feed(&mut FrameTracker::of_server(), &message(kind, body), &mut seen).unwrap();
            assert_eq!(seen, [Notable::Other(kind)]);
        }
    }

    #[test]
    fn random_bytes_never_panic_and_memory_stays_bounded() {
        let mut random = Random::new(4);
        for _ in crate::random::rounds(5_000) {
            let mut tracker = FrameTracker::of_server();
            for _ in 0..20 {
                let len = random.below(400);
                let mut bytes = random.bytes(len);
                if bytes.len() > 5 {
                    let start = random.below(bytes.len() - 4);
                    let body_len = random.below(2_000) as u32;
                    bytes[start] = b"EKZD"[random.below(4)];
                    bytes[start + 1..start + 5].copy_from_slice(&body_len.to_be_bytes());
                    bytes.drain(..if tracker.at_boundary() { start } else { 0 });
                }
                if feed(&mut tracker, &bytes, &mut Vec::new()).is_err() {
                    break;
                }
                assert!(tracker.kept.capacity() <= 2 * KEPT_LEN_MAX);
            }
        }
    }
}
