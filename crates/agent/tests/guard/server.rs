//! The server's life under the guard: killed, fenced, stopped, left alone by its agent or by its guard.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use agent::clock::boottime_ms;
use agent::guard::{EndCode, GuardError, GuardEvent, GuardHandle, StopMode};

use crate::support::{Dir, event, guard_of, is_alive, kill_dash_9, start, status_field, stub, until};

/// Six processes, four of them out of reach of a signal to the server's process group or session.
const TREE: &str = r#"
    setsid sh -c 'sh -c "sleep 1000 & wait" "$0" & wait' "$0" &
    (setsid sh -c 'while :; do sleep 1000; done' "$0" &)
    sh -c 'sleep 1000; :' "$0" &
    while :; do sleep 1000; done
"#;

async fn tree(dir: &Dir) {
    until("the tree has grown", || dir.processes().len() == 5).await;
}

fn killed(fenced: bool) -> GuardEvent {
    GuardEvent::Ended { code: EndCode::Signal(9), fenced }
}

#[tokio::test]
async fn a_killed_server_is_reported_after_its_last_process_is_gone() {
    let dir = Dir::new();
    let (handle, mut events) = start(dir.shell(TREE)).await;
    tree(&dir).await;
    let guard = guard_of(&handle);
    let begin = Instant::now();
    kill_dash_9(handle.pid());
    assert_eq!(event(&mut events).await, killed(false));
    let took = begin.elapsed();
    assert!(dir.processes().is_empty(), "{:?}", dir.processes());
    println!("kill -9 of a tree of processes: reported after {took:?}");
    assert!(!dir.socket().exists(), "the socket goes before the last word");
    until("the guard has gone and is no zombie", || !fs::exists(format!("/proc/{guard}")).unwrap_or(true))
        .await;
    assert!(dir.log().contains("no process of the server is left: ended signal:9 unfenced"), "{}", dir.log());
    assert!(matches!(handle.set_deadline(None).await, Err(GuardError::Gone)));
}

#[tokio::test]
async fn a_passed_deadline_fences() {
    let dir = Dir::new();
    let (handle, mut events) = start(dir.shell(TREE)).await;
    tree(&dir).await;
    handle.set_deadline(Some(boottime_ms() + 60_000)).await.expect("accepted");
    let deadline_ms = boottime_ms() + 200;
    handle.set_deadline(Some(deadline_ms)).await.expect("accepted");
    until("nearly there", || boottime_ms() >= deadline_ms - 20).await;
    assert!(is_alive(handle.pid()), "not before the deadline");
    assert_eq!(event(&mut events).await, killed(true));
    println!("deadline: the last process was gone {} ms after it", boottime_ms() - deadline_ms);
    assert!(dir.processes().is_empty(), "{:?}", dir.processes());
}

#[tokio::test]
async fn a_deadline_fences_with_no_agent_there() {
    let dir = Dir::new();
    let mut options = dir.shell(TREE);
    options.deadline_ms = Some(boottime_ms() + 400);
    let (handle, events) = start(options).await;
    let pid = handle.pid();
    drop((handle, events));
    let took =
        until("the guard has killed the server", || !is_alive(pid) && dir.processes().is_empty()).await;
    assert!(took > Duration::from_millis(100), "{took:?}");
}

#[tokio::test]
async fn a_deadline_in_the_past_kills_at_once() {
    for past_ms in [0, boottime_ms()] {
        let dir = Dir::new();
        let (handle, mut events) = start(dir.shell("sleep 1000; :")).await;
        handle.set_deadline(Some(past_ms)).await.expect("accepted");
        assert_eq!(event(&mut events).await, killed(true));
    }
}

#[tokio::test]
async fn without_a_deadline_the_server_runs_on() {
    let dir = Dir::new();
    let (handle, mut events) = start(dir.shell("sleep 1000; :")).await;
    handle.set_deadline(Some(boottime_ms() + 150)).await.expect("accepted");
    handle.set_deadline(None).await.expect("accepted");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(is_alive(handle.pid()));
    handle.kill().await.expect("accepted");
    assert_eq!(event(&mut events).await, killed(false));
}

