//! Every wrong configuration file with its exact message, and what right ones become.
//!
//! The files and what is said about them are transcripts in tests/config/*.txt: a title after "==", the file, a line
//! "--", the answer. `make bless` writes the answers anew; read the diff.

use std::path::{Path, PathBuf};

use pgkeel::cli::config::summary;
use pgkeel::config::parse;

/// Stands for a host on which no server programs can be found.
fn no_programs() -> Result<PathBuf, String> {
    Err("several PostgreSQL versions are installed (/a/15/bin, /a/17/bin); say which one by postgres.bin_dir"
        .to_owned())
}

/// What is said about one file: its errors, or its summary with warnings.
fn answer(text: &str) -> String {
    match parse("pgkeel.toml", text, no_programs) {
        Ok(config) => format!("ok\n{}", summary(&config)),
        Err(errors) => {
            assert!(!errors.is_empty(), "refused without a reason:\n{text}");
            errors.iter().map(|error| format!("{error}\n")).collect()
        }
    }
}

/// Runs every case of a transcript and returns it with the answers as they are now.
fn replay(transcript: &str) -> String {
    let mut fresh = String::new();
    for case in transcript.split("\n== ") {
        let (title, rest) = case.trim_start_matches("== ").split_once('\n').expect("a title line");
        let file = rest.split("\n--\n").next().expect("the file").trim_end_matches("\n--");
        if !fresh.is_empty() {
            fresh.push('\n');
        }
        fresh.push_str(&format!("== {title}\n{file}\n--\n{}", answer(&format!("{file}\n"))));
    }
    fresh
}

fn check_transcript(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config").join(name);
    let recorded = std::fs::read_to_string(&path).expect("the transcript");
    let fresh = replay(&recorded);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &fresh).expect("write the transcript");
        return;
    }
    for (line, (was, is)) in recorded.lines().zip(fresh.lines()).enumerate() {
        assert_eq!(is, was, "{name}:{}: the answer changed; if it is better, run make bless", line + 1);
    }
    assert_eq!(fresh, recorded, "{name}: the answers changed; if they are better, run make bless");
}

#[test]
fn wrong_files_get_these_answers() {
    check_transcript("wrong.txt");
}

#[test]
fn impossible_combinations_get_these_answers() {
    check_transcript("combinations.txt");
}

#[test]
fn right_files_become_this() {
    check_transcript("right.txt");
}

/// Whatever the bytes, there is an answer and no panic: cut a full file at every byte, and break every byte.
#[test]
fn broken_files_never_panic() {
    let full = include_str!("config/full.toml");
    assert!(answer(full).starts_with("ok\n"), "{}", answer(full));
    for cut in 0..full.len() {
        let _ = parse("f", &full[..cut], no_programs);
        for broken in ["\"", "[", "=", "\u{0}", "é", "9"] {
            let text = format!("{}{broken}{}", &full[..cut], &full[cut + 1..]);
            let _ = parse("f", &text, no_programs);
        }
    }
}

/// Everything in the full file arrives where it belongs.
#[test]
fn a_full_file_is_read_to_the_last_key() {
    let config = parse("f", include_str!("config/full.toml"), no_programs).expect("a right file");
    let agent = config.agent.expect("a node");
    assert_eq!(
        (config.cluster.as_str(), agent.node.as_str(), agent.listen.as_str()),
        ("shop", "n1", "10.0.0.1:7400")
    );
    let quorum = agent::settings::Replication::Quorum {
        sync_standbys: 1,
        degrade: cluster::state::Degrade::Available,
    };
    assert_eq!(agent.replication, quorum);
    assert_eq!((agent.detect.as_millis(), agent.drift_ppm), (1_500, 20_000));
    for hook in agent::hooks::Hook::ALL {
        assert!(agent.hooks.command(hook).is_some_and(|c| c.contains("pgkeel")), "{hook}");
    }
    assert_eq!(agent.hooks.timeout.as_secs(), 60);
    let postgres = agent.postgres.expect("a server");
    assert_eq!(
        (postgres.host.as_str(), postgres.port, postgres.listen_addresses.as_str()),
        ("10.0.0.1", 5432, "*")
    );
    assert_eq!(postgres.hba, Some(vec!["host all all 10.0.0.0/8 scram-sha-256".to_owned()]));
    let settings: Vec<(&str, &str)> =
        postgres.settings.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(
        settings,
        [
            ("checkpoint_completion_target", "0.9"),
            ("jit", "off"),
            ("max_connections", "200"),
            ("pg_stat_statements.max", "5000"),
            ("shared_buffers", "1GB"),
        ]
    );
    assert_eq!(config.log_format, Some(pgkeel::log::LogFormat::Json));
    let proxy = config.proxy.expect("a proxy");
    assert_eq!(proxy.listen, ["0.0.0.0:6432".parse().expect("an address")]);
    assert_eq!((proxy.agents.len(), proxy.hold.as_secs()), (3, 30));
}

/// Every file that the docs show is a right one.
#[test]
fn files_in_the_docs_are_right() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for page in ["README.md", "docs/configuration.md"] {
        let text = std::fs::read_to_string(root.join(page)).expect("a page");
        let examples: Vec<&str> =
            text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
        assert!(!examples.is_empty(), "{page} shows no file");
        for example in examples {
            let found = parse(page, example, || Ok(PathBuf::from("/usr/lib/postgresql/15/bin")));
            assert!(found.is_ok(), "{page}: {found:?}");
        }
    }
}
