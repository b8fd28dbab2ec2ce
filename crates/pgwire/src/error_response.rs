//! ErrorResponse and NoticeResponse: written for clients, and read as far as routing needs it.

/// Longest text field written, so that a text from outside cannot make a message large. Bytes.
pub const FIELD_LEN_MAX: usize = 2_000;

/// Severity as PostgreSQL writes it in the fields `S` and `V`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The statement failed, the session goes on.
    Error,
    /// The session ends.
    Fatal,
    /// For a NoticeResponse.
    Warning,
    /// For a NoticeResponse.
    Notice,
}

impl Severity {
    fn text(self) -> &'static str {
        match self {
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
            Severity::Warning => "WARNING",
            Severity::Notice => "NOTICE",
        }
    }
}

/// The fields of an error or a notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorFields<'a> {
    /// How bad.
    pub severity: Severity,
    /// Five characters of PostgreSQL's appendix "Error Codes".
    pub sqlstate: &'a str,
    /// One line for people.
    pub message: &'a str,
    /// More about it.
    pub detail: Option<&'a str>,
    /// What to do next.
    pub hint: Option<&'a str>,
}

/// Appends a whole ErrorResponse message to `out`.
pub fn encode_error_response(fields: &ErrorFields<'_>, out: &mut Vec<u8>) {
    encode(b'E', fields, out);
}

/// Appends a whole NoticeResponse message to `out`.
pub fn encode_notice_response(fields: &ErrorFields<'_>, out: &mut Vec<u8>) {
    encode(b'N', fields, out);
}

fn encode(kind: u8, fields: &ErrorFields<'_>, out: &mut Vec<u8>) {
    let severity = fields.severity.text();
    let mut body = Vec::with_capacity(256);
    put_field(b'S', severity, &mut body);
    put_field(b'V', severity, &mut body);
    put_field(b'C', fields.sqlstate, &mut body);
    put_field(b'M', fields.message, &mut body);
    for (code, text) in [(b'D', fields.detail), (b'H', fields.hint)] {
        if let Some(text) = text {
            put_field(code, text, &mut body);
        }
    }
    body.push(0);
    out.push(kind);
    out.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    out.extend_from_slice(&body);
}

fn put_field(code: u8, text: &str, body: &mut Vec<u8>) {
    let end = text.floor_char_boundary(FIELD_LEN_MAX);
    body.push(code);
    // A zero byte would end the field early and let the text forge the next one.
    body.extend(text[..end].bytes().map(|b| if b == 0 { b' ' } else { b }));
    body.push(0);
}

/// What is needed of a server's ErrorResponse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorSummary {
    /// The SQLSTATE, if the message carries one of five letters or digits.
    pub sqlstate: Option<[u8; 5]>,
    /// Whether the session ends with it (severity FATAL or PANIC).
    pub fatal: bool,
}

impl ErrorSummary {
    /// Reads the beginning of an ErrorResponse's body; a truncated body is fine, because PostgreSQL sends severity and
    /// SQLSTATE first (src/backend/utils/error/elog.c, `send_message_to_frontend`).
    #[must_use]
    pub fn parse(body: &[u8]) -> ErrorSummary {
        let mut summary = ErrorSummary { sqlstate: None, fatal: false };
        for field in body.split(|&b| b == 0) {
            match field.split_first() {
                // `S` may be translated; `V` (since 9.6) never is.
                Some((b'V' | b'S', b"FATAL" | b"PANIC")) => summary.fatal = true,
                Some((b'C', code)) if summary.sqlstate.is_none() => {
                    summary.sqlstate =
                        code.try_into().ok().filter(|c: &[u8; 5]| c.iter().all(u8::is_ascii_alphanumeric));
                }
                // An empty field is the terminator of the message.
                None => break,
                Some(_) => {}
            }
        }
        summary
    }

    /// Whether the SQLSTATE is `code`.
    #[must_use]
    pub fn is(&self, code: &str) -> bool {
        self.sqlstate.is_some_and(|state| state == code.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{FrameHeader, HEADER_LEN};
    use crate::random::Random;

    fn fatal(message: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let fields = ErrorFields {
            severity: Severity::Fatal,
            sqlstate: "57P01",
            message,
            detail: Some("d"),
            hint: None,
        };
        encode_error_response(&fields, &mut out);
        out
    }

    #[test]
    fn an_encoded_error_reads_back() {
        let out = fatal("terminating connection");
        let (header, body) = out.split_first_chunk::<HEADER_LEN>().unwrap();
        assert_eq!(FrameHeader::parse(*header), Ok(FrameHeader { kind: b'E', body_len: body.len() }));
        assert_eq!(body, b"SFATAL\0VFATAL\0C57P01\0Mterminating connection\0Dd\0\0");
        let summary = ErrorSummary::parse(body);
        assert!(summary.fatal && summary.is("57P01") && !summary.is("57P03"));
    }

    #[test]
    fn a_notice_differs_by_its_type_only() {
        let mut out = Vec::new();
        let fields = ErrorFields {
            severity: Severity::Notice,
            sqlstate: "00000",
            message: "m",
            detail: None,
            hint: Some("h"),
        };
        encode_notice_response(&fields, &mut out);
        assert_eq!(out[0], b'N');
        assert!(out.ends_with(b"Mm\0Hh\0\0"));
    }

    #[test]
    fn texts_from_outside_cannot_forge_fields_or_grow_the_message() {
        assert!(fatal("a\0C00000").windows(9).any(|w| w == b"Ma C00000"));
        assert!(fatal(&"é".repeat(100_000)).len() < FIELD_LEN_MAX + 100);
    }

    #[test]
    fn an_error_that_does_not_end_the_session() {
        let summary = ErrorSummary::parse(b"SFEHLER\0VERROR\0C42P01\0Mno such table\0\0");
        assert!(!summary.fatal && summary.is("42P01"));
        // The terminator ends the reading: what follows is not part of the message.
        assert!(!ErrorSummary::parse(b"VERROR\0\0VFATAL\0").fatal);
    }

    #[test]
    fn random_bodies_never_panic() {
        let mut random = Random::new(2);
        for _ in crate::random::rounds(20_000) {
            let len = random.below(64);
            let mut body = random.bytes(len);
            for byte in body.iter_mut().filter(|b| **b > 128) {
                *byte = b"\0CSV5FATL"[usize::from(*byte) % 9];
            }
            let _ = ErrorSummary::parse(&body);
        }
    }
}
