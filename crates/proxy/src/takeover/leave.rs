//! The old process's side: sessions go to the new one, and its cancel requests come for clients that stayed.
//!
//! At any time one process reads from a client's socket. The old one stops before it passes the socket on; the new one begins
//! when it has said that the session is its own, and what it has said before the line ended is heard. So when the line is
//! over and everything on it was read, each session is known to be in one place.

use super::wire::{Frame, Incoming, Kind, hang_up, send};
use crate::console::Wish;
use crate::worker::Shared;
use pgwire::CancelKey;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

/// Sessions on their way at the same time. Their clients are not served meanwhile, so they are few.
const AT_ONCE_MAX: usize = 64;

/// The new process is not believed in any more when it has let a session wait for so long.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Cancel requests that are dealt with at the same time.
const CANCELS_MAX: usize = 64;

/// What became of a session that was passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is the new process's.
    Taken,
    /// It is still here.
    Stays,
    /// This process ends and has not heard of it: it is left alone, for somebody else may have it.
    Unknown,
}

/// The way to the new process.
#[derive(Clone, Debug)]
pub struct Ferry {
    parcels: mpsc::Sender<Parcel>,
    turns: Arc<Semaphore>,
    tally: Arc<Tally>,
}

/// A session that is to go.
#[derive(Debug)]
pub struct Parcel {
    body: Vec<u8>,
    socket: OwnedFd,
    outcome: oneshot::Sender<Outcome>,
}

/// What became of all of them.
#[derive(Debug, Default)]
pub struct Tally {
    taken: AtomicU64,
    /// Why the first one was refused that was.
    refused: Mutex<Option<String>>,
}

