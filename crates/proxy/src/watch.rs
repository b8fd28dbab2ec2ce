//! Keeps the newest view: one task for each agent that is configured, or that the view itself names, reads
//! `GET /v1/view/watch`, all at the same time.
//!
//! An agent sends one view a line (JSON) whenever it changes, and at least once a second as a sign of life. Whatever the
//! agents say and in which order, the proxy never goes back to an older view.

use bytes::Bytes;
use cluster::view::{Server, View};
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use identity::Caller;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

/// An agent that sends no line for this long is connected anew.
const SILENCE_MAX: Duration = Duration::from_secs(3);

/// Longest line taken from an agent. Bytes.
const LINE_LEN_MAX: usize = 64 * 1024;

/// First and last pause before an agent is connected anew.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// The newest view, for everyone who reads it. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Views {
    receiver: watch::Receiver<Arc<View>>,
    newest_epoch: Arc<AtomicU64>,
}

impl Views {
    /// The newest epoch seen; cheap enough to ask before every write to a server.
    pub fn newest_epoch(&self) -> u64 {
        self.newest_epoch.load(Ordering::Acquire)
    }

    /// The newest view; `changed` then waits for one after it.
    pub fn latest(&mut self) -> Arc<View> {
        Arc::clone(&self.receiver.borrow_and_update())
    }

    /// Waits until the view is another than [`Views::latest`] gave. Never returns once nobody watches any more.
    pub async fn changed(&mut self) {
        if self.receiver.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// What became of a view that an agent sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Offer {
    Accepted,
    NotNewer,
    OtherCluster,
}

/// The writing end of [`Views`].
#[derive(Debug)]
pub struct Newest {
    sender: watch::Sender<Arc<View>>,
    newest_epoch: Arc<AtomicU64>,
    cluster: String,
}

impl Newest {
    /// Begins without a view: nobody is primary until an agent says so.
    pub fn new(cluster: &str, agents: &[String]) -> (Newest, Views) {
        let waiting = match agents {
            [] => "The primary was not found yet.".to_owned(),
            agents => format!("No agent has told the view yet; asking {}.", agents.join(", ")),
        };
        let nothing = View { waiting: Some(waiting), ..View::default() };
        let (sender, receiver) = watch::channel(Arc::new(nothing));
        let newest_epoch = Arc::new(AtomicU64::new(0));
        let views = Views { receiver, newest_epoch: Arc::clone(&newest_epoch) };
        (Newest { sender, newest_epoch, cluster: cluster.to_string() }, views)
    }

    /// There is no cluster but this server.
    pub fn is_always(&self, server: &Server) {
        self.found(View {
            cluster: self.cluster.clone(),
            epoch: 1,
            primary: Some(server.clone()),
            ..View::default()
        });
    }

    /// A view that this proxy has made itself.
    pub fn found(&self, view: View) {
        self.offer(view);
    }

