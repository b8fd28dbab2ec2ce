//! Starts the proxy: sockets, worker threads, the watch on the agents; and ends it.

mod doors;

use crate::batch::become_batch;
use crate::console::{self, Inbox};
use crate::error::ProxyError;
use crate::finder::find;
use crate::hba::{self, Hba};
use crate::pool::Pool;
use crate::pooled;
use crate::reload::{Reload, Reloads, reload_when_asked};
use crate::ring;
use crate::settings::{ClientAuth, Settings, UnixListen};
use crate::sockets::{self, Sockets};
use crate::stats::Stats;
use crate::takeover::{self, Arrivals, Desk, Ferry, Listeners, Taken, carry};
use crate::tls::{Tls, keep_current};
use crate::unix_door::{Other, UnixDoor};
use crate::watch::{Newest, Views, follow_all};
use crate::worker::{Shared, Worker, stopped};
use cluster::view::View;
use doors::{Door, Doors, accept, arrive};
use identity::Caller;
use pgwire::scram::KEY_LEN;
use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinSet, LocalSet, spawn_local};

/// How often it is looked whether all clients have left.
const LEFT_LOOK: Duration = Duration::from_millis(200);

/// Each with its number and how it ended.
type Workers = JoinSet<(usize, Result<io::Result<()>, oneshot::error::RecvError>)>;

/// How long sessions may take to say farewell when the proxy stops.
const STOP_MAX: Duration = Duration::from_secs(2);

/// When the sessions ended by a new epoch are counted for the log.
const ENDED_LOG_DELAY: Duration = Duration::from_millis(500);

/// Runs a proxy until `shutdown` turns true (or its sender is gone); open sessions get SQLSTATE 57P01 then.
/// `epoch_seen` is kept at the newest epoch it knows, for the log.
///
/// # Errors
/// [`ProxyError`] if an address cannot be listened on, or a worker thread fails.
pub async fn run(
    settings: Settings,
    epoch_seen: Arc<AtomicU64>,
    shutdown: watch::Receiver<bool>,
) -> Result<(), ProxyError> {
    run_with((settings, None), Caller::plain(), epoch_seen, shutdown).await
}

/// As [`run`]; the settings are read again when somebody asks for it, and agents are called by `caller`.
///
/// # Errors
/// As [`run`].
pub async fn run_reloading(
    settings: Settings,
    reload: Reload,
    caller: Caller,
    epoch_seen: Arc<AtomicU64>,
    shutdown: watch::Receiver<bool>,
) -> Result<(), ProxyError> {
    run_with((settings, Some(reload)), caller, epoch_seen, shutdown).await
}

