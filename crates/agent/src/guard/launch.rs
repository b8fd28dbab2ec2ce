//! Getting the guard and the server going: what protects the guard, and the stub that becomes the server.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio, id};

use rustix::fs::{Mode, OFlags};
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{
    Pid, Resource, Signal, geteuid, getppid, getrlimit, set_child_subreaper, set_parent_process_death_signal,
    setsid,
};

use super::GuardOptions;
use crate::os_user::OsUser;

/// Exit status of the stub when the server's program could not be started, as a shell has it.
const EXIT_NOT_STARTED: i32 = 127;

/// Was the guard, and with it all it starts, taken off the kernel's list of memory-shortage victims?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OomShield {
    Up,
    NotPermitted,
}

/// Opens a log for appending. Refuses a symbolic link in its place: the guard may be root, and the log's directory
/// may belong to the server's user.
pub(super) fn open_log(path: &Path) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(File::from(rustix::fs::open(path, flags, Mode::from_raw_mode(0o640))?))
}

/// One line for whoever reads the log. A full disk must not end the guard, so a failure is let go. Never call it
/// between a passed deadline and the kill: writing to a stalled disk can take for ever.
pub(super) fn note(mut log: &File, text: &str) {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let line =
        format!("{}.{:03} guard {}: {text}\n", since_epoch.as_secs(), since_epoch.subsec_millis(), id());
    let _ = log.write_all(line.as_bytes());
}

/// Leaves the terminal, becomes heir of the server's orphans, and steps out of the way of the memory killer.
/// The middle one is indispensable: without it nobody could say when the last process is gone.
pub(super) fn prepare(log: &File) -> io::Result<OomShield> {
    if let Err(error) = setsid() {
        note(
            log,
            &format!(
                "stays in the session it was started in ({error}): signals of its terminal will reach it"
            ),
        );
    }
    set_child_subreaper(Some(rustix::process::getpid()))?;
    // -1000 is OOM_SCORE_ADJ_MIN of the kernel's oom.h: never chosen. Needs CAP_SYS_RESOURCE.
    Ok(match fs::write("/proc/self/oom_score_adj", "-1000") {
        Ok(()) => OomShield::Up,
        Err(_) => OomShield::NotPermitted,
    })
}

/// Keeps the guard's pages in memory, so that a swapping machine cannot delay a kill. Only what is in use: the rest
/// of the program stays on disk. Best effort.
pub(super) fn lock_memory(log: &File) {
    let unlimited = geteuid().is_root() || getrlimit(Resource::Memlock).current.is_none();
    // Under a limit, FUTURE would turn a later allocation into a failure, that is, into the end of the guard.
    let flags =
        if unlimited { MlockAllFlags::CURRENT | MlockAllFlags::FUTURE } else { MlockAllFlags::CURRENT };
    if let Err(error) = mlockall(flags | MlockAllFlags::ONFAULT) {
        let why = "a machine that swaps may delay it; LimitMEMLOCK=infinity permits it";
        note(log, &format!("its memory cannot be locked ({error}): {why}"));
    }
}

/// Starts this very program again as the stub, which then becomes the server (see [`exec_main`]).
pub(super) fn spawn_server(
    options: &GuardOptions,
    user: Option<OsUser>,
    shield: OomShield,
    log: &File,
) -> io::Result<Child> {
    // By this link and not by path: the server's user may be unable to reach the path, and an upgrade may have
    // replaced the file.
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("pgkeel")
        .args(["guard-exec", "--parent", &id().to_string(), "--"])
        .arg(&options.program)
        .args(&options.args)
        // A directory that any user may enter and that keeps nothing mounted.
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log.try_clone()?);
    if shield == OomShield::Up {
        // PostgreSQL manual, "Linux Memory Overcommit": the postmaster stays protected, its children do not.
        command.env("PG_OOM_ADJUST_FILE", "/proc/self/oom_score_adj").env("PG_OOM_ADJUST_VALUE", "0");
    }
    if let Some(OsUser { uid, gid, .. }) = user {
        // As root the standard library also drops all other groups.
        command.uid(uid).gid(gid);
    }
    command.spawn()
}

/// The stub, `pgkeel guard-exec --parent PID -- PROGRAM ARGS`: asks the kernel to send SIGQUIT (PostgreSQL's immediate
/// shutdown) when the guard dies, makes sure that it has not died already, and becomes PROGRAM.
/// Returns only if that fails: the exit status to end with. The reason is on stderr, which is the log.
pub fn exec_main(parent: u32, program: &OsStr, args: &[OsString]) -> i32 {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::QUIT)) {
        complain(&format!(
            "cannot ask for a signal at the end of the guard ({error}); the server is not started"
        ));
        return EXIT_NOT_STARTED;
    }
    // Asked after the request: a guard that died before it would otherwise go unnoticed.
    let parent_now = getppid().map(Pid::as_raw_pid);
    if parent_now.is_none() || parent_now != i32::try_from(parent).ok() {
        complain(&format!("the guard {parent} is gone; the server is not started"));
        return EXIT_NOT_STARTED;
    }
    let error = Command::new(program).args(args).exec();
    complain(&format!("cannot start {}: {error}; check bin_dir and the rights on it", program.display()));
    EXIT_NOT_STARTED
}

/// `eprintln!` would panic on a full disk.
fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "pgkeel guard-exec: {text}");
}
