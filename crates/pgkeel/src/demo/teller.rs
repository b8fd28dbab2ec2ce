//! How the demonstration looks on the terminal.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::Path;
use std::time::Instant;

use super::Colour;
use super::story::Ending;
use crate::cli::text::{say, seconds, short_time, terminal_columns, wrap};

/// Columns for text that is not on a terminal.
const COLUMNS: usize = 110;
/// Where the sentences begin: after the time.
const SENTENCE_AT: usize = 13;

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    /// Something happened.
    Plain,
    /// Something good.
    Good,
    /// Something bad.
    Bad,
}

/// Writes the story, with times counted from its beginning.
#[derive(Debug)]
pub(super) struct Teller {
    began: Instant,
    colour: bool,
    columns: usize,
}

impl Teller {
    pub(super) fn new(colour: Colour) -> Teller {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let colour = match colour {
            Colour::Auto => wanted && std::io::stdout().is_terminal(),
            Colour::Never => false,
        };
        Teller { began: Instant::now(), colour, columns: terminal_columns().unwrap_or(COLUMNS).max(40) }
    }

    /// A part of the story begins.
    pub(super) fn headline(&self, text: &str) {
        say(&format!("\n{}\n", self.painted("1", text)));
    }

    /// A line with the time since the beginning.
    pub(super) fn tell(&self, tone: Tone, text: &str) {
        let ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.line(&seconds(ms), tone, text);
    }

    /// A line with the time since the kill.
    pub(super) fn tell_after(&self, ms: u64, tone: Tone, text: &str) {
        self.line(&format!("+{}", short_time(ms)), tone, text);
    }

    /// A line without a time.
    pub(super) fn fact(&self, text: &str) {
        say(&format!("  {}\n", wrap(text, 2, 4, self.columns)));
    }

    /// For people only: not part of the story.
    pub(super) fn aside(&self, text: &str) {
        if std::io::stderr().is_terminal() {
            eprintln!("{}", self.painted("2", text));
        }
    }

    /// How to look at a cluster that stays.
    pub(super) fn keep(&self, proxy_port: u16, config: &Path, program: &Path) {
        let (config, program) = (config.display(), program.display());
        let mut text = String::new();
        let _ = writeln!(text, "  psql \"host=127.0.0.1 port={proxy_port} user=postgres dbname=postgres\"");
        let _ = writeln!(text, "  {program} status -c {config}");
        let _ = writeln!(text, "  {program} why -c {config}");
        let _ = writeln!(text, "  Ctrl-C here stops and removes it.");
        self.headline("the cluster stays, look at it from another terminal");
        say(&text);
        say("\n");
    }

    /// The last line of the summary; scripts read it.
    pub(super) fn last_line(&self, ending: &Ending) {
        say(&format!("{}\n", last_line(ending)));
    }

    fn line(&self, time: &str, tone: Tone, text: &str) {
        let text = wrap(text, SENTENCE_AT, SENTENCE_AT, self.columns);
        let text = match tone {
            Tone::Plain => text,
            Tone::Good => self.painted("32", &text),
            Tone::Bad => self.painted("31", &text),
        };
        say(&format!("{}  {text}\n", self.painted("2", &format!("{time:>11}"))));
    }

    /// Select Graphic Rendition of ECMA-48.
    fn painted(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn last_line(ending: &Ending) -> String {
    let gap = ending.longest_gap.as_secs_f64();
    format!("acknowledged {}, lost {}, longest gap {gap:.2} s", ending.acknowledged, ending.lost)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_last_line_is_as_promised() {
        let ending = Ending { acknowledged: 812, lost: 0, longest_gap: Duration::from_millis(214) };
        assert_eq!(last_line(&ending), "acknowledged 812, lost 0, longest gap 0.21 s");
    }
}
