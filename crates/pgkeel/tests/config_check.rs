//! `pgkeel config check` against this host: what it says about programs, users and directories that do not fit.

use std::fs;
use std::path::{Path, PathBuf};

use agent::settings::find_bin_dir;
use pgkeel::cli::config::{Verdict, judge};

/// A directory of one test, removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("pgkeel-config-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("a scratch directory");
        Scratch(dir)
    }

    /// Checks a file of three nodes whose `[postgres]` has these lines.
    fn judge(&self, postgres: &str) -> Verdict {
        let file = self.0.join("pgkeel.toml");
        let text = format!(
            "cluster = \"shop\"\n[node]\nname = \"n1\"\ndir = \"{0}/agent\"\n[members]\nn1 = \"10.0.0.1:7400\"\n\
             n2 = \"10.0.0.2:7400\"\nn3 = \"10.0.0.3:7400\"\n[postgres]\n{postgres}\n",
            self.0.display()
        );
        fs::write(&file, text).expect("write the file");
        judge(&file)
    }

    /// What is wrong, without the name of the scratch directory.
    fn complaint(&self, postgres: &str) -> String {
        let verdict = self.judge(postgres);
        assert_eq!((verdict.exit_code, verdict.out.as_str()), (1, ""), "{}", verdict.err);
        verdict.err.replace(&self.0.display().to_string(), "TMP")
    }

    fn data(&self) -> String {
        format!("data_dir = \"{}/data\"", self.0.display())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn bin_dir() -> String {
    find_bin_dir().expect("PostgreSQL on the test machine").display().to_string()
}

fn am_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn a_right_file_says_what_would_run() {
    let scratch = Scratch::new("right");
    let verdict = scratch.judge(&format!("{}\nbin_dir = \"{}\"", scratch.data(), bin_dir()));
    assert_eq!((verdict.exit_code, verdict.err.as_str()), (0, ""));
    let out = verdict.out.replace(&scratch.0.display().to_string(), "TMP");
    assert!(
        out.starts_with(
            "TMP/pgkeel.toml: ok\n  cluster shop\n  node n1 at 10.0.0.1:7400, its own files in TMP/agent\n"
        ),
        "{out}"
    );
}

#[test]
fn an_unreadable_file_ends_with_2() {
    let verdict = judge(Path::new("/no/such/pgkeel.toml"));
    assert_eq!(verdict.exit_code, 2);
    assert_eq!(verdict.err, "/no/such/pgkeel.toml: cannot be read: No such file or directory (os error 2)\n");
    let scratch = Scratch::new("binary");
    let file = scratch.0.join("pgkeel.toml");
    fs::write(&file, [0xff, 0xfe, 0x00]).expect("write the file");
    let verdict = judge(&file);
    assert_eq!(verdict.exit_code, 2);
    assert!(
        verdict.err.ends_with("cannot be read: it is not UTF-8 text; is it a configuration file?\n"),
        "{}",
        verdict.err
    );
}

#[test]
fn no_such_bin_dir() {
    let scratch = Scratch::new("no-bin");
    let said =
        scratch.complaint(&format!("{}\nbin_dir = \"{}/nothing\"", scratch.data(), scratch.0.display()));
    assert_eq!(
        said,
        "TMP/pgkeel.toml: postgres.bin_dir = \"TMP/nothing\": there is no such directory on this host; install PostgreSQL's \
         server package, or set bin_dir to the directory that holds postgres and initdb\n"
    );
}

#[test]
fn a_bin_dir_without_the_server() {
    let scratch = Scratch::new("client-bin");
    fs::create_dir(scratch.0.join("bin")).expect("a directory");
    for client in ["pg_basebackup", "pg_rewind"] {
        fs::write(scratch.0.join("bin").join(client), "").expect("a file");
    }
    let said = scratch.complaint(&format!("{}\nbin_dir = \"{}/bin\"", scratch.data(), scratch.0.display()));
    assert_eq!(
        said,
        "TMP/pgkeel.toml: postgres.bin_dir = \"TMP/bin\" lacks postgres, initdb, pg_controldata, pg_ctl; install PostgreSQL's \
         server package (a client package is not enough), or set bin_dir to another directory\n"
    );
}

#[test]
fn no_such_operating_system_user() {
    let scratch = Scratch::new("user");
    let said = scratch.complaint(&format!(
        "{}\nbin_dir = \"{}\"\nos_user = \"nobody-here\"",
        scratch.data(),
        bin_dir()
    ));
    let expected = if am_root() {
        "TMP/pgkeel.toml: started as root, so the server must run as another user, but this host has no operating-system \
         user \"nobody-here\"; create it (useradd --system nobody-here) or name another by postgres.os_user\n"
            .to_owned()
    } else {
        format!(
            "TMP/pgkeel.toml: postgres.os_user = \"nobody-here\": only an agent started as root can run the server as \
             another user, and this one has user number {}; start pgkeel as root or as nobody-here, or leave os_user out\n",
            rustix::process::geteuid().as_raw()
        )
    };
    assert_eq!(said, expected);
}

#[test]
fn a_data_directory_that_is_none() {
    let scratch = Scratch::new("foreign");
    fs::create_dir(scratch.0.join("data")).expect("a directory");
    fs::write(scratch.0.join("data/letters.txt"), "dear all").expect("a file");
    let said = scratch.complaint(&format!("{}\nbin_dir = \"{}\"", scratch.data(), bin_dir()));
    assert!(
        said.contains(
            "postgres.data_dir = \"TMP/data\" is not empty and is no PostgreSQL data directory (it has no PG_VERSION); name \
             another directory, or move its content away\n"
        ),
        "{said}"
    );
}

#[test]
fn a_data_directory_of_another_version_and_owner() {
    let scratch = Scratch::new("version");
    fs::create_dir(scratch.0.join("data")).expect("a directory");
    fs::write(scratch.0.join("data/PG_VERSION"), "9\n").expect("a file");
    let said = scratch.complaint(&format!("{}\nbin_dir = \"{}\"", scratch.data(), bin_dir()));
    assert!(
        said.contains("postgres.data_dir = \"TMP/data\" was made by PostgreSQL 9, but bin_dir holds "),
        "{said}"
    );
    assert_eq!(
        am_root(),
        said.contains("postgres.data_dir = \"TMP/data\" belongs to user number 0, but the server"),
        "{said}"
    );
}

#[test]
fn a_directory_whose_place_is_taken_by_a_file() {
    let scratch = Scratch::new("file");
    fs::write(scratch.0.join("agent"), "").expect("a file");
    let said = scratch.complaint(&format!("{}\nbin_dir = \"{}\"", scratch.data(), bin_dir()));
    assert_eq!(
        said,
        "TMP/pgkeel.toml: node.dir = \"TMP/agent\": TMP/agent is not a directory; name another path, or move that file away\n"
    );
}
