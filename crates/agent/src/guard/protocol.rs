//! What agent and guard say to each other: one short line of text each way. Encode and parse only; no sockets here.
//!
//! Agent to guard: `deadline MS`, `deadline none`, `stop fast|immediate|smart`, `kill`, `reload`, `status`.
//! Guard to agent: `running PID MS|none` on connect and at `status`, `ok` after every accepted command,
//! `error TEXT`, and as the very last line `ended exit:N|signal:N fenced|unfenced`.

use std::fmt;

/// Longest line either side accepts, in bytes, without its line end.
pub const LINE_BYTES_MAX: usize = 256;
/// Longest text carried by `error`, in characters, so that the line stays below [`LINE_BYTES_MAX`].
const ERROR_CHARS_MAX: usize = 60;

/// How PostgreSQL shall stop (PostgreSQL manual, "Shutting Down the Server").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// SIGTERM: waits for the clients to leave by themselves.
    Smart,
    /// SIGINT: rolls back open transactions, writes a shutdown checkpoint.
    Fast,
    /// SIGQUIT: no checkpoint; the next start does crash recovery.
    Immediate,
}

/// What an agent asks of the guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Kill the server when CLOCK_BOOTTIME (milliseconds) passes this; `None`: never.
    Deadline(Option<u64>),
    /// Ask the server to stop.
    Stop(StopMode),
    /// SIGKILL the server and everything it started, now.
    Kill,
    /// Ask the server to read its configuration files again.
    Reload,
    /// Ask for a `running` line.
    Status,
}

/// How the postmaster ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndCode {
    /// It exited by itself with this status; 0 is a clean shutdown.
    Exit(i32),
    /// This signal ended it.
    Signal(i32),
}

/// What the guard tells an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// At least one process of the server is left.
    Running {
        /// Process id of the postmaster.
        pid: u32,
        /// Deadline in force, CLOCK_BOOTTIME milliseconds.
        deadline_ms: Option<u64>,
    },
    /// The command was accepted and is in force.
    Ok,
    /// The last process of the server is gone, and the guard goes too.
    Ended {
        /// How the postmaster ended.
        code: EndCode,
        /// The guard killed it because the deadline had passed.
        fenced: bool,
    },
    /// The command was refused.
    Error(String),
}

/// A line that is not part of this protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// More bytes than any line of the protocol has, without a line end.
    #[error("a line is longer than {LINE_BYTES_MAX} bytes")]
    TooLong,
    /// The bytes are not UTF-8.
    #[error("a line is not text")]
    NotText,
    /// No such command or report, or a wrong argument.
    #[error("not understood: {0:?}")]
    Unknown(String),
}

impl Command {
    /// Reads one line, given without its line end.
    pub fn parse(line: &str) -> Result<Self, ProtocolError> {
        let unknown = || ProtocolError::Unknown(shorten(line));
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["deadline", when] => parse_deadline(when).map(Self::Deadline).ok_or_else(unknown),
            ["stop", "smart"] => Ok(Self::Stop(StopMode::Smart)),
            ["stop", "fast"] => Ok(Self::Stop(StopMode::Fast)),
            ["stop", "immediate"] => Ok(Self::Stop(StopMode::Immediate)),
            ["kill"] => Ok(Self::Kill),
            ["reload"] => Ok(Self::Reload),
            ["status"] => Ok(Self::Status),
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deadline(None) => f.write_str("deadline none"),
            Self::Deadline(Some(ms)) => write!(f, "deadline {ms}"),
            Self::Stop(StopMode::Smart) => f.write_str("stop smart"),
            Self::Stop(StopMode::Fast) => f.write_str("stop fast"),
            Self::Stop(StopMode::Immediate) => f.write_str("stop immediate"),
            Self::Kill => f.write_str("kill"),
            Self::Reload => f.write_str("reload"),
            Self::Status => f.write_str("status"),
        }
    }
}

impl Report {
    /// Reads one line, given without its line end.
    pub fn parse(line: &str) -> Result<Self, ProtocolError> {
        let unknown = || ProtocolError::Unknown(shorten(line));
        if let Some(text) = line.strip_prefix("error ") {
            return Ok(Self::Error(shorten(text)));
        }
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["ok"] => Ok(Self::Ok),
            ["running", pid, when] => {
                let pid = number(pid).and_then(|pid| u32::try_from(pid).ok()).ok_or_else(unknown)?;
                let deadline_ms = parse_deadline(when).ok_or_else(unknown)?;
                Ok(Self::Running { pid, deadline_ms })
            }
            ["ended", code, how] => {
                let fenced = match *how {
                    "fenced" => true,
                    "unfenced" => false,
                    _ => return Err(unknown()),
                };
                let code = parse_end_code(code).ok_or_else(unknown)?;
                Ok(Self::Ended { code, fenced })
            }
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running { pid, deadline_ms: None } => write!(f, "running {pid} none"),
            Self::Running { pid, deadline_ms: Some(ms) } => write!(f, "running {pid} {ms}"),
            Self::Ok => f.write_str("ok"),
            Self::Ended { code, fenced: true } => write!(f, "ended {code} fenced"),
            Self::Ended { code, fenced: false } => write!(f, "ended {code} unfenced"),
            Self::Error(text) => write!(f, "error {}", shorten(text)),
        }
    }
}

