//! The processes of this host as /proc shows them (proc(5)): who descends from whom, who belongs to a directory, what
//! they use; and ending them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Bytes in a page as /proc counts resident memory.
const PAGE_BYTES: u64 = 4_096;

/// The parent of the kernel's own threads, which have no arguments.
const KERNEL_THREADS: i32 = 2;

/// For a program to be loaded, from a busy disk.
const EXEC_LIMIT: Duration = Duration::from_secs(2);

/// Programs that a cluster's agents start and that name the cluster's directory in their arguments.
const PROGRAMS: [&str; 7] =
    ["postgres", "initdb", "pg_basebackup", "pg_rewind", "pg_waldump", "pg_ctl", "pg_controldata"];
/// Commands of pgkeel that run a part of a cluster; `status` and the like are somebody else's.
const COMMANDS: [&str; 5] = ["run", "agent", "proxy", "guard", "guard-exec"];

/// One process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// Its parent's.
    pub parent: i32,
    /// Its arguments, the program's name first; empty for a zombie.
    pub args: Vec<String>,
}

/// What processes have used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Resident memory in bytes; pages that several of them share count for each.
    pub resident_bytes: u64,
    /// Processor time, in ticks of the kernel's clock.
    pub cpu_ticks: u64,
}

/// Every process that is not a zombie.
#[must_use]
pub fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter_map(find).collect()
}

/// The process with this number, unless it is gone or a zombie.
#[must_use]
pub fn find(pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (state, parent) = state_and_parent(&stat)?;
    if matches!(state, 'Z' | 'X') {
        return None;
    }
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let args = line.split(|byte| *byte == 0).map(|arg| String::from_utf8_lossy(arg).into_owned());
    Some(Process { pid, parent, args: args.filter(|arg| !arg.is_empty()).collect() })
}

