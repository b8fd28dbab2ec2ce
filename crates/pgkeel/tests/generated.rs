//! Completions and manual pages, as the program prints them.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use clap::CommandFactory as _;
use pgkeel::cli::args::Arguments;

fn pgkeel(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_pgkeel")).args(args).output().expect("pgkeel");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Every command that people see, with its path.
fn commands() -> Vec<Vec<String>> {
    let mut all = Vec::new();
    let mut open = vec![(Vec::new(), Arguments::command())];
    while let Some((path, command)) = open.pop() {
        for part in command.get_subcommands().filter(|part| !part.is_hide_set()) {
            let path: Vec<String> = path.iter().cloned().chain([part.get_name().to_owned()]).collect();
            all.push(path.clone());
            open.push((path, part.clone()));
        }
    }
    assert!(all.len() > 20, "{all:?}");
    all
}

/// Feeds `text` to a program that may be missing here.
fn feed(program: &str, args: &[&str], text: &str) -> Option<Output> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return None,
        Err(e) => panic!("{program}: {e}"),
    };
    let mut stdin = child.stdin.take().expect("standard input");
    let text = text.to_owned();
    let writing = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().expect("its end");
    writing.join().expect("a thread").expect("a reader");
    Some(output)
}

#[test]
fn completions_have_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let script = pgkeel(&["completions", shell]);
        for path in commands() {
            let verb = path.last().expect("a name");
            let word = |c: char| c.is_ascii_alphanumeric() || c == '-';
            assert!(script.split(|c| !word(c)).any(|found| found == verb), "{shell} lacks {path:?}");
        }
        assert!(script.contains("--accept-loss") || script.contains("-l accept-loss"), "{shell}");
    }
}

#[test]
fn the_shells_accept_them() {
    for shell in ["bash", "zsh", "fish"] {
        let script = pgkeel(&["completions", shell]);
        if let Some(output) = feed(shell, &["-n"], &script) {
            assert!(output.status.success(), "{shell}: {}", String::from_utf8_lossy(&output.stderr));
        } else {
            assert_ne!(shell, "bash", "bash is needed by these tests");
        }
    }
}

/// As bash itself would ask: what can follow `pgkeel switchover --`?
#[test]
fn bash_completes_with_them() {
    let ask = "COMP_WORDS=(pgkeel switchover --); COMP_CWORD=2; _pgkeel pgkeel -- switchover; echo \"${COMPREPLY[@]}\"";
    let text = format!("{}\n{ask}\n", pgkeel(&["completions", "bash"]));
    let output = feed("bash", &["--norc", "-s"], &text).expect("bash");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    for option in ["--to", "--at", "--yes", "--list", "--cancel", "--json"] {
        assert!(said.split_whitespace().any(|word| word == option), "{option}: {said:?}");
    }
}

fn check_page(page: &str, name: &str) {
    let header = page.lines().find(|line| line.starts_with(".TH")).unwrap_or_default();
    assert!(header.starts_with(&format!(".TH {name} 1")), "{name}: {header:?}");
    for section in [".SH NAME", ".SH SYNOPSIS", ".SH DESCRIPTION", ".SH OPTIONS"] {
        assert!(page.lines().any(|line| line == section), "{name} has no {section}");
    }
    if let Some(output) = feed("groff", &["-man", "-Tutf8", "-ww"], page) {
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{name}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn every_command_has_a_page() {
    let dir = std::env::temp_dir().join(format!("pgkeel-man-{}", std::process::id()));
    let said = pgkeel(&["man", "--dir", &dir.display().to_string()]);
    let read = |name: &str| {
        std::fs::read_to_string(dir.join(format!("{name}.1"))).unwrap_or_else(|e| panic!("{name}: {e}"))
    };
    let names: Vec<String> = commands().iter().map(|path| format!("pgkeel-{}", path.join("-"))).collect();
    for name in &names {
        check_page(&read(name), name);
    }
    let main = read("pgkeel");
    check_page(&main, "pgkeel");
    // A page cannot have a plain "-": roff would break lines there.
    for name in names.iter().filter(|name| name.matches('-').count() == 1) {
        let verb = name.trim_start_matches("pgkeel-");
        assert!(main.contains(verb), "pgkeel(1) does not name {verb}");
    }
    assert!(said.starts_with(&format!("{} pages", names.len() + 1)), "{said}");
    assert_eq!(std::fs::read_dir(&dir).expect("the directory").count(), names.len() + 1);
    assert!(!main.contains("guard-exec") && !main.contains("guard\\-exec"), "hidden commands stay hidden");
    assert_eq!(main, pgkeel(&["man"]), "the page that is printed is the same");
    std::fs::remove_dir_all(&dir).expect("remove");
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let not_a_dir = Path::new("/dev/null/man");
    let output = Command::new(env!("CARGO_BIN_EXE_pgkeel"))
        .arg("man")
        .arg("--dir")
        .arg(not_a_dir)
        .output()
        .expect("pgkeel");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("/dev/null/man cannot be written") && said.contains("--dir"), "{said}");
}
