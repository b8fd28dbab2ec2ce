//! Starts the proxy: sockets, worker threads, the watch on the agents; and ends it.

use crate::client;
use crate::console::{self, Inbox};
use crate::error::ProxyError;
use crate::finder::find;
use crate::hba::{self, Hba};
use crate::pool::Pool;
use crate::pooled;
use crate::reload::{Reload, Reloads, reload_when_asked};
use crate::ring::{self, Acceptor, Ahead, Ring, RingSocket};
use crate::settings::{ClientAuth, Settings};
use crate::socket::Socket;
use crate::stats::Stats;
use crate::stream::Stream;
use crate::tls::{Tls, keep_current};
use crate::watch::{Newest, Views, follow};
use crate::worker::{Shared, Worker, stopped};
use cluster::view::View;
use pgwire::scram::KEY_LEN;
use socket2::{Domain, Protocol, Socket as RawSocket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinSet, LocalSet, spawn_local};

/// Connections the kernel may keep ready to be accepted.
const BACKLOG: i32 = 4_096;

/// Connections beyond `clients_max`: those in start-up, cancel requests, and those that are told there are too many.
const CONNECTIONS_SPARE: usize = 128;

/// How long sessions may take to say farewell when the proxy stops.
const STOP_MAX: Duration = Duration::from_secs(2);

/// Pause after accepting failed: usually no file descriptor is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
    run_with((settings, None), epoch_seen, shutdown).await
}

/// As [`run`]; the settings are read again when somebody asks for it.
///
/// # Errors
/// As [`run`].
pub async fn run_reloading(
    settings: Settings,
    reload: Reload,
    epoch_seen: Arc<AtomicU64>,
    shutdown: watch::Receiver<bool>,
) -> Result<(), ProxyError> {
    run_with((settings, Some(reload)), epoch_seen, shutdown).await
}

async fn run_with(
    (settings, reload): (Settings, Option<Reload>),
    epoch_seen: Arc<AtomicU64>,
    shutdown: watch::Receiver<bool>,
) -> Result<(), ProxyError> {
    if settings.listen.is_empty() {
        return Err(ProxyError::NoListenAddress);
    }
    if settings.agents.is_empty() && settings.servers.is_empty() {
        return Err(ProxyError::NoAgents);
    }
    let tls = Arc::new(Tls::load(&settings)?);
    for doubt in tls.doubts() {
        tracing::error!("{doubt}");
    }
    let hba = match settings.pool.as_ref().map(|pool| &pool.auth) {
        Some(ClientAuth::Rules(files, _)) => Some(Hba::load(files)?),
        Some(ClientAuth::Scram(_) | ClientAuth::Trust) | None => None,
    };
    let workers_count = settings.workers.max(1);
    let mut sockets = Vec::new();
    for _ in 0..workers_count {
        sockets.push(Vec::new());
    }
    for &address in &settings.listen {
        let bound = check_is_free(address)?;
        for of_worker in &mut sockets {
            of_worker.push(listen(bound)?);
        }
        tracing::info!("listening on {bound} for clients of cluster {}", settings.cluster);
    }

    let (newest, views) = Newest::new(&settings.cluster, &settings.agents);
    if let [server] = settings.servers.as_slice() {
        newest.is_always(server);
    }
    let newest = Arc::new(newest);
    // Workers also stop when this function is dropped, for `stop` goes with it.
    let (stop, stop_seen) = watch::channel(false);
    let (desks, inboxes) = console::desks(workers_count);
    let mut mock = [0; KEY_LEN];
    aws_lc_rs::rand::fill(&mut mock).map_err(|_| ProxyError::NoRandom)?;
    let (reader, asked) = reload.map(|Reload { reader, asked }| (reader, asked)).unzip();
    let settings = (settings, Reloads::by(reader));
    let shared = Arc::new(Shared::new(settings, (Arc::clone(&tls), hba), desks, mock));
    let mut tasks = JoinSet::new();
    if let Some(asked) = asked {
        tasks.spawn(reload_when_asked(Arc::clone(&shared), asked));
    }
    for agent in &shared.settings().agents {
        tasks.spawn(follow(agent.clone(), Arc::clone(&newest)));
    }
    tasks.spawn(keep_current(tls));
    tasks.spawn(hba::keep_current(Arc::clone(&shared)));
    tasks.spawn(log_views(views.clone(), Arc::clone(&shared), epoch_seen));

    let mut workers = JoinSet::new();
    for (number, (sockets, inbox)) in sockets.into_iter().zip(inboxes).enumerate() {
        let worker = (Arc::clone(&shared), views.clone(), stop_seen.clone());
        // One is enough to look for the primary.
        let newest = (number == 0 && shared.settings().servers.len() > 1).then(|| Arc::clone(&newest));
        let ended = start_worker(number, (sockets, inbox, newest), worker)?;
        workers.spawn(async move { (number, ended.await) });
    }
    let outcome = wait_for_end(&mut workers, shutdown).await;
    stop.send_replace(true);
    while let Some(ended) = workers.join_next().await {
        drop(ended);
    }
    tracing::info!("stopped; {}", shared.stats.snapshot());
    outcome
}

