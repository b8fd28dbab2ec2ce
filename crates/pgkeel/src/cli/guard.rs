//! `pgkeel guard` and `pgkeel guard-exec`: no runtime, no threads, as little memory as possible.

use super::args::{GuardArgs, GuardExecArgs};
use agent::guard::{self, GuardOptions};
use std::process::ExitCode;

/// Runs the guard until its server has ended. Its process number is in `guard.pid` beside its socket meanwhile.
#[must_use]
pub fn run(args: GuardArgs) -> ExitCode {
    let mut words = args.program.into_iter();
    let Some(program) = words.next() else { return ExitCode::from(2) };
    let pid_file = args.socket.with_extension("pid");
    // Only for people and tools that look after the process: nothing depends on it.
    let _ = std::fs::write(&pid_file, format!("{}\n", std::process::id()));
    let code = guard::main(GuardOptions {
        socket: args.socket,
        log: args.log,
        user: args.user,
        deadline_ms: args.deadline,
        fence: args.fence,
        program,
        args: words.collect(),
    });
    code_of(code)
}

/// Becomes the server.
#[must_use]
pub fn exec(args: &GuardExecArgs) -> ExitCode {
    match args.program.split_first() {
        Some((program, rest)) => {
            code_of(guard::exec_main(args.parent, args.r#become.as_ref(), program, rest))
        }
        None => ExitCode::from(2),
    }
}

fn code_of(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
