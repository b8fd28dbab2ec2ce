//! What is measured: one PostgreSQL, and the proxies in front of it. All end with this program.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use pgkeel::demo::root::Root;
use rustix::process::{Pid, Signal, kill_process};

use crate::POOL;
use crate::idle::{CLIENTS, raise_file_limit};
use crate::load::Load;

const START_LIMIT: Duration = Duration::from_secs(20);

/// Where Debian's PostgreSQL has its programs, newest first, unless they are in PATH.
const PROGRAMS: &str = "/usr/lib/postgresql";

/// A proxy under measurement.
#[derive(Debug)]
pub struct Proxy {
    pub name: String,
    pub port: u16,
    /// Prepared statements of the protocol go through its pools.
    prepares: bool,
    child: Child,
}

impl Proxy {
    /// Whether it can serve this load at all.
    pub fn can(&self, load: Load) -> bool {
        self.prepares || load != Load::Prepared
    }

    /// Processor time of all its threads, in nanoseconds (Documentation/scheduler/sched-stats.rst, "/proc/<pid>/schedstat").
    pub fn cpu_ns(&self) -> Result<u64> {
        let mut sum = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = fs::read_to_string(task?.path().join("schedstat"))?;
            sum += text.split(' ').next().context("schedstat is empty")?.parse::<u64>()?;
        }
        Ok(sum)
    }

    /// Resident memory, in bytes.
    pub fn memory_bytes(&self) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        end(&mut self.child, Signal::INT);
    }
}

/// PgBouncer as installed, and the one that PGBOUNCER names.
pub fn rivals() -> Result<Vec<PathBuf>> {
    let installed = Path::new("/usr/sbin/pgbouncer");
    let named = std::env::var_os("PGBOUNCER").map(PathBuf::from);
    let rivals: Vec<PathBuf> =
        [Some(installed.to_owned()).filter(|path| path.exists()), named].into_iter().flatten().collect();
    ensure!(
        !rivals.is_empty(),
        "there is no PgBouncer to compare with: install the package pgbouncer, or name a program by PGBOUNCER"
    );
    Ok(rivals)
}

/// These and pgkeel, in this order.
pub fn proxies(rivals: &[PathBuf], postgres: &Postgres) -> Result<Vec<Proxy>> {
    raise_file_limit();
    let mut proxies = Vec::new();
    for rival in rivals {
        proxies.push(pgbouncer(rival, postgres)?);
    }
    proxies.push(pgkeel(postgres)?);
    Ok(proxies)
}

fn pgbouncer(program: &Path, postgres: &Postgres) -> Result<Proxy> {
    let version = Command::new(program)
        .arg("--version")
        .output()
        .with_context(|| format!("PgBouncer, {}, cannot be started", program.display()))?;
    let version = String::from_utf8_lossy(&version.stdout);
    let name = version.lines().next().unwrap_or("PgBouncer").to_owned();
    // Since 1.21 (its change log); an older one cannot do it, and does not know the word for it.
    let prepares = has_prepared(&name);
    let port = free_port()?;
    let dir = postgres.root.path().join(format!("pgbouncer-{port}"));
    fs::create_dir(&dir)?;
    fs::write(dir.join("users"), "\"postgres\" \"\"\n")?;
    let config = format!(
        "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
         unix_socket_dir =\nauth_type = trust\nauth_file = {dir}/users\npool_mode = transaction\ndefault_pool_size = {POOL}\n\
         max_client_conn = {}\nlogfile = {dir}/log\npidfile = {dir}/pid\nlog_connections = 0\nlog_disconnections = 0\n{}",
        postgres.port,
        CLIENTS + 100,
        if prepares { "max_prepared_statements = 200\n" } else { "" },
        dir = dir.display(),
    );
    fs::write(dir.join("ini"), config)?;
    postgres.give(&dir)?;
    let mut command = in_own_session(postgres.user, program, "TERM");
    command.arg("-q").arg(dir.join("ini")).stdout(Stdio::null()).stderr(Stdio::null());
    started(Proxy { name, port, prepares, child: spawn(&mut command)? })
}

fn has_prepared(version: &str) -> bool {
    let number = version.rsplit(' ').next().unwrap_or_default();
    let parts: Vec<u32> = number.split('.').filter_map(|part| part.parse().ok()).collect();
    parts.as_slice() >= [1, 21].as_slice()
}

