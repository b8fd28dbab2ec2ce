//! Whether a session may go on on another server without its client noticing. Pure: the question to the server, and how
//! its answer is read.
//!
//! The question goes over the session's own connection while nothing else is in flight there. It uses the extended
//! protocol, because a simple query would destroy the client's unnamed prepared statement, and schema-qualified names,
//! because the session's search_path may hold anything.

use pgwire::error_response::ErrorSummary;
use pgwire::{FrameError, WholeMessages};
use std::fmt;

/// Name of the prepared statement that the question uses for a moment.
const STATEMENT: &str = "pgkeel: may this session move?";

/// One row for everything that a new session on another server would not have; no row if there is nothing. Not asked for
/// are settings that fulfil `exempt` and prepared statements that fulfil `own`. The row of a channel that it listens on is
/// `channel`, an expression in which `l` is its name.
///
/// A function is suspect if it sets what pg_settings does not show: settings whose name has a dot.
#[must_use]
pub fn question_sql(exempt: &str, own: &str, channel: &str) -> String {
    format!(
        "\
SELECT 'setting' FROM pg_catalog.pg_settings s WHERE s.source OPERATOR(pg_catalog.=) 'session' AND NOT ({exempt})
UNION ALL SELECT 'role' FROM pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()) a
  WHERE pg_catalog.current_setting('role') OPERATOR(pg_catalog.<>) 'none'
  OR pg_catalog.pg_get_userbyid(a.usesysid) OPERATOR(pg_catalog.<>) session_user OR session_user OPERATOR(pg_catalog.<>) current_user
UNION ALL SELECT 'prepared' FROM pg_catalog.pg_prepared_statements p WHERE NOT ({own})
UNION ALL SELECT {channel} FROM pg_catalog.pg_listening_channels() l
UNION ALL SELECT 'cursor' FROM pg_catalog.pg_cursors c WHERE c.is_holdable
UNION ALL SELECT 'temporary' FROM pg_catalog.pg_depend d
  WHERE d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_namespace'::pg_catalog.regclass
  AND d.refobjid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()
UNION ALL SELECT 'lock' FROM pg_catalog.pg_locks l
  WHERE l.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid() AND l.locktype OPERATOR(pg_catalog.=) 'advisory'
UNION ALL SELECT 'unseen' FROM pg_catalog.pg_proc f
  WHERE f.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid
  AND f.prosrc OPERATOR(pg_catalog.~*) '\\mset_config\\s*\\(\\s*(?!''[^''.]*'')|\\mset\\s+(session\\s+)?[\"a-z0-9_$]+\\s*\\.'"
    )
}

/// What keeps a session on its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The server asked for a secret at the login, which the proxy does not have.
    Secret,
    /// It is not an ordinary session but one for replication.
    Replication,
    /// `SET` changed a setting.
    Setting,
    /// A setting may have been changed that no catalog shows: one whose name has a dot.
    UnseenSetting,
    /// Role or session authorization are not those of the login.
    Role,
    /// A prepared statement exists.
    Prepared,
    /// `LISTEN`.
    Listening,
    /// A cursor that outlives its transaction.
    Cursor,
    /// A temporary table, view, type or function.
    Temporary,
    /// An advisory lock of the session.
    Lock,
    /// The server did not answer the question as expected.
    NoAnswer,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Obstacle::Secret => "the login needs a secret",
            Obstacle::Replication => "it is a replication connection",
            Obstacle::Setting => "it has changed settings",
            Obstacle::UnseenSetting => "it may have settings that no catalog shows",
            Obstacle::Role => "it has changed its role",
            Obstacle::Prepared => "it has prepared statements",
            Obstacle::Listening => "it listens for notifications",
            Obstacle::Cursor => "it has a cursor WITH HOLD",
            Obstacle::Temporary => "it has temporary objects",
            Obstacle::Lock => "it has advisory locks",
            Obstacle::NoAnswer => "the server did not answer what it has",
        })
    }
}

/// The server's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A new session elsewhere is as good.
    Portable,
    /// It is not.
    Stays(Obstacle),
}

/// The question as bytes of the protocol.
#[must_use]
pub fn question() -> Vec<u8> {
    let name = STATEMENT.as_bytes();
    let own = format!("p.name OPERATOR(pg_catalog.=) '{STATEMENT}'");
    let sql = question_sql("false", &own, "'listening'") + "\nLIMIT 1";
    let mut out = Vec::with_capacity(sql.len() + 256);
    put(b'P', &[name, b"\0", sql.as_bytes(), b"\0\0\0"], &mut out);
    put(b'B', &[b"\0", name, b"\0\0\0\0\0\0\0"], &mut out);
    put(b'E', &[b"\0\0\0\0\0"], &mut out);
    put(b'C', &[b"S", name, b"\0"], &mut out);
    put(b'S', &[], &mut out);
    out
}

