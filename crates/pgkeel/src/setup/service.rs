//! The process that runs what the configuration file says: under systemd where that runs this host, else one that is left
//! behind with its log and its number in files.

use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use super::progress::Progress;
use crate::config;
use crate::demo::processes;

/// There when systemd is the one that looks after this host: sd_booted(3).
const SYSTEMD_RUNS: &str = "/run/systemd/system";
const UNITS: &str = "/etc/systemd/system";
/// Lines of a log that are shown when its process has ended.
const LAST_LINES: usize = 8;
/// For a process to end in order: a server writes its last checkpoint.
const STOP_LIMIT: Duration = Duration::from_secs(180);

/// What keeps it running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeper {
    /// systemd: it starts it again, and when the host starts.
    Systemd,
    /// Nobody.
    Nobody,
}

/// One process of pgkeel on this host.
#[derive(Clone, Debug)]
pub struct Service {
    /// What keeps it.
    pub keeper: Keeper,
    /// Name of the unit, without its ending.
    pub unit: String,
    /// The configuration file that it runs.
    pub config: PathBuf,
    /// Where its log and its number are, if nobody keeps it.
    pub dir: PathBuf,
    /// "agent" or "proxy": what these files are called.
    pub what: &'static str,
}

impl Service {
    /// The service for a configuration file, whether it exists or not.
    #[must_use]
    pub fn of(config: &Path, dir: &Path, what: &'static str) -> Service {
        let root = rustix::process::geteuid().is_root();
        let systemd = root && Path::new(SYSTEMD_RUNS).exists();
        let usual = config == Path::new(config::FILE_DEFAULT);
        let stem = config.file_stem().unwrap_or_default().to_string_lossy();
        let plain: String =
            stem.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' }).collect();
        Service {
            keeper: if systemd { Keeper::Systemd } else { Keeper::Nobody },
            unit: if usual { "pgkeel".to_owned() } else { format!("pgkeel-{plain}") },
            config: config.to_owned(),
            dir: dir.to_owned(),
            what,
        }
    }

    fn log(&self) -> PathBuf {
        self.dir.join(format!("{}.log", self.what))
    }

    fn number(&self) -> PathBuf {
        self.dir.join(format!("{}.pid", self.what))
    }

    fn unit_file(&self) -> PathBuf {
        Path::new(UNITS).join(format!("{}.service", self.unit))
    }

    /// How a person starts it.
    #[must_use]
    pub fn by_hand(&self) -> String {
        match self.keeper {
            Keeper::Systemd => format!("systemctl enable --now {}", self.unit),
            Keeper::Nobody => format!("pgkeel run -c {}", self.config.display()),
        }
    }

    /// Where its log is.
    #[must_use]
    pub fn log_words(&self) -> String {
        match self.keeper {
            Keeper::Systemd => format!("journalctl -u {}", self.unit),
            Keeper::Nobody => self.log().display().to_string(),
        }
    }

    /// Writes what systemd needs to know.
    ///
    /// # Errors
    /// What the system says.
    pub fn install(&self) -> Result<(), String> {
        if self.keeper == Keeper::Nobody {
            return Ok(());
        }
        // Somebody may have added to it.
        let there = fs::read_to_string(self.unit_file()).unwrap_or_default();
        if there.contains(&format!("-c {}\n", self.config.display())) {
            return Ok(());
        }
        let program = own_program()?;
        super::file::write(&self.unit_file(), &unit_text(&program, &self.config, self.what))?;
        systemctl(&["daemon-reload"])
    }

