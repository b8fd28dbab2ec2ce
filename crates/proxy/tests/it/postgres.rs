//! A real PostgreSQL server in a temporary directory, stopped and removed when dropped.

use cluster::view::Server;
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

pub struct Postgres {
    pub port: u16,
    dir: PathBuf,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Postgres {
    /// initdb only.
    pub fn create() -> Postgres {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("pgkeel-proxy-{}-{number}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        if let Some((uid, gid)) = other_user() {
            chown(&dir, Some(uid), Some(gid)).unwrap();
        }
        let postgres = Postgres { port: free_port(), dir };
        let data = postgres.data();
        run("initdb", &["-D", &data, "-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8"]);
        let settings = format!(
            "port = {}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\nfsync = off\nshared_buffers = 16MB\n",
            postgres.port
        );
        let file = Path::new(&data).join("postgresql.auto.conf");
        fs::write(file, settings).unwrap();
        postgres
    }

    pub fn start(&self) {
        let log = self.dir.join("log").display().to_string();
        run("pg_ctl", &["-D", &self.data(), "-l", &log, "-w", "start"]);
    }

    pub fn started() -> Postgres {
        let postgres = Postgres::create();
        postgres.start();
        postgres
    }

    /// A standby of this server, which runs.
    pub fn standby(&self) -> Postgres {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("pgkeel-proxy-{}-{number}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        if let Some((uid, gid)) = other_user() {
            chown(&dir, Some(uid), Some(gid)).unwrap();
        }
        let standby = Postgres { port: free_port(), dir };
        let from = format!("host=127.0.0.1 port={} user=postgres", self.port);
        run("pg_basebackup", &["-D", &standby.data(), "-d", &from, "-R", "-c", "fast", "--no-sync"]);
        standby.set(&format!("port = {}", standby.port));
        standby.start();
        standby
    }

    pub fn promote(&self) {
        run("pg_ctl", &["-D", &self.data(), "-w", "promote"]);
    }

    pub fn stop_immediately(&self) {
        run("pg_ctl", &["-D", &self.data(), "-m", "immediate", "-w", "stop"]);
    }

    /// As a switchover does it.
    pub fn stop_in_order(&self) {
        run("pg_ctl", &["-D", &self.data(), "-m", "fast", "-w", "stop"]);
    }

    /// Adds a line to the configuration.
    pub fn set(&self, line: &str) {
        let file = Path::new(&self.data()).join("postgresql.auto.conf");
        let so_far = fs::read_to_string(&file).unwrap();
        fs::write(file, format!("{so_far}{line}\n")).unwrap();
    }

    /// From the next start on it has TLS with this certificate and its key (PEM).
    pub fn use_tls(&self, cert: &str, key: &str) {
        for (name, text) in [("server.crt", cert), ("server.key", key)] {
            let file = Path::new(&self.data()).join(name);
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
            if let Some((uid, gid)) = other_user() {
                chown(&file, Some(uid), Some(gid)).unwrap();
            }
        }
        self.set("ssl = on");
    }

    /// From the next reload on.
    pub fn ask_passwords_of(&self, user: &str) {
        self.first_rule(&format!("host all {user} 127.0.0.1/32 scram-sha-256"));
    }

    /// From the next reload on, this line of pg_hba.conf stands before all others.
    pub fn first_rule(&self, rule: &str) {
        let file = Path::new(&self.data()).join("pg_hba.conf");
        let so_far = fs::read_to_string(&file).unwrap();
        fs::write(file, format!("{rule}\n{so_far}")).unwrap();
    }

    /// Where its Unix socket can be, if it is to have one.
    pub fn socket_dir(&self) -> PathBuf {
        self.dir.clone()
    }

    /// Sends a signal (`STOP`, `CONT`) to the postmaster alone.
    pub fn signal(&self, name: &str) {
        let pid_file = fs::read_to_string(self.pid_file()).unwrap();
        let pid = pid_file.lines().next().unwrap();
        // The shell's own `kill`: the program is not on every host.
        let script = ["-c", "kill \"-$0\" \"$1\"", name, pid];
        assert!(Command::new("sh").args(script).status().unwrap().success());
    }

    pub fn as_node(&self, node: &str) -> Server {
        Server { node: node.to_string(), host: "127.0.0.1".to_string(), port: self.port }
    }

    fn pid_file(&self) -> PathBuf {
        self.dir.join("data/postmaster.pid")
    }

    fn data(&self) -> String {
        self.dir.join("data").display().to_string()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.pid_file().exists() {
            let _ = command("pg_ctl", &["-D", &self.data(), "-m", "immediate", "-w", "stop"]).status();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Runs pgbench, which must succeed, and returns what it told.
pub fn pgbench(port: u16, args: &[&str]) -> String {
    let port = port.to_string();
    let mut all = vec!["-h", "127.0.0.1", "-p", &port, "-U", "postgres"];
    all.extend(args);
    all.push("postgres");
    let mut command = command("pgbench", &all);
    let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let told = text(&output.stderr) + &text(&output.stdout);
    assert!(output.status.success(), "{told}");
    told
}

/// Runs psql, which is not asked for a password; whether it succeeded, and what it told.
pub fn psql(conninfo: &str, sql: &str) -> (bool, String) {
    let mut command = Command::new(bin_dir().join("psql"));
    command.args(["-X", "-At", "-w", "-v", "ON_ERROR_STOP=1", "-d", conninfo]).stdin(Stdio::piped());
    command.env_clear().env("PGCONNECT_TIMEOUT", "30").stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout) + &text(&output.stderr))
}

/// Runs psql as this user, with this password; what it printed, or what it complained about.
pub fn psql_as(
    port: u16,
    (user, password): (&str, &str),
    database: &str,
    sql: &str,
) -> Result<String, String> {
    let port = port.to_string();
    let options = ["-X", "-w", "-A", "-P", "footer=off", "-F", "|", "-v", "VERBOSITY=verbose", "-c", sql];
    let mut all = vec!["-h", "127.0.0.1", "-p", &port, "-U", user, "-d", database];
    all.extend(options);
    let mut command = command("psql", &all);
    command.env("PGPASSWORD", password).env("PGCONNECT_TIMEOUT", "30");
    let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout) + &text(&output.stderr)),
        false => Err(text(&output.stderr) + &text(&output.stdout)),
    }
}

