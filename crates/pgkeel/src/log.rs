//! The log of what runs long (`run`, `agent`, `proxy`): one line per event on standard error.
//!
//! [`line`] is how a line looks, [`repeated`] keeps storms of one line away; both are pure. Here events are collected,
//! and every line is told the node and the epoch. The guard is not concerned: its lines go to the server's own file.

mod journal;
pub mod line;
pub mod repeated;

use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::Subscriber;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, registry};

use line::{Form, Line};
use repeated::{Repeats, Told};

/// What is logged when PGKEEL_LOG says nothing, in the syntax of `tracing_subscriber::EnvFilter`.
const FILTER_DEFAULT: &str = "info,openraft=error";

/// How lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people; what systemd's journal adds by itself is left out there.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// What every line is told.
#[derive(Clone, Debug, Default)]
pub struct LogOptions {
    /// How lines are written.
    pub format: LogFormat,
    /// This host's node, if it has one.
    pub node: Option<String>,
    /// The newest epoch that the agent or the proxy of this process has seen; 0: none yet.
    pub epoch: Arc<AtomicU64>,
}

/// The log of this process.
pub struct Log(Arc<Shared>);

struct Shared {
    form: Form,
    options: LogOptions,
    began: Instant,
    repeats: Mutex<Repeats<Line>>,
    /// Rung when a line is held back.
    held: Condvar,
    out: Box<dyn Fn(&str) + Send + Sync>,
}

impl Log {
    /// Sends every event of this process to standard error from now on. PGKEEL_LOG says which.
    #[must_use]
    pub fn start(options: LogOptions) -> Log {
        let form = match (options.format, journal::is_standard_error()) {
            (LogFormat::Json, _) => Form::Json,
            (LogFormat::Text, true) => Form::Journal,
            (LogFormat::Text, false) => Form::Text,
        };
        let shared = Arc::new(Shared::new(form, options, Box::new(write)));
        let filter = EnvFilter::try_from_env("PGKEEL_LOG").unwrap_or_else(|_| EnvFilter::new(FILTER_DEFAULT));
        let started = registry().with(filter).with(Lines(Arc::clone(&shared))).try_init().is_ok();
        if started {
            let telling = Arc::clone(&shared);
            // Without it lines that were held back are told with the next event: nothing depends on that.
            let _ = std::thread::Builder::new().name("log".to_owned()).spawn(move || telling.tell_in_time());
        }
        Log(shared)
    }

    /// Why the process ends: on a terminal or in a file as it is, elsewhere one event for each of its lines.
    pub fn last_words(&self, text: &str) {
        match self.0.form {
            Form::Text => eprintln!("{text}"),
            Form::Journal | Form::Json => text.lines().for_each(|line| tracing::error!("{line}")),
        }
    }

    /// Tells what is still held back. The process is about to end.
    pub fn finish(&self) {
        let shared = &self.0;
        let told = shared.repeats().take_all(shared.now_ms());
        shared.write(told);
    }
}

/// One write for one line, so that processes that share a file do not mix theirs. If it fails nobody can be told.
fn write(line: &str) {
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}

impl Shared {
    fn new(form: Form, options: LogOptions, out: Box<dyn Fn(&str) + Send + Sync>) -> Shared {
        let (repeats, held) = (Mutex::new(Repeats::default()), Condvar::new());
        Shared { form, options, began: Instant::now(), repeats, held, out }
    }

    fn repeats(&self) -> MutexGuard<'_, Repeats<Line>> {
        self.repeats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn see(&self, line: Line) {
        let mut repeats = self.repeats();
        let told = repeats.see(line, self.now_ms());
        let held = told.is_empty();
        drop(repeats);
        if held {
            self.held.notify_one();
        }
        self.write(told);
    }

    fn write(&self, told: Vec<Told<Line>>) {
        let at = jiff::Timestamp::now();
        for told in told {
            (self.out)(&line::render(self.form, &told, at));
        }
    }

    /// Tells counts when their time is up, also when nothing else happens.
    fn tell_in_time(&self) {
        let mut repeats = self.repeats();
        loop {
            let now = self.now_ms();
            repeats = match repeats.next_due() {
                None => self.held.wait(repeats).unwrap_or_else(PoisonError::into_inner),
                Some(due) if due > now => {
                    let pause = Duration::from_millis(due - now);
                    self.held.wait_timeout(repeats, pause).unwrap_or_else(PoisonError::into_inner).0
                }
                Some(_) => {
                    let told = repeats.take_due(now);
                    drop(repeats);
                    self.write(told);
                    self.repeats()
                }
            };
        }
    }
}

