//! The agent's side: starting a guard, finding one that runs, and talking to it.
//!
//! One task owns the connection. Commands go to it by a channel; answers come back in the order of the commands. The
//! event channel carries exactly one event, the last thing that can be known of this guard.

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command as Process};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::connection::{Request, converse};
use super::conversation::remove_stale_socket;
use super::launch::open_log;
use super::protocol::{Command, EndCode, LineBuffer, ProtocolError, Report, StopMode};

/// How long a new guard may take until it listens.
const START_TIMEOUT: Duration = Duration::from_secs(5);
/// How long any answer may take. The guard answers within a turn of its loop; longer means that it is stopped.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a guard that is found may take to say what it watches over; one that takes longer is ended.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_PAUSE: Duration = Duration::from_millis(2);
/// Commands under way at once.
const REQUESTS_MAX: usize = 16;
/// Most bytes of the log that an error quotes.
const LAST_WORDS_BYTES: u64 = 1024;

/// What a guard is started with.
#[derive(Debug, Clone)]
pub struct StartOptions {
    /// The program that has the subcommands `guard` and `guard-exec`: this one, as a rule.
    pub exe: PathBuf,
    /// See [`super::GuardOptions::socket`].
    pub socket: PathBuf,
    /// See [`super::GuardOptions::log`].
    pub log: PathBuf,
    /// See [`super::GuardOptions::user`].
    pub user: Option<String>,
    /// See [`super::GuardOptions::deadline_ms`]. Give one to a server that may come up as a primary: otherwise it is
    /// unattended if the agent dies before its first [`GuardHandle::set_deadline`].
    pub deadline_ms: Option<u64>,
    /// See [`super::GuardOptions::fence`].
    pub fence: Option<String>,
    /// See [`super::GuardOptions::program`].
    pub program: OsString,
    /// See [`super::GuardOptions::args`].
    pub args: Vec<OsString>,
}

/// The last thing to be known of a guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuardEvent {
    /// The last process of the server is gone, and so is the guard.
    Ended {
        /// How the postmaster ended.
        code: EndCode,
        /// The guard killed it because its deadline had passed.
        fenced: bool,
    },
    /// The connection broke without a last word: nothing is known of the server. If the guard was killed, the kernel
    /// has told the postmaster to stop at once, but nobody has seen it do so. If the guard lives, attach again.
    Lost,
}

/// Why something about the guard did not work.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// The log cannot be written.
    #[error("cannot open the guard's log {}: {source}; check the directory and its rights", path.display())]
    Log {
        /// The log.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The guard's program cannot be run.
    #[error("cannot run the guard {}: {source}", exe.display())]
    Spawn {
        /// The program.
        exe: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The guard ended before it listened.
    #[error("the guard ended before the server ran ({status}); the log {} says: {last_words}", log.display())]
    NotStarted {
        /// Exit status of the guard.
        status: ExitStatus,
        /// The log.
        log: PathBuf,
        /// Its last line.
        last_words: String,
    },
    /// The guard neither listened nor ended; it was killed.
    #[error("the guard did not listen at {} within {START_TIMEOUT:?} and was killed; see {}", socket.display(), log.display())]
    Silent {
        /// Where it should have listened.
        socket: PathBuf,
        /// The log.
        log: PathBuf,
    },
    /// Another guard is there already.
    #[error("a guard already listens at {} for the server with process id {pid}; attach to it", socket.display())]
    AlreadyRunning {
        /// Where it listens.
        socket: PathBuf,
        /// Process id of its postmaster.
        pid: u32,
    },
    /// The socket cannot be used.
    #[error("cannot reach the guard at {}: {source}", socket.display())]
    Socket {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Whoever listens there does not speak as a guard does.
    #[error("{} does not belong to a guard: its greeting is {heard:?}", socket.display())]
    NotAGuard {
        /// The socket.
        socket: PathBuf,
        /// What it said instead.
        heard: String,
    },
    /// No answer in time. Whether the command was carried out is not known.
    #[error(
        "the guard did not answer within {ANSWER_TIMEOUT:?} ({asked}); it may be stopped or starved of CPU"
    )]
    Timeout {
        /// What was asked.
        asked: String,
    },
    /// The guard said no.
    #[error("the guard refused {command:?}: {reason}")]
    Refused {
        /// What was asked.
        command: Command,
        /// Its reason.
        reason: String,
    },
    /// The connection is over; the event channel says how it ended. Whether the command was carried out is not known.
    #[error("the connection to the guard is over")]
    Gone,
}

/// A connection to a guard. Dropping it does nothing to the guard or its server.
#[derive(Debug, Clone)]
pub struct GuardHandle {
    requests: mpsc::Sender<Request>,
    pid: u32,
    guard_pid: Option<i32>,
    deadline_at_attach_ms: Option<u64>,
}

