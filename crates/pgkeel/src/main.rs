//! pgkeel keeps PostgreSQL upright: one program that runs the agent, the proxy, or both, and asks them.

use clap::Parser;
use pgkeel::cli::args::Arguments;
use std::process::ExitCode;

fn main() -> ExitCode {
    pgkeel::cli::dispatch::run(Arguments::parse())
}