/// Takes events in.
struct Lines(Arc<Shared>);

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let LogOptions { node, epoch, .. } = &self.0.options;
        self.0.see(Line::of(event, node.as_deref(), epoch.load(Ordering::Relaxed)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `events` under a log in this form, and returns its lines.
    fn lines(form: Form, epoch: u64, events: impl FnOnce()) -> Vec<String> {
        let written = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&written);
        let options = LogOptions {
            node: Some("n1".to_owned()),
            epoch: Arc::new(AtomicU64::new(epoch)),
            ..LogOptions::default()
        };
        let out = Box::new(move |line: &str| kept.lock().unwrap().push(line.to_owned()));
        let shared = Arc::new(Shared::new(form, options, out));
        let subscriber = registry().with(Lines(Arc::clone(&shared)));
        tracing::subscriber::with_default(subscriber, events);
        Log(shared).finish();
        let written = written.lock().unwrap();
        written.clone()
    }

    #[test]
    fn every_line_has_node_and_epoch_and_is_one_line() {
        let events = || {
            tracing::warn!(bytes = 7, why = "a b", "one\ntwo");
            tracing::info!(epoch = 9_u64, "of another epoch");
        };
        let text = lines(Form::Text, 3, events);
        assert_eq!(text.len(), 2, "{text:?}");
        assert!(text[0].ends_with("Z WARN  [n1 epoch 3] one\\ntwo bytes=7 why=\"a b\"\n"), "{text:?}");
        assert!(text[1].ends_with("Z INFO  [n1 epoch 9] of another epoch\n"), "{text:?}");
        let json: Vec<serde_json::Value> =
            lines(Form::Json, 3, events).iter().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(json[0]["message"], "one\ntwo");
        assert_eq!(
            (&json[0]["node"], &json[0]["epoch"], &json[0]["level"]),
            (&"n1".into(), &3.into(), &"warn".into())
        );
        assert_eq!((&json[0]["fields"]["bytes"], &json[0]["fields"]["why"]), (&7.into(), &"a b".into()));
        assert_eq!((&json[1]["epoch"], &json[1]["fields"]), (&9.into(), &serde_json::Value::Null));
    }

    #[test]
    fn the_journal_gets_priorities_and_no_time() {
        let events = || {
            tracing::error!("e");
            tracing::warn!("w");
            tracing::info!("i");
            tracing::debug!("d");
        };
        let expected = ["<3>[n1] e\n", "<4>[n1] w\n", "<6>[n1] i\n", "<7>[n1] d\n"];
        assert_eq!(lines(Form::Journal, 0, events), expected);
    }

    #[test]
    fn a_storm_is_told_once_with_its_count() {
        let told = lines(Form::Journal, 1, || {
            for _ in 0..38 {
                tracing::warn!("no answer");
            }
            tracing::info!("something else");
        });
        assert_eq!(told.len(), 3, "{told:?}");
        assert_eq!(
            (told[0].as_str(), told[1].as_str()),
            ("<4>[n1 epoch 1] no answer\n", "<6>[n1 epoch 1] something else\n")
        );
        assert!(told[2].starts_with("<4>[n1 epoch 1] no answer (repeated 37 times in "), "{told:?}");
    }

    /// The thread that tells counts does so although nothing else happens.
    #[test]
    fn counts_are_told_in_time() {
        let (sender, written) = std::sync::mpsc::channel();
        let out = Box::new(move |line: &str| drop(sender.send(line.to_owned())));
        let shared = Arc::new(Shared::new(Form::Journal, LogOptions::default(), out));
        *shared.repeats() = Repeats::new(5);
        let telling = Arc::clone(&shared);
        std::thread::spawn(move || telling.tell_in_time());
        tracing::subscriber::with_default(registry().with(Lines(Arc::clone(&shared))), || {
            tracing::info!("again");
            tracing::info!("again");
        });
        assert_eq!(written.recv().unwrap(), "<6>again\n");
        let second = written.recv_timeout(Duration::from_secs(60)).unwrap();
        assert!(second.starts_with("<6>again"), "{second}");
    }
}