impl GuardHandle {
    /// Starts a guard, detached, and with it the server. Returns when the guard listens; the server's program may
    /// still fail, which then is the event.
    pub async fn start(options: StartOptions) -> Result<(Self, mpsc::Receiver<GuardEvent>), GuardError> {
        if let Some((other, _)) = Self::attach(&options.socket).await? {
            return Err(GuardError::AlreadyRunning { socket: options.socket, pid: other.pid });
        }
        let (mut guard, log_from) = spawn(&options)?;
        let waited = timeout(START_TIMEOUT, first_contact(&mut guard, &options, log_from)).await;
        let silent = GuardError::Silent { socket: options.socket, log: options.log };
        let outcome = waited.unwrap_or(Err(silent));
        if outcome.is_err() {
            // Its server, if any, goes with it: what is reported as not started must not run unattended.
            let _ = guard.start_kill();
        }
        // Somebody has to collect the guard's exit status when it ends one day.
        tokio::spawn(async move { guard.wait().await });
        outcome
    }

    /// Connects to the guard that listens at `socket`. `None` if there is none; the file of a dead one is removed, and one
    /// that does not answer is ended.
    pub async fn attach(socket: &Path) -> Result<Option<(Self, mpsc::Receiver<GuardEvent>)>, GuardError> {
        let failed = |source| GuardError::Socket { socket: socket.to_path_buf(), source };
        match UnixStream::connect(socket).await {
            // Without a greeting the guard is about to go.
            Ok(stream) => greet(stream, socket).await,
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                remove_stale_socket(socket).map_err(failed)?;
                Ok(None)
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Process id of the postmaster.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The deadline that was in force when this connection was made, CLOCK_BOOTTIME milliseconds.
    pub fn deadline_at_attach_ms(&self) -> Option<u64> {
        self.deadline_at_attach_ms
    }

    /// Sets the deadline (CLOCK_BOOTTIME milliseconds; `None`: the server may run on unattended). When this returns
    /// `Ok`, it is in force; after an error the old or the new one may be.
    pub async fn set_deadline(&self, deadline_ms: Option<u64>) -> Result<(), GuardError> {
        self.ask(Command::Deadline(deadline_ms)).await
    }

    /// Asks the server to stop. `Ok` means that it was told; the event says when it is gone.
    pub async fn stop(&self, mode: StopMode) -> Result<(), GuardError> {
        self.ask(Command::Stop(mode)).await
    }

    /// Kills every process of the server. The event says when the last one is gone.
    pub async fn kill(&self) -> Result<(), GuardError> {
        self.ask(Command::Kill).await
    }

    /// Ends the guard itself, which does not answer: one that is stopped watches over nothing. The kernel then tells the
    /// postmaster to stop at once; that it has done so is seen by nobody, so the event is [`GuardEvent::Lost`].
    pub fn end_guard(&self) {
        if let Some(pid) = self.guard_pid {
            kill_guard(pid);
        }
    }

    /// Asks the server to read its configuration files again.
    pub async fn reload(&self) -> Result<(), GuardError> {
        self.ask(Command::Reload).await
    }

    async fn ask(&self, command: Command) -> Result<(), GuardError> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.requests.send(Request { command, reply }).await.map_err(|_| GuardError::Gone)?;
            answer.await.map_err(|_| GuardError::Gone)
        };
        match timeout(ANSWER_TIMEOUT, asked).await {
            Err(_) => Err(GuardError::Timeout { asked: command.to_string() }),
            Ok(Err(error)) => Err(error),
            Ok(Ok(None)) => Ok(()),
            Ok(Ok(Some(reason))) => Err(GuardError::Refused { command, reason }),
        }
    }
}

/// Starts the guard's process; also says where in the log its own words begin.
fn spawn(options: &StartOptions) -> Result<(Child, u64), GuardError> {
    let log_failed = |source| GuardError::Log { path: options.log.clone(), source };
    let log = open_log(&options.log).map_err(log_failed)?;
    let log_from = log.metadata().map_err(log_failed)?.len();
    let mut process = Process::new(&options.exe);
    process.arg0("pgkeel").arg("guard").arg("--socket").arg(&options.socket).arg("--log").arg(&options.log);
    if let Some(user) = &options.user {
        process.arg("--user").arg(user);
    }
    if let Some(deadline_ms) = options.deadline_ms {
        process.arg("--deadline").arg(deadline_ms.to_string());
    }
    if let Some(fence) = &options.fence {
        process.arg("--fence").arg(fence);
    }
    process.arg("--").arg(&options.program).args(&options.args);
    process.stdin(Stdio::null()).stdout(log.try_clone().map_err(log_failed)?).stderr(log);
    let guard = process.spawn().map_err(|source| GuardError::Spawn { exe: options.exe.clone(), source })?;
    Ok((guard, log_from))
}

