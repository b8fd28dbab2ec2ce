//! `pgkeel cert`, and how processes start with certificates that are not as they should be: the program itself, with real files.
#![allow(clippy::expect_used)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use identity::{Credentials, Folder, Plain, Role, Subject, certificate};
use pgkeel::demo::ports;

const LIMIT: Duration = Duration::from_secs(30);
const DAY: Duration = Duration::from_secs(86_400);
/// A user without rights ("nobody").
const NOBODY: u32 = 65_534;

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let dir = std::env::temp_dir().join(format!("pgkeel-cert-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("a directory");
        Dir(dir)
    }

    fn at(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn folder(&self, name: &str) -> Folder {
        Folder::at(&self.0.join(name))
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).unwrap_or_default()
    }

    /// Runs `pgkeel cert` with these words.
    fn cert(&self, words: &[&str]) -> Result<String, String> {
        let output = Command::new(env!("CARGO_BIN_EXE_pgkeel")).arg("cert").args(words).output();
        let output = output.expect("pgkeel");
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(said(&output.stdout)) } else { Err(said(&output.stderr)) }
    }

    fn init(&self, cluster: &str, name: &str) {
        self.cert(&["init", cluster, "--dir", &self.at(name)]).expect("an authority");
    }

    fn issue(&self, role: &str, name: &str, (from, out): (&str, &str)) -> Result<String, String> {
        self.cert(&["issue", role, name, "--days", "90", "--dir", &self.at(from), "--out", &self.at(out)])
    }

    /// Makes the certificate of agent n1 in `out` one whose time is over.
    fn age(&self, out: &str) {
        let authority = self.folder("ca").authority().expect("the authority");
        let n1 = Subject::new("shop", Role::Agent, "n1").expect("a name");
        let pair = authority.issue_at(&n1, Duration::from_secs(60), certificate::now() - DAY / 2);
        let pair = pair.expect("a certificate");
        fs::write(self.folder(out).certificate(), pair.certificate).expect("a file");
        fs::write(self.folder(out).key(), pair.key).expect("a file");
    }

    /// A witness and a proxy, with the certificates in `tls`: no server is needed.
    fn config(&self, tls: &str) -> PathBuf {
        let file = self.0.join("pgkeel.toml");
        let text = format!(
            "cluster = \"shop\"\nnode = {{ name = \"n1\", dir = \"{}\" }}\nmembers.n1 = \"127.0.0.1:{}\"\n\
             proxy.listen = \"127.0.0.1:{}\"\ntls.dir = \"{}\"\n",
            self.at("own"),
            free_port(),
            free_port(),
            self.at(tls)
        );
        fs::write(&file, text).expect("a file");
        file
    }

    fn start(&self, what: &str, tls: &str, user: Option<u32>) -> Running {
        let log = fs::File::create(self.0.join("log")).expect("a file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgkeel"));
        command.arg(what).arg("-c").arg(self.config(tls));
        command.env_remove("PGKEEL_LOG").env_remove("JOURNAL_STREAM");
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Running(command.spawn().expect("pgkeel"))
    }

    /// Waits until the log has all of these.
    fn wait_for(&self, said: &[&str]) {
        let began = Instant::now();
        while !said.iter().all(|part| self.text("log").contains(part)) {
            assert!(began.elapsed() < LIMIT, "expected {said:?} in:\n{}", self.text("log"));
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

struct Running(Child);

impl Running {
    fn runs_on(&mut self) -> bool {
        std::thread::sleep(Duration::from_millis(300));
        self.0.try_wait().is_ok_and(|ended| ended.is_none())
    }

    fn ends_with(&mut self) -> Option<i32> {
        let began = Instant::now();
        while began.elapsed() < LIMIT {
            if let Ok(Some(status)) = self.0.try_wait() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        None
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port that no other test uses while this process runs.
fn free_port() -> u16 {
    let claim = ports::claim(1).expect("a free port").remove(0);
    let port = claim.port;
    std::mem::forget(claim);
    port
}

fn load(folder: &Folder) -> Credentials {
    Credentials::load(folder.clone(), Plain::Refused).expect("certificates")
}

/// While one authority is exchanged for another, a host trusts both, whichever of them signs for it.
#[test]
fn a_ca_crt_with_two_authorities_stays_as_it_is() {
    let dir = Dir::new("joined");
    dir.init("shop", "ca");
    dir.init("shop", "new");
    dir.issue("agent", "n1", ("ca", "n1")).expect("a certificate");
    let (old, new) = (dir.text("ca/ca.crt"), dir.text("new/ca.crt"));
    for joined in [format!("{old}{new}"), format!("{new}{old}")] {
        for from in ["ca", "new"] {
            fs::write(dir.0.join("n1/ca.crt"), &joined).expect("a file");
            dir.issue("agent", "n1", (from, "n1")).expect("a certificate");
            assert_eq!(dir.text("n1/ca.crt"), joined);
            load(&dir.folder("n1"));
        }
    }
    // Somebody forgot to join them.
    fs::write(dir.0.join("n1/ca.crt"), &old).expect("a file");
    dir.issue("agent", "n1", ("ca", "n1")).expect("a certificate");
    let said = dir.issue("agent", "n1", ("new", "n1")).expect("a certificate");
    assert!(said.contains("trusts this authority now beside those that it trusted before"), "{said}");
    assert_eq!(dir.text("n1/ca.crt").matches("BEGIN CERTIFICATE").count(), 2);
    // What signs with a key beside several authorities gives all of them to a new host.
    fs::write(dir.0.join("new/ca.crt"), format!("{old}{new}")).expect("a file");
    dir.issue("agent", "n2", ("new", "n2")).expect("a certificate");
    assert_eq!(dir.text("n2/ca.crt"), format!("{old}{new}"));
    // Not those of another cluster.
    dir.init("other", "other");
    fs::create_dir(dir.0.join("n3")).expect("a directory");
    fs::copy(dir.0.join("other/ca.crt"), dir.0.join("n3/ca.crt")).expect("a file");
    let said = dir.issue("agent", "n3", ("ca", "n3")).expect_err("another cluster");
    assert!(said.contains("holds the authority of another cluster, other"), "{said}");
}

#[test]
fn rotate_keeps_for_how_long_it_is_good() {
    let dir = Dir::new("rotate");
    dir.init("shop", "ca");
    dir.issue("agent", "n1", ("ca", "ca")).expect("a certificate");
    let said = dir.cert(&["rotate", "--dir", &dir.at("ca")]).expect("another");
    assert!(said.contains("good for 90 days"), "{said}");
    assert_eq!(load(&dir.folder("ca")).current().lifetime, DAY * 90);
    dir.cert(&["rotate", "--dir", &dir.at("ca"), "--days", "30"]).expect("another");
    assert_eq!(load(&dir.folder("ca")).current().lifetime, DAY * 30);
    dir.init("shop", "new");
    fs::copy(dir.0.join("new/ca.key"), dir.0.join("ca/ca.key")).expect("a file");
    let said = dir.cert(&["rotate", "--dir", &dir.at("ca")]).expect_err("they do not fit");
    assert!(said.contains("ca.key is not the key of a certificate in ca.crt"), "{said}");
}

#[test]
fn an_agent_starts_with_a_certificate_that_is_over_and_says_so() {
    let dir = Dir::new("over");
    dir.init("shop", "ca");
    dir.issue("agent", "n1", ("ca", "n1")).expect("a certificate");
    dir.age("n1");
    let mut running = dir.start("run", "n1", None);
    dir.wait_for(&[
        "others refuse the certificate of this host",
        "was good until",
        "pgkeel cert issue agent n1",
    ]);
    assert!(running.runs_on(), "{}", dir.text("log"));
    drop(running);
    // With the key of the authority beside it, it is renewed before anything else.
    fs::copy(dir.0.join("ca/ca.key"), dir.0.join("n1/ca.key")).expect("a file");
    let mut running = dir.start("run", "n1", None);
    dir.wait_for(&["it has been renewed with the authority's key"]);
    assert!(running.runs_on(), "{}", dir.text("log"));
    assert_eq!(load(&dir.folder("n1")).doubt(), None);
}

/// A proxy in a process of its own may have a certificate of its own; an agent may not run with it.
#[test]
fn a_proxy_beside_an_agent_may_show_a_certificate_of_its_own() {
    let dir = Dir::new("proxy");
    dir.init("shop", "ca");
    dir.issue("proxy", "web1", ("ca", "web1")).expect("a certificate");
    let mut running = dir.start("proxy", "web1", None);
    assert!(running.runs_on() && running.runs_on(), "{}", dir.text("log"));
    drop(running);
    let mut refused = dir.start("agent", "web1", None);
    assert_eq!(refused.ends_with(), Some(2), "{}", dir.text("log"));
    dir.wait_for(&["is for proxy web1 of shop, but this is agent n1 of shop"]);
    dir.issue("viewer", "alice", ("ca", "alice")).expect("a certificate");
    let mut refused = dir.start("proxy", "alice", None);
    assert_eq!(refused.ends_with(), Some(2), "{}", dir.text("log"));
    dir.wait_for(&["is for viewer alice of shop, but this is a proxy or agent n1 of shop"]);
}

#[test]
fn who_may_not_write_the_folder_is_told_at_the_start() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = Dir::new("folder");
    dir.init("shop", "ca");
    dir.issue("agent", "n1", ("ca", "n1")).expect("a certificate");
    // As packages do it: root's files, which the server's user can read.
    chown(dir.folder("n1").key(), Some(0), Some(NOBODY)).expect("another group");
    fs::set_permissions(dir.folder("n1").key(), fs::Permissions::from_mode(0o640)).expect("a mode");
    chown(&dir.0, Some(NOBODY), Some(NOBODY)).expect("another owner");
    if !readable_by_all(Path::new(env!("CARGO_BIN_EXE_pgkeel"))) {
        return;
    }
    let mut running = dir.start("run", "n1", Some(NOBODY));
    dir.wait_for(&[
        "cannot be written by user number 65534",
        "does not renew itself",
        "pgkeel cert issue agent n1 --days 90",
    ]);
    assert!(running.runs_on(), "{}", dir.text("log"));
}

fn readable_by_all(program: &Path) -> bool {
    let open = |path: &Path| fs::metadata(path).is_ok_and(|facts| facts.permissions().mode() & 0o001 != 0);
    program.ancestors().all(open)
}
