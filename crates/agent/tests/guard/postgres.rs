//! The guard with a real PostgreSQL server. As root it runs as the user `postgres`, otherwise as whoever tests.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use agent::clock::boottime_ms;
use agent::guard::{EndCode, GuardEvent, GuardHandle, StartOptions, StopMode};
use agent::os_user::{self, OsUser};

use crate::support::{Dir, event, guard_of, is_alive, kill_dash_9, start, status_field, stub, until};

/// Directory of the newest server programs, as Debian lays them out, or as pg_config says.
fn bin_dir() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let debian = versions.filter_map(|entry| Some(entry.ok()?.path().join("bin")));
    let newest = debian.filter(|path| path.join("postgres").exists()).max();
    newest.unwrap_or_else(|| {
        let output = Command::new("pg_config").arg("--bindir").output().expect("PostgreSQL is installed");
        PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
    })
}

struct Postgres {
    dir: Dir,
    user: Option<OsUser>,
}

impl Postgres {
    /// A new data directory, and a copy of the guard in a directory that only this user may enter.
    fn new() -> Self {
        let dir = Dir::new();
        let is_root = rustix::process::geteuid().is_root();
        let user =
            is_root.then(|| os_user::find("postgres").ok().flatten().expect("the user postgres exists"));
        fs::set_permissions(&dir.0, fs::Permissions::from_mode(0o755)).expect("own directory");
        let private = dir.0.join("private");
        fs::create_dir(&private).expect("own directory");
        fs::copy(stub(), private.join("stub")).expect("a copy of the guard");
        fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).expect("own directory");
        let data = dir.0.join("data");
        fs::create_dir(&data).expect("own directory");
        if let Some(OsUser { uid, gid, .. }) = &user {
            chown(&data, Some(*uid), Some(*gid)).expect("root may");
        }
        let postgres = Self { dir, user };
        let flags = ["--auth=trust", "--no-sync", "--username=postgres", "--pgdata"];
        let output = postgres.command("initdb").args(flags).arg(&data).output().expect("initdb runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        postgres
    }

    fn command(&self, program: &str) -> Command {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(bin_dir().join(program));
        command.current_dir("/");
        if let Some(OsUser { uid, gid, .. }) = &self.user {
            command.uid(*uid).gid(*gid);
        }
        command
    }

    fn options(&self) -> StartOptions {
        let data = self.dir.0.join("data");
        let data_text = data.to_str().expect("a plain path");
        let sockets = format!("-cunix_socket_directories={data_text}");
        let args = ["-D", data_text, "-clisten_addresses=", &sockets, "-clogging_collector=on"];
        let args: Vec<_> = args.into_iter().map(Into::into).collect();
        let program = bin_dir().join("postgres");
        let mut options = self.dir.options(program.to_str().expect("a plain path"), &args);
        options.exe = self.dir.0.join("private/stub");
        options.user = self.user.as_ref().map(|_| "postgres".to_string());
        options
    }

    fn psql(&self, sql: &str) -> Command {
        let mut command = self.command("psql");
        command.args(["-XAtqU", "postgres", "-h"]).arg(self.dir.0.join("data")).args(["-c", sql]);
        command
    }

    async fn accepts_connections(&self) {
        let sees = || {
            self.psql("select 1")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
        };
        until("the server accepts connections", sees).await;
    }

    /// A few sessions at work.
    async fn load(&self) -> Vec<Child> {
        let sql = "select count(*) from generate_series(1, 1000000000) g where md5(g::text) = ''";
        let mut clients = Vec::new();
        for _ in 0..4 {
            let mut client = self.psql(sql);
            client.stdout(Stdio::null()).stderr(Stdio::null());
            clients.push(client.spawn().expect("psql runs"));
        }
        let busy =
            "select count(*) from pg_stat_activity where query like '%md5%' and pid <> pg_backend_pid()";
        until("the clients are at work", || self.psql(busy).output().is_ok_and(|o| o.stdout == b"4\n")).await;
        clients
    }
}

/// Every descendant of `pid`, and itself.
fn family(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|word| word.parse().ok());
    std::iter::once(pid).chain(children.flat_map(family)).collect()
}

fn finish(clients: Vec<Child>) {
    for mut client in clients {
        client.wait().expect("psql ends with its server");
    }
}

fn word(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_string()
}

fn print_protection(handle: &GuardHandle, family: &[u32]) {
    let guard = guard_of(handle);
    let adj = |pid: &u32| word(format!("/proc/{pid}/oom_score_adj"));
    println!(
        "guard: {} KiB resident, {} KiB locked; oom_score_adj: guard {}, postmaster and children {:?}",
        status_field(guard, "VmRSS"),
        status_field(guard, "VmLck"),
        adj(&guard),
        family.iter().map(adj).collect::<Vec<_>>(),
    );
}

#[tokio::test]
async fn a_killed_postmaster_leaves_nobody() {
    let postgres = Postgres::new();
    for round in 1..=3 {
        let (handle, mut events) = start(postgres.options()).await;
        postgres.accepts_connections().await;
        let clients = postgres.load().await;
        let family = family(handle.pid());
        if round == 1 {
            print_protection(&handle, &family);
        }
        let begin = Instant::now();
        kill_dash_9(handle.pid());
        let ended = event(&mut events).await;
        let took = begin.elapsed();
        assert_eq!(family.iter().filter(|pid| is_alive(**pid)).count(), 0);
        assert_eq!(ended, GuardEvent::Ended { code: EndCode::Signal(9), fenced: false });
        println!(
            "kill -9 of the postmaster: all {} processes gone and reported after {took:?}",
            family.len()
        );
        finish(clients);
    }
}

#[tokio::test]
async fn a_deadline_fences_postgresql_and_a_new_guard_recovers_it() {
    let postgres = Postgres::new();
    let (handle, mut events) = start(postgres.options()).await;
    postgres.accepts_connections().await;
    let clients = postgres.load().await;
    let family = family(handle.pid());
    let deadline_ms = boottime_ms() + 100;
    handle.set_deadline(Some(deadline_ms)).await.expect("accepted");
    assert_eq!(event(&mut events).await, GuardEvent::Ended { code: EndCode::Signal(9), fenced: true });
    println!(
        "fenced: all {} processes gone {} ms after the deadline",
        family.len(),
        boottime_ms() - deadline_ms
    );
    assert_eq!(family.iter().filter(|pid| is_alive(**pid)).count(), 0);
    finish(clients);

    // At the same socket at once, and a clean end with the last lines of the logging collector.
    let (handle, mut events) = start(postgres.options()).await;
    postgres.accepts_connections().await;
    handle.stop(StopMode::Fast).await.expect("accepted");
    assert_eq!(event(&mut events).await, GuardEvent::Ended { code: EndCode::Exit(0), fenced: false });
    let logs = fs::read_dir(postgres.dir.0.join("data/log")).expect("the collector has written");
    let logs: String = logs.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok()).collect();
    assert!(logs.contains("database system is shut down"), "{logs}");
}

#[tokio::test]
async fn a_killed_guard_stops_postgresql() {
    let postgres = Postgres::new();
    let (handle, mut events) = start(postgres.options()).await;
    postgres.accepts_connections().await;
    let clients = postgres.load().await;
    let family = family(handle.pid());
    kill_dash_9(guard_of(&handle));
    assert_eq!(event(&mut events).await, GuardEvent::Lost);
    let gone = || !family.iter().any(|pid| is_alive(*pid));
    let took = until("every process of the server is gone", gone).await;
    println!("kill -9 of the guard: all {} processes gone after {took:?}", family.len());
    finish(clients);
}
