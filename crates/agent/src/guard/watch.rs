//! The guard's loop: wait, look after the server, hear the agents. All choices are made in `duty`.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write};
use std::mem;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, geteuid, pidfd_open, pidfd_send_signal};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::GuardOptions;
use super::children::{self, Left};
use super::conversation::{self, Agent, Line};
use super::duty::{Deed, Duty};
use super::launch;
use crate::os_user::{self, OsUser};

use super::protocol::{Command, Report, StopMode};
use crate::clock::boottime_ms;

/// Exit status of a guard that could not start the server.
const EXIT_NOT_STARTED: i32 = 1;

/// Runs the guard (`pgkeel guard`) until the last process of the server is gone. Returns the exit status: 0 then,
/// 1 if the server could not be started (the reason is in the log, or on stderr if there is no log).
/// Call it first thing in a process that has no other thread: the guard owns all children of its process.
pub fn main(options: GuardOptions) -> i32 {
    let log = match launch::open_log(&options.log) {
        Ok(log) => log,
        Err(error) => {
            // Not `eprintln!`, which panics when stderr is closed.
            let _ = writeln!(
                io::stderr(),
                "pgkeel guard: cannot open the log {}: {error}",
                options.log.display()
            );
            return EXIT_NOT_STARTED;
        }
    };
    let mut watch = match Watch::start(&options, &log) {
        Ok(watch) => watch,
        Err(reason) => {
            launch::note(&log, &format!("the server is not started: {reason}"));
            return EXIT_NOT_STARTED;
        }
    };
    let report = watch.until_the_last_is_gone();
    watch.take_leave(&options, &report);
    launch::note(&log, &format!("no process of the server is left: {report}"));
    0
}

struct Watch {
    duty: Duty,
    postmaster: Pid,
    pidfd: OwnedFd,
    alarm: OwnedFd,
    listener: UnixListener,
    /// The socket's file, by which it is known again.
    socket: Option<(u64, u64)>,
    agents: VecDeque<Agent>,
}

impl Watch {
    /// The order matters: the alarm and the socket first, so that a server never runs without them.
    fn start(options: &GuardOptions, log: &File) -> Result<Self, String> {
        let user = server_user(options)?;
        let shield =
            launch::prepare(log).map_err(|error| format!("cannot become heir of its orphans: {error}"))?;
        children::rehearse();
        launch::lock_memory(log);
        let alarm = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)
            .map_err(|error| format!("no timer: {error}"))?;
        let listener = conversation::listen(&options.socket)
            .map_err(|error| format!("cannot listen at {}: {error}", options.socket.display()))?;
        if options.deadline_ms.is_some_and(|deadline_ms| boottime_ms() >= deadline_ms) {
            return Err("its deadline has already passed".to_string());
        }
        set_alarm(&alarm, options.deadline_ms).map_err(|error| format!("cannot set the timer: {error}"))?;

