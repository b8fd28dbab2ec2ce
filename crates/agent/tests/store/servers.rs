//! Real etcd processes for one test, with ports and directories of their own; they end with it.

use super::trio::{Dir, runtime, until};
use agent::http::tls::TlsFiles;
use agent::http::{BODY_MAX, Connection};
use agent::store::{Endpoint, EtcdOptions, EtcdUser};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// What etcd's own time-outs are made of in tests; its defaults are 100 and 1000.
const HEARTBEAT_MS: u64 = 100;
const ELECTION_MS: u64 = 1000;
/// For one call.
const LIMIT: Duration = Duration::from_secs(10);

struct Member {
    arguments: Vec<String>,
    address: String,
    child: Option<Child>,
}

/// etcd, of one or several members.
pub struct Servers {
    pub dir: Dir,
    members: Vec<Member>,
    pub tls: Option<TlsFiles>,
    pub user: Option<EtcdUser>,
}

/// Whether the program is there; a test that needs it says so and is skipped otherwise.
fn is_installed() -> bool {
    let found = Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_err() {
        eprintln!("skipped: there is no program etcd; script/bootstrap installs it (Debian: etcd-server)");
    }
    found.is_ok()
}

impl Servers {
    pub fn start(test: &str, count: usize) -> Option<Servers> {
        Servers::start_with(test, count, "http", &[], None)
    }

    /// With other addresses and more arguments. `None`: etcd is not installed.
    pub fn start_with(
        test: &str,
        count: usize,
        scheme: &str,
        more: &[String],
        tls: Option<TlsFiles>,
    ) -> Option<Servers> {
        if !is_installed() {
            return None;
        }
        let dir = Dir::new(&format!("servers-{test}"));
        std::fs::create_dir_all(&dir.0).unwrap();
        let held: Vec<_> =
            (0..2 * count).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let port = |i: usize| held[i].local_addr().unwrap().port();
        let peer = |i: usize| format!("http://127.0.0.1:{}", port(count + i));
        let all: Vec<String> = (0..count).map(|i| format!("m{i}={}", peer(i))).collect();
        let member = |i: usize| {
            let url = format!("{scheme}://127.0.0.1:{}", port(i));
            let flags = [
                ("name", format!("m{i}")),
                ("data-dir", dir.0.join(format!("m{i}")).display().to_string()),
                ("listen-client-urls", url.clone()),
                ("advertise-client-urls", url),
                ("listen-peer-urls", peer(i)),
                ("initial-advertise-peer-urls", peer(i)),
                ("initial-cluster", all.join(",")),
                ("heartbeat-interval", HEARTBEAT_MS.to_string()),
                ("election-timeout", ELECTION_MS.to_string()),
                ("log-level", "error".to_owned()),
            ];
            let arguments = flags.into_iter().map(|(flag, value)| format!("--{flag}={value}"));
            Member {
                arguments: arguments.chain(more.iter().cloned()).collect(),
                address: format!("127.0.0.1:{}", port(i)),
                child: None,
            }
        };
        let members: Vec<Member> = (0..count).map(member).collect();
        drop(held);
        let mut servers = Servers { dir, members, tls, user: None };
        (0..count).for_each(|i| servers.revive(i));
        until("etcd answers", || servers.ask("/v3/kv/range", &json!({"key": "YQ=="})).ok());
        Some(servers)
    }

    pub fn options(&self) -> EtcdOptions {
        let secure = self.tls.is_some();
        let endpoints = self.members.iter().map(|m| Endpoint { address: m.address.clone(), secure });
        EtcdOptions {
            endpoints: endpoints.collect(),
            prefix: "/pgkeel/test/".to_owned(),
            tls: self.tls.clone(),
            user: self.user.clone(),
        }
    }

    pub fn kill(&mut self, i: usize) {
        let mut child = self.members[i].child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub fn revive(&mut self, i: usize) {
        let log = std::fs::File::create(self.dir.0.join(format!("m{i}.log"))).unwrap();
        let child =
            Command::new("etcd").args(&self.members[i].arguments).stdout(Stdio::null()).stderr(log).spawn();
        self.members[i].child = Some(child.unwrap());
    }

    pub fn signal(&self, i: usize, signal: rustix::process::Signal) {
        let pid = self.members[i].child.as_ref().unwrap().id();
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// The member that leads etcd itself.
    pub fn leader(&self) -> usize {
        until("etcd has a leader", || {
            (0..self.members.len()).filter(|i| self.members[*i].child.is_some()).find(|i| {
                let status = self.ask_member(*i, "/v3/maintenance/status", &json!({}));
                status.is_ok_and(|s| s["leader"] == s["header"]["member_id"] && s["leader"] != Value::Null)
            })
        })
    }

    /// Asks the first member that runs.
    pub fn ask(&self, path: &str, body: &Value) -> Result<Value, String> {
        let runs = (0..self.members.len()).find(|i| self.members[*i].child.is_some()).unwrap();
        self.ask_member(runs, path, body)
    }

    fn ask_member(&self, i: usize, path: &str, body: &Value) -> Result<Value, String> {
        let mut connection = Connection::to_etcd(self.tls.clone(), &self.members[i].address, BODY_MAX);
        runtime().block_on(connection.post_json(path, body, LIMIT)).map_err(|e| e.to_string())
    }

    /// Deletes a key through another member than this one, if the others can do it.
    pub fn delete_beside(&self, i: usize, key: &str) {
        let body = json!({"key": STANDARD.encode(key)});
        drop(self.ask_member((i + 1) % self.members.len(), "/v3/kv/deleterange", &body));
    }

    pub fn put(&self, key: &str, value: &[u8]) {
        let body = json!({"key": STANDARD.encode(key), "value": STANDARD.encode(value)});
        self.ask("/v3/kv/put", &body).unwrap();
    }

    pub fn delete(&self, key: &str) {
        self.ask("/v3/kv/deleterange", &json!({"key": STANDARD.encode(key)})).unwrap();
    }

    /// The value and the store's revision.
    pub fn get(&self, key: &str) -> (Vec<u8>, u64) {
        let answer = self.ask("/v3/kv/range", &json!({"key": STANDARD.encode(key)})).unwrap();
        let value = STANDARD.decode(answer["kvs"][0]["value"].as_str().unwrap_or_default()).unwrap();
        (value, answer["header"]["revision"].as_str().unwrap().parse().unwrap())
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for child in self.members.iter_mut().filter_map(|m| m.child.as_mut()) {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// Writes a file.
pub fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}
