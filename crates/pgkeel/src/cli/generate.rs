//! `pgkeel completions` and `pgkeel man`: made from what [`super::args`] says, so they always fit the program.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Command, CommandFactory as _};

use super::args::{Arguments, Shell};

/// Prints the completions for a shell.
#[must_use]
pub fn completions(shell: Shell) -> ExitCode {
    print(&completions_for(shell))
}

/// The completions for a shell.
#[must_use]
pub fn completions_for(shell: Shell) -> Vec<u8> {
    let generator = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(generator, &mut Arguments::command(), "pgkeel", &mut script);
    script
}

/// Writes every page into `dir`, or prints pgkeel(1). 1: a file or the output cannot be written.
#[must_use]
pub fn man(dir: Option<&Path>) -> ExitCode {
    let outcome = match dir {
        Some(dir) => write_pages(dir).map(|pages| println!("{pages} pages in {}", dir.display())),
        None => {
            let command = built();
            page(&command).map_err(|e| format!("the page cannot be made: {e}")).map(|page| {
                let _ = print(&page);
            })
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(said) => {
            eprintln!("pgkeel: {said}");
            ExitCode::FAILURE
        }
    }
}

/// The command line with all that clap adds, names of pages included.
fn built() -> Command {
    let mut command = Arguments::command().disable_help_subcommand(true);
    command.build();
    command
}

fn page(command: &Command) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    Ok(page)
}

/// Every page with the name of its file: of the program, and of each command and its commands.
///
/// # Errors
/// When a page cannot be made.
pub fn pages() -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut pages = Vec::new();
    let mut open = vec![(String::from("pgkeel"), built())];
    while let Some((name, command)) = open.pop() {
        // As git does it: pgkeel-aside-list(1).
        pages.push((PathBuf::from(format!("{name}.1")), page(&command)?));
        let parts = command.get_subcommands().filter(|part| !part.is_hide_set());
        open.extend(parts.map(|part| (format!("{name}-{}", part.get_name()), part.clone())));
    }
    Ok(pages)
}

/// Makes the directory when it is not there. Says how many pages it wrote.
fn write_pages(dir: &Path) -> Result<usize, String> {
    let cannot = |what: &Path| {
        let what = what.display().to_string();
        move |e: io::Error| format!("{what} cannot be written: {e}; name another directory by --dir")
    };
    std::fs::create_dir_all(dir).map_err(cannot(dir))?;
    let pages = pages().map_err(|e| format!("the pages cannot be made: {e}"))?;
    for (name, page) in &pages {
        let file = dir.join(name);
        std::fs::write(&file, page).map_err(cannot(&file))?;
    }
    Ok(pages.len())
}

/// A reader that has gone (`| head`) is no failure.
fn print(text: &[u8]) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("pgkeel: standard output cannot be written: {e}");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}