        // Nothing is written between its start and the loop: a disk that does not answer must not keep the guard from it.
        launch::note(log, &format!("starts {}", options.program.display()));
        let server = launch::spawn_server(options, user, shield, log)
            .map_err(|error| format!("cannot run the stub for {}: {error}", options.program.display()))?;
        let postmaster =
            i32::try_from(server.id()).ok().and_then(Pid::from_raw).ok_or("it has no process id")?;
        // If this fails the guard ends, and with it the server.
        let pidfd =
            pidfd_open(postmaster, PidfdFlags::empty()).map_err(|error| format!("no pidfd: {error}"))?;
        let socket = file_at(&options.socket);
        let duty = Duty::new(server.id(), options.deadline_ms);
        Ok(Self { duty, postmaster, pidfd, alarm, listener, socket, agents: VecDeque::new() })
    }

    fn until_the_last_is_gone(&mut self) -> Report {
        loop {
            self.wait();
            // Before the agents: nothing they say may come before a deadline that has passed.
            if self.look_after_server() == Left::None {
                return self.duty.ended();
            }
            self.hear_agents();
        }
    }

    /// Sleeps until something may have happened. What it was is found out by looking: every look is cheap.
    fn wait(&self) {
        let mut fds = vec![PollFd::new(&self.listener, PollFlags::IN)];
        fds.extend(self.agents.iter().map(|agent| PollFd::new(agent, PollFlags::IN)));
        if self.duty.postmaster_is_ours() {
            fds.push(PollFd::new(&self.pidfd, PollFlags::IN));
        }
        // Once it has gone off it stays readable; then the killing sets the pace.
        if !self.duty.kills() {
            fds.push(PollFd::new(&self.alarm, PollFlags::IN));
        }
        let pause = timespec(self.duty.pause_ms(boottime_ms()));
        if poll(&mut fds, Some(&pause)).is_err() {
            // Interrupted, or the kernel is short of memory: look again soon, but do not spin.
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn look_after_server(&mut self) -> Left {
        let (code, left) = children::reap(self.postmaster);
        let now_ms = boottime_ms();
        if let Some(code) = code {
            self.duty.postmaster_ended(code, now_ms);
        }
        self.duty.tick(now_ms);
        if left == Left::Some && self.duty.kills() {
            children::kill_all(self.duty.postmaster_is_ours().then_some(self.postmaster));
        }
        left
    }

    fn hear_agents(&mut self) {
        if conversation::welcome(&self.listener, &mut self.agents, &self.duty.status()).is_err() {
            // Out of descriptors, for example. The caller stays in the queue, so the next wait will not sleep.
            thread::sleep(Duration::from_millis(1));
        }
        for mut agent in mem::take(&mut self.agents) {
            let (commands, mut line) = agent.listen();
            for report in commands.into_iter().flat_map(|command| self.answer(command)) {
                if agent.tell(&report) == Line::Closed {
                    line = Line::Closed;
                }
            }
            if line == Line::Open {
                self.agents.push_back(agent);
            }
        }
    }

    /// Does what the command asks for, and only then says so.
    fn answer(&mut self, command: Command) -> Vec<Report> {
        let (deed, reports) = self.duty.obey(command, boottime_ms());
        let done = match deed {
            None => Ok(()),
            Some(Deed::Arm(deadline_ms)) => set_alarm(&self.alarm, deadline_ms),
            Some(Deed::Reload) => pidfd_send_signal(&self.pidfd, Signal::HUP),
            Some(Deed::Stop(StopMode::Smart)) => pidfd_send_signal(&self.pidfd, Signal::TERM),
            Some(Deed::Stop(StopMode::Fast)) => pidfd_send_signal(&self.pidfd, Signal::INT),
            Some(Deed::Stop(StopMode::Immediate)) => pidfd_send_signal(&self.pidfd, Signal::QUIT),
        };
        match done {
            Ok(()) => reports,
            Err(error) => vec![Report::Error(format!("{command}: {error}"))],
        }
    }

    /// Tells everybody the end. The socket file goes first: an agent that hears `ended` may start a new guard at
    /// the same path at once.
    fn take_leave(&mut self, options: &GuardOptions, report: &Report) {
        let _ = conversation::welcome(&self.listener, &mut self.agents, &self.duty.status());
        // Whose file was taken away is found by nobody: what is there now is a later guard's, and so is the table.
        let is_ours = self.socket.is_some() && file_at(&options.socket) == self.socket;
        if let Some(table) = options.fence.as_ref().filter(|_| is_ours && self.agents.is_empty()) {
            // Before the socket goes: an agent that finds no guard makes a new one.
            crate::fence::remove_table(table);
        }
        if is_ours {
            let _ = fs::remove_file(&options.socket);
        }
        let _ = conversation::welcome(&self.listener, &mut self.agents, &self.duty.status());
        for agent in &mut self.agents {
            agent.tell(report);
        }
    }
}

/// Its device and number.
fn file_at(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|facts| (facts.dev(), facts.ino()))
}

/// `None` if the server is to run as the guard's own user.
fn server_user(options: &GuardOptions) -> Result<Option<OsUser>, String> {
    let Some(name) = &options.user else { return Ok(None) };
    let found = os_user::find(name)
        .map_err(|error| format!("the users of this host cannot be looked up: {error}"))?;
    let user = found.ok_or_else(|| {
        format!(
            "there is no operating-system user {name:?}; create it (useradd --system {name}) or name another"
        )
    })?;
    let own = geteuid();
    if own.as_raw() == user.uid {
        return Ok(None);
    }
    if !own.is_root() {
        let own = own.as_raw();
        return Err(format!(
            "only root can run it as {name}; this is user {own}: start as root or as {name}"
        ));
    }
    Ok(Some(user))
}

/// Sets the timer to CLOCK_BOOTTIME milliseconds, or stops it. Zero nanoseconds would mean "stop", so a deadline of
/// zero, long past like any other, becomes one millisecond.
fn set_alarm(alarm: &OwnedFd, deadline_ms: Option<u64>) -> rustix::io::Result<()> {
    let it_value = deadline_ms.map_or(timespec(0), |deadline_ms| timespec(deadline_ms.max(1)));
    let once = Itimerspec { it_interval: timespec(0), it_value };
    timerfd_settime(alarm, TimerfdTimerFlags::ABSTIME, &once).map(|_| ())
}

fn timespec(ms: u64) -> Timespec {
    // Both fit: u64::MAX / 1000 is below i64::MAX, and the rest is below 10^9.
    Timespec { tv_sec: (ms / 1000) as i64, tv_nsec: ((ms % 1000) * 1_000_000) as i64 }
}