/// The program `front` of the proxy's examples: the pooled mode, with one worker, as PgBouncer has.
fn pgkeel(postgres: &Postgres) -> Result<Proxy> {
    let own = std::env::current_exe()?;
    let target = own.parent().and_then(Path::parent).context("this program has no directory")?;
    let program = target.join("dist/examples/front");
    ensure!(
        program.exists(),
        "{} is not built: cargo build --profile dist -p proxy --example front",
        program.display()
    );
    let port = free_port()?;
    let mut command = in_own_session(None, &program, "TERM");
    command.args([format!("127.0.0.1:{port}"), postgres.port.to_string(), POOL.to_string(), "1".to_owned()]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    started(Proxy { name: "pgkeel".to_owned(), port, prepares: true, child: spawn(&mut command)? })
}

fn spawn(command: &mut Command) -> Result<Child> {
    command
        .spawn()
        .context("setpriv (of util-linux), by which servers and proxies are run, cannot be started")
}

fn started(mut proxy: Proxy) -> Result<Proxy> {
    let began = Instant::now();
    while TcpStream::connect(("127.0.0.1", proxy.port)).is_err() {
        if let Some(status) = proxy.child.try_wait()? {
            bail!("{} has ended: {status}", proxy.name);
        }
        ensure!(began.elapsed() < START_LIMIT, "{} does not listen", proxy.name);
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(proxy)
}

fn end(child: &mut Child, signal: Signal) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
    let _ = child.wait();
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// The one server.
pub struct Postgres {
    pub port: u16,
    child: Child,
    user: Option<(u32, u32)>,
    root: Root,
}

impl Postgres {
    /// Makes one with pgbench's tables, in so many databases.
    pub fn start(databases: usize) -> Result<Postgres> {
        let root = Root::make(None)?;
        // As root, servers run as the user whose home PostgreSQL's package makes.
        let of_root = rustix::process::geteuid().is_root();
        let user = if of_root {
            let owner = fs::metadata("/var/lib/postgresql").context("the user postgres is missing")?;
            Some((owner.uid(), owner.gid()))
        } else {
            None
        };
        let (port, data) = (free_port()?, root.path().join("data"));
        fs::create_dir(&data)?;
        if let Some((uid, gid)) = user {
            chown(&data, Some(uid), Some(gid))?;
        }
        let mut initdb = command_as(user, &program("initdb")?);
        initdb.args(["-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8", "-D"]).arg(&data);
        let output = initdb.output().context("initdb cannot be started")?;
        ensure!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
        // It does nothing by itself (vacuum, checkpoints) that would fall to one proxy's turn and not to another's.
        let settings = format!(
            "port = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\nfsync = off\n\
             synchronous_commit = off\nshared_buffers = 1GB\nmax_connections = 300\nautovacuum = off\n\
             checkpoint_timeout = 1h\nmax_wal_size = 4GB\n"
        );
        fs::write(data.join("postgresql.auto.conf"), settings)?;
        let mut server = in_own_session(user, &program("postgres")?, "QUIT");
        server.arg("-D").arg(&data).stdout(Stdio::null()).stderr(Stdio::null());
        let mut postgres = Postgres { port, child: spawn(&mut server)?, user, root };
        postgres.wait_until_it_answers()?;
        for number in 0..databases {
            postgres.fill(&database(number))?;
        }
        Ok(postgres)
    }

    /// The directory of everything.
    pub fn dir(&self) -> &Path {
        self.root.path()
    }

    fn wait_until_it_answers(&mut self) -> Result<()> {
        let began = Instant::now();
        loop {
            let output = self.client("pg_isready", &["-q"])?;
            if output.status.success() {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("PostgreSQL has ended: {status}");
            }
            ensure!(began.elapsed() < START_LIMIT, "PostgreSQL does not answer");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn fill(&self, database: &str) -> Result<()> {
        for (program, arguments) in
            [("createdb", &[database][..]), ("pgbench", &["-i", "-q", "-s", "10", database])]
        {
            let output = self.client(program, arguments)?;
            ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// Runs a program that connects to this server.
    fn client(&self, program: &str, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(program);
        command.args(["-h", "127.0.0.1", "-U", "postgres", "-p", &self.port.to_string()]).args(arguments);
        command.output().with_context(|| format!("{program} cannot be started"))
    }

    /// To the server's user.
    fn give(&self, dir: &Path) -> Result<()> {
        let Some((uid, gid)) = self.user else { return Ok(()) };
        chown(dir, Some(uid), Some(gid))?;
        for entry in fs::read_dir(dir)? {
            chown(entry?.path(), Some(uid), Some(gid))?;
        }
        Ok(())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Immediate shutdown (PostgreSQL's manual, "Shutting Down the Server").
        end(&mut self.child, Signal::QUIT);
    }
}

fn command_as(user: Option<(u32, u32)>, program: &Path) -> Command {
    let mut command = Command::new(program);
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    command.stdin(Stdio::null()).current_dir("/");
    command
}

/// The name of one of the databases with pgbench's tables.
pub fn database(number: usize) -> String {
    format!("bench{number}")
}

/// As whoever starts services does it, and as PgBouncer's `-d` does: in a session of its own. In one together with pgbench it
/// would share that one's part of the processors (sched(7), "The autogroup feature"), so that less could be seen of
/// either proxy. It ends with this program all the same, by the signal `end`.
fn in_own_session(user: Option<(u32, u32)>, program: &Path, end: &str) -> Command {
    let mut command = command_as(user, Path::new("setpriv"));
    command.args(["--pdeathsig", end, "setsid"]).arg(program);
    command
}

fn program(name: &str) -> Result<PathBuf> {
    let in_path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&in_path).collect();
    let mut installed: Vec<PathBuf> = fs::read_dir(PROGRAMS)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .collect();
    installed.sort();
    places.extend(installed.into_iter().rev());
    let found = places.into_iter().map(|place| place.join(name)).find(|path| path.exists());
    found.with_context(|| format!("PostgreSQL's program {name} is not installed"))
}
