//! The guard's socket in hostile hands, and starts that must fail.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use agent::clock::boottime_ms;
use agent::guard::{EndCode, GuardError, GuardEvent, GuardHandle};

use crate::support::{Dir, event, guard_of, start, status_field};

/// Sends `bytes`, then reads until the guard closes the connection.
fn say(dir: &Dir, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(dir.socket()).expect("the guard listens");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a valid time");
    stream.set_write_timeout(Some(Duration::from_secs(5))).expect("a valid time");
    if let Err(error) = stream.write_all(bytes) {
        let closed = matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset);
        assert!(closed, "the guard neither reads nor closes: {error}");
    }
    let mut heard = Vec::new();
    if let Err(error) = stream.read_to_end(&mut heard) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "the guard does not close: {error}");
    }
    String::from_utf8(heard).expect("the guard speaks text")
}

#[tokio::test]
async fn garbage_is_refused_and_bounded() {
    let dir = Dir::new();
    let (handle, mut events) = start(dir.shell("sleep 1000; :")).await;
    let guard = guard_of(&handle);
    let before_kib = status_field(guard, "VmRSS");

    let mode = fs::metadata(dir.socket()).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let greeting = format!("running {} none\n", handle.pid());
    assert_eq!(say(&dir, b"frobnicate\n"), format!("{greeting}error not understood: \"frobnicate\"\n"));
    assert_eq!(say(&dir, b"\xff\xfe\n"), format!("{greeting}error a line is not text\n"));
    assert_eq!(
        say(&dir, b"GET / HTTP/1.1\r\n"),
        format!("{greeting}error not understood: \"GET / HTTP/1.1?\"\n")
    );
    let endless = vec![b'a'; 8 << 20];
    assert_eq!(say(&dir, &endless), format!("{greeting}error a line is longer than 256 bytes\n"));
    let unread = b"status\n".repeat(1 << 18);
    say(&dir, &[unread.as_slice(), b"x\n"].concat());

    let after_kib = status_field(guard, "VmRSS");
    println!("guard: {before_kib} KiB resident before the garbage, {after_kib} KiB after");
    assert!(after_kib < before_kib + 512, "{before_kib} KiB, then {after_kib} KiB");
    handle.kill().await.expect("the real agent is still heard");
    assert_eq!(event(&mut events).await, GuardEvent::Ended { code: EndCode::Signal(9), fenced: false });
}

#[tokio::test]
async fn a_crowd_does_not_shut_out_the_next_agent() {
    let dir = Dir::new();
    let (_first, mut first_events) = start(dir.shell("sleep 1000; :")).await;
    let crowd: Vec<UnixStream> =
        (0..40).map(|_| UnixStream::connect(dir.socket()).expect("the guard listens")).collect();
    let (handle, mut events) = GuardHandle::attach(&dir.socket()).await.expect("works").expect("lives");
    assert_eq!(event(&mut first_events).await, GuardEvent::Lost);
    handle.set_deadline(Some(0)).await.expect("accepted");
    assert_eq!(event(&mut events).await, GuardEvent::Ended { code: EndCode::Signal(9), fenced: true });
    drop(crowd);
}

#[tokio::test]
async fn commands_in_pieces_and_in_heaps_are_understood() {
    let dir = Dir::new();
    let (handle, mut events) = start(dir.shell("sleep 1000; :")).await;
    let mut stream = UnixStream::connect(dir.socket()).expect("the guard listens");
    for piece in ["dead", "line 99999999999", "\nstatus\nkill", "\n"] {
        stream.write_all(piece.as_bytes()).expect("the guard listens");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    event(&mut events).await;
    let mut heard = String::new();
    stream.read_to_string(&mut heard).expect("the guard closes");
    let pid = handle.pid();
    let expected =
        format!("running {pid} none\nok\nrunning {pid} 99999999999\nok\nok\nended signal:9 unfenced\n");
    assert_eq!(heard, expected);
}

#[tokio::test]
async fn a_second_guard_is_refused() {
    let dir = Dir::new();
    let (handle, mut events) = start(dir.shell("sleep 1000; :")).await;
    let refused = GuardHandle::start(dir.shell("sleep 1000; :")).await;
    assert!(matches!(refused, Err(GuardError::AlreadyRunning { pid, .. }) if pid == handle.pid()));
    handle.kill().await.expect("accepted");
    event(&mut events).await;
}

#[tokio::test]
async fn a_start_that_fails_says_why() {
    let dir = Dir::new();
    let mut options = dir.shell(":");
    options.user = Some("no-such-user-here".to_string());
    let message = GuardHandle::start(options).await.expect_err("no such user").to_string();
    assert!(message.contains("there is no operating-system user \"no-such-user-here\""), "{message}");

    let mut options = dir.shell(":");
    options.deadline_ms = Some(boottime_ms());
    let message = GuardHandle::start(options).await.expect_err("too late").to_string();
    assert!(message.contains("its deadline has already passed"), "{message}");

    let mut options = dir.shell(":");
    options.log = dir.0.join("missing/log");
    let message = GuardHandle::start(options).await.expect_err("no log").to_string();
    assert!(message.contains("missing/log"), "{message}");

    fs::write(dir.socket(), "precious").expect("the directory can be written");
    let message = GuardHandle::start(dir.shell(":")).await.expect_err("not a socket").to_string();
    assert!(message.contains("a file that is not a socket"), "{message}");
    assert_eq!(fs::read_to_string(dir.socket()).ok().as_deref(), Some("precious"));
    assert!(dir.processes().is_empty(), "{:?}", dir.processes());
}

#[tokio::test]
async fn a_program_that_is_not_there_is_an_end() {
    let dir = Dir::new();
    match GuardHandle::start(dir.options("/no/such/postgres", &[])).await {
        Ok((_, mut events)) => {
            let expected = GuardEvent::Ended { code: EndCode::Exit(127), fenced: false };
            assert_eq!(event(&mut events).await, expected);
        }
        // It ended before this side could connect.
        Err(error) => assert!(matches!(error, GuardError::NotStarted { .. }), "{error}"),
    }
    let log = dir.log();
    assert!(log.contains("cannot start /no/such/postgres: No such file or directory"), "{log}");
}