async fn run_with(
    (settings, reload): (Settings, Option<Reload>),
    caller: Caller,
    epoch_seen: Arc<AtomicU64>,
    shutdown: watch::Receiver<bool>,
) -> Result<(), ProxyError> {
    let (tls, hba) = read_files(&settings)?;
    let workers_count = settings.workers.max(1);
    let taken = take_over(&settings).await?;
    let (sockets, offer) = open_sockets(&settings, taken.as_ref())?;
    let unix_door = open_unix_door(&settings, taken.as_ref())?;
    let (newest, views) = Newest::new(&settings.cluster, &settings.agents);
    if let [server] = settings.servers.as_slice() {
        newest.is_always(server);
    }
    let newest = Arc::new(newest);
    // Workers also stop when this function is dropped, for `stop` goes with it.
    let (stop, stop_seen) = watch::channel(false);
    let (doors, doors_seen) = watch::channel(Doors::NotYet);
    let (ready, mut all_ready) = mpsc::channel(workers_count);
    let (desks, inboxes) = console::desks(workers_count);
    let (arriving, arrivals) = takeover::inboxes(workers_count);
    let mut mock = [0; KEY_LEN];
    aws_lc_rs::rand::fill(&mut mock).map_err(|_| ProxyError::NoRandom)?;
    let agents = settings.agents.clone();
    let (reader, asked) = reload.map(|Reload { reader, asked }| (reader, asked)).unzip();
    let settings = (settings, Reloads::by(reader));
    let shared = Shared::new(settings, (Arc::clone(&tls), hba), (caller.clone(), desks), mock);
    let shared = Arc::new(shared.with_unix_door(unix_door));
    let mut tasks = JoinSet::new();
    if !agents.is_empty() {
        tasks.spawn(follow_all(caller.clone(), agents, Arc::clone(&newest), views.clone()));
    }
    tasks.spawn(keep_current(tls));
    tasks.spawn(hba::keep_current(Arc::clone(&shared)));
    tasks.spawn(log_views(views.clone(), Arc::clone(&shared), epoch_seen));
    if let Some(asked) = asked {
        tasks.spawn(reload_when_asked(Arc::clone(&shared), asked));
    }

    let signs = Signs { stop: stop_seen, doors: doors_seen, ready };
    let works = sockets.into_iter().zip(inboxes.into_iter().zip(arrivals));
    let mut workers = start_workers(works, &newest, (&shared, &views), signs)?;
    let handed = async {
        all_start(workers_count, &mut all_ready).await;
        doors.send_replace(Doors::Open);
        open_to_this_host(&shared);
        if let Some(line) = succeed(taken).await {
            let shared = Arc::clone(&shared);
            tasks.spawn(async move { shared.predecessor.hear(line, arriving).await });
        }
        hand_over(offer).await
    };
    let outcome = tokio::select! {
        outcome = wait_for_end(&mut workers, shutdown.clone()) => outcome,
        line = handed => serve_to_the_end(&mut workers, shutdown, (&doors, line), &shared).await,
    };
    stop.send_replace(true);
    while let Some(ended) = workers.join_next().await {
        drop(ended);
    }
    // Tasks that were told to end may keep `shared` for a moment.
    shared.unix_door.iter().for_each(UnixDoor::take_away);
    tracing::info!("stopped; {}", shared.stats.snapshot());
    outcome
}

fn read_files(settings: &Settings) -> Result<(Arc<Tls>, Option<Hba>), ProxyError> {
    if settings.listen.is_empty() {
        return Err(ProxyError::NoListenAddress);
    }
    if settings.agents.is_empty() && settings.servers.is_empty() {
        return Err(ProxyError::NoAgents);
    }
    let tls = Arc::new(Tls::load(settings)?);
    for doubt in tls.doubts() {
        tracing::error!("{doubt}");
    }
    let hba = match settings.pool.as_ref().map(|pool| &pool.auth) {
        Some(ClientAuth::Rules(files, _)) => Some(Hba::load(files)?),
        Some(ClientAuth::Scram(_) | ClientAuth::Md5(_) | ClientAuth::Trust) | None => None,
    };
    Ok((tls, hba))
}

async fn take_over(settings: &Settings) -> Result<Option<Taken>, ProxyError> {
    let Some(path) = settings.takeover.clone() else { return Ok(None) };
    let asked = path.clone();
    let asking = tokio::task::spawn_blocking(move || takeover::ask(&asked));
    let taken = asking.await.map_err(io::Error::other).and_then(|asked| asked);
    let taken = taken.map_err(|source| ProxyError::Takeover { path: path.clone(), source })?;
    let Some(taken) = taken else { return Ok(None) };
    // To take over from it would end it for nothing.
    if !taken.listeners.iter().any(|(address, _)| settings.listen.contains(address)) {
        let source = io::Error::new(io::ErrorKind::AddrNotAvailable, "it listens on other addresses only");
        return Err(ProxyError::Takeover { path, source });
    }
    tracing::info!("takes {} listening sockets over from a proxy that runs", taken.listeners.len());
    Ok(Some(taken))
}

/// Where a later process can ask, and for what.
type Offer = Option<(Desk, Listeners)>;