    /// Starts it, unless it runs.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(&self) -> Result<(), String> {
        match self.keeper {
            Keeper::Systemd => systemctl(&["enable", "--now", &self.unit]),
            Keeper::Nobody if self.pid().is_some() => Ok(()),
            Keeper::Nobody => self.leave_behind(),
        }
    }

    fn leave_behind(&self) -> Result<(), String> {
        let program = own_program()?;
        fs::create_dir_all(&self.dir).map_err(|e| format!("{} cannot be made: {e}", self.dir.display()))?;
        let log = self.log();
        let open = || -> std::io::Result<(File, File)> {
            let file = OpenOptions::new().append(true).create(true).open(&log)?;
            Ok((file.try_clone()?, file))
        };
        let (out, err) = open().map_err(|e| format!("{} cannot be written: {e}", log.display()))?;
        let child = Command::new(&program)
            .args(["run", "-c"])
            .arg(&self.config)
            .current_dir("/")
            // A Ctrl-C on this terminal is not for it.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .map_err(|e| format!("{} cannot be started: {e}", program.display()))?;
        super::file::write(&self.number(), &format!("{}\n", child.id()))
    }

    /// Its process, when it runs and is surely this one.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        let pid = fs::read_to_string(self.number()).ok()?.trim().parse().ok()?;
        let process = processes::find_begun(pid)?;
        let config = self.config.to_str()?;
        // `pgkeel run -c FILE`, whatever the program is called.
        let ours = process.args.get(1).is_some_and(|verb| matches!(verb.as_str(), "run" | "agent" | "proxy"))
            && process.args.iter().any(|arg| arg == config);
        ours.then_some(pid)
    }

    /// What there is to say of it when it has ended although it should run.
    #[must_use]
    pub fn ended(&self) -> Option<String> {
        match self.keeper {
            Keeper::Systemd => {
                let failed = Command::new("systemctl").args(["is-failed", "--quiet", &self.unit]).status();
                failed.is_ok_and(|status| status.success()).then(|| {
                    format!("the service {} has failed; its log says why: {}", self.unit, self.log_words())
                })
            }
            Keeper::Nobody if self.pid().is_some() => None,
            Keeper::Nobody => Some(format!(
                "its process has ended; the last lines of {}:\n{}",
                self.log().display(),
                last_lines(&self.log())
            )),
        }
    }

    /// Stops it, for good, and waits for its end. Says what was done.
    ///
    /// # Errors
    /// What the system says, or that it does not end.
    pub async fn stop(&self) -> Result<String, String> {
        if self.keeper == Keeper::Systemd && self.unit_file().exists() {
            systemctl(&["disable", "--now", &self.unit])?;
            return Ok(format!("the service {} is stopped and disabled", self.unit));
        }
        let Some(pid) = self.pid() else {
            // Who hears that it was struck out ends by itself.
            return Ok("its agent has ended".to_owned());
        };
        processes::send(pid, Signal::TERM);
        let mut progress = Progress::begin();
        while self.pid().is_some() {
            if progress.elapsed() > STOP_LIMIT {
                return Err(format!("process {pid} does not end; its log says why: {}", self.log_words()));
            }
            progress.wait(&format!("waits for process {pid} to end")).await;
        }
        let _ = fs::remove_file(self.number());
        Ok(format!("process {pid} is stopped"))
    }
}

fn own_program() -> Result<PathBuf, String> {
    std::env::current_exe().map_err(|error| format!("this program does not know where it is: {error}"))
}

fn systemctl(words: &[&str]) -> Result<(), String> {
    let output = Command::new("systemctl").args(words).output();
    let output = output.map_err(|error| format!("systemctl cannot be started: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("systemctl {}: {}", words.join(" "), said.trim()))
}

fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(LAST_LINES);
    lines[from..].iter().map(|line| format!("  {line}\n")).collect::<String>().trim_end().to_owned()
}

/// As docs/operators.md says: an agent that is lost leaves its server to the guard, and one that comes back takes it over: so only the main process is
/// ever signalled. Wrong settings (exit code 2) are not tried again.
fn unit_text(program: &Path, config: &Path, what: &str) -> String {
    format!(
        "[Unit]\n\
         Description=pgkeel {what}\n\
         Documentation=man:pgkeel(1)\n\
         Wants=network-online.target\n\
         After=network-online.target\n\
         StartLimitIntervalSec=0\n\n\
         [Service]\n\
         ExecStart={} run -c {}\n\
         KillMode=process\n\
         TimeoutStopSec=120\n\
         Restart=on-failure\n\
         RestartSec=1\n\
         RestartPreventExitStatus=2\n\
         LimitNOFILE=524288\n\n\
         [Install]\n\
         WantedBy=multi-user.target\n",
        program.display(),
        config.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_of_somebody_else_is_not_ours() {
        let dir = std::env::temp_dir().join(format!("pgkeel-service-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let service = Service::of(&dir.join("n1.toml"), &dir, "agent");
        assert_eq!((service.unit.as_str(), service.pid()), ("pgkeel-n1", None));
        fs::write(service.number(), format!("{}\n", std::process::id())).unwrap();
        assert_eq!(service.pid(), None);
        fs::write(service.number(), "x").unwrap();
        assert_eq!(service.pid(), None);
        fs::write(service.log(), "one\ntwo\n").unwrap();
        assert_eq!(last_lines(&service.log()), "  one\n  two");
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(Service::of(Path::new(config::FILE_DEFAULT), &dir, "agent").unit, "pgkeel");
    }

    #[test]
    fn one_that_has_just_been_started_runs() {
        let dir = std::env::temp_dir().join(format!("pgkeel-service-new-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let service = Service::of(&dir.join("n1.toml"), &dir, "agent");
        fs::write(&service.config, "").unwrap();
        let mut missed = 0;
        for _ in 0..300 {
            // It stays, and its words are those of an agent's.
            let mut command = Command::new("tail");
            command.arg("run").args(["-f", "-q"]).arg(&service.config).current_dir("/").process_group(0);
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            fs::write(service.number(), format!("{}\n", child.id())).unwrap();
            missed += usize::from(service.pid().is_none());
            child.kill().unwrap();
            child.wait().unwrap();
        }
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(missed, 0);
    }

    #[test]
    fn the_unit_leaves_the_server_to_the_guard() {
        let text = unit_text(Path::new("/usr/bin/pgkeel"), Path::new("/etc/pgkeel.toml"), "agent");
        assert!(
            text.contains("\nExecStart=/usr/bin/pgkeel run -c /etc/pgkeel.toml\nKillMode=process\n"),
            "{text}"
        );
    }
}
