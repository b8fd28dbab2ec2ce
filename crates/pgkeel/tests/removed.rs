//! An agent whose node was removed while it was away ends, says so, and leaves nothing for a service manager to repair.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

/// Between the start and the end of an agent that is told at once.
const PATIENCE: Duration = Duration::from_secs(60);

/// A directory that goes with its test.
struct Dir(PathBuf);

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// n2, of a cluster that has struck n1 out.
fn answer(mut stream: TcpStream, address: &str) {
    let mut asked = [0; 8192];
    let _ = stream.read(&mut asked);
    let identity = json!({
        "cluster": "shop", "name": "n2", "id": 2, "address": address, "formed": true, "members": {"n2": address},
    });
    let body = json!({"identity": identity, "verdict": {"verdict": "removed"}}).to_string();
    let length = body.len();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n");
    let _ = write!(stream, "{head}connection: close\r\n\r\n{body}");
}

/// `pgkeel run` of a witness n1, with a proxy if one is wished: its exit code and what it said.
fn run(test: &str, with_proxy: bool) -> (Option<i32>, String) {
    let dir = Dir(std::env::temp_dir().join(format!("pgkeel-removed-{test}-{}", std::process::id())));
    std::fs::create_dir_all(&dir.0).expect("a directory");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let n2 = listener.local_addr().expect("its address").to_string();
    // Held until both are known, so that they differ.
    let held = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
    let [n1, proxy] = held.map(|held| held.local_addr().expect("its address").to_string());
    let at = n2.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            answer(stream, &at);
        }
    });
    let mut text = format!(
        "cluster = \"shop\"\nnode = {{ name = \"n1\", joined = true, dir = \"{}\" }}\nmembers.n1 = \"{n1}\"\nmembers.n2 = \"{n2}\"\n",
        dir.0.join("own").display()
    );
    if with_proxy {
        text += &format!("proxy.listen = \"{proxy}\"\n");
    }
    let file = dir.0.join("pgkeel.toml");
    std::fs::write(&file, text).expect("a configuration file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgkeel"));
    command.arg("run").arg("-c").arg(&file).env_remove("PGKEEL_LOG").env_remove("JOURNAL_STREAM");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("pgkeel");
    let began = Instant::now();
    let status = loop {
        match child.try_wait().expect("its end") {
            Some(status) => break status.code(),
            None if began.elapsed() > PATIENCE => {
                let _ = child.kill();
                break None;
            }
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    let mut said = String::new();
    child.stderr.take().expect("its log").read_to_string(&mut said).expect("text");
    (status, said)
}

#[test]
fn its_agent_ends_without_failure_and_says_why() {
    for (test, with_proxy) in [("agent", false), ("both", true)] {
        let (status, said) = run(test, with_proxy);
        assert_eq!(status, Some(0), "{said}");
        assert!(said.contains("n2 says that n1 was removed from the cluster"), "{said}");
        assert!(said.contains("node n1 was removed from the cluster: its server has stopped"), "{said}");
        assert!(said.contains("another --node"), "{said}");
    }
}