/// Each worker's sockets, and what a later process is given.
fn open_sockets(settings: &Settings, taken: Option<&Taken>) -> Result<(Vec<Sockets>, Offer), ProxyError> {
    let (sockets, all) = sockets::open(&settings.listen, settings.workers.max(1), taken)?;
    let bound: BTreeSet<SocketAddr> = all.iter().map(|(address, _)| *address).collect();
    for address in bound {
        tracing::info!("listening on {address} for clients of cluster {}", settings.cluster);
    }
    let Some(path) = settings.takeover.clone() else { return Ok((sockets, None)) };
    match Desk::prepare(&path) {
        Ok(desk) => Ok((sockets, Some((desk, all)))),
        Err(source) => Err(ProxyError::Takeover { path, source }),
    }
}

/// The Unix socket for clients of this host, if there is to be one; the address is that of its file.
fn open_unix_door(settings: &Settings, taken: Option<&Taken>) -> Result<Option<UnixDoor>, ProxyError> {
    let Some(UnixListen { dir, mode }) = &settings.unix_listen else { return Ok(None) };
    let Some(port) = settings.listen.first().map(SocketAddr::port) else { return Ok(None) };
    let path = dir.join(format!(".s.PGSQL.{port}"));
    let other = taken.and_then(|taken| taken.pid().ok()).map_or(Other::Stays, Other::Goes);
    let door = UnixDoor::prepare(&path, *mode, other);
    door.map(Some).map_err(|source| ProxyError::UnixSocket { path, source })
}

/// Clients find the Unix socket from now on.
fn open_to_this_host(shared: &Shared) {
    let Some(door) = &shared.unix_door else { return };
    let path = door.path().display();
    match door.put_in_place() {
        Ok(()) => tracing::info!("listening on {path} for clients of this host"),
        Err(error) => tracing::error!("no client can come in by {path}: {error}; check its directory"),
    }
}

/// Returns when all workers could accept. One whose workers do not all start takes nothing over.
async fn all_start(workers: usize, ready: &mut mpsc::Receiver<()>) {
    for _ in 0..workers {
        if ready.recv().await.is_none() {
            // The end of a worker is the end of the proxy, which `wait_for_end` sees.
            std::future::pending().await
        }
    }
}

/// Tells the one whose sockets were taken over that they are accepted now. The line by which its sessions come, if they do.
async fn succeed(taken: Option<Taken>) -> Option<UnixStream> {
    let taken = taken?;
    let telling = tokio::task::spawn_blocking(move || taken.accepts());
    match telling.await.map_err(io::Error::other).and_then(|told| told) {
        Ok(Some(line)) => {
            tracing::info!(
                "the proxy that ran before hands its clients over, and serves the others to their end"
            );
            UnixStream::from_std(line).ok()
        }
        Ok(None) => {
            tracing::info!(
                "the proxy that ran before serves its clients to their end; it is of another version"
            );
            None
        }
        Err(error) => {
            tracing::warn!("the proxy whose sockets were taken over does not hear of it: {error}");
            None
        }
    }
}

/// Returns when the sockets have been taken over, with the line by which sessions can follow.
async fn hand_over(offer: Offer) -> Option<UnixStream> {
    let Some((mut desk, sockets)) = offer else { return std::future::pending().await };
    if let Err(error) = desk.put_in_place() {
        tracing::error!("no later process can take over by `takeover`: {error}");
        return std::future::pending().await;
    }
    desk.give(sockets).await
}