fn put(kind: u8, parts: &[&[u8]], out: &mut Vec<u8>) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    out.push(kind);
    out.extend_from_slice(&(len as u32 + 4).to_be_bytes());
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// Reads the answer.
#[derive(Debug, Default)]
pub struct Asking {
    messages: WholeMessages,
    obstacle: Option<Obstacle>,
    completed: bool,
}

impl Asking {
    /// Takes bytes of the server. What is not part of the answer is for the client and is appended to `to_client`.
    ///
    /// # Errors
    /// [`FrameError`] if the server does not speak the protocol.
    pub fn server_sent(
        &mut self,
        bytes: &[u8],
        to_client: &mut Vec<u8>,
    ) -> Result<Option<Verdict>, FrameError> {
        self.messages.push(bytes);
        while let Some(message) = self.messages.take()? {
            match message.kind() {
                b'1' | b'2' | b'3' => {}
                b'C' => self.completed = true,
                b'D' => self.obstacle = Some(obstacle(message.body())),
                b'E' if !ErrorSummary::parse(message.body()).fatal => {
                    self.obstacle = Some(Obstacle::NoAnswer);
                }
                b'Z' => {
                    to_client.append(&mut std::mem::take(&mut self.messages).rest());
                    return Ok(Some(self.verdict(message.body())));
                }
                _ => to_client.extend_from_slice(&message.raw),
            }
        }
        Ok(None)
    }

    fn verdict(&self, status: &[u8]) -> Verdict {
        match self.obstacle {
            Some(obstacle) => Verdict::Stays(obstacle),
            None if self.completed && status == b"I" => Verdict::Portable,
            None => Verdict::Stays(Obstacle::NoAnswer),
        }
    }
}

/// Reads a row of one column.
fn obstacle(row: &[u8]) -> Obstacle {
    match row.get(6..) {
        Some(b"setting") => Obstacle::Setting,
        Some(b"unseen") => Obstacle::UnseenSetting,
        Some(b"role") => Obstacle::Role,
        Some(b"prepared") => Obstacle::Prepared,
        Some(b"listening") => Obstacle::Listening,
        Some(b"cursor") => Obstacle::Cursor,
        Some(b"temporary") => Obstacle::Temporary,
        Some(b"lock") => Obstacle::Lock,
        Some(_) | None => Obstacle::NoAnswer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(middle: &[u8]) -> (Option<Verdict>, Vec<u8>) {
        let stream = [b"1\0\0\0\x042\0\0\0\x04", middle, b"3\0\0\0\x04Z\0\0\0\x05I"].concat();
        let (mut asking, mut to_client, mut verdict) = (Asking::default(), Vec::new(), None);
        for byte in stream {
            verdict = asking.server_sent(&[byte], &mut to_client).unwrap();
        }
        (verdict, to_client)
    }

    #[test]
    fn no_row_is_portable_and_a_row_names_the_obstacle() {
        let done = b"C\0\0\0\x0dSELECT 0\0";
        assert_eq!(answer(done), (Some(Verdict::Portable), vec![]));
        let lock = [b"D\0\0\0\x0e\0\x01\0\0\0\x04lock", &done[..]].concat();
        assert_eq!(answer(&lock), (Some(Verdict::Stays(Obstacle::Lock)), vec![]));
        assert_eq!(answer(b""), (Some(Verdict::Stays(Obstacle::NoAnswer)), vec![]), "no completion");
    }

    #[test]
    fn errors_are_not_for_the_client_but_the_end_of_the_session_is() {
        let error = b"E\0\0\0\x0cVERROR\0\0";
        assert_eq!(answer(error), (Some(Verdict::Stays(Obstacle::NoAnswer)), vec![]));
        let fatal = b"E\0\0\0\x0cVFATAL\0\0";
        let (mut asking, mut to_client) = (Asking::default(), Vec::new());
        assert_eq!(asking.server_sent(fatal, &mut to_client), Ok(None));
        assert_eq!(to_client, fatal);
    }

    #[test]
    fn what_came_in_between_or_behind_is_for_the_client() {
        let notice = b"N\0\0\0\x05\0";
        let (verdict, to_client) = answer(&[&notice[..], b"C\0\0\0\x0dSELECT 0\0"].concat());
        assert_eq!((verdict, &to_client[..]), (Some(Verdict::Portable), &notice[..]));
        let (mut asking, mut to_client) = (Asking::default(), Vec::new());
        let behind = b"Z\0\0\0\x05IA\0\0\0";
        assert!(asking.server_sent(behind, &mut to_client).unwrap().is_some());
        assert_eq!(to_client, b"A\0\0\0");
    }

    #[test]
    fn the_question_is_whole_messages_that_end_with_one_sync() {
        let mut messages = WholeMessages::default();
        messages.push(&question());
        let mut kinds = Vec::new();
        while let Some(message) = messages.take().unwrap() {
            kinds.push(message.kind());
        }
        assert_eq!((kinds, messages.rest()), (b"PBECS".to_vec(), vec![]));
        assert!(STATEMENT.len() < 64);
    }
}