#[tokio::test]
async fn stop_and_reload_are_signals_to_the_server() {
    let script = r#"
        trap 'exit 3' INT; trap 'exit 4' QUIT; trap 'exit 0' TERM; trap 'echo again > "$0/reloaded"' HUP
        echo up > "$0/up"
        while :; do sleep 0.01; done
    "#;
    for (mode, status) in [(StopMode::Fast, 3), (StopMode::Immediate, 4), (StopMode::Smart, 0)] {
        let dir = Dir::new();
        let (handle, mut events) = start(dir.shell(script)).await;
        until("the script is up", || dir.0.join("up").exists()).await;
        handle.reload().await.expect("accepted");
        until("the script has reloaded", || dir.0.join("reloaded").exists()).await;
        handle.stop(mode).await.expect("accepted");
        let expected = GuardEvent::Ended { code: EndCode::Exit(status), fenced: false };
        assert_eq!(event(&mut events).await, expected);
    }
}

#[tokio::test]
async fn an_agent_attaches_again() {
    let dir = Dir::new();
    assert!(GuardHandle::attach(&dir.socket()).await.expect("nobody there").is_none());
    let (first, first_events) = start(dir.shell(TREE)).await;
    let deadline_ms = boottime_ms() + 60_000;
    first.set_deadline(Some(deadline_ms)).await.expect("accepted");
    let pid = first.pid();
    drop((first, first_events));

    let (second, mut second_events) =
        GuardHandle::attach(&dir.socket()).await.expect("works").expect("lives");
    let (third, mut third_events) = GuardHandle::attach(&dir.socket()).await.expect("works").expect("lives");
    assert_eq!((second.pid(), second.deadline_at_attach_ms()), (pid, Some(deadline_ms)));
    third.set_deadline(None).await.expect("accepted");
    second.kill().await.expect("accepted");
    assert_eq!(event(&mut second_events).await, killed(false));
    assert_eq!(event(&mut third_events).await, killed(false));
    assert!(GuardHandle::attach(&dir.socket()).await.expect("nobody there").is_none());
}

#[tokio::test]
async fn the_guard_outlives_the_process_that_started_it() {
    let dir = Dir::new();
    let script = r#""$1" guard --socket "$0/guard.sock" --log "$0/log" -- sh -c 'sleep 1000; :' "$0" >/dev/null 2>&1 & echo $$"#;
    let starter = Command::new("sh").args(["-c", script]).arg(&dir.0).arg(stub()).output().expect("sh runs");
    let starter: u32 = String::from_utf8_lossy(&starter.stdout).trim().parse().expect("a process id");
    assert!(!is_alive(starter));
    until("the guard listens", || dir.socket().exists()).await;
    let (handle, mut events) = GuardHandle::attach(&dir.socket()).await.expect("works").expect("lives");
    let guard = guard_of(&handle);
    assert_ne!(status_field(guard, "PPid"), starter);
    println!("guard: {} KiB resident", status_field(guard, "VmRSS"));
    handle.kill().await.expect("accepted");
    assert_eq!(event(&mut events).await, killed(false));
}

#[tokio::test]
async fn a_killed_guard_takes_the_server_along() {
    let dir = Dir::new();
    let (handle, mut events) = start(dir.shell("while :; do sleep 1; done")).await;
    until("the stub has become the server", || dir.processes() == [handle.pid()]).await;
    // The shell's own `sleep` is nobody's business after that; it ends by itself.
    until("the stub has gone", || status_name(handle.pid()) == "sh").await;
    kill_dash_9(guard_of(&handle));
    assert_eq!(event(&mut events).await, GuardEvent::Lost);
    let took = until("the server is gone", || !is_alive(handle.pid())).await;
    println!("kill -9 of the guard: the server was gone after {took:?}");
    assert!(dir.socket().exists(), "nobody could remove it");
    assert!(GuardHandle::attach(&dir.socket()).await.expect("nobody there").is_none());
    assert!(!dir.socket().exists(), "attaching removes it");
}

fn status_name(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_string()
}

#[tokio::test]
async fn a_stopped_guard_is_a_timeout_and_not_an_answer() {
    let dir = Dir::new();
    let (handle, mut events) = start(dir.shell("sleep 1000; :")).await;
    let guard = guard_of(&handle).to_string();
    let signal = |name: &str| {
        // The shell's own `kill`: the program is not on every host.
        Command::new("sh").args(["-c", "kill \"$0\" \"$1\"", name, &guard]).status().expect("sh runs")
    };
    signal("-STOP");
    assert!(matches!(handle.set_deadline(None).await, Err(GuardError::Timeout { .. })));
    signal("-CONT");
    // The late answer belongs to the command that was given up; this one gets its own.
    handle.set_deadline(Some(0)).await.expect("accepted");
    assert_eq!(event(&mut events).await, killed(true));
}