/// Its sockets were taken over: clients follow by the `line` as they become idle, and those that cannot may stay for a while.
async fn serve_to_the_end(
    workers: &mut Workers,
    shutdown: watch::Receiver<bool>,
    (doors, line): (&watch::Sender<Doors>, Option<UnixStream>),
    shared: &Arc<Shared>,
) -> Result<(), ProxyError> {
    // Where the new process has put its own, that one stays.
    shared.unix_door.iter().for_each(UnixDoor::take_away);
    doors.send_replace(Doors::Closed);
    let (drain, clients) = (shared.settings().drain, shared.stats.snapshot().clients);
    tracing::info!("another process listens now; {clients} clients may stay for up to {} s", drain.as_secs());
    let all_left = async {
        // Whoever was just accepted is counted by then.
        doors.closed().await;
        while shared.stats.snapshot().connections > 0 {
            tokio::time::sleep(LEFT_LOOK).await;
        }
    };
    let outcome = tokio::select! {
        outcome = wait_for_end(workers, shutdown) => outcome,
        _ = tokio::time::timeout(drain, all_left) => Ok(()),
        () = pass_on(line, shared) => Ok(()),
    };
    if let Some(ferry) = &*shared.leaving.borrow() {
        let clients = shared.stats.snapshot().clients;
        tracing::info!(
            "{} clients were handed over in all, {clients} stayed to the end",
            ferry.tally().taken()
        );
    }
    outcome
}

/// Passes clients on. Never returns.
async fn pass_on(line: Option<UnixStream>, shared: &Arc<Shared>) {
    if let Some(line) = line {
        let (ferry, parcels) = Ferry::new();
        shared.leaving.send_replace(Some(ferry.clone()));
        tokio::join!(carry(line, &ferry, parcels, shared), pooled::tell_who_stays(&ferry, shared));
    }
    std::future::pending().await
}

async fn wait_for_end(workers: &mut Workers, mut shutdown: watch::Receiver<bool>) -> Result<(), ProxyError> {
    let ended = tokio::select! {
        () = stopped(&mut shutdown) => return Ok(()),
        ended = workers.join_next() => ended,
    };
    match ended {
        Some(Ok((worker, Ok(Err(source))))) => Err(ProxyError::Worker { worker, source }),
        Some(Ok((worker, _))) => {
            Err(ProxyError::Worker { worker, source: io::Error::other("its thread ended") })
        }
        Some(Err(error)) => Err(ProxyError::Worker { worker: 0, source: io::Error::other(error) }),
        None => Ok(()),
    }
}

fn start_workers(
    works: impl Iterator<Item = (Sockets, (Inbox, Arrivals))>,
    newest: &Arc<Newest>,
    (shared, views): (&Arc<Shared>, &Views),
    signs: Signs,
) -> Result<Workers, ProxyError> {
    let mut workers = JoinSet::new();
    for (number, (sockets, inboxes)) in works.enumerate() {
        // One is enough to look for the primary.
        let newest = (number == 0 && shared.settings().servers.len() > 1).then(|| Arc::clone(newest));
        let shared = (Arc::clone(shared), views.clone());
        let ended = start_worker(number, (sockets, inboxes, newest), shared, signs.clone())?;
        workers.spawn(async move { (number, ended.await) });
    }
    Ok(workers)
}

fn start_worker(
    number: usize,
    work_of_it: Work,
    (shared, views): (Arc<Shared>, Views),
    Signs { stop, doors, ready }: Signs,
) -> Result<oneshot::Receiver<io::Result<()>>, ProxyError> {
    let (ended_tell, ended) = oneshot::channel();
    let body = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let result = runtime.and_then(|runtime| {
            let worker = Worker::new(number, shared, views, stop);
            let worker = worker.ok_or_else(|| io::Error::other("the system gives no random bytes"))?;
            let ring = worker.ring.clone();
            if let (Some(_), Err(error)) = (&ring, become_batch()) {
                tracing::debug!("worker {number} runs as any thread: {error}");
            }
            let working = work(work_of_it, Rc::new(worker), doors, ready);
            match ring {
                Some(ring) => ring::block_on(&runtime, &ring, working)?,
                None => LocalSet::new().block_on(&runtime, working),
            }
        });
        // Nobody listens if the proxy was dropped.
        let _ = ended_tell.send(result);
    };
    let thread = std::thread::Builder::new().name(format!("proxy-worker-{number}")).spawn(body);
    thread.map(|_| ended).map_err(|source| ProxyError::Worker { worker: number, source })
}

/// What one worker has to do: where it listens, where it is asked and sessions come, and whom it tells where the primary is,
/// if it looks for it.
type Work = (Sockets, (Inbox, Arrivals), Option<Arc<Newest>>);