/// Waits until the new guard listens or ends.
async fn first_contact(
    guard: &mut Child,
    options: &StartOptions,
    log_from: u64,
) -> Result<(GuardHandle, mpsc::Receiver<GuardEvent>), GuardError> {
    loop {
        if let Ok(stream) = UnixStream::connect(&options.socket).await
            && let Some(contact) = greet(stream, &options.socket).await?
        {
            return Ok(contact);
        }
        if let Ok(Some(status)) = guard.try_wait() {
            let last_words = last_line(&options.log, log_from).unwrap_or_else(|error| error.to_string());
            return Err(GuardError::NotStarted { status, log: options.log.clone(), last_words });
        }
        sleep(CONNECT_PAUSE).await;
    }
}

/// Hears the greeting and hands the connection to its task. `None` if the guard went away instead.
async fn greet(
    mut stream: UnixStream,
    socket: &Path,
) -> Result<Option<(GuardHandle, mpsc::Receiver<GuardEvent>)>, GuardError> {
    let guard_pid = peer(&stream);
    let hear = hear_greeting(&mut stream, socket);
    let Ok(heard) = timeout(GREETING_TIMEOUT, hear).await else {
        // It would not end its server either. The kernel tells that to stop; whoever hears of no guard looks after it.
        tracing::error!("the guard does not answer at {}: it is ended", socket.display());
        guard_pid.into_iter().for_each(kill_guard);
        return Ok(None);
    };
    let Some((greeting, rest)) = heard? else {
        return Ok(None);
    };
    let Ok(Report::Running { pid, deadline_ms }) = Report::parse(&greeting) else {
        return Err(GuardError::NotAGuard { socket: socket.to_path_buf(), heard: greeting });
    };
    let (requests, requested) = mpsc::channel(REQUESTS_MAX);
    let (events, event) = mpsc::channel(1);
    tokio::spawn(converse(stream, rest, requested, events));
    Ok(Some((GuardHandle { requests, pid, guard_pid, deadline_at_attach_ms: deadline_ms }, event)))
}

/// The postmaster that the guard at `socket` holds, as a program that is not its agent can hear it: the guard greets, and
/// answers. Nothing is changed.
///
/// # Errors
/// When nobody listens there, or says what this program does not understand.
pub async fn greeting(socket: &Path) -> Result<u32, GuardError> {
    let failed = |source| GuardError::Socket { socket: socket.to_path_buf(), source };
    let understood = |line: String| match Report::parse(&line) {
        Ok(Report::Running { pid, .. }) => Ok(pid),
        Ok(_) | Err(_) => Err(GuardError::NotAGuard { socket: socket.to_path_buf(), heard: line }),
    };
    let heard = async {
        let mut stream = UnixStream::connect(socket).await.map_err(failed)?;
        let Some((line, _)) = hear_greeting(&mut stream, socket).await? else { return Err(GuardError::Gone) };
        understood(line)?;
        stream.write_all(format!("{}\n", Command::Status).as_bytes()).await.map_err(failed)?;
        let Some((line, _)) = hear_greeting(&mut stream, socket).await? else { return Err(GuardError::Gone) };
        understood(line)
    };
    let late = |_| GuardError::Timeout { asked: Command::Status.to_string() };
    timeout(ANSWER_TIMEOUT, heard).await.map_err(late)?
}

/// The process that listens at the other end (SO_PEERCRED).
fn peer(stream: &UnixStream) -> Option<i32> {
    stream.peer_cred().ok()?.pid()
}

/// Looked at after it is held: what has taken its number meanwhile is no guard.
fn kill_guard(pid: i32) {
    let is_guard = || {
        let text = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        text.split(|byte| *byte == 0).nth(1) == Some(b"guard")
    };
    if let Some(pid) = Pid::from_raw(pid)
        && let Ok(guard) = pidfd_open(pid, PidfdFlags::empty())
        && is_guard()
    {
        let _ = pidfd_send_signal(&guard, Signal::KILL);
    }
}

/// The first line, and what follows it. Byte by byte, so that nothing after the line is taken from the task.
async fn hear_greeting(
    stream: &mut UnixStream,
    socket: &Path,
) -> Result<Option<(String, LineBuffer)>, GuardError> {
    let mut heard = LineBuffer::default();
    loop {
        match stream.read_u8().await {
            Ok(byte) => {
                let lines = heard.push(&[byte]);
                let heard_instead = |error: ProtocolError| error.to_string();
                let not_a_guard = |heard| GuardError::NotAGuard { socket: socket.to_path_buf(), heard };
                if let Some(line) = lines.map_err(heard_instead).map_err(not_a_guard)?.pop() {
                    return Ok(Some((line, heard)));
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
                return Ok(None);
            }
            Err(source) => return Err(GuardError::Socket { socket: socket.to_path_buf(), source }),
        }
    }
}

/// The last line of the log that is not older than byte `from`.
fn last_line(log: &Path, from: u64) -> io::Result<String> {
    let mut file = fs::File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(from.max(length.saturating_sub(LAST_WORDS_BYTES))))?;
    let mut bytes = Vec::new();
    file.take(LAST_WORDS_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    Ok(last.unwrap_or("(nothing)").to_string())
}
