//! Transcripts: each file under `tests/scenarios` is a script (lines that begin with `>`) and, after each line of it, what
//! the code came to: decisions recorded, waits, the step of each node, the view. `BLESS=1 cargo test -p cluster --test
//! scenarios` writes what the code says today; the reviewer reads the difference.
#![allow(clippy::disallowed_methods, reason = "the transcripts are files")]
#![allow(clippy::unwrap_used, reason = "a test ends where something is wrong")]

#[path = "scenarios/asked.rs"]
mod asked;
#[path = "scenarios/story.rs"]
mod story;
#[path = "scenarios/upkeep.rs"]
mod upkeep;
#[path = "scenarios/words.rs"]
mod words;

use std::fmt::Write;
use std::path::Path;

#[test]
fn transcripts() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut files: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "txt"));
    files.sort();
    assert!(!files.is_empty(), "no transcripts in {}", dir.display());
    let mut complaints = String::new();
    for path in files {
        let written = std::fs::read_to_string(&path).unwrap();
        let told = retell(&written);
        if told == written {
            continue;
        }
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&path, told).unwrap();
        } else {
            write!(complaints, "\n{}:\n{}", path.display(), difference(&written, &told)).unwrap();
        }
    }
    assert!(
        complaints.is_empty(),
        "{complaints}\nif the new words are right: BLESS=1 cargo test -p cluster --test scenarios"
    );
}

/// Not left to a transcript, which can be written anew without being read.
#[test]
fn a_healthy_cluster_is_ready_to_lose_its_primary() {
    for mode in ["quorum 1", "async 1000"] {
        let script = format!(
            "> cluster {mode}: n1 n2 n3\n> n1 has served up to 1/500\n> n2 leads\n> n1 streams to n2 1/500, n3 1/500\n\
             > 2000 ms\n> readiness\n> what if n1 down\n> what if switchover\n"
        );
        let told = retell(&script);
        assert!(told.contains("says: green"), "{told}");
        let (down, switchover) = told.split_once("> what if switchover").unwrap();
        for answer in [down, switchover] {
            assert!(answer.contains("n2 would become primary instead of n1"), "{told}");
        }
    }
}

/// Plays the script of a transcript; comments and empty lines stay as they are.
fn retell(written: &str) -> String {
    let mut story = story::Story::default();
    let mut told = String::new();
    for line in written.lines() {
        if line.starts_with('#') || line.is_empty() {
            writeln!(told, "{line}").unwrap();
        } else if let Some(input) = line.strip_prefix("> ") {
            writeln!(told, "{line}").unwrap();
            for output in story.play(input) {
                writeln!(told, "    {output}").unwrap();
            }
        }
    }
    told
}

/// The first lines that differ, with what stands around them.
fn difference(written: &str, told: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (written.lines().collect(), told.lines().collect());
    let same = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let same_end = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
    let same_end = same_end.min(old.len().min(new.len()) - same);
    let mut text = String::new();
    for line in &old[same.saturating_sub(4)..same] {
        writeln!(text, "  {line}").unwrap();
    }
    for line in &old[same..old.len() - same_end] {
        writeln!(text, "- {line}").unwrap();
    }
    for line in &new[same..new.len() - same_end] {
        writeln!(text, "+ {line}").unwrap();
    }
    text
}