/// A port nobody listens on, for as long as this process runs. Below those that the kernel gives to connections (from 32768
/// on), any of which could take it before it is used; other tests know that it is taken by a Unix socket without a file.
pub fn free_port() -> u16 {
    static CLAIMED: Mutex<Vec<UnixDatagram>> = Mutex::new(Vec::new());
    let mut claimed = CLAIMED.lock().unwrap();
    let first = std::process::id() * 16;
    let all = (0..22_000).map(|tried| 10_000 + ((first + tried) % 22_000) as u16);
    let mut free = all.filter_map(|port| {
        let name = SocketAddr::from_abstract_name(format!("pgkeel-local-port-{port}")).unwrap();
        let claim = UnixDatagram::bind_addr(&name).ok()?;
        TcpListener::bind(("127.0.0.1", port)).is_ok().then_some((port, claim))
    });
    let (port, claim) = free.next().expect("a free port");
    claimed.push(claim);
    port
}

fn run(program: &str, args: &[&str]) {
    let output = command(program, args).stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
    let log = args.iter().find(|arg| arg.ends_with("/log")).and_then(|log| fs::read_to_string(log).ok());
    let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(
        output.status.success(),
        "{program} {args:?}: {}\n{told}{}",
        output.status,
        log.unwrap_or_default()
    );
}

fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(bin_dir().join(program));
    command.args(args).current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if let Some((uid, gid)) = other_user() {
        command.uid(uid).gid(gid);
    }
    command
}

/// PostgreSQL refuses to run as root; then it runs as the user `postgres`.
fn other_user() -> Option<(u32, u32)> {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let line =
        users.lines().find(|line| line.starts_with("postgres:")).expect("root needs a user `postgres`");
    let fields: Vec<&str> = line.split(':').collect();
    Some((fields[2].parse().unwrap(), fields[3].parse().unwrap()))
}

/// `PG_BIN_DIR`, or the newest version in Debian's place.
fn bin_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("PG_BIN_DIR") {
        return dir.into();
    }
    let versions = fs::read_dir("/usr/lib/postgresql").expect("no PostgreSQL here: set PG_BIN_DIR");
    let newest = versions.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u32>().ok()).max();
    PathBuf::from(format!("/usr/lib/postgresql/{}/bin", newest.expect("no PostgreSQL here: set PG_BIN_DIR")))
}
