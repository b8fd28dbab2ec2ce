//! What the program writes to its log, read line by line as another program would.

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use pgkeel::demo::ports;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A directory that goes with its test.
struct Dir(PathBuf);

impl Dir {
    fn make(name: &str) -> Dir {
        let path = std::env::temp_dir().join(format!("pgkeel-log-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory");
        Dir(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A port that no other test uses while this process runs.
fn free_port() -> u16 {
    let claim = ports::claim(1).expect("a free port").remove(0);
    let port = claim.port;
    std::mem::forget(claim);
    port
}

/// A witness and a proxy: no server is needed.
fn config(dir: &Dir, log: &str) -> PathBuf {
    let (agent, proxy) = (free_port(), free_port());
    let file = dir.0.join("pgkeel.toml");
    let text = format!(
        "cluster = \"shop\"\nnode = {{ name = \"n1\", dir = \"{}\" }}\nmembers.n1 = \"127.0.0.1:{agent}\"\n\
         proxy.listen = \"127.0.0.1:{proxy}\"\n{log}",
        dir.0.join("own").display()
    );
    std::fs::write(&file, text).expect("a configuration file");
    file
}

fn start(dir: &Dir, log: &str, args: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgkeel"));
    command.arg("run").arg("-c").arg(config(dir, log)).args(args);
    command.env_remove("PGKEEL_LOG").env_remove("JOURNAL_STREAM");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("pgkeel")
}

/// Reads the log until `enough` is in it, ends the program in order, and returns all lines.
fn lines_until(mut child: Child, enough: &str) -> Vec<String> {
    let mut stderr = child.stderr.take().expect("standard error");
    let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
    let mut told = false;
    loop {
        let count = stderr.read(&mut buffer).expect("a readable log");
        if count == 0 {
            break;
        }
        text.extend_from_slice(&buffer[..count]);
        if !told && String::from_utf8_lossy(&text).contains(enough) {
            told = true;
            kill_process(Pid::from_child(&child), Signal::TERM).expect("a running program");
        }
    }
    assert!(child.wait().expect("its end").success(), "{}", String::from_utf8_lossy(&text));
    let text = String::from_utf8(text).expect("UTF-8");
    assert!(text.ends_with('\n'), "{text}");
    text.lines().map(str::to_owned).collect()
}

/// Reads the log until `enough` is in it.
fn read_until(stderr: &mut impl BufRead, enough: &str) -> String {
    let mut text = String::new();
    while !text.contains(enough) {
        assert!(stderr.read_line(&mut text).expect("a readable log") > 0, "{text}");
    }
    text
}

#[test]
fn sighup_reads_the_settings_of_the_proxy_again() {
    let dir = Dir::make("again");
    let mut child = start(&dir, "proxy.hold = \"9s\"\n", &[]);
    let mut stderr = BufReader::new(child.stderr.take().expect("standard error"));
    read_until(&mut stderr, "listening on");
    let file = dir.0.join("pgkeel.toml");
    let change = |from: &str, to: &str| {
        let text = std::fs::read_to_string(&file).expect("the file").replace(from, to);
        std::fs::write(&file, text).expect("the file");
        kill_process(Pid::from_child(&child), Signal::HUP).expect("a running program");
    };
    change("\"9s\"", "\"8s\"");
    read_until(&mut stderr, "read again: changed: hold");
    change("\"8s\"", "\"soon\"");
    let told = read_until(&mut stderr, "stay as they are");
    assert!(told.contains("proxy.hold"), "{told}");
    kill_process(Pid::from_child(&child), Signal::TERM).expect("a running program");
    assert!(child.wait().expect("its end").success());
}

#[test]
fn a_new_proxy_takes_over_and_the_old_one_ends_in_order() {
    let dir = Dir::make("takeover");
    let settings = format!("proxy.takeover = \"{}\"\n", dir.0.join("takeover").display());
    let output = start(&dir, &settings, &[]).wait_with_output().expect("its end");
    assert_eq!(output.status.code(), Some(2), "an agent would end with the proxy");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("`pgkeel agent` and `pgkeel proxy`"), "{told}");
    let port = free_port();
    let text = format!(
        "cluster = \"shop\"\nproxy.listen = \"127.0.0.1:{port}\"\nproxy.servers = \"127.0.0.1:{}\"\n\
         proxy.pool_mode = \"pooled\"\nproxy.auth = \"trust\"\n{settings}",
        pretended_server()
    );
    std::fs::write(dir.0.join("pgkeel.toml"), text).expect("a configuration file");
    let proxy = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgkeel"));
        command.arg("proxy").arg("-c").arg(dir.0.join("pgkeel.toml")).env_remove("PGKEEL_LOG");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("pgkeel")
    };
    let mut first = proxy();
    let mut log_of_first = BufReader::new(first.stderr.take().expect("standard error"));
    read_until(&mut log_of_first, "listening on");
    while !dir.0.join("takeover").exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let mut client = TcpStream::connect(("127.0.0.1", port)).expect("the proxy");
    say(&mut client, None, b"\0\x03\0\0user\0ann\0\0");
    until_ready(&mut client);
    say(&mut client, Some(b'Q'), b"select 1\0");
    until_ready(&mut client);
    let second = proxy();
    read_until(&mut log_of_first, "another process listens now");
    assert!(first.wait().expect("its end").success(), "its client has gone over, so it ends");
    say(&mut client, Some(b'Q'), b"select 2\0");
    until_ready(&mut client);
    drop(client);
    lines_until(second, "the proxy that ran before has ended");
    assert!(!dir.0.join("takeover").exists());
}

/// One message; the first one of a connection has no kind.
fn say(stream: &mut TcpStream, kind: Option<u8>, body: &[u8]) {
    let len = u32::try_from(body.len() + 4).expect("a short message").to_be_bytes();
    let message: Vec<u8> = kind.into_iter().chain(len).chain(body.iter().copied()).collect();
    stream.write_all(&message).expect("an open connection");
}

/// Reads a message: its kind, and its body.
fn hear(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut header = [0; 5];
    stream.read_exact(&mut header).ok()?;
    let len = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
    let mut body = vec![0; len as usize - 4];
    stream.read_exact(&mut body).ok()?;
    Some((header[0], body))
}

fn until_ready(client: &mut TcpStream) {
    while hear(client).expect("an answer").0 != b'Z' {}
}

/// Something that lets everybody in and has nothing to say to any query; its port.
fn pretended_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut len = [0; 4];
                stream.read_exact(&mut len).expect("a start-up packet");
                let mut rest = vec![0; u32::from_be_bytes(len) as usize - 4];
                stream.read_exact(&mut rest).expect("a start-up packet");
                say(&mut stream, Some(b'R'), &[0; 4]);
                for setting in ["client_encoding\0UTF8\0", "standard_conforming_strings\0on\0"] {
                    say(&mut stream, Some(b'S'), setting.as_bytes());
                }
                say(&mut stream, Some(b'K'), &[1; 8]);
                say(&mut stream, Some(b'Z'), b"I");
                while let Some((b'Q', _)) = hear(&mut stream) {
                    say(&mut stream, Some(b'C'), b"SELECT 0\0");
                    say(&mut stream, Some(b'Z'), b"I");
                }
            });
        }
    });
    port
}

