//! Getting the guard and the server going: what protects the guard, and the stub that becomes the server.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio, id};
use std::str::FromStr;

use rustix::fs::{Mode, OFlags};
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{
    Gid, Pid, Resource, Signal, Uid, geteuid, getppid, getrlimit, set_child_subreaper,
    set_parent_process_death_signal, setsid,
};
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};

use super::GuardOptions;
use crate::os_user::{self, OsUser};

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
        .args(["guard-exec", "--parent", &id().to_string()])
        .args(user.iter().flat_map(|user| ["--become".to_owned(), Become::of(user).to_string()]))
        .arg("--")
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
    command.spawn()
}

/// As whom the server runs, when the guard is root: with all groups of that user, as its key for TLS may be readable by one of them
/// only (Debian's ssl-cert). The standard library would drop them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Become {
    uid: u32,
    /// The first is its own.
    gids: Vec<u32>,
}

impl Become {
    fn of(user: &OsUser) -> Become {
        let others = os_user::groups(&user.name).into_iter().filter(|gid| *gid != user.gid);
        Become { uid: user.uid, gids: std::iter::once(user.gid).chain(others).collect() }
    }

    fn now(&self) -> io::Result<()> {
        let gids: Vec<Gid> = self.gids.iter().map(|gid| Gid::from_raw(*gid)).collect();
        let own = gids.first().copied().ok_or(io::ErrorKind::InvalidInput)?;
        set_thread_groups(&gids)?;
        set_thread_gid(own)?;
        Ok(set_thread_uid(Uid::from_raw(self.uid))?)
    }
}

impl fmt::Display for Become {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gids: Vec<String> = self.gids.iter().map(u32::to_string).collect();
        write!(out, "{}:{}", self.uid, gids.join(","))
    }
}

impl FromStr for Become {
    type Err = String;

    fn from_str(text: &str) -> Result<Become, String> {
        let wrong = || format!("{text:?} is not UID:GID,GID...");
        let (uid, gids) = text.split_once(':').ok_or_else(wrong)?;
        let gids = gids.split(',').map(|gid| gid.parse().map_err(|_| wrong())).collect::<Result<_, _>>()?;
        Ok(Become { uid: uid.parse().map_err(|_| wrong())?, gids })
    }
}

/// The stub, `pgkeel guard-exec --parent PID [--become UID:GID,...] -- PROGRAM ARGS`: becomes that user, asks the kernel to send SIGQUIT (PostgreSQL's immediate
/// shutdown) when the guard dies, makes sure that it has not died already, and becomes PROGRAM.
/// Returns only if that fails: the exit status to end with. The reason is on stderr, which is the log.
pub fn exec_main(parent: u32, user: Option<&Become>, program: &OsStr, args: &[OsString]) -> i32 {
    // First: what is asked of the kernel below does not outlive another user (prctl(2), PR_SET_PDEATHSIG). There is no other thread.
    if let Some(Err(error)) = user.map(Become::now) {
        complain(&format!("cannot become the user of the server ({error}); the server is not started"));
        return EXIT_NOT_STARTED;
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_become_is_written_and_read() {
        let postgres = Become { uid: 114, gids: vec![122, 103] };
        assert_eq!(postgres.to_string().parse(), Ok(postgres));
        for wrong in ["", "114", "114:", "114:x", "-1:2", "1:2,"] {
            assert!(wrong.parse::<Become>().is_err(), "{wrong:?}");
        }
    }
}
