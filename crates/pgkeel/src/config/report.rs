//! What was found wrong or doubtful in one file, with the line of each.

use std::fmt;
use std::ops::Range;

use super::section::Found;

/// One thing that is wrong in the file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigError {
    /// The file as the user named it.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// The key with its section, such as `postgres.port`; empty when the text is not TOML at all.
    pub key: String,
    /// What is wrong, and what would be right.
    pub problem: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}: ", self.file, self.line)?;
        if !self.key.is_empty() {
            write!(out, "{}: ", self.key)?;
        }
        out.write_str(&self.problem)
    }
}

/// Collects errors and warnings while a file is read.
pub(super) struct Report<'a> {
    file: &'a str,
    text: &'a str,
    pub(super) errors: Vec<ConfigError>,
    pub(super) warnings: Vec<String>,
}

impl<'a> Report<'a> {
    pub(super) fn new(file: &'a str, text: &'a str) -> Self {
        Report { file, text, errors: Vec::new(), warnings: Vec::new() }
    }

    /// Line, from 1, on which a span begins.
    pub(super) fn line_of(&self, span: &Range<usize>) -> usize {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }

    /// The text of a span, empty when there is none.
    pub(super) fn text_of(&self, span: &Range<usize>) -> &'a str {
        self.text.get(span.clone()).unwrap_or_default()
    }

    /// Name of the table whose header was the last before `line`.
    fn table_at(&self, line: usize) -> &'a str {
        let headers = self.text.lines().take(line.saturating_sub(1)).filter_map(|text| {
            let name = text.trim_start().strip_prefix('[')?;
            name.split(']').next().map(str::trim)
        });
        headers.last().unwrap_or_default()
    }

    /// Reports what the TOML reader found. Whether the rest can be trusted: after a duplicate key it can.
    pub(super) fn syntax(&mut self, errors: &[toml::de::Error]) -> bool {
        let mut readable = true;
        for error in errors {
            let span = error.span().unwrap_or_default();
            let line = self.line_of(&span);
            if error.message() == "duplicate key" {
                let (table, key) = (self.table_at(line), self.text_of(&span));
                let (path, problem) = match table {
                    "" => (key.to_owned(), "given twice; remove one"),
                    "members" => (format!("members.{key}"), "two nodes with one name; rename one"),
                    table => (format!("{table}.{key}"), "given twice; remove one"),
                };
                self.error(line, &path, problem.to_owned());
            } else {
                self.error(line, "", format!("this is not TOML: {}", error.message()));
                readable = false;
            }
        }
        readable
    }

    pub(super) fn error(&mut self, line: usize, key: &str, problem: String) {
        self.errors.push(ConfigError { file: self.file.to_owned(), line, key: key.to_owned(), problem });
    }

    pub(super) fn warning(&mut self, text: impl Into<String>) {
        self.warnings.push(text.into());
    }

    /// Passes a good value on and reports a bad one.
    pub(super) fn keep<T>(&mut self, line: usize, key: &str, result: Result<T, String>) -> Option<Found<T>> {
        match result {
            Ok(value) => Some(Found { value, line }),
            Err(problem) => {
                self.error(line, key, problem);
                None
            }
        }
    }
}
