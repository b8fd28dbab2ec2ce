//! Runs PostgreSQL's programs as the server's user.

use super::{PgError, Place};
use std::ffi::OsStr;
use std::io;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

/// Bytes of a program's last words that an error quotes.
const LAST_WORDS: usize = 1500;

impl Place {
    /// A command of `bin_dir`, to be run as the server's user with the plain C locale. It dies with its task.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.settings.bin_dir.join(program));
        self.prepare(&mut command);
        command
    }

    fn prepare(&self, command: &mut Command) {
        command.env("LC_ALL", "C").env("LANG", "C").stdin(Stdio::null()).kill_on_drop(true).current_dir("/");
        if let Some(user) = &self.user {
            command.uid(user.uid).gid(user.gid).env("HOME", &user.home);
        }
    }

    /// The same for a program that writes into the data directory: it also ends when this agent is killed, so that it
    /// never writes where the next agent works.
    #[must_use]
    pub fn command_that_writes(&self, program: &str) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("pgkeel").args(["guard-exec", "--parent", &std::process::id().to_string(), "--"]);
        command.arg(self.settings.bin_dir.join(program));
        self.prepare(&mut command);
        command
    }

    /// Runs a program to its end and returns what it printed on standard output.
    ///
    /// # Errors
    /// When it cannot be started, fails, or takes longer than `limit`.
    pub async fn run<A: AsRef<OsStr>>(
        &self,
        program: &str,
        args: &[A],
        limit: Duration,
    ) -> Result<String, PgError> {
        let mut command = self.command(program);
        command.args(args);
        run(program, command, limit).await
    }
}

/// Runs a prepared command to its end.
///
/// # Errors
/// As [`Place::run`].
pub async fn run(program: &str, mut command: Command, limit: Duration) -> Result<String, PgError> {
    let failed = |said: String| PgError::Program { program: program.to_owned(), said };
    let output = tokio::time::timeout(limit, command.output())
        .await
        .map_err(|_| PgError::Slow { doing: program.to_owned(), limit_s: limit.as_secs() })?
        .map_err(|e| failed(e.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim();
    let from = said.char_indices().rev().nth(LAST_WORDS).map_or(0, |(i, _)| i);
    Err(failed(format!("{}: {}", output.status, &said[from..])))
}

/// Runs a prepared command that tells its progress on standard error, and passes that on: done and total, in bytes.
///
/// # Errors
/// As [`Place::run`].
pub async fn run_telling(
    program: &str,
    mut command: Command,
    limit: Duration,
    mut progress: impl FnMut(u64, u64),
) -> Result<(), PgError> {
    let failed = |said: String| PgError::Program { program: program.to_owned(), said };
    let work = async {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let mut stderr = child.stderr.take().ok_or_else(|| io::Error::other("no standard error"))?;
        let (mut buffer, mut words) = ([0; 4096], Vec::new());
        loop {
            let count = stderr.read(&mut buffer).await?;
            let Some(read) = buffer.get(..count).filter(|read| !read.is_empty()) else { break };
            words.extend_from_slice(read);
            keep_last_words(&mut words, &mut progress);
        }
        Ok::<_, io::Error>((child.wait().await?, words))
    };
    let (status, words) = tokio::time::timeout(limit, work)
        .await
        .map_err(|_| PgError::Slow { doing: program.to_owned(), limit_s: limit.as_secs() })?
        .map_err(|e| failed(e.to_string()))?;
    if status.success() {
        return Ok(());
    }
    Err(failed(format!("{status}: {}", String::from_utf8_lossy(&words).trim())))
}

/// Takes the whole lines that tell progress out of `words`, and all but the end of the rest.
fn keep_last_words(words: &mut Vec<u8>, progress: &mut impl FnMut(u64, u64)) {
    let end = words.iter().rposition(|b| matches!(b, b'\n' | b'\r')).map_or(0, |last| last + 1);
    let open = words.split_off(end);
    let mut kept = Vec::new();
    for line in words.split(|b| matches!(b, b'\n' | b'\r')).filter(|line| !line.is_empty()) {
        match progress_in(&String::from_utf8_lossy(line)) {
            Some((done, total)) => progress(done, total),
            None => {
                kept.extend_from_slice(line);
                kept.push(b'\n');
            }
        }
    }
    kept.extend(open);
    kept.drain(..kept.len().saturating_sub(LAST_WORDS));
    *words = kept;
}

/// Reads `12345/67890 kB (18%)`, as pg_basebackup and pg_rewind print it (progress_report in either of them).
fn progress_in(line: &str) -> Option<(u64, u64)> {
    let (done, rest) = line.trim().split_once('/')?;
    let (total, _) = rest.split_once(" kB (")?;
    Some((done.parse::<u64>().ok()?.checked_mul(1024)?, total.parse::<u64>().ok()?.checked_mul(1024)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_and_the_last_words_stay() {
        let mut told = Vec::new();
        let mut words = b"pg_basebackup: waiting\n   10/200 kB (5%), 0/1 tablespace\n  150/200 k".to_vec();
        keep_last_words(&mut words, &mut |done, total| told.push((done, total)));
        words.extend_from_slice(b"B (75%), 0/1 tablespace\rerror: full\n");
        keep_last_words(&mut words, &mut |done, total| told.push((done, total)));
        assert_eq!(told, [(10 << 10, 200 << 10), (150 << 10, 200 << 10)]);
        assert_eq!(String::from_utf8_lossy(&words), "pg_basebackup: waiting\nerror: full\n");
        assert_eq!(progress_in("pg_rewind: error: could not open a/b"), None);
        assert_eq!(progress_in(" 5/10 kB (50%) copied"), Some((5 << 10, 10 << 10)));
    }
}