async fn wait_for_end(
    workers: &mut JoinSet<(usize, Result<io::Result<()>, oneshot::error::RecvError>)>,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), ProxyError> {
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

/// Sockets that share their port would not notice another proxy on it, so it is asked for alone first. Returns the
/// address with the port that port 0 turned into.
fn check_is_free(address: SocketAddr) -> Result<SocketAddr, ProxyError> {
    let bound = socket(address).and_then(|socket| {
        socket.bind(&address.into())?;
        StdListener::from(socket).local_addr()
    });
    bound.map_err(|source| listen_error(address, source))
}

fn listen(address: SocketAddr) -> Result<StdListener, ProxyError> {
    let bound = socket(address).and_then(|socket| {
        socket.set_reuse_port(true)?;
        Socket::prepare(&socket)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(StdListener::from(socket))
    });
    bound.map_err(|source| listen_error(address, source))
}

fn socket(address: SocketAddr) -> io::Result<RawSocket> {
    let socket = RawSocket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Without it, connections of an earlier run that are not quite over would keep the port for a minute.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn listen_error(address: SocketAddr, source: io::Error) -> ProxyError {
    match source.kind() {
        io::ErrorKind::AddrInUse => ProxyError::PortTaken { address },
        _ => ProxyError::Listen { address, source },
    }
}

fn start_worker(
    number: usize,
    work_of_it: Work,
    (shared, views, stop): (Arc<Shared>, Views, watch::Receiver<bool>),
) -> Result<oneshot::Receiver<io::Result<()>>, ProxyError> {
    let (ended_tell, ended) = oneshot::channel();
    let body = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let result = runtime.and_then(|runtime| {
            let worker = Worker::new(number, shared, views, stop);
            let worker = worker.ok_or_else(|| io::Error::other("the system gives no random bytes"))?;
            let ring = worker.ring.clone();
            let working = work(work_of_it, Rc::new(worker));
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

/// What one worker has to do: where it listens, who asks it, and whom it tells where the primary is, if it looks for it.
type Work = (Vec<StdListener>, Inbox, Option<Arc<Newest>>);

/// The life of one worker: accepts until the proxy stops, then lets its clients say farewell.
async fn work((sockets, inbox, newest): Work, worker: Rc<Worker>) -> io::Result<()> {
    let mut accepting = JoinSet::new();
    for socket in sockets {
        let door = match &worker.ring {
            None => Door::Plain(TcpListener::from_std(socket)?),
            Some(ring) => Door::Ring(Acceptor::new(socket, ring)?, Rc::clone(ring)),
        };
        accepting.spawn_local(accept(door, Rc::clone(&worker)));
    }
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

/// By which clients come in.
enum Door {
    Plain(TcpListener),
    Ring(Acceptor, Rc<Ring>),
}

impl Door {
    async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        match self {
            Door::Plain(listener) => {
                let (socket, peer) = listener.accept().await?;
                Ok((Stream::Plain(Socket::Epoll(socket)), peer))
            }
            Door::Ring(acceptor, ring) => {
                let (socket, peer) = acceptor.accept().await?;
                let socket = RingSocket::new(socket, Ahead::One, ring);
                Ok((Stream::Plain(Socket::Ring(socket)), peer))
            }
        }
    }
}

async fn accept(door: Door, worker: Rc<Worker>) {
    let mut complained = false;
    loop {
        match door.accept().await {
            Ok((client, peer)) => {
                complained = false;
                spawn_local(serve_counted(client, peer, Rc::clone(&worker)));
            }
            Err(error) => {
                if !complained {
                    tracing::warn!(
                        "cannot accept clients: {error}; trying again (is the limit of open files too low?)"
                    );
                }
                complained = true;
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_counted(client: Stream, peer: SocketAddr, worker: Rc<Worker>) {
    let connections_max = worker.shared.settings().clients_max.saturating_add(CONNECTIONS_SPARE);
    match worker.shared.stats.connection(connections_max) {
        Some(_counted) => {
            if let Some(session) = Box::pin(client::serve(client, peer, &worker)).await {
                session.live().await;
            }
        }
        None => worker.shared.log_bad_client(peer, &"the proxy has its maximum of connections"),
    }
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
