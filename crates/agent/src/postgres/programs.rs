//! Runs PostgreSQL's programs as the server's user.

use super::{PgError, Place};
use std::ffi::OsStr;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// Bytes of a program's last words that an error quotes.
const LAST_WORDS: usize = 1500;

impl Place {
    /// A command of `bin_dir`, to be run as the server's user with the plain C locale. It dies with its task.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.settings.bin_dir.join(program));
        command.env("LC_ALL", "C").env("LANG", "C").stdin(Stdio::null()).kill_on_drop(true).current_dir("/");
        if let Some(user) = &self.user {
            command.uid(user.uid).gid(user.gid).env("HOME", &user.home);
        }
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
