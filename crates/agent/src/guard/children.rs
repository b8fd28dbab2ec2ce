//! The guard's children: listing, killing and reaping them.
//!
//! The guard is a child subreaper: whatever the server started and left behind becomes a child of the guard, so
//! "no child left" (ECHILD) means that no process of the server is left. Killing by process id is safe here: a
//! child's id is not given to another process before this, its only reaper, has reaped it.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, getpid, getppid, kill_process, pidfd_open,
    pidfd_send_signal, wait,
};

use super::protocol::EndCode;

/// Is any child left, dead or alive?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    None,
    Some,
}

/// Collects every child that has ended; says how the postmaster ended if it was among them.
pub(super) fn reap(postmaster: Pid) -> (Option<EndCode>, Left) {
    let mut code = None;
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == postmaster => code = end_code(status),
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return (code, Left::Some),
            Err(Errno::CHILD) => return (code, Left::None),
            // Not possible for a call with these arguments; "some left" is the answer that claims nothing.
            Err(_) => return (code, Left::Some),
        }
    }
}

/// Sends SIGKILL to every child, and to theirs: a postmaster that is stuck in the kernel, at a disk that does not answer, dies
/// later, and its children would serve on meanwhile. Deeper ones become children when their parents are gone: call it until
/// [`reap`] finds none left.
pub(super) fn kill_all(postmaster: Option<Pid>) {
    if let Some(pid) = postmaster {
        kill(pid);
    }
    let children = list().unwrap_or_default();
    for pid in &children {
        kill(*pid);
    }
    for parent in children {
        for_each_child_of(parent, |child| {
            let _ = pidfd_send_signal(child, Signal::KILL);
        });
    }
}

/// All that [`kill_all`] does but the signals, with this process for the one to be killed: its code is in memory then, to
/// be locked there.
pub(super) fn rehearse() {
    let _ = list();
    if let Some(parent) = getppid() {
        for_each_child_of(parent, |_| {});
    }
}

/// Another process reaps these. So each is held open before it is looked whether it is still this parent's: what took its
/// number meanwhile is left alone.
fn for_each_child_of(parent: Pid, deed: impl Fn(&OwnedFd)) {
    let number = parent.as_raw_nonzero();
    let text = fs::read_to_string(format!("/proc/{number}/task/{number}/children")).unwrap_or_default();
    for pid in parse_children(&text) {
        let Ok(child) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
        if parent_in_stat(&stat) == Some(parent) {
            deed(&child);
        }
    }
}

/// A child that has ended meanwhile is still ours until reaped, so the only outcome besides success is harmless.
fn kill(pid: Pid) {
    let _ = kill_process(pid, Signal::KILL);
}

/// All children of this process; a kernel without the `children` file makes it read every process instead.
fn list() -> io::Result<Vec<Pid>> {
    match fs::read_to_string("/proc/thread-self/children") {
        Ok(text) => Ok(parse_children(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => list_by_parent(getpid()),
        Err(error) => Err(error),
    }
}

fn list_by_parent(parent: Pid) -> io::Result<Vec<Pid>> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(parse_pid) else { continue };
        // A process that has gone meanwhile has no file any more.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        if parent_in_stat(&stat) == Some(parent) {
            children.push(pid);
        }
    }
    Ok(children)
}

fn parse_children(text: &str) -> Vec<Pid> {
    text.split_whitespace().filter_map(parse_pid).collect()
}

/// Ids below 2 are nobody's child to kill; negative ones would mean groups.
fn parse_pid(text: &str) -> Option<Pid> {
    let raw: i32 = text.parse().ok()?;
    if raw > 1 { Pid::from_raw(raw) } else { None }
}

/// The fourth field of /proc/PID/stat. The second, the name, may itself hold spaces and parentheses.
fn parent_in_stat(stat: &str) -> Option<Pid> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(1)?.parse().ok().and_then(Pid::from_raw)
}

fn end_code(status: WaitStatus) -> Option<EndCode> {
    status.exit_status().map(EndCode::Exit).or_else(|| status.terminating_signal().map(EndCode::Signal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_children_file() {
        let raw: Vec<i32> = parse_children("12 345 \n").into_iter().map(Pid::as_raw_pid).collect();
        assert_eq!(raw, [12, 345]);
        assert!(parse_children("-1 0 1 x").is_empty());
    }

    #[test]
    fn finds_the_parent_behind_an_odd_name() {
        assert_eq!(parent_in_stat("71 (a) b (1) S 42 7 7 0").map(Pid::as_raw_pid), Some(42));
        assert_eq!(parent_in_stat("71 broken"), None);
    }

    #[test]
    fn children_of_a_child_are_found() {
        let mut shell = std::process::Command::new("sh");
        let mut shell = shell.args(["-c", "sleep 30 & wait"]).spawn().expect("a shell starts");
        let parent = i32::try_from(shell.id()).ok().and_then(Pid::from_raw).expect("a process id");
        let ended = std::cell::Cell::new(0);
        while ended.get() == 0 {
            for_each_child_of(parent, |child| {
                pidfd_send_signal(child, Signal::KILL).expect("it lives");
                ended.set(ended.get() + 1);
            });
        }
        shell.wait().expect("it ends with what it waits for");
    }

    #[test]
    fn both_ways_of_listing_find_a_child() {
        let mut child = std::process::Command::new("sleep").arg("30").spawn().expect("sleep starts");
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        let slow = list_by_parent(getpid());
        child.kill().expect("still ours");
        child.wait().expect("still ours");
        assert!(slow.expect("/proc is readable").contains(&pid));
    }
}