/// By which a worker and the one who started it know of each other.
#[derive(Clone)]
struct Signs {
    stop: watch::Receiver<bool>,
    doors: watch::Receiver<Doors>,
    /// Once, when it could accept.
    ready: mpsc::Sender<()>,
}

/// The life of one worker: accepts until the proxy stops, or its `doors` are closed, then lets its clients say farewell.
async fn work(
    (sockets, (inbox, arrivals), newest): Work,
    worker: Rc<Worker>,
    doors: watch::Receiver<Doors>,
    ready: mpsc::Sender<()>,
) -> io::Result<()> {
    let mut accepting = JoinSet::new();
    for socket in sockets {
        let door = Door::open(socket, worker.ring.as_ref(), worker.shared.settings().takeover.is_some())?;
        accepting.spawn_local(accept(door, Rc::clone(&worker), doors.clone()));
    }
    if let Some(unix_door) = &worker.shared.unix_door {
        let door = Door::open_unix(unix_door.listener()?, worker.ring.as_ref())?;
        accepting.spawn_local(accept(door, Rc::clone(&worker), doors.clone()));
    }
    accepting.spawn_local(arrive(arrivals, Rc::clone(&worker), doors.clone()));
    // Who waits for it may be gone already.
    let _ = ready.send(()).await;
    drop((doors, ready));
    let minding = worker.shared.settings().has_pools().then(|| spawn_local(pooled::mind(Rc::clone(&worker))));
    let mut finding = JoinSet::new();
    if let Some(newest) = newest {
        finding.spawn_local(find(Rc::clone(&worker), newest));
    }
    let answering = spawn_local(console::answer(inbox, Rc::clone(&worker)));
    let keeping = spawn_local(console::keep_keys(Rc::clone(&worker)));
    stopped(&mut worker.stop.clone()).await;
    drop(accepting);
    drop((minding, answering, keeping, finding));
    // Each client's task holds the worker; when only this function does, all are gone.
    let all_gone = async {
        while Rc::strong_count(&worker) > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let _ = tokio::time::timeout(STOP_MAX, all_gone).await;
    Ok(())
}

/// One line for each change of the view that matters to clients, and one with the sessions that a new epoch ended.
async fn log_views(mut views: Views, shared: Arc<Shared>, epoch_seen: Arc<AtomicU64>) {
    let mut known = views.latest();
    loop {
        views.changed().await;
        let view = views.latest();
        epoch_seen.fetch_max(view.epoch, Ordering::Relaxed);
        if describe(&view) != describe(&known) || view.readers != known.readers {
            tracing::info!("view: {}", describe(&view));
        }
        if view.epoch > known.epoch {
            let (shared, old, new) = (Arc::clone(&shared), known.epoch, view.epoch);
            tokio::spawn(async move {
                tokio::time::sleep(ENDED_LOG_DELAY).await;
                log_ended(&shared.stats, &shared.pool, old, new);
            });
        }
        known = view;
    }
}

fn log_ended(stats: &Stats, pool: &Pool, old: u64, new: u64) {
    let (ended, left) = (stats.ended_of(old), pool.older_than(new));
    if ended > 0 || left > 0 {
        tracing::info!(
            "epoch {new} began: {ended} sessions of epoch {old} ended, {left} older ones still closing"
        );
    }
}

fn describe(view: &View) -> String {
    let View { epoch, primary, waiting, hold, .. } = view;
    match (primary, hold, waiting) {
        (Some(server), None, _) => {
            format!("epoch {epoch}, primary {} at {}:{}", server.node, server.host, server.port)
        }
        (Some(server), Some(hold), _) => {
            format!("epoch {epoch}, nothing new begins on the primary {}: {hold}", server.node)
        }
        (None, _, Some(waiting)) => format!("epoch {epoch}, no primary: {waiting}"),
        (None, _, None) => format!("epoch {epoch}, no primary"),
    }
}
