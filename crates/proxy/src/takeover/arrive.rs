//! The new process's side: sessions come from the old one, and cancel requests go there for clients that stayed with it.

use super::session::Session;
use super::wire::{Incoming, Kind, hang_up, say};
use pgwire::CancelKey;
use std::collections::HashMap;
use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// Sessions that may lie before a worker.
pub const INBOX_LEN: usize = 64;

/// How long the old process may take for a cancel request.
const CANCEL_MAX: Duration = Duration::from_secs(10);

/// Longest reason that is given. Bytes.
const WHY_LEN_MAX: usize = 200;

/// A session that has come, and its socket. It is still the old process's.
#[derive(Debug)]
pub struct Arrival {
    pub session: Session,
    pub socket: TcpStream,
    pub reply: Reply,
}

/// The answer for one session; dropping it refuses the session.
#[derive(Debug)]
pub struct Reply {
    line: Option<Arc<UnixStream>>,
    number: u64,
}

impl Reply {
    /// The session is of this process from now on.
    ///
    /// # Errors
    /// The old one does not hear of it, and keeps it: its socket must not be touched.
    pub fn taken(mut self) -> io::Result<()> {
        match self.line.take() {
            Some(line) => say(&line, Kind::Taken, self.number, b""),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// It is not.
    pub fn refused(mut self, why: &str) {
        self.refuse(why);
    }

    fn refuse(&mut self, why: &str) {
        if let Some(line) = self.line.take() {
            let why = &why.as_bytes()[..why.len().min(WHY_LEN_MAX)];
            // A line that is over refuses everything.
            let _ = say(&line, Kind::Refused, self.number, why);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.refuse("it does not take clients at the moment");
    }
}

/// The old process, as long as there is one.
#[derive(Debug, Default)]
pub struct Predecessor {
    line: Mutex<Option<Arc<UnixStream>>>,
    asked: Mutex<HashMap<u64, oneshot::Sender<bool>>>,
    numbers: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is one statement, so a panic elsewhere spoils nothing.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Predecessor {
    /// Asks it to cancel what has this key; returns when it has. Whether it has such a client.
    pub async fn cancel(&self, key: &CancelKey) -> bool {
        let Some(line) = lock(&self.line).clone() else { return false };
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let (tell, told) = oneshot::channel();
        lock(&self.asked).insert(number, tell);
        let known = match say(&line, Kind::Cancel, number, &key.to_bytes()) {
            Ok(()) => timeout(CANCEL_MAX, told).await.is_ok_and(|told| told.unwrap_or(false)),
            Err(_) => false,
        };
        lock(&self.asked).remove(&number);
        known
    }

    /// Hears what the old process says, to its end. Sessions go to the workers in turn.
    pub async fn hear(&self, line: UnixStream, workers: Vec<mpsc::Sender<Arrival>>) {
        let line = Arc::new(line);
        *lock(&self.line) = Some(Arc::clone(&line));
        let over = self.hear_all(&line, &workers).await;
        hang_up(&line);
        *lock(&self.line) = None;
        lock(&self.asked).clear();
        match over {
            Ok(()) => tracing::info!("the proxy that ran before has ended"),
            Err(error) => tracing::warn!("no more clients come from the proxy that ran before: {error}"),
        }
    }

    async fn hear_all(&self, line: &Arc<UnixStream>, workers: &[mpsc::Sender<Arrival>]) -> io::Result<()> {
        let (mut incoming, mut in_turn) = (Incoming::default(), workers.iter().cycle());
        while let Some(frame) = incoming.next(line).await? {
            let number = frame.number;
            match (frame.kind, frame.file) {
                (Kind::Session, Some(file)) => {
                    let reply = Reply { line: Some(Arc::clone(line)), number };
                    // What cannot be put anywhere is dropped, and refused by that.
                    if let (Some(arrival), Some(worker)) = (arrival(&frame.body, file, reply), in_turn.next())
                    {
                        drop(worker.try_send(arrival));
                    }
                }
                // No file could be opened any more.
                (Kind::Session, None) => {
                    Reply { line: Some(Arc::clone(line)), number }.refused("its socket did not come");
                }
                (Kind::Cancelled, None) => {
                    if let Some(tell) = lock(&self.asked).remove(&number) {
                        let _ = tell.send(frame.body == [1]);
                    }
                }
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
        Ok(())
    }
}

fn arrival(body: &[u8], file: OwnedFd, reply: Reply) -> Option<Arrival> {
    match Session::parse(body) {
        Some(session) => Some(Arrival { session, socket: TcpStream::from(file), reply }),
        None => {
            reply.refused("what came is no session");
            None
        }
    }
}

/// Where sessions come to a worker.
pub type Arrivals = mpsc::Receiver<Arrival>;

/// For each worker where sessions come, and where they are put.
pub fn inboxes(workers: usize) -> (Vec<mpsc::Sender<Arrival>>, Vec<Arrivals>) {
    (0..workers).map(|_| mpsc::channel(INBOX_LEN)).unzip()
}
