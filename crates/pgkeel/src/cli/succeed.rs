//! The process of an agent becomes one of the program that lies in its place now.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent::settings::check_host;
use agent::successor::Successor;
use agent::successor::fit::{Answer, Question};
use clap::Parser;
use rustix::process::{Pid, WaitOptions, waitpid};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};

use super::args::{AgentArgs, Arguments, Command};
use super::run::{What, hindrance};
use super::text::say;
use crate::config::{self, Shower};

/// How long a program may take to say whether it can follow.
const CHECK_LIMIT: Duration = Duration::from_secs(2);
/// So much of what it says is read.
const ANSWER_BYTES_MAX: u64 = 16 << 10;
/// So much of a question: it holds the recorded state, which is far smaller.
const QUESTION_BYTES_MAX: u64 = 64 << 20;

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

    /// Who asks it first whether it is a pgkeel that finds with these words what this process uses.
    #[must_use]
    pub fn as_successor(&self) -> Successor {
        let myself = self.clone();
        Successor {
            check: Arc::new(move |question| {
                let myself = myself.clone();
                Box::pin(async move { myself.ask(&question).await })
            }),
        }
    }

    async fn ask(&self, question: &Question) -> Result<(Answer, Duration), String> {
        let shown = self.program.display();
        let question = serde_json::to_vec(question).map_err(|error| error.to_string())?;
        let mut command = tokio::process::Command::new(&self.program);
        command.arg("succeed-check").arg("--").args(&self.words).kill_on_drop(true);
        let began = Instant::now();
        let answered = tokio::time::timeout(CHECK_LIMIT, exchange(command, &question)).await;
        let (status, out, err) = answered
            .map_err(|_| format!("{shown} does not answer within {} s", CHECK_LIMIT.as_secs()))?
            .map_err(|error| format!("{shown} cannot be started: {error}"))?;
        let took = began.elapsed();
        if !status.success() {
            let said = String::from_utf8_lossy(&err).trim().to_owned();
            return Err(format!("the program that would follow, {shown}, refuses ({status}): {said}"));
        }
        let answer = serde_json::from_slice(&out).map_err(|error| {
            format!("{shown} does not say whether it can follow ({error}): is it a pgkeel that knows `agent upgrade`?")
        })?;
        Ok((answer, took))
    }

    /// Becomes the program. Returns only when that is not possible, with the reason.
    #[must_use]
    pub fn become_anew(&self) -> String {
        let error = std::process::Command::new(&self.program).args(&self.words).exec();
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

/// Asks, and hears as much of the answer as one can have.
async fn exchange(
    mut command: tokio::process::Command,
    question: &[u8],
) -> std::io::Result<(ExitStatus, Vec<u8>, Vec<u8>)> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let telling = async move {
        if let Some(mut stdin) = stdin {
            // One that does not listen says why by its end.
            let _ = stdin.write_all(question).await;
        }
    };
    let ((), out, err) = tokio::join!(telling, read_some(stdout), read_some(stderr));
    Ok((child.wait().await?, out?, err?))
}

async fn read_some(from: Option<impl AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
    let mut read = Vec::new();
    if let Some(from) = from {
        from.take(ANSWER_BYTES_MAX).read_to_end(&mut read).await?;
    }
    Ok(read)
}

/// `pgkeel succeed-check -- WORDS`, as the program that would follow: reads the question, prints the answer. Ends with 1 when it
/// cannot follow, and says why.
pub async fn answer(words: Vec<OsString>) -> ExitCode {
    match judge(words).await {
        Ok(answer) => {
            say(&answer);
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

async fn judge(words: Vec<OsString>) -> Result<String, String> {
    let mut asked = Vec::new();
    // There is nothing else to be done meanwhile.
    let read = std::io::stdin().lock().take(QUESTION_BYTES_MAX).read_to_end(&mut asked);
    read.map_err(|error| format!("the question cannot be read: {error}"))?;
    let question: Question = serde_json::from_slice(&asked).map_err(|error| {
        format!("pgkeel {} does not understand the agent that runs ({error})", env!("CARGO_PKG_VERSION"))
    })?;
    let (file, what) = started_with(words)?;
    let config = config::load(&file).map_err(|error| error.to_string())?;
    let shown = file.display();
    // What only the proxy needs is not looked at: it has a process of its own.
    if let Some(hindrance) = hindrance(&config, what) {
        return Err(format!("{shown}: {hindrance}"));
    }
    let settings = config.agent.as_ref().ok_or_else(|| format!("{shown}: there is no section [node]"))?;
    let mut problems = check_host(settings);
    problems.extend(config.credentials(Shower::Host).err().map(|trouble| trouble.to_string()));
    if !problems.is_empty() {
        return Err(format!("{shown}: {}", problems.join("; ")));
    }
    let answer = question.answer(settings).await?;
    serde_json::to_string(&answer).map(|answer| answer + "\n").map_err(|error| error.to_string())
}

/// Which file these words run, and what of it, as this program understands them.
fn started_with(words: Vec<OsString>) -> Result<(PathBuf, What), String> {
    let all = std::iter::once(OsString::from("pgkeel")).chain(words);
    let arguments = Arguments::try_parse_from(all).map_err(|error| error.to_string())?;
    match arguments.command {
        Command::Agent(AgentArgs { command: None, run: Some(run) }) => Ok((run.config, What::Agent)),
        Command::Run(run) => Ok((run.config, What::All)),
        _ => Err("these words start no agent".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_an_agent_name_its_file() {
        let of = |words: &[&str]| started_with(words.iter().map(OsString::from).collect());
        let file = PathBuf::from("a.toml");
        assert_eq!(of(&["agent", "-c", "a.toml", "--log-format", "json"]), Ok((file.clone(), What::Agent)));
        assert_eq!(of(&["run", "--config", "a.toml"]), Ok((file, What::All)));
        assert!(of(&["agent", "upgrade"]).is_err());
        assert!(of(&["agent", "-c", "a.toml", "--gone"]).is_err_and(|said| said.contains("--gone")));
        assert!(of(&[]).is_err());
    }
}
