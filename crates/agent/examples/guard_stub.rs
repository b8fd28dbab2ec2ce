//! The guard with the smallest possible command line around it, for the tests in `tests/guard.rs`:
//! `guard --socket PATH --log PATH [--user NAME] [--deadline MS] -- PROGRAM ARGS...` and
//! `guard-exec --parent PID -- PROGRAM ARGS...`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::exit;

use agent::guard::{GuardOptions, exec_main, main as guard_main};

fn main() {
    let mut words = std::env::args_os().skip(1);
    let status = match words.next().as_deref().and_then(|word| word.to_str()) {
        Some("guard") => guard(words),
        Some("guard-exec") => guard_exec(words),
        _ => None,
    };
    exit(status.unwrap_or(2));
}

fn guard(mut words: impl Iterator<Item = OsString>) -> Option<i32> {
    let (mut socket, mut log, mut user, mut deadline_ms) = (None, None, None, None);
    loop {
        let word = words.next()?;
        match word.to_str()? {
            "--socket" => socket = words.next().map(PathBuf::from),
            "--log" => log = words.next().map(PathBuf::from),
            "--user" => user = words.next()?.into_string().ok(),
            "--deadline" => deadline_ms = words.next()?.to_str()?.parse().ok(),
            "--" => break,
            _ => return None,
        }
    }
    let program = words.next()?;
    let args = words.collect();
    Some(guard_main(GuardOptions {
        socket: socket?,
        log: log?,
        user,
        deadline_ms,
        fence: None,
        program,
        args,
    }))
}

fn guard_exec(mut words: impl Iterator<Item = OsString>) -> Option<i32> {
    if words.next()? != "--parent" {
        return None;
    }
    let parent = words.next()?.to_str()?.parse().ok()?;
    let user = match words.next()? {
        word if word == "--become" => Some(words.next()?.to_str()?.parse().ok()?),
        word if word == "--" => None,
        _ => return None,
    };
    let words: Vec<OsString> = words.skip_while(|word| word == "--").collect();
    let (program, args) = words.split_first()?;
    Some(exec_main(parent, user.as_ref(), program, args))
}
