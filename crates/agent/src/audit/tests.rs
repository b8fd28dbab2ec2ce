#![allow(clippy::unwrap_used)]
use super::*;
use std::path::PathBuf;

struct Dir(PathBuf);

impl Dir {
    fn make(test: &str) -> Dir {
        let dir = std::env::temp_dir().join(format!("pgkeel-audit-{test}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        Dir(dir)
    }

    fn audit(&self) -> Audit {
        Audit::open(&self.0, "n1".parse().unwrap())
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn wish(who: &str, known: Known, what: &str) -> Wish {
    let from = "192.0.2.7".parse().unwrap();
    Wish {
        who: who.to_owned(),
        known,
        says: Some("root@db1".to_owned()),
        from,
        what: what.to_owned(),
        routine: false,
    }
}

fn told(entries: &[Entry]) -> Vec<String> {
    entries.iter().map(words::line).collect()
}

#[tokio::test]
async fn what_was_done_is_told_again_by_the_next_process() {
    let dir = Dir::make("again");
    let audit = dir.audit();
    audit.begin(wish("operator bob", Known::Yes, "switchover to n2")).ended(Verdict::Done, "as 1f2e");
    audit.begin(wish("operator bob", Known::Yes, "try of: pause")).was_only_tried();
    drop(audit.begin(wish("admin eve", Known::Yes, "pause")));
    let lines = [
        "operator bob (root@db1) from 192.0.2.7: switchover to n2: done, as 1f2e",
        "admin eve (root@db1) from 192.0.2.7: pause: not known: the connection ended before the answer",
    ];
    assert_eq!(told(&audit.tell(10).await.unwrap()), lines);
    let again = dir.audit();
    assert_eq!(told(&again.tell(10).await.unwrap()), lines);
    assert_eq!(told(&again.tell(1).await.unwrap()), lines[1..]);
}

/// However many knock, and whatever they call themselves.
#[tokio::test]
async fn strangers_push_out_neither_orders_nor_what_was_refused_to_others() {
    let dir = Dir::make("flood");
    let mut clerk = Clerk::at(&dir.0, "n1".parse().unwrap());
    clerk.note(wish("operator bob", Known::Yes, "pause"), Verdict::Done, "", 1);
    clerk.note(wish("viewer alice", Known::Yes, "pause"), Verdict::Refused, "a viewer", 2);
    for n in 0..50_000_u64 {
        let who = format!("invitation {n}");
        let from = IpAddr::from([10, (n % 7) as u8, 0, (n % 250) as u8]);
        let wish = Wish { from, ..wish(&who, Known::No, &format!("join as n{n}")) };
        clerk.note(wish, Verdict::Refused, "there is no such invitation", n);
    }
    let size = std::fs::metadata(dir.0.join("strangers.jsonl")).unwrap().len();
    assert!(size < 300_000, "{size} bytes of strangers");
    let all = clerk.tell(TOLD_MAX).unwrap();
    assert_eq!(all.iter().filter(|it| it.who == "operator bob" || it.who == "viewer alice").count(), 2);
    let strangers: u64 = all
        .iter()
        .filter(|it| it.what.starts_with("join") || it.what == "other requests")
        .map(|it| it.times)
        .sum();
    assert_eq!(strangers, 50_000, "each is counted");
}

#[tokio::test]
async fn what_is_counted_is_written_before_the_process_goes() {
    let dir = Dir::make("close");
    let audit = dir.audit();
    for _ in 0..7 {
        audit.ended(wish("viewer alice", Known::Yes, "pause"), Verdict::Refused, "a viewer");
    }
    let times = |entries: Vec<Entry>| entries.iter().map(|it| it.times).collect::<Vec<_>>();
    assert_eq!(times(audit.tell(10).await.unwrap()), [7], "as long as it runs");
    assert_eq!(times(dir.audit().tell(10).await.unwrap()), [1], "what is on the disk");
    audit.close().await;
    assert_eq!(times(dir.audit().tell(10).await.unwrap()), [7]);
}

#[tokio::test]
async fn an_agent_whose_disk_takes_nothing_goes_on() {
    let dir = Dir::make("full");
    std::fs::write(&dir.0, "a file in the place of the directory").unwrap();
    let audit = dir.audit();
    audit.begin(wish("operator bob", Known::Yes, "pause")).ended(Verdict::Done, "");
    assert!(audit.tell(10).await.unwrap_err().contains("cannot be read"));
    std::fs::remove_file(&dir.0).unwrap();
    audit.begin(wish("operator bob", Known::Yes, "resume")).ended(Verdict::Done, "");
    assert_eq!(audit.tell(10).await.unwrap().len(), 1);
}
