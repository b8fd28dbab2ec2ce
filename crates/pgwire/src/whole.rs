//! Cuts a stream into whole messages and holds each until it is complete: for the few conversations that a proxy has
//! with a server on its own account. What passes between client and server goes through [`crate::tracker`] instead.

use crate::frame::{FrameError, FrameHeader, HEADER_LEN};

/// Longest message that is held. Bytes.
pub const MESSAGE_LEN_MAX: usize = 64 * 1024;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WholeMessage {
    /// Header and body, as they came.
    pub raw: Vec<u8>,
}

impl WholeMessage {
    /// Type byte.
    #[must_use]
    pub fn kind(&self) -> u8 {
        self.raw[0]
    }

    /// All after the header.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.raw[HEADER_LEN..]
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct WholeMessages {
    held: Vec<u8>,
}

impl WholeMessages {
    /// Takes bytes of the stream; ask [`WholeMessages::take`] until it has no more.
    pub fn push(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// The next whole message, if its last byte has come.
    ///
    /// # Errors
    /// [`FrameError`] if the stream is not made of messages, or one is longer than [`MESSAGE_LEN_MAX`].
    pub fn take(&mut self) -> Result<Option<WholeMessage>, FrameError> {
        let Some(header) = self.held.first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let FrameHeader { kind, body_len } = FrameHeader::parse(*header)?;
        let len = HEADER_LEN + body_len;
        if len > MESSAGE_LEN_MAX {
            return Err(FrameError::Length { kind: char::from(kind), length: (len - 1) as u32 });
        }
        if self.held.len() < len {
            return Ok(None);
        }
        let after = self.held.split_off(len);
        Ok(Some(WholeMessage { raw: std::mem::replace(&mut self.held, after) }))
    }

    /// What came after the last whole message.
    #[must_use]
    pub fn rest(self) -> Vec<u8> {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_however_the_stream_is_cut() {
        let stream = b"1\0\0\0\x04D\0\0\0\x06abZ\0\0\0\x05I";
        for size in 1..=stream.len() {
            let (mut messages, mut seen) = (WholeMessages::default(), Vec::new());
            for chunk in stream.chunks(size) {
                messages.push(chunk);
                while let Some(message) = messages.take().unwrap() {
                    seen.push((message.kind(), message.body().to_vec()));
                }
            }
            assert_eq!(seen, [(b'1', vec![]), (b'D', b"ab".to_vec()), (b'Z', b"I".to_vec())]);
            assert!(messages.rest().is_empty());
        }
    }

    #[test]
    fn what_is_no_message_or_too_long_is_refused() {
        let mut garbage = WholeMessages::default();
        garbage.push(&[0; 5]);
        assert!(garbage.take().is_err());
        let mut long = WholeMessages::default();
        long.push(b"D\0\x10\0\0");
        assert!(matches!(long.take(), Err(FrameError::Length { kind: 'D', .. })));
    }
}
