//! pgkeel keeps PostgreSQL upright: one program that runs the agent, the proxy, or both, and asks them.

use clap::Parser;
use mimalloc::MiMalloc;
use pgkeel::cli::args::Arguments;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    pgkeel::cli::dispatch::run(Arguments::parse())
}
