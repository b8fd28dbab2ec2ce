//! A PostgreSQL server that runs on this host and is not pgkeel's: what it is, what holds for its clients, and what else would start
//! it. Nothing is changed by looking.

mod answer;
mod found;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use agent::os_user::{self, OsUser};

use answer::Answer;
pub use found::{Taken, listen_addresses};

/// For a question, in seconds.
const CONNECT_LIMIT_S: &str = "10";

/// A server.
#[derive(Clone, Debug)]
pub struct Running {
    /// Its data directory.
    pub data_dir: PathBuf,
    /// Its postmaster.
    pub pid: i32,
    /// Where the postmaster's program is.
    pub bin_dir: PathBuf,
    /// Who owns the data directory.
    pub owner: OsUser,
    /// What it says of itself.
    pub answer: Answer,
    /// What is carried over.
    pub taken: Taken,
}

/// Looks at the server that runs on a data directory.
///
/// # Errors
/// Why it is none, or cannot be asked, or cannot be carried over, and what to do.
pub fn look(data_dir: &Path) -> Result<Running, String> {
    let shown = data_dir.display();
    if !data_dir.join("PG_VERSION").exists() {
        return Err(format!("{shown} is no data directory of PostgreSQL: it has no PG_VERSION"));
    }
    let lock = Lock::read(data_dir)?;
    let owner = fs::metadata(data_dir).map_err(|e| format!("{shown}: {e}"))?.uid();
    let owner = os_user::of_number(owner).ok().flatten();
    let owner = owner.ok_or_else(|| format!("the owner of {shown} is no user of this host"))?;
    let program = fs::read_link(format!("/proc/{}/exe", lock.pid))
        .map_err(|e| format!("the program of process {} is not known: {e}; run this as root", lock.pid))?;
    let bin_dir = program.parent().filter(|_| program.exists()).ok_or_else(|| {
        format!(
            "{} has been replaced or removed since the server of {shown} was started: start that server again first",
            program.display()
        )
    })?;
    let asked = ask(bin_dir, &owner, &lock)?;
    let answer = Answer::read(&asked)
        .map_err(|e| format!("the server of {shown} answers what is not understood: {e}"))?;
    answer.check(data_dir)?;
    let taken = found::carried_over(data_dir, &answer)?;
    Ok(Running {
        data_dir: data_dir.to_owned(),
        pid: lock.pid,
        bin_dir: bin_dir.to_owned(),
        owner,
        answer,
        taken,
    })
}

/// What a postmaster writes down of itself (src/include/utils/pidfile.h).
struct Lock {
    pid: i32,
    port: String,
    /// A directory of its socket, or an address.
    host: String,
}

impl Lock {
    fn read(data_dir: &Path) -> Result<Lock, String> {
        let none = || {
            format!(
                "no server runs on {}. Start it as usual, and run this again: what holds for its clients is asked of it",
                data_dir.display()
            )
        };
        let text = fs::read_to_string(data_dir.join("postmaster.pid")).map_err(|e| match e.kind() {
            std::io::ErrorKind::PermissionDenied => {
                format!("{} cannot be read; run this as root", data_dir.display())
            }
            _ => none(),
        })?;
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let [pid, _, _, port, socket, address, ..] = lines.as_slice() else { return Err(none()) };
        let pid: i32 = pid.parse().map_err(|_| none())?;
        let place = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
        let works_there =
            place(data_dir).is_some() && place(Path::new(&format!("/proc/{pid}/cwd"))) == place(data_dir);
        if !works_there {
            return Err(none());
        }
        let host = match (socket.is_empty(), *address) {
            (false, _) => *socket,
            (true, "*" | "") => "localhost",
            (true, address) => address,
        };
        Ok(Lock { pid, port: (*port).to_owned(), host: host.to_owned() })
    }
}

/// By psql, as the owner of the data directory: that is how a person gets in, whatever the rules are.
fn ask(bin_dir: &Path, owner: &OsUser, lock: &Lock) -> Result<String, String> {
    psql(bin_dir, owner, lock, answer::QUESTION).map_err(|said| {
        format!(
            "the server cannot be asked, as user {} by psql -h {} -p {}: {said}. It is asked as a superuser: PGUSER, PGPASSWORD and \
             the like hold",
            owner.name, lock.host, lock.port
        )
    })
}

fn psql(bin_dir: &Path, owner: &OsUser, lock: &Lock, sql: &str) -> Result<String, String> {
    let own = bin_dir.join("psql");
    let mut command = Command::new(if own.exists() { own } else { "psql".into() });
    // -X: nobody's .psqlrc; -w: no question for a password.
    command.args(["-X", "-A", "-t", "-q", "-w", "-v", "ON_ERROR_STOP=1", "-h", &lock.host, "-p", &lock.port]);
    command.args(["-c", sql]).current_dir("/").stdin(Stdio::null());
    command.env("PGCONNECT_TIMEOUT", CONNECT_LIMIT_S).env("PGAPPNAME", "pgkeel").env("LC_MESSAGES", "C");
    for (name, default) in [("PGUSER", agent::postgres::SUPERUSER), ("PGDATABASE", "postgres")] {
        if std::env::var_os(name).is_none() {
            command.env(name, default);
        }
    }
    if rustix::process::geteuid().is_root() {
        command.uid(owner.uid).gid(owner.gid).env("HOME", &owner.home);
    }
    let output = command.output().map_err(|e| format!("psql cannot be started: {e}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

impl Running {
    /// Makes a checkpoint, so that the stop that follows is short. What hinders it is no reason to stop.
    pub fn checkpoint(&self) {
        if let Ok(lock) = Lock::read(&self.data_dir)
            && let Err(said) = psql(&self.bin_dir, &self.owner, &lock, "checkpoint")
        {
            eprintln!("no checkpoint was made: {said}");
        }
    }

    /// Sees to it that nothing else starts the server when the host starts. Says what was done, and what a person has to do.
    pub fn detach(&self) -> Vec<String> {
        let mut said = Vec::new();
        let start = Path::new(&self.answer.config_file).with_file_name("start.conf");
        let text = fs::read_to_string(&start).unwrap_or_default();
        // Debian's pg_ctlcluster(1), "start.conf".
        if text.lines().any(|line| line.trim() == "auto") {
            let manual: String = text
                .lines()
                .map(|line| if line.trim() == "auto" { "manual\n".to_owned() } else { format!("{line}\n") })
                .collect();
            said.push(match fs::write(&start, manual) {
                Ok(()) => format!("{} says \"manual\" now: only pgkeel starts this server", start.display()),
                Err(e) => format!(
                    "write \"manual\" into {}, so that only pgkeel starts this server ({e})",
                    start.display()
                ),
            });
        } else if let Some(unit) = self.unit() {
            let done = Command::new("systemctl").args(["disable", &unit]).stdin(Stdio::null()).output();
            said.push(match done {
                Ok(output) if output.status.success() => {
                    format!("the service {unit} is disabled: only pgkeel starts this server")
                }
                _ => format!(
                    "the service {unit} must not start this server any more: systemctl disable {unit}"
                ),
            });
        }
        said
    }

    /// The service of systemd that its postmaster belongs to.
    fn unit(&self) -> Option<String> {
        let groups = fs::read_to_string(format!("/proc/{}/cgroup", self.pid)).ok()?;
        let last = |line: &str| line.rsplit('/').next().map(str::to_owned);
        let unit = groups.lines().filter_map(last).find(|name| name.ends_with(".service"))?;
        // Whoever was logged in and started it by hand has a service, too.
        (!unit.starts_with("user@") && unit.contains("postgres")).then_some(unit)
    }
}
