//! Says what is waited for, once it takes longer than somebody would wait without a word.

use std::time::{Duration, Instant};

/// What is over sooner is not worth a line.
const SILENT_FOR: Duration = Duration::from_secs(2);
/// A line comes again although nothing has changed.
const AGAIN: Duration = Duration::from_secs(10);
/// Between two looks at what is waited for.
pub const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// One thing that is waited for.
#[derive(Debug)]
pub struct Progress {
    began: Instant,
    said: Option<(String, Instant)>,
}

impl Progress {
    /// Waiting begins.
    #[must_use]
    pub fn begin() -> Progress {
        Progress { began: Instant::now(), said: None }
    }

    /// How long it has been.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Waits for a moment, and writes to standard error what is waited for, if it is time to.
    pub async fn wait(&mut self, what: &str) {
        tokio::time::sleep(LOOK_AGAIN).await;
        let news = match &self.said {
            None => self.began.elapsed() >= SILENT_FOR,
            Some((said, at)) => said != what || at.elapsed() >= AGAIN,
        };
        if news {
            eprintln!("{:>5} s  {what}", self.began.elapsed().as_secs());
            self.said = Some((what.to_owned(), Instant::now()));
        }
    }
}
