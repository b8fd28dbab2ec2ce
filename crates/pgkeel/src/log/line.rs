//! How one line of the log looks, in each form. Pure.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use serde::Serialize;
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

use super::repeated::Told;

/// The forms of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `2026-11-22T03:00:00.123Z WARN  [n1 epoch 3] message key=value`.
    Text,
    /// The same for systemd's journal, which has its own time and knows the level by a number in front (sd-daemon(3)).
    Journal,
    /// An object: time, level, node, epoch, message, target, fields, repeated, repeated_s.
    Json,
}

/// An event as it is logged. Two that are equal say the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    level: Level,
    target: String,
    node: Option<String>,
    /// 0: none is known.
    epoch: u64,
    message: String,
    fields: BTreeMap<&'static str, Value>,
}

impl Line {
    /// What `event` says. An epoch of its own stands in place of `epoch`, the newest that is known.
    #[must_use]
    pub fn of(event: &Event<'_>, node: Option<&str>, epoch: u64) -> Line {
        let meta = event.metadata();
        let mut line = Line {
            level: *meta.level(),
            target: meta.target().to_owned(),
            node: node.map(str::to_owned),
            epoch,
            message: String::new(),
            fields: BTreeMap::new(),
        };
        event.record(&mut line);
        line
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            name => drop(self.fields.insert(name, Value::from(format!("{value:?}")))),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message = value.to_owned(),
            name => drop(self.fields.insert(name, Value::from(value))),
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "epoch" => self.epoch = value,
            name => drop(self.fields.insert(name, Value::from(value))),
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.fields.insert(field.name(), Value::from(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.fields.insert(field.name(), Value::from(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.fields.insert(field.name(), Value::from(value));
    }
}

/// The line as it is written, with its end.
#[must_use]
pub fn render(form: Form, told: &Told<Line>, at: jiff::Timestamp) -> String {
    let time = format!("{at:.3}");
    let mut text = match form {
        Form::Json => json(told, &time),
        Form::Text => format!("{time} {:<5} {}", told.line.level, words(told)),
        Form::Journal => format!("<{}>{}", priority(told.line.level), words(told)),
    };
    text.push('\n');
    text
}

/// Priorities of syslog (syslog(3)): error, warning, informational, debug.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

fn words(told: &Told<Line>) -> String {
    let Line { node, epoch, message, fields, .. } = &told.line;
    let mut text = match (node, epoch) {
        (Some(node), 0) => format!("[{node}] "),
        (Some(node), epoch) => format!("[{node} epoch {epoch}] "),
        (None, 0) => String::new(),
        (None, epoch) => format!("[epoch {epoch}] "),
    };
    text.push_str(message);
    for (key, value) in fields {
        match value {
            Value::String(value) if is_plain(value) => drop(write!(text, " {key}={value}")),
            value => drop(write!(text, " {key}={value}")),
        }
    }
    match told.times {
        0 => {}
        1 => drop(write!(text, " (repeated once in {} s)", seconds(told.over_ms))),
        times => drop(write!(text, " (repeated {times} times in {} s)", seconds(told.over_ms))),
    }
    on_one_line(&text)
}

/// Whether a value can stand without quotes.
fn is_plain(value: &str) -> bool {
    !value.is_empty() && value.chars().all(|c| c.is_ascii_graphic() && c != '"' && c != '=')
}

/// What others sent (names, errors) may hold anything: nothing but an event begins a line.
fn on_one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

/// Rounded up: nothing was repeated in 0 s.
fn seconds(ms: u64) -> u64 {
    ms.div_ceil(1_000).max(1)
}

#[derive(Serialize)]
struct Object<'a> {
    time: &'a str,
    level: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<u64>,
    message: &'a str,
    target: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    fields: &'a BTreeMap<&'static str, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repeated: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repeated_s: Option<u64>,
}

fn json(told: &Told<Line>, time: &str) -> String {
    let Line { level, target, node, epoch, message, fields } = &told.line;
    let repeated = (told.times > 0).then_some(told.times);
    let object = Object {
        time,
        level: &level.as_str().to_lowercase(),
        node: node.as_deref(),
        epoch: (*epoch > 0).then_some(*epoch),
        message,
        target,
        fields,
        repeated,
        repeated_s: repeated.map(|_| seconds(told.over_ms)),
    };
    // Texts and numbers can always be written.
    serde_json::to_string(&object).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(message: &str, times: u64) -> Told<Line> {
        let fields = BTreeMap::from([("from", Value::from("10.0.0.9")), ("said", Value::from("x=\"1\""))]);
        let line = Line {
            level: Level::WARN,
            target: "proxy::client".to_owned(),
            node: None,
            epoch: 4,
            message: message.to_owned(),
            fields,
        };
        Told { line, times, over_ms: 9_999 }
    }

    #[test]
    fn what_others_sent_begins_no_line() {
        let at = jiff::Timestamp::UNIX_EPOCH;
        let forged = told("no user \"x\n<3>[n1] forged\u{1b}[31m\"", 2);
        for form in [Form::Text, Form::Journal, Form::Json] {
            let text = render(form, &forged, at);
            assert_eq!(text.find(char::is_control), Some(text.len() - 1), "{text:?}");
        }
    }

    #[test]
    fn fields_and_repetitions_in_each_form() {
        let at = jiff::Timestamp::UNIX_EPOCH;
        let text = "[epoch 4] gone from=10.0.0.9 said=\"x=\\\"1\\\"\" (repeated 2 times in 10 s)\n";
        assert_eq!(render(Form::Journal, &told("gone", 2), at), format!("<4>{text}"));
        assert_eq!(
            render(Form::Text, &told("gone", 2), at),
            format!("1970-01-01T00:00:00.000Z WARN  {text}")
        );
        let object = "{\"time\":\"1970-01-01T00:00:00.000Z\",\"level\":\"warn\",\"epoch\":4,\"message\":\"gone\",\
                      \"target\":\"proxy::client\",\"fields\":{\"from\":\"10.0.0.9\",\"said\":\"x=\\\"1\\\"\"}";
        assert_eq!(render(Form::Json, &told("gone", 0), at), format!("{object}}}\n"));
        assert_eq!(
            render(Form::Json, &told("gone", 2), at),
            format!("{object},\"repeated\":2,\"repeated_s\":10}}\n")
        );
    }
}
