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

/// Where Debian has the configuration of its servers.
const DEBIAN: &str = "/etc/postgresql";
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

/// Looks at the server that runs on a data directory. Its programs are those that it runs, or what a person has named.
///
/// # Errors
/// Why it is none, or cannot be asked, or cannot be carried over, and what to do.
pub fn look(given: &Path, bin_dir: Option<&Path>) -> Result<Running, String> {
    // A copy takes the place of the directory itself, not of a link to it.
    let data_dir = &fs::canonicalize(given).map_err(|e| format!("{}: {e}", given.display()))?;
    let shown = data_dir.display();
    if data_dir.join("pgkeel.conf").exists() {
        return Err(format!(
            "the data in {shown} belong to a node of pgkeel, or did: they are not taken over once more. To bring this host into a \
             cluster, join into an empty directory"
        ));
    }
    if !data_dir.join("PG_VERSION").exists() {
        return Err(format!("{shown} is no data directory of PostgreSQL: it has no PG_VERSION"));
    }
    let lock = Lock::read(data_dir)?;
    let owner = fs::metadata(data_dir).map_err(|e| format!("{shown}: {e}"))?.uid();
    let owner = os_user::of_number(owner).ok().flatten();
    let owner = owner.ok_or_else(|| format!("the owner of {shown} is no user of this host"))?;
    let bin_dir = &match bin_dir {
        Some(named) => named.to_owned(),
        None => programs_of(&lock, &shown.to_string())?,
    };
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

/// Where the program of a postmaster is. What its user could exchange is not run as root, unless a person names it.
fn programs_of(lock: &Lock, shown: &str) -> Result<PathBuf, String> {
    let program = fs::read_link(format!("/proc/{}/exe", lock.pid))
        .map_err(|e| format!("the program of process {} is not known: {e}; run this as root", lock.pid))?;
    let replaced = || {
        format!(
            "{} has been replaced or removed since the server of {shown} was started: start that server again first",
            program.display()
        )
    };
    let bin_dir = program.parent().filter(|_| program.exists()).ok_or_else(replaced)?;
    let exchanged_by_others = |path: &Path| {
        fs::metadata(path).map_or(true, |found| {
            let kept = found.is_dir() && found.mode() & 0o1000 != 0;
            found.uid() != 0 || (found.mode() & 0o022 != 0 && !kept)
        })
    };
    match program.ancestors().find(|path| exchanged_by_others(path)) {
        Some(open) if rustix::process::geteuid().is_root() => Err(format!(
            "the server of {shown} runs {}, and others than root may change {}. If these are the right programs, name their directory: \
             --bin-dir {}",
            program.display(),
            open.display(),
            bin_dir.display()
        )),
        _ => Ok(bin_dir.to_owned()),
    }
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
        let text = match start.starts_with(DEBIAN) {
            true => fs::read_to_string(&start).unwrap_or_default(),
            false => String::new(),
        };
        // Debian's pg_ctlcluster(1), "start.conf".
        if text.lines().any(|line| line.trim() == "auto") {
            let manual =
                |line: &str| if line.trim() == "auto" { "manual\n".to_owned() } else { format!("{line}\n") };
            let manual: String = text.lines().map(manual).collect();
            said.push(match super::file::write(&start, &manual) {
                Ok(()) => format!("{} says \"manual\" now: only pgkeel starts this server", start.display()),
                Err(e) => format!("{e}: write \"manual\" into it, so that only pgkeel starts this server"),
            });
        } else if text.is_empty()
            && let Some(unit) = self.unit()
        {
            said.push(disabled(&unit));
        }
        said
    }

    /// The service of systemd that its postmaster belongs to.
    fn unit(&self) -> Option<String> {
        let groups = fs::read_to_string(format!("/proc/{}/cgroup", self.pid)).ok()?;
        let last = |line: &str| line.rsplit('/').next().map(str::to_owned);
        let unit = groups.lines().filter_map(last).find(|name| name.ends_with(".service"))?;
        // Whoever was logged in and started it by hand has a service, too.
        (!unit.starts_with("user@")).then_some(unit)
    }
}

/// Disables a service that is PostgreSQL's by its name; of another one a person has to know what it is.
fn disabled(unit: &str) -> String {
    let ours = ["postgres", "pgsql", "edb-as"].iter().any(|name| unit.contains(name));
    let done = ours.then(|| Command::new("systemctl").args(["disable", unit]).stdin(Stdio::null()).output());
    match done {
        Some(Ok(output)) if output.status.success() => {
            format!("the service {unit} is disabled: only pgkeel starts this server")
        }
        Some(_) => {
            format!("the service {unit} must not start this server any more: systemctl disable {unit}")
        }
        None => format!(
            "the server belongs to the service {unit}: see to it that this does not start it, or another primary, any more"
        ),
    }
}
