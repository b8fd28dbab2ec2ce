//! Real commands. Times are limits that only a broken runner reaches.

use super::super::notice::Role;
use super::*;
use std::path::PathBuf;

const LONG: Duration = Duration::from_secs(60);

fn job(command: &str) -> Job {
    Job {
        hook: Hook::Failover,
        epoch: 3,
        command: command.to_owned(),
        environment: vec![("PGKEEL_EVENT".to_owned(), "fail over".to_owned())],
    }
}

struct Dir(PathBuf);

impl Dir {
    fn make(name: &str) -> Dir {
        let path = std::env::temp_dir().join(format!("pgkeel-hooks-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Dir(path)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.join(name)).unwrap_or_default()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn code(ended: &Ended) -> Option<i32> {
    match &ended.how {
        How::Exited(status) => status.code(),
        How::TookTooLong | How::NotStarted(_) => None,
    }
}

#[tokio::test]
async fn both_outputs_come_in_order_with_the_code() {
    let ended = execute(&job("echo out; echo \"$PGKEEL_EVENT\" >&2; echo more; exit 3"), LONG).await;
    assert_eq!((code(&ended), ended.output.as_str()), (Some(3), "out\nfail over\nmore"));
}

#[tokio::test]
async fn output_is_bounded_and_read_to_its_end() {
    let ended = execute(&job("head -c 1000000 /dev/zero | tr '\\0' x; echo the end"), LONG).await;
    assert_eq!(code(&ended), Some(0), "{:?}", ended.how);
    assert!(
        ended.output.ends_with("xthe end") && ended.output.starts_with("(995912 bytes before) x"),
        "{}",
        ended.output
    );
    assert!(ended.output.len() < OUTPUT_BYTES_MAX + 100);
}

/// Whatever it started in its group dies with it.
#[tokio::test]
async fn the_whole_group_is_killed_when_its_time_is_up() {
    let dir = Dir::make("group");
    let file = dir.0.join("alive");
    let text =
        format!("echo begun; (while :; do echo x >> {}; sleep 0.02; done) & sleep 600", file.display());
    let ended = execute(&job(&text), Duration::from_millis(700)).await;
    assert!(matches!(ended.how, How::TookTooLong), "{:?}", ended.how);
    assert_eq!(ended.output, "begun");
    // It was killed: what was on its way to the file has arrived a moment later, and then nothing comes any more.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = dir.read("alive");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(before, dir.read("alive"));
}

/// A command that leaves something in the background holds nobody up.
#[tokio::test]
async fn what_is_left_in_the_background_is_not_waited_for() {
    let ended = execute(&job("echo done; sleep 5 & exit 0"), LONG).await;
    assert_eq!((code(&ended), ended.output.as_str()), (Some(0), "done"));
}

fn happened() -> Happened {
    Happened::Role { from: Role::None, to: Role::Standby }
}

#[tokio::test]
async fn they_run_in_order_and_the_surplus_is_dropped() {
    let dir = Dir::make("order");
    let file = dir.0.join("told");
    let gate = dir.0.join("gate");
    let command = format!(
        "while [ ! -e {} ]; do sleep 0.02; done; echo \"$PGKEEL_EPOCH $PGKEEL_ROLE %%\" >> {}",
        gate.display(),
        file.display()
    );
    let runner = Runner::start(Hooks { on_role_change: Some(command), timeout: LONG, ..Hooks::default() });
    let me: NodeName = "n1".parse().unwrap();
    let all = WAITING_MAX as u64 + 10;
    for epoch in 1..=all {
        // None of them waits, though none can end.
        runner.tell(&happened(), &State { epoch, ..State::default() }, &me);
    }
    // A hook without a command is none.
    runner.tell(&Happened::Up(me.clone()), &State::default(), &me);
    std::fs::write(&gate, "").unwrap();
    runner.finish().await;
    let told = dir.read("told");
    let epochs: Vec<u64> =
        told.lines().map(|l| l.strip_suffix(" standby %").unwrap().parse().unwrap()).collect();
    // One may have begun before the queue was full.
    assert!((WAITING_MAX..=WAITING_MAX + 1).contains(&epochs.len()), "{epochs:?}");
    assert_eq!(epochs, (1..=epochs.len() as u64).collect::<Vec<_>>());
}

#[tokio::test]
async fn who_is_at_work_is_counted_until_it_has_ended() {
    let dir = Dir::make("at-work");
    let left = Arc::new(AtomicUsize::new(2));
    let (jobs, inbox) = mpsc::channel(2);
    let go = dir.0.join("go");
    jobs.try_send(job(&format!("until [ -e {} ]; do sleep 0.02; done", go.display()))).unwrap();
    jobs.try_send(job("exit 3")).unwrap();
    let running = tokio::spawn(run_each(inbox, LONG, Arc::clone(&left)));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(left.load(Ordering::Relaxed), 2);
    std::fs::write(go, "").unwrap();
    drop(jobs);
    running.await.unwrap();
    assert_eq!(left.load(Ordering::Relaxed), 0);
}