impl fmt::Display for EndCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(status) => write!(f, "exit:{status}"),
            Self::Signal(signal) => write!(f, "signal:{signal}"),
        }
    }
}

/// Cuts a stream of bytes into lines; never holds more than one line and what was pushed last.
#[derive(Debug, Default)]
pub struct LineBuffer {
    rest: Vec<u8>,
}

impl LineBuffer {
    /// Adds what was read and takes out every whole line, oldest first. After an error the stream is not to be used
    /// any more: where its next line begins is not known.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<String>, ProtocolError> {
        self.rest.extend_from_slice(bytes);
        let mut lines = Vec::new();
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            if end > LINE_BYTES_MAX {
                return Err(ProtocolError::TooLong);
            }
            let line: Vec<u8> = self.rest.drain(..=end).take(end).collect();
            lines.push(String::from_utf8(line).map_err(|_| ProtocolError::NotText)?);
        }
        if self.rest.len() > LINE_BYTES_MAX {
            return Err(ProtocolError::TooLong);
        }
        Ok(lines)
    }
}

/// Digits only: `u64::from_str` alone would also take a leading plus sign.
fn number(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

fn parse_deadline(text: &str) -> Option<Option<u64>> {
    if text == "none" { Some(None) } else { number(text).map(Some) }
}

fn parse_end_code(text: &str) -> Option<EndCode> {
    let (kind, value) = text.split_once(':')?;
    let value = number(value).and_then(|value| i32::try_from(value).ok())?;
    match kind {
        "exit" => Some(EndCode::Exit(value)),
        "signal" => Some(EndCode::Signal(value)),
        _ => None,
    }
}

/// One printable line of bounded length: the text may have come from anybody.
fn shorten(text: &str) -> String {
    text.chars().take(ERROR_CHARS_MAX).map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_survive_the_line() {
        let commands = [
            Command::Deadline(None),
            Command::Deadline(Some(0)),
            Command::Deadline(Some(u64::MAX)),
            Command::Stop(StopMode::Smart),
            Command::Stop(StopMode::Fast),
            Command::Stop(StopMode::Immediate),
            Command::Kill,
            Command::Reload,
            Command::Status,
        ];
        for command in commands {
            assert_eq!(Command::parse(&command.to_string()), Ok(command));
        }
    }

    #[test]
    fn reports_survive_the_line() {
        let reports = [
            Report::Running { pid: 7, deadline_ms: None },
            Report::Running { pid: u32::MAX, deadline_ms: Some(12) },
            Report::Ok,
            Report::Ended { code: EndCode::Exit(1), fenced: false },
            Report::Ended { code: EndCode::Signal(9), fenced: true },
            Report::Error("no such command".to_string()),
        ];
        for report in reports {
            assert_eq!(Report::parse(&report.to_string()), Ok(report));
        }
    }

    #[test]
    fn refuses_what_is_nearly_right() {
        for line in [
            "",
            " kill",
            "kill ",
            "KILL",
            "kill now",
            "deadline",
            "deadline +1",
            "deadline -1",
            "deadline 1.5",
            "deadline 18446744073709551616",
            "deadline  1",
            "deadline none none",
            "stop",
            "stop slow",
            "status\r",
        ] {
            assert!(Command::parse(line).is_err(), "{line:?}");
        }
        for line in
            ["", "running 1", "running x none", "running 4294967296 none", "ended 9 fenced", "ended exit:1"]
        {
            assert!(Report::parse(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn an_error_is_always_one_line_that_fits() {
        let line = Report::Error("\u{10FFFF}\n".repeat(500)).to_string();
        assert!(line.len() <= LINE_BYTES_MAX, "{}", line.len());
        assert!(!line.contains('\n'));
    }

    #[test]
    fn cuts_lines_wherever_the_reads_fall() {
        let mut buffer = LineBuffer::default();
        assert_eq!(buffer.push(b"sta"), Ok(vec![]));
        assert_eq!(buffer.push(b"tus\nkill\nrel"), Ok(vec!["status".to_string(), "kill".to_string()]));
        assert_eq!(buffer.push(b"oad\n"), Ok(vec!["reload".to_string()]));
    }

    #[test]
    fn refuses_endless_lines_and_binary() {
        assert_eq!(LineBuffer::default().push(&[b'a'; LINE_BYTES_MAX]), Ok(vec![]));
        assert_eq!(LineBuffer::default().push(&[b'a'; LINE_BYTES_MAX + 1]), Err(ProtocolError::TooLong));
        assert_eq!(LineBuffer::default().push(b"\xff\xfe\n"), Err(ProtocolError::NotText));
    }
}