impl Tally {
    /// How many have gone.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Why the new process did not take one.
    pub fn why_refused(&self) -> Option<String> {
        lock(&self.refused).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is one statement, so a panic elsewhere spoils nothing.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ferry {
    /// A way, and what is to be carried by [`carry`].
    pub fn new() -> (Ferry, mpsc::Receiver<Parcel>) {
        let (parcels, carried) = mpsc::channel(AT_ONCE_MAX);
        let turns = Arc::new(Semaphore::new(AT_ONCE_MAX));
        (Ferry { parcels, turns, tally: Arc::default() }, carried)
    }

    /// Returns when a session may go; `None` if none may any more.
    pub fn turn(&self) -> impl Future<Output = Option<OwnedSemaphorePermit>> + 'static {
        let turns = Arc::clone(&self.turns);
        async move { turns.acquire_owned().await.ok() }
    }

    /// What has become of those that went.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Passes a session on. Nobody reads from its socket here meanwhile.
    pub async fn pass_on(&self, body: Vec<u8>, socket: OwnedFd) -> Outcome {
        let (tell, told) = oneshot::channel();
        match self.parcels.send(Parcel { body, socket, outcome: tell }).await {
            Ok(()) => told.await.unwrap_or(Outcome::Unknown),
            // It was not even sent.
            Err(_) => Outcome::Stays,
        }
    }
}

/// Those on their way, each since when.
type Waiting = Mutex<HashMap<u64, (Instant, oneshot::Sender<Outcome>)>>;

/// Carries sessions over the line until it is over; then every session is known to be here or there.
pub async fn carry(
    line: UnixStream,
    ferry: &Ferry,
    mut parcels: mpsc::Receiver<Parcel>,
    shared: &Arc<Shared>,
) {
    let line = Arc::new(line);
    let (waiting, mut incoming) = (Waiting::default(), Incoming::default());
    let (answers, mut answered) = mpsc::channel(CANCELS_MAX);
    let over = tokio::select! {
        over = send_all(&line, (&mut parcels, &mut answered), &waiting) => over,
        over = hear_all(&line, &mut incoming, (&waiting, &ferry.tally), (shared, &answers)) => over,
        over = watch_over(&waiting) => over,
    };
    ferry.turns.close();
    hang_up(&line);
    // What the new process has said before that holds.
    while let Ok(Some(frame)) = incoming.next(&line).await {
        settle(&frame, &waiting, &ferry.tally);
    }
    for (_, (_, outcome)) in lock(&waiting).drain() {
        let _ = outcome.send(Outcome::Stays);
    }
    parcels.close();
    while let Some(parcel) = parcels.recv().await {
        let _ = parcel.outcome.send(Outcome::Stays);
    }
    match over {
        Ok(()) => tracing::info!("the process that listens now has ended, or takes no more clients"),
        Err(error) => tracing::warn!("no more clients go to the process that listens now: {error}"),
    }
}

/// The number of a cancel request, and whether it was for somebody here.
type Cancelled = (u64, bool);

/// All that is said on this side: a session may be sent in parts, and nothing else may come between them.
async fn send_all(
    line: &UnixStream,
    (parcels, answered): (&mut mpsc::Receiver<Parcel>, &mut mpsc::Receiver<Cancelled>),
    waiting: &Waiting,
) -> io::Result<()> {
    let mut number = 0;
    loop {
        let parcel = tokio::select! {
            Some((number, known)) = answered.recv() => {
                send(line, (Kind::Cancelled, number), &[u8::from(known)], None).await?;
                continue;
            }
            parcel = parcels.recv() => parcel,
        };
        let Some(Parcel { body, socket, outcome }) = parcel else { return Ok(()) };
        number += 1;
        lock(waiting).insert(number, (Instant::now(), outcome));
        send(line, (Kind::Session, number), &body, Some(socket.as_fd())).await?;
    }
}

async fn hear_all(
    line: &Arc<UnixStream>,
    incoming: &mut Incoming,
    (waiting, tally): (&Waiting, &Tally),
    (shared, answers): (&Arc<Shared>, &mpsc::Sender<Cancelled>),
) -> io::Result<()> {
    let cancels = Arc::new(Semaphore::new(CANCELS_MAX));
    while let Some(frame) = incoming.next(line).await? {
        match frame.kind {
            Kind::Taken | Kind::Refused => settle(&frame, waiting, tally),
            Kind::Cancel => {
                let permit = Arc::clone(&cancels).try_acquire_owned();
                let (answers, shared) = (answers.clone(), Arc::clone(shared));
                tokio::spawn(async move {
                    let known = permit.is_ok() && cancel(&frame.body, &shared).await;
                    // A line that is over needs no answer.
                    let _ = answers.send((frame.number, known)).await;
                });
            }
            Kind::Session | Kind::Cancelled => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
    Ok(())
}

/// One of the workers does it; whether there is such a client.
async fn cancel(key: &[u8], shared: &Shared) -> bool {
    let Some(key) = CancelKey::parse(key) else { return false };
    let (done, mut is_done) = mpsc::channel(1);
    shared.desks.ask_one(0, Wish::Cancel(key, done)).await;
    is_done.recv().await.unwrap_or(false)
}

fn settle(frame: &Frame, waiting: &Waiting, tally: &Tally) {
    let Some((_, tell)) = lock(waiting).remove(&frame.number) else { return };
    let outcome = match frame.kind {
        Kind::Taken => {
            tally.taken.fetch_add(1, Ordering::Relaxed);
            Outcome::Taken
        }
        _ => {
            let why = String::from_utf8_lossy(&frame.body);
            tracing::debug!("the new process does not take a client: {why}");
            lock(&tally.refused).get_or_insert_with(|| why.into_owned());
            Outcome::Stays
        }
    };
    let _ = tell.send(outcome);
}

/// Returns when a session has waited for too long.
async fn watch_over(waiting: &Waiting) -> io::Result<()> {
    loop {
        tokio::time::sleep(ANSWER_MAX / 10).await;
        if lock(waiting).values().any(|(since, _)| since.elapsed() > ANSWER_MAX) {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}