/// As [`find`], for a process that may have been started a moment ago: the kernel lets whoever started it go on before the
/// arguments of the new program can be read (`begin_new_exec` and `create_elf_tables`, fs/exec.c and fs/binfmt_elf.c), and
/// until then it looks like one without arguments, or like the one that started it.
#[must_use]
pub fn find_begun(pid: i32) -> Option<Process> {
    let began = Instant::now();
    loop {
        let found = find(pid)?;
        let is_starting = match found.args.as_slice() {
            [] => found.parent != KERNEL_THREADS,
            args => pid != own_pid() && find(own_pid()).is_some_and(|own| own.args == args),
        };
        if !is_starting || began.elapsed() > EXEC_LIMIT {
            return Some(found);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The program's name may hold blanks and brackets, so the fields are counted from its end.
fn state_and_parent(stat: &str) -> Option<(char, i32)> {
    let mut fields = stat.rsplit_once(") ")?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// Everything that descends from `ancestor`, itself left out.
#[must_use]
pub fn descendants(ancestor: i32, among: &[Process]) -> Vec<i32> {
    let mut found = vec![ancestor];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(among.iter().filter(|p| p.parent == parent && p.pid != parent).map(|p| p.pid));
        next += 1;
    }
    found.remove(0);
    found
}

/// Whether a process was started for something under `dir`.
#[must_use]
pub fn mentions(process: &Process, dir: &Path) -> bool {
    let Some(dir) = dir.to_str() else { return false };
    let inside = |arg: &String| {
        arg.find(dir)
            .is_some_and(|at| matches!(arg.as_bytes().get(at + dir.len()), None | Some(b'/' | b'\'' | b'"')))
    };
    process.args.iter().any(inside)
}

/// The processes of a cluster under `dir`: what its agents started, and the agents, whether they name the directory or
/// work in it (as PostgreSQL's do, which are found even when their parent is gone). A shell in the directory or a
/// `tail` that names it is not among them.
#[must_use]
pub fn of_cluster(dir: &Path, among: &[Process]) -> Vec<i32> {
    let started_for_it = |p: &&Process| {
        let program = p.args.first().and_then(|arg| arg.rsplit('/').next()).unwrap_or_default();
        let ours =
            PROGRAMS.contains(&program) || p.args.get(1).is_some_and(|arg| COMMANDS.contains(&arg.as_str()));
        let server = p.args.first().is_some_and(|arg| arg.starts_with("postgres: "));
        (ours && mentions(p, dir)) || ((ours || server) && works_in(p.pid, dir))
    };
    let mut found: BTreeSet<i32> = among.iter().filter(started_for_it).map(|p| p.pid).collect();
    let children: Vec<i32> = found.iter().flat_map(|pid| descendants(*pid, among)).collect();
    found.extend(children);
    found.remove(&own_pid());
    found.into_iter().collect()
}

fn works_in(pid: i32, dir: &Path) -> bool {
    fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|at| at.starts_with(dir))
}

fn own_pid() -> i32 {
    i32::try_from(std::process::id()).unwrap_or(0)
}

/// Sends a signal; a process that is gone already is no error.
pub fn send(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// `kill -9` for all of them.
pub fn kill_all(pids: &[i32]) {
    pids.iter().for_each(|pid| send(*pid, Signal::KILL));
}

/// What these processes use together; those that are gone count nothing.
#[must_use]
pub fn usage(pids: &[i32]) -> Usage {
    let mut total = Usage::default();
    for pid in pids {
        let one = usage_of(*pid).unwrap_or_default();
        total.resident_bytes += one.resident_bytes;
        total.cpu_ticks += one.cpu_ticks;
    }
    total
}

fn usage_of(pid: i32) -> Option<Usage> {
    let pages = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let resident: u64 = pages.split_whitespace().nth(1)?.parse().ok()?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Fields 14 and 15 of proc(5), utime and stime; the first one after the name is field 3.
    let mut ticks = stat.rsplit_once(") ")?.1.split_whitespace().skip(11).map(str::parse::<u64>);
    let cpu_ticks = ticks.next()?.ok()? + ticks.next()?.ok()?;
    Some(Usage { resident_bytes: resident * PAGE_BYTES, cpu_ticks })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, parent: i32, args: &[&str]) -> Process {
        Process { pid, parent, args: args.iter().map(|arg| (*arg).to_owned()).collect() }
    }

    #[test]
    fn a_family_is_found_whatever_its_order() {
        let all = [process(30, 20, &[]), process(20, 10, &[]), process(10, 1, &[]), process(11, 1, &[])];
        assert_eq!(descendants(10, &all), [20, 30]);
        assert!(descendants(11, &all).is_empty());
    }

    #[test]
    fn names_with_brackets_do_not_confuse() {
        assert_eq!(state_and_parent("12 (a) b (c) S 7 1 1"), Some(('S', 7)));
        assert_eq!(state_and_parent("12 (a"), None);
    }

    #[test]
    fn only_what_runs_for_the_cluster_belongs_to_it() {
        let all = [
            process(10, 1, &["/usr/bin/pgkeel", "run", "-c", "/tmp/demo/n1.toml"]),
            process(11, 1, &["/x/postgres", "-D", "/tmp/demo/n1/pgdata"]),
            process(12, 11, &["postgres: checkpointer"]),
            process(13, 1, &["tail", "-f", "/tmp/demo/n1.log"]),
            process(14, 1, &["/usr/bin/pgkeel", "run", "-c", "/tmp/demo2/n1.toml"]),
            process(15, 1, &["/usr/bin/pgkeel", "status", "-c", "/tmp/demo/n1.toml"]),
        ];
        assert_eq!(of_cluster(Path::new("/tmp/demo"), &all), [10, 11, 12]);
    }

    #[test]
    fn this_process_is_there_and_uses_something() {
        let own = own_pid();
        assert!(find(own).is_some_and(|p| !p.args.is_empty()));
        assert!(usage(&[own]).resident_bytes > 0);
    }
}
