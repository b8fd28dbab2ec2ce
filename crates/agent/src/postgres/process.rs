//! The server as a process: started under a guard, found again, ended.

use super::{PgError, Place, files};
use crate::guard::{GuardEvent, GuardHandle, StartOptions};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// How long a server may take until it listens.
const LISTEN_LIMIT: Duration = Duration::from_secs(10);
/// How long a server without a guard may take to end after it was told to.
const ORPHAN_LIMIT: Duration = Duration::from_secs(60);

/// Starts the server. Its kind (standby or not) is decided by standby.signal, its settings by the files. The table `fence`
/// is removed with it when there is no agent any more.
///
/// # Errors
/// When the guard or the server cannot be started.
pub async fn start(
    place: &Place,
    deadline_ms: Option<u64>,
    fence: Option<String>,
) -> Result<(GuardHandle, mpsc::Receiver<GuardEvent>), PgError> {
    files::make_dir(place, &place.socket_dir(), 0o755)?;
    let options = StartOptions {
        // This very program, also when its file was replaced by a newer one meanwhile.
        exe: "/proc/self/exe".into(),
        socket: place.guard_socket(),
        log: place.log(),
        user: place.user.as_ref().map(|u| u.name.clone()),
        deadline_ms,
        fence,
        program: place.settings.bin_dir.join("postgres").into(),
        args: vec!["-D".into(), place.data().into()],
    };
    Ok(GuardHandle::start(options).await?)
}

/// SIGHUP ends a postmaster that has no handler for it yet. It installs its handlers before it listens (PostmasterMain,
/// src/backend/postmaster/postmaster.c), so a socket that accepts is the sign.
///
/// # Errors
/// When it does not listen within ten seconds.
pub async fn wait_until_it_takes_signals(place: &Place) -> Result<(), PgError> {
    let socket = place.socket_dir().join(format!(".s.PGSQL.{}", place.settings.port));
    let began = Instant::now();
    while tokio::net::UnixStream::connect(&socket).await.is_err() {
        if began.elapsed() > LISTEN_LIMIT {
            return Err(PgError::Slow {
                doing: "the start of the server".into(),
                limit_s: LISTEN_LIMIT.as_secs(),
            });
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Makes the next start a standby's, or not.
///
/// # Errors
/// When standby.signal cannot be made or removed.
pub fn mark_standby(place: &Place, standby: Kind) -> Result<(), PgError> {
    let path = place.data().join("standby.signal");
    match standby {
        Kind::Standby => files::replace(&path, "", place.owner()),
        Kind::Primary => match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(PgError::file("remove", &path)(e)),
            _ => Ok(()),
        },
    }
}

/// As what a server starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In recovery, until it is promoted.
    Standby,
    /// Taking writes.
    Primary,
}

/// The postmaster of the data directory that runs without a guard, if there is one: its pid is in postmaster.pid and its
/// working directory is the data directory (CreateDataDirLockFile, src/backend/utils/init/miscinit.c).
#[must_use]
pub fn orphan(place: &Place) -> Option<i32> {
    let text = std::fs::read_to_string(place.data().join("postmaster.pid")).ok()?;
    let pid: i32 = text.lines().next()?.trim().parse().ok()?;
    works_there(place, pid).then_some(pid)
}

/// Ends what an earlier copy left running: pg_basebackup receives WAL in a process of its own, which outlives the other
/// and would go on to write where the next copy grows.
///
/// # Errors
/// When one does not end.
pub async fn end_copying(place: &Place) -> Result<(), PgError> {
    let fresh = place.data_new();
    let writes_there = |pid: i32| {
        let text = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let args: Vec<&[u8]> = text.split(|byte| *byte == 0).collect();
        let copies = args.iter().any(|arg| arg.ends_with(b"pg_basebackup"));
        copies && args.iter().any(|arg| *arg == fresh.as_os_str().as_encoded_bytes())
    };
    let began = Instant::now();
    loop {
        let left: Vec<i32> = all_pids().filter(|pid| writes_there(*pid)).collect();
        if left.is_empty() {
            return Ok(());
        }
        left.into_iter().for_each(|pid| send(pid, Signal::KILL, || writes_there(pid)));
        if began.elapsed() > LISTEN_LIMIT {
            let doing = "ending the pg_basebackup of an earlier copy".into();
            return Err(PgError::Slow { doing, limit_s: LISTEN_LIMIT.as_secs() });
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whether it works in the data directory, by whatever name; in a container another directory may have the same.
fn works_there(place: &Place, pid: i32) -> bool {
    let known = |path: &Path| std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    let data = known(place.data());
    data.is_some() && known(Path::new(&format!("/proc/{pid}/cwd"))) == data
}

/// Whether it is a process of a server whose postmaster is gone: it goes on with the statement that it is at, and
/// acknowledges it. What a person runs in single-user mode serves nobody.
fn is_left_behind(place: &Place, pid: i32) -> bool {
    let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    // Where the server's package was replaced meanwhile the kernel says so.
    let serves =
        matches!(program.file_name().and_then(OsStr::to_str), Some("postgres" | "postgres (deleted)"));
    let args = || std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    serves && works_there(place, pid) && !args().split(|byte| *byte == 0).any(|arg| arg == b"--single")
}

fn all_pids() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
}

/// By pidfd, and looked at again after it is open: a pid that was reused meanwhile is never hit.
fn send(pid: i32, signal: Signal, still: impl FnOnce() -> bool) {
    if let Some(pid) = Pid::from_raw(pid)
        && let Ok(fd) = pidfd_open(pid, PidfdFlags::empty())
        && still()
    {
        let _ = pidfd_send_signal(&fd, signal);
    }
}

/// Lets a server that somebody else has started end in order: clients are disconnected, standbys get all of its WAL.
///
/// # Errors
/// When it does not end within `limit`: it may be asked again.
pub async fn end_in_order(place: &Place, limit: Duration) -> Result<(), PgError> {
    let began = Instant::now();
    let Some(pid) = orphan(place) else { return Ok(()) };
    // Fast shutdown (manual, "Shutting Down the Server").
    send(pid, Signal::INT, || orphan(place) == Some(pid));
    while orphan(place).is_some() {
        if began.elapsed() > limit {
            let doing = format!("stopping the server that ran before (process {pid})");
            return Err(PgError::Slow { doing, limit_s: limit.as_secs() });
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// Ends a server that runs without a guard, with all its processes: nobody would stop it when its lease ends.
///
/// # Errors
/// When it does not end within a minute.
pub async fn end_orphan(place: &Place) -> Result<(), PgError> {
    let began = Instant::now();
    loop {
        let left = if let Some(pid) = orphan(place) {
            let signal = if began.elapsed() < Duration::from_secs(5) { Signal::QUIT } else { Signal::KILL };
            send(pid, signal, || orphan(place) == Some(pid));
            vec![pid]
        } else {
            let left: Vec<i32> = all_pids().filter(|pid| is_left_behind(place, *pid)).collect();
            left.iter().for_each(|pid| send(*pid, Signal::KILL, || is_left_behind(place, *pid)));
            left
        };
        if left.is_empty() {
            return Ok(());
        }
        if began.elapsed() > ORPHAN_LIMIT {
            let doing = format!("ending the unattended server (processes {left:?})");
            return Err(PgError::Slow { doing, limit_s: ORPHAN_LIMIT.as_secs() });
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