    fn offer(&self, view: View) -> Offer {
        // Of an agent that was let in just now and has no record yet: it will tell.
        if view.cluster.is_empty() {
            return Offer::NotNewer;
        }
        if view.cluster != self.cluster {
            return Offer::OtherCluster;
        }
        let accepted = self.sender.send_if_modified(|current| {
            // Only the value before the first view names no cluster.
            let newer = current.cluster.is_empty() || view.is_newer_than(current);
            if newer {
                self.newest_epoch.store(view.epoch, Ordering::Release);
                *current = Arc::new(view);
            }
            newer
        });
        if accepted { Offer::Accepted } else { Offer::NotNewer }
    }
}

/// Why the connection to an agent ended.
#[derive(Debug, Error)]
enum WatchError {
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("sent nothing for {} s", SILENCE_MAX.as_secs())]
    Silent,
    #[error("HTTP failed: {0}")]
    Http(#[from] hyper::Error),
    #[error("answered HTTP status {0} to GET /v1/view/watch")]
    Status(hyper::StatusCode),
    #[error("ended the stream")]
    Ended,
    #[error("sent a line longer than {LINE_LEN_MAX} bytes")]
    LongLine,
    #[error("sent a line that is not a view: {0}")]
    NotAView(#[from] serde_json::Error),
    #[error("belongs to another cluster, \"{0}\": remove it from the proxy's `agents`")]
    OtherCluster(String),
}

/// Follows the configured agents, and those of the nodes that belong to the cluster by the newest view: a proxy outlives the nodes
/// that it was told of. Never returns.
pub async fn follow_all(caller: Caller, configured: Vec<String>, newest: Arc<Newest>, mut views: Views) {
    let mut tasks = JoinSet::new();
    let mut followed: BTreeMap<String, AbortHandle> = BTreeMap::new();
    loop {
        let view = views.latest();
        for agent in configured.iter().chain(&view.agents) {
            if !followed.contains_key(agent) {
                let task = follow(caller.clone(), agent.clone(), Arc::clone(&newest));
                followed.insert(agent.clone(), tasks.spawn(task));
            }
        }
        // One that is configured may come back. A view that tells of no agents is that of an older version.
        if !view.agents.is_empty() {
            followed.retain(|agent, task| {
                let stays = configured.contains(agent) || view.agents.contains(agent);
                if !stays {
                    task.abort();
                }
                stays
            });
            while tasks.try_join_next().is_some() {}
        }
        views.changed().await;
    }
}

/// Follows `agent` for ever. One line is logged when it fails and one when it is back; an agent that comes and goes
/// quickly is not logged again before it has held out for a while.
async fn follow(caller: Caller, agent: String, newest: Arc<Newest>) {
    let mut pause = PAUSE.0;
    let mut complained = false;
    let mut lost = false;
    loop {
        let begun = Instant::now();
        let mut heard = false;
        let error = listen(&caller, &agent, &newest, || {
            if std::mem::take(&mut lost) {
                tracing::info!("agent {agent} tells the view again");
            }
            heard = true;
        })
        .await;
        if heard && begun.elapsed() > SILENCE_MAX {
            pause = PAUSE.0;
            complained = false;
        }
        if !complained {
            tracing::warn!("agent {agent} {error}; trying again, other agents are listened to meanwhile");
            (complained, lost) = (true, true);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// One connection to an agent, until it fails.
async fn listen(caller: &Caller, agent: &str, newest: &Newest, mut heard: impl FnMut()) -> WatchError {
    match read_views(caller, agent, newest, &mut heard).await {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

async fn read_views(
    caller: &Caller,
    agent: &str,
    newest: &Newest,
    heard: &mut impl FnMut(),
) -> Result<std::convert::Infallible, WatchError> {
    let silent = |_| WatchError::Silent;
    let stream = timeout(SILENCE_MAX, caller.connect(agent)).await.map_err(silent)?;
    let stream = stream.map_err(WatchError::Connect)?;
    let (mut requests, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Dropped, and so aborted, with this function.
    let mut driver = JoinSet::new();
    driver.spawn(connection);

    let request = Request::get("/v1/view/watch").header("host", agent).body(Empty::<Bytes>::new());
    let Ok(request) = request else {
        return Err(WatchError::Connect(io::Error::other("the address is no valid host:port")));
    };
    let response = timeout(SILENCE_MAX, requests.send_request(request)).await.map_err(silent)??;
    if !response.status().is_success() {
        return Err(WatchError::Status(response.status()));
    }
    let mut body = response.into_body();
    let mut lines = Lines::default();
    let mut last_line = Instant::now();
    loop {
        let rest = SILENCE_MAX.saturating_sub(last_line.elapsed());
        let frame = timeout(rest, body.frame()).await.map_err(silent)?.ok_or(WatchError::Ended)??;
        for line in frame.data_ref().map_or(Ok(Vec::new()), |data| lines.push(data))? {
            let view: View = serde_json::from_slice(&line)?;
            let cluster = view.cluster.clone();
            match newest.offer(view) {
                Offer::Accepted | Offer::NotNewer => heard(),
                Offer::OtherCluster => return Err(WatchError::OtherCluster(cluster)),
            }
            last_line = Instant::now();
        }
    }
}

/// Cuts a stream into lines of bounded length.
#[derive(Debug, Default)]
struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    /// The lines completed by `data`, without their line ends; empty ones are left out.
    fn push(&mut self, data: &[u8]) -> Result<Vec<Vec<u8>>, WatchError> {
        let mut complete = Vec::new();
        for piece in data.split_inclusive(|&b| b == b'\n') {
            if self.begun.len() + piece.len() > LINE_LEN_MAX {
                return Err(WatchError::LongLine);
            }
            self.begun.extend_from_slice(piece);
            if self.begun.ends_with(b"\n") {
                self.begun.pop();
                let line = std::mem::take(&mut self.begun);
                if !line.trim_ascii().is_empty() {
                    complete.push(line);
                }
            }
        }
        Ok(complete)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(cluster: &str, epoch: u64, revision: u64) -> View {
        View { cluster: cluster.into(), epoch, revision, ..View::default() }
    }

    #[test]
    fn the_newest_view_wins_and_never_goes_back() {
        let (newest, mut views) = Newest::new("shop", &["a:1".to_string()]);
        assert!(views.latest().waiting.as_ref().is_some_and(|w| w.contains("a:1")));
        assert_eq!(newest.offer(view("shop", 0, 0)), Offer::Accepted, "the first view of a new cluster");
        assert_eq!(newest.offer(view("shop", 2, 7)), Offer::Accepted);
        for older in [(2, 7), (2, 6), (1, 99), (0, 0)] {
            assert_eq!(newest.offer(view("shop", older.0, older.1)), Offer::NotNewer);
        }
        assert_eq!(newest.offer(view("other", 9, 9)), Offer::OtherCluster);
        assert_eq!(newest.offer(view("", 9, 9)), Offer::NotNewer, "of an agent that knows nothing yet");
        assert_eq!((views.latest().epoch, views.latest().revision, views.newest_epoch()), (2, 7, 2));
    }

    #[test]
    fn lines_however_the_stream_is_cut() {
        let text = b"one\ntwo\n\nthree\nrest";
        for size in 1..text.len() {
            let mut lines = Lines::default();
            let seen: Vec<_> = text.chunks(size).flat_map(|chunk| lines.push(chunk).unwrap()).collect();
            assert_eq!(seen, [&b"one"[..], b"two", b"three"]);
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut lines = Lines::default();
        assert!(lines.push(&vec![b'x'; LINE_LEN_MAX]).is_ok());
        assert!(matches!(lines.push(b"x"), Err(WatchError::LongLine)));
    }
}
