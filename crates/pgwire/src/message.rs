//! Writes messages, and reads the names in the messages of the extended protocol.

use crate::frame::HEADER_LEN;
use std::ffi::CStr;

/// Appends a message whose body is made of `parts`.
pub fn put(kind: u8, parts: &[&[u8]], out: &mut Vec<u8>) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    put_header(kind, len, out);
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// Appends the header of a message whose body of `body_len` bytes follows.
pub fn put_header(kind: u8, body_len: usize, out: &mut Vec<u8>) {
    out.reserve(HEADER_LEN + body_len.min(1 << 16));
    out.push(kind);
    // A body of more than `frame::BODY_LEN_MAX` bytes is never written.
    out.extend_from_slice(&u32::try_from(body_len + 4).unwrap_or(u32::MAX).to_be_bytes());
}

/// Appends a simple query.
pub fn put_query(sql: &[u8], out: &mut Vec<u8>) {
    put(b'Q', &[sql, b"\0"], out);
}

/// The first zero-terminated string of a body and what follows it; `None` if its end is not there.
#[must_use]
pub fn split_string(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let string = CStr::from_bytes_until_nul(body).ok()?;
    Some((string.to_bytes(), &body[string.count_bytes() + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_written_with_their_length() {
        let mut out = Vec::new();
        put(b'C', &[b"S", b"name\0"], &mut out);
        put_query(b"select 1", &mut out);
        assert_eq!(out, b"C\0\0\0\x0aSname\0Q\0\0\0\x0dselect 1\0");
    }

    #[test]
    fn strings_are_split_off() {
        assert_eq!(split_string(b"a\0b\0"), Some((&b"a"[..], &b"b\0"[..])));
        assert_eq!(split_string(b"\0"), Some((&b""[..], &b""[..])));
        assert_eq!(split_string(b"a"), None);
    }
}
