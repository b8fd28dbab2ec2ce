//! Reading one table of the file, key by key, while every error is collected with its line.

use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::report::Report;
use agent::settings::nearest::nearest;

/// A value with the place where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found<T> {
    /// What was read.
    pub(super) value: T,
    /// Line in the file, from 1.
    pub(super) line: usize,
}

/// One table of the file, such as `[postgres]`. An absent one can be read too: nothing is in it.
pub(super) struct Section<'a> {
    /// The table's full name, empty for the file itself.
    name: String,
    /// Line on which errors about missing keys are reported.
    pub(super) line: usize,
    table: Option<&'a DeTable<'a>>,
}

impl<'a> Section<'a> {
    /// The file itself.
    pub(super) fn root(table: &'a DeTable<'a>) -> Self {
        Section { name: String::new(), line: 1, table: Some(table) }
    }

    /// The table `key` inside the file; `None` when it is absent or not a table (which is reported).
    pub(super) fn open(&self, report: &mut Report, key: &str) -> Option<Section<'a>> {
        let (value, span) = self.get(key)?;
        let name = self.path(key);
        match value {
            DeValue::Table(table) => Some(Section { name, line: report.line_of(&span), table: Some(table) }),
            other => {
                let line = report.line_of(&span);
                report.error(line, &name, format!("must be a table ([{name}]), not {}", kind(other)));
                None
            }
        }
    }

    /// Like [`Section::open`], but where the file has no such table, an empty one: every key takes its default.
    pub(super) fn open_or_empty(&self, report: &mut Report, key: &str) -> Option<Section<'a>> {
        if self.has(key) {
            self.open(report, key)
        } else {
            Some(Section { name: self.path(key), line: 1, table: None })
        }
    }

    /// Reports every key that is not in `known`, each with the nearest one that is.
    pub(super) fn refuse_unknown(&self, report: &mut Report, known: &[&str]) {
        for (key, _, line) in self.entries(report) {
            if known.contains(&key) {
                continue;
            }
            let hint = match nearest(key, known.iter().copied()) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("known here: {}", known.join(", ")),
            };
            report.error(line, &self.path(key), format!("unknown key; {hint}"));
        }
    }

    /// Every key with its value and line, sorted by key.
    pub(super) fn entries(&self, report: &Report) -> Vec<(&'a str, &'a DeValue<'a>, usize)> {
        let Some(table) = self.table else { return Vec::new() };
        table
            .iter()
            .map(|(key, value)| (&**key.get_ref(), value.get_ref(), report.line_of(&key.span())))
            .collect()
    }

    /// The full name of a key, as errors print it.
    pub(super) fn path(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    /// Whether the key is there, whatever its value.
    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Line of a key that is there; otherwise that of the section.
    pub(super) fn line_of(&self, report: &Report, key: &str) -> usize {
        self.get(key).map_or(self.line, |(_, span)| report.line_of(&span))
    }

    /// Reports that a key must be given, when it is not.
    pub(super) fn require(&self, report: &mut Report, key: &str, example: &str) {
        if !self.has(key) {
            report.error(self.line, &self.path(key), format!("missing; write for example {key} = {example}"));
        }
    }

    /// A text, read by `read`, which returns what is wrong with it.
    pub(super) fn parsed<T>(
        &self,
        report: &mut Report,
        key: &str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<Found<T>> {
        let (value, span) = self.get(key)?;
        let line = report.line_of(&span);
        let result = match value {
            DeValue::String(text) => read(text),
            other => Err(format!("must be a text in quotes, not {}", kind(other))),
        };
        report.keep(line, &self.path(key), result)
    }

    /// A text as [`Section::parsed`] reads it, or `default` when the key is absent.
    pub(super) fn parsed_or<T>(
        &self,
        report: &mut Report,
        key: &str,
        default: T,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        if self.has(key) { self.parsed(report, key, read).map(|found| found.value) } else { Some(default) }
    }

    /// A whole number within `range`, or `default` when the key is absent.
    pub(super) fn integer_or(
        &self,
        report: &mut Report,
        key: &str,
        default: u32,
        range: RangeInclusive<u32>,
    ) -> Option<u32> {
        let Some((value, span)) = self.get(key) else { return Some(default) };
        let line = report.line_of(&span);
        let result = match value {
            DeValue::Integer(given) => u32::from_str_radix(given.as_str(), given.radix())
                .ok()
                .filter(|number| range.contains(number))
                .ok_or_else(|| format!("{given} is out of range; from {} to {}", range.start(), range.end())),
            other => Err(format!("must be a whole number, not {}", kind(other))),
        };
        report.keep(line, &self.path(key), result).map(|found| found.value)
    }

    /// True or false; false when the key is absent.
    pub(super) fn flag(&self, report: &mut Report, key: &str) -> bool {
        match self.get(key) {
            None => false,
            Some((DeValue::Boolean(value), _)) => *value,
            Some((other, span)) => {
                let line = report.line_of(&span);
                report.error(line, &self.path(key), format!("must be true or false, not {}", kind(other)));
                false
            }
        }
    }

    /// A list of texts, each read by `read`. One text alone stands for a list of one when `one` allows it.
    /// An entry that was refused (and reported) is `None`.
    pub(super) fn list<T>(
        &self,
        report: &mut Report,
        key: &str,
        one: OneAlone,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<Option<Found<T>>>> {
        let (value, span) = self.get(key)?;
        let line = report.line_of(&span);
        let path = self.path(key);
        let items = match (value, one) {
            (DeValue::Array(items), _) => items,
            (DeValue::String(text), OneAlone::Allowed) => {
                return Some(vec![report.keep(line, &path, read(text))]);
            }
            (other, _) => {
                report.error(
                    line,
                    &path,
                    format!("must be a list of texts ([\"...\"]), not {}", kind(other)),
                );
                return None;
            }
        };
        let mut all = Vec::new();
        for item in items.iter() {
            let line = report.line_of(&item.span());
            let result = match item.get_ref() {
                DeValue::String(text) => read(text),
                other => Err(format!("every entry must be a text in quotes, not {}", kind(other))),
            };
            all.push(report.keep(line, &path, result));
        }
        Some(all)
    }

    fn get(&self, wanted: &str) -> Option<(&'a DeValue<'a>, Range<usize>)> {
        let (key, value): (_, &Spanned<DeValue<'a>>) =
            self.table?.iter().find(|(key, _)| &**key.get_ref() == wanted)?;
        Some((value.get_ref(), key.span()))
    }
}

/// Whether one text may stand where a list is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OneAlone {
    /// `listen = "..."` means `listen = ["..."]`.
    Allowed,
    /// Only a list will do.
    Refused,
}

/// What a value is, for messages.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a decimal point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
