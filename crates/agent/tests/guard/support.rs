//! What the tests share: a directory that goes away, a guard in it, and a look at the process table.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use agent::guard::{GuardEvent, GuardHandle, StartOptions};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::mpsc::Receiver;

/// A fresh directory, removed at the end. Its name marks every process that has it on its command line.
pub struct Dir(pub PathBuf);

impl Dir {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("pgkeel-guard-{}-{number}", std::process::id()));
        fs::create_dir(&path).expect("the temporary directory can be written");
        Self(path)
    }

    pub fn socket(&self) -> PathBuf {
        self.0.join("guard.sock")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.0.join("log")).unwrap_or_default()
    }

    /// Options for `sh -c SCRIPT MARK`, where MARK, and `$0` in the script, is this directory.
    ///
    /// A job in the background of a script is started with SIGINT and SIGQUIT ignored; a shell cannot undo that,
    /// PostgreSQL does.
    pub fn shell(&self, script: &str) -> StartOptions {
        let words = ["--default-signal=INT,QUIT", "sh", "-c", script].map(OsString::from);
        let args: Vec<OsString> = words.into_iter().chain([self.0.clone().into_os_string()]).collect();
        self.options("env", &args)
    }

    pub fn options(&self, program: &str, args: &[OsString]) -> StartOptions {
        StartOptions {
            exe: stub(),
            socket: self.socket(),
            log: self.0.join("log"),
            user: None,
            deadline_ms: None,
            fence: None,
            program: program.into(),
            args: args.to_vec(),
        }
    }

    /// Processes, zombies aside, that have this directory on their command line; the guard is not counted.
    pub fn processes(&self) -> Vec<u32> {
        let mark = self.0.to_str().expect("a plain path");
        let marked = |pid: &u32| {
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words).into_owned();
            words.contains(mark) && !words.contains("guard\0--socket")
        };
        all_processes().into_iter().filter(marked).collect()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub fn stub() -> PathBuf {
    let test = std::env::current_exe().expect("this program has a path");
    let target = test.parent().and_then(Path::parent).expect("target/PROFILE/deps/NAME");
    let stub = target.join("examples/guard_stub");
    assert!(stub.exists(), "{} is missing: run `cargo test -p agent`, which builds it", stub.display());
    stub
}

fn all_processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("/proc is there");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

pub fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// A field of /proc/PID/status, for example `PPid` or `VmRSS` (in KiB).
pub fn status_field(pid: u32, name: &str) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).expect("a field");
    line.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number")
}

pub fn guard_of(handle: &GuardHandle) -> u32 {
    status_field(handle.pid(), "PPid")
}

pub fn kill_dash_9(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, Signal::KILL).expect("it can be killed");
}

/// Waits until `condition` holds, at most 10 s; returns how long it took.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) -> Duration {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < Duration::from_secs(10), "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    begin.elapsed()
}

pub async fn start(options: StartOptions) -> (GuardHandle, Receiver<GuardEvent>) {
    GuardHandle::start(options).await.expect("the guard starts")
}

/// The event, which must come within 10 s.
pub async fn event(events: &mut Receiver<GuardEvent>) -> GuardEvent {
    let event = tokio::time::timeout(Duration::from_secs(10), events.recv()).await;
    event.expect("an event comes in time").expect("an event comes")
}