fn check_json(lines: &[String]) {
    assert!(lines.len() >= 4, "{lines:?}");
    for line in lines {
        let event: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert_eq!(event["node"], "n1", "{line}");
        for key in ["time", "level", "message", "target"] {
            assert!(event[key].as_str().is_some_and(|text| !text.is_empty()), "{key}: {line}");
        }
        event["time"].as_str().and_then(|time| time.parse::<jiff::Timestamp>().ok()).expect("a time");
    }
}

#[test]
fn every_line_is_an_object() {
    let dir = Dir::make("flag");
    let lines = lines_until(start(&dir, "", &["--log-format", "json"]), "leads the cluster");
    check_json(&lines);
    assert!(lines.iter().any(|line| line.contains("listening on 127.0.0.1:")), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("SIGTERM: stops in order")), "{lines:?}");
}

#[test]
fn the_file_says_the_format_and_the_flag_overrides_it() {
    let dir = Dir::make("file");
    check_json(&lines_until(start(&dir, "log.format = \"json\"\n", &[]), "leads the cluster"));
    let text =
        lines_until(start(&dir, "log.format = \"json\"\n", &["--log-format", "text"]), "leads the cluster");
    for line in &text {
        let (time, rest) = line.split_once(' ').expect("a time");
        time.parse::<jiff::Timestamp>().expect("a time");
        let (level, message) = rest.split_at_checked(6).expect("a level");
        assert!(["INFO", "WARN", "ERROR"].contains(&level.trim_end()), "{line}");
        assert!(message.starts_with("[n1] "), "{line}");
    }
}

/// Why it does not start is part of the log too.
#[test]
fn errors_before_the_start_are_objects() {
    let dir = Dir::make("wrong");
    let output = start(&dir, "log.fromat = \"json\"\nporxy = 1\n", &["--log-format", "json"]);
    let output = output.wait_with_output().expect("its end");
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).expect("UTF-8");
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert_eq!(events.len(), 2, "{text}");
    assert!(events.iter().all(|event| event["level"] == "error"), "{text}");
    assert!(text.contains("log.fromat: unknown key; did you mean \\\"format\\\"?"), "{text}");
}
