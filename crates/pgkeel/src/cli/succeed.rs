//! The process of an agent becomes one of the program that lies in its place now.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use agent::successor::Successor;
use rustix::process::{Pid, WaitOptions, waitpid};
use tokio::signal::unix::{SignalKind, signal};

/// How long a program may take to say its version, and what it thinks of the configuration.
const CHECK_LIMIT: Duration = Duration::from_secs(2);

/// The program by the name under which it was started, so that an exchanged link counts, and the words after it.
#[derive(Clone, Debug)]
pub struct Myself {
    program: PathBuf,
    words: Vec<OsString>,
}

impl Myself {
    /// As this process was started.
    #[must_use]
    pub fn now() -> Myself {
        let mut words = std::env::args_os();
        let named = words.next().map(PathBuf::from).unwrap_or_default();
        let found =
            if named.components().count() > 1 { std::path::absolute(&named).ok() } else { in_path(&named) };
        let program =
            found.filter(|file| file.is_file()).or_else(|| std::env::current_exe().ok()).unwrap_or(named);
        Myself { program, words: words.collect() }
    }

    /// Who asks it first whether it is a pgkeel that can run with this file.
    #[must_use]
    pub fn as_successor(&self, file: &Path) -> Successor {
        let (program, file) = (self.program.clone(), file.to_owned());
        Successor {
            check: Arc::new(move || {
                let (program, file) = (program.clone(), file.clone());
                Box::pin(async move {
                    let version = ask(&program, &[OsString::from("--version")]).await?;
                    ask(&program, &["config".into(), "check".into(), file.into_os_string()]).await?;
                    Ok(version.trim().to_owned())
                })
            }),
        }
    }

    /// Becomes the program. Returns only when that is not possible, with the reason.
    #[must_use]
    pub fn become_anew(&self) -> String {
        let error = Command::new(&self.program).args(&self.words).exec();
        format!("{} cannot be started: {error}", self.program.display())
    }
}

/// Children that an earlier program of this process has left, such as the guard: nobody else here waits for their end.
#[must_use]
pub fn inherited() -> Vec<Pid> {
    let me = rustix::process::getpid();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    numbers.filter(|pid| parent(*pid) == Some(me.as_raw_nonzero().get())).filter_map(Pid::from_raw).collect()
}

/// Of /proc/PID/stat (proc(5)): the fourth word, where the second one, in brackets, may hold anything.
fn parent(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after) = stat.rsplit_once(')')?;
    after.split_whitespace().nth(1)?.parse().ok()
}

/// Takes note of the end of these children, so that none of them stays as a zombie. Ends with the last one.
pub async fn wait_for(mut children: Vec<Pid>) {
    let Ok(mut ended) = signal(SignalKind::child()) else { return };
    loop {
        children.retain(|child| matches!(waitpid(Some(*child), WaitOptions::NOHANG), Ok(None)));
        if children.is_empty() || ended.recv().await.is_none() {
            return;
        }
    }
}

fn in_path(name: &Path) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

async fn ask(program: &Path, words: &[OsString]) -> Result<String, String> {
    let shown = program.display();
    let mut command = tokio::process::Command::new(program);
    command.args(words).stdin(Stdio::null()).kill_on_drop(true);
    let answered = tokio::time::timeout(CHECK_LIMIT, command.output()).await;
    let output = answered
        .map_err(|_| format!("{shown} does not answer within {} s", CHECK_LIMIT.as_secs()))?
        .map_err(|error| format!("{shown} cannot be started: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(format!("the program that would follow, {shown}, refuses ({}): {said}", output.status))
}
