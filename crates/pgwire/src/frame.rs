//! The header that every message after start-up has: one type byte and a length.

use thiserror::Error;

/// Type byte and length word. Bytes.
pub const HEADER_LEN: usize = 5;

/// Longest body taken for real: PostgreSQL builds a message in one allocation, and `MaxAllocSize`
/// (src/include/utils/memutils.h) bounds that. Bytes.
pub const BODY_LEN_MAX: usize = 0x3fff_ffff;

/// Why a header was refused; the stream cannot be followed any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// Every type byte of the protocol is a letter or a digit.
    #[error("message type 0x{0:02x} is not one of PostgreSQL's protocol")]
    Kind(u8),
    /// The length word, which counts itself, is below 4 or above what PostgreSQL can send.
    #[error("a message of type {kind:?} announces {length} bytes")]
    Length {
        /// Type byte.
        kind: char,
        /// Length word as received.
        length: u32,
    },
}

/// A checked header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Type byte.
    pub kind: u8,
    /// Bytes that follow the header.
    pub body_len: usize,
}

impl FrameHeader {
    /// Reads and checks a header.
    ///
    /// # Errors
    /// [`FrameError`] for bytes that cannot begin a message.
    pub fn parse(bytes: [u8; HEADER_LEN]) -> Result<FrameHeader, FrameError> {
        let [kind, length @ ..] = bytes;
        if !kind.is_ascii_alphanumeric() {
            return Err(FrameError::Kind(kind));
        }
        let length = u32::from_be_bytes(length);
        match (length as usize).checked_sub(4) {
            Some(body_len) if body_len <= BODY_LEN_MAX => Ok(FrameHeader { kind, body_len }),
            _ => Err(FrameError::Length { kind: char::from(kind), length }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_headers() {
        assert_eq!(FrameHeader::parse(*b"Z\0\0\0\x05"), Ok(FrameHeader { kind: b'Z', body_len: 1 }));
        assert_eq!(FrameHeader::parse(*b"1\0\0\0\x04"), Ok(FrameHeader { kind: b'1', body_len: 0 }));
    }

    #[test]
    fn hostile_headers() {
        assert_eq!(FrameHeader::parse([0, 0, 0, 0, 4]), Err(FrameError::Kind(0)));
        assert_eq!(FrameHeader::parse(*b"Z\0\0\0\x03"), Err(FrameError::Length { kind: 'Z', length: 3 }));
        assert_eq!(
            FrameHeader::parse(*b"D\xff\xff\xff\xff"),
            Err(FrameError::Length { kind: 'D', length: u32::MAX })
        );
    }
}
