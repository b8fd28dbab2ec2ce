//! Starts an agent: checks the host, opens what it needs in an order in which every failure has a clear cause, runs the
//! loop, and takes everything down again.

use crate::audit::{Audit, Known, Verdict, Wish};
use crate::fence::Fence;
use crate::guard::{GuardEvent, GuardHandle};
use crate::hands::Hands;
use crate::marker::Marker;
use crate::os_user;
use crate::postgres::{PgError, Place, adopt, files, process};
use crate::run::{self, Event, Over, Parts};
use crate::settings::{Replication, SecondLine, Settings, check_host};
use crate::store::{Store, StoreError, StoreKind, StoreOptions, elsewhere, moving};
use crate::successor::fit::Used;
use crate::successor::{Ended, Successor};
use crate::{api, http};
use cluster::NodeName;
use cluster::decide::{Proposed, Record};
use cluster::state::{self, Member, PgAddress};
use identity::{Acceptor, Caller, Credentials};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

/// Events that may wait for the loop.
const EVENTS_MAX: usize = 1024;
/// How long the port may still be held by what listened on it in this process.
const LISTEN_LIMIT: Duration = Duration::from_secs(2);
/// How long a store that is over may take to close: nobody renews a lease meanwhile.
const CLOSE_LIMIT: Duration = Duration::from_millis(300);
const LISTEN_AGAIN: Duration = Duration::from_millis(5);
/// How long a store that the record has moved to may be held by this process.
const LOCKED_LIMIT: Duration = Duration::from_secs(2);
const LOCKED_AGAIN: Duration = Duration::from_millis(20);

/// Why an agent could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The host is not fit.
    #[error("this host cannot run node {node}:\n  - {}", problems.join("\n  - "))]
    Host {
        /// The node.
        node: String,
        /// Each problem with what to do.
        problems: Vec<String>,
    },
    /// The address of the API cannot be bound.
    #[error(
        "node {node} cannot listen on {address}: {source}; end what uses that port, or give the node another address \
         in [members] of every configuration file"
    )]
    Listen {
        /// The node.
        node: String,
        /// `host:port`.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The port of PostgreSQL is in use by something else.
    #[error(
        "the PostgreSQL port {port} of node {node} is in use by another process: {source}; end it, or set postgres.port \
         to a free one"
    )]
    PgPort {
        /// The node.
        node: String,
        /// The port.
        port: u16,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something about files or PostgreSQL.
    #[error(transparent)]
    Pg(#[from] PgError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A name that is none.
    #[error(transparent)]
    Name(#[from] cluster::basics::BadNodeName),
    /// The store died while it ran.
    #[error(
        "the store has died and does not recover by itself: {0}; the agent ends so that it is started again"
    )]
    StoreDied(String),
}

/// Runs an agent until `stop` turns true. Without `credentials` nothing between agents is encrypted, and nobody is asked who
/// they are. `successor` is asked before the process makes room for another one. `epoch_seen` is kept at the newest epoch it knows, for the log.
///
/// # Errors
/// [`AgentError`]: why it could not start, or had to end.
pub async fn run(
    settings: Settings,
    (credentials, successor): (Option<Credentials>, Successor),
    epoch_seen: Arc<AtomicU64>,
    stop: watch::Receiver<bool>,
) -> Result<Ended, AgentError> {
    let problems = check_host(&settings);
    if !problems.is_empty() {
        return Err(AgentError::Host { node: settings.node.clone(), problems });
    }
    let me: NodeName = settings.node.parse()?;
    make_own_dir(&settings.dir)?;
    let mut listener = listen(&settings).await?;
    let mut process =
        Process { me, credentials, successor, epoch_seen, stop, pid_file: None, started_in: None };
    loop {
        match in_one_store(&settings, &mut process, listener).await? {
            Over::Ended(ended) => return Ok(ended),
            Over::Moved(_) => listener = listen_again(&settings).await?,
        }
    }
}

/// What stays the same while the record moves from one store to another.
struct Process {
    me: NodeName,
    credentials: Option<Credentials>,
    successor: Successor,
    epoch_seen: Arc<AtomicU64>,
    stop: watch::Receiver<bool>,
    pid_file: Option<PidFile>,
    /// How long the first start took.
    started_in: Option<Duration>,
}

/// Runs until the agent ends, or the record has moved. Then it is remembered where to, and everything here is closed.
async fn in_one_store(
    settings: &Settings,
    process: &mut Process,
    listener: TcpListener,
) -> Result<Over, AgentError> {
    let began = Instant::now();
    let (me, credentials) = (process.me.clone(), process.credentials.clone());
    let caller = Caller::with(credentials.clone());
    let (store, home) = open_store(settings, &me, caller.clone()).await?;
    if process.pid_file.is_none() {
        process.pid_file = Some(PidFile::write(&settings.dir)?);
    }
    let (guard_sender, guard_events) = mpsc::unbounded_channel();
    let hands = match place(settings)? {
        Some(place) => {
            let fence = fence_of(settings, &place);
            Some(open_hands(place, &me, (&store, &caller), fence, guard_sender).await?)
        }
        None => None,
    };
    let (events, inbox) = mpsc::channel(EVENTS_MAX);
    let (served_until, served) = watch::channel(false);
    let place = hands.as_ref().map(|h| h.place.clone());
    let files = api::Files { me: me.clone(), place, hands: hands.clone() };
    let audit = Audit::open(&settings.dir.join("audit"), me.clone());
    let given = (follows(settings, &process.successor, home, &store), audit.clone());
    let router = api::router(events.clone(), store.clone(), files, caller.clone(), given);
    let acceptor = Acceptor::with(credentials);
    let turned = turned_away(audit.clone());
    let server = tokio::spawn(http::serve_and_tell(listener, acceptor, router, turned, ended(served)));
    let others = (caller.clone(), configured(settings)?);
    let asking = tokio::spawn(ask_others(store.clone(), settings.detect, others, events.clone()));
    let fence = hands.as_ref().and_then(|h| h.fence.clone());
    let started_in = *process.started_in.get_or_insert_with(|| began.elapsed());
    let seen = (Arc::clone(&process.epoch_seen), started_in);
    let parts = parts(settings, me, (store.clone(), caller), hands, seen)?;
    let running = run::run(parts, (events, inbox), guard_events, process.stop.clone());
    let outcome = run_and_form(running, store.clone()).await;
    asking.abort();
    let outcome = outcome.and_then(|over| remember(settings, over));
    // The server has stopped. After a failure it may still run, and is ended by its guard.
    if let (Ok(Over::Ended(Ended::Stopped | Ended::Removed)), Some(fence)) = (&outcome, fence)
        && let Err(e) = fence.remove().await
    {
        tracing::error!("{e}");
    }
    let _ = served_until.send(true);
    let closing = async { tokio::join!(store.close(), audit.close()) };
    match &outcome {
        // Nobody renews the lease meanwhile. What is not closed in time is found as after a crash.
        Ok(Over::Ended(Ended::ForSuccessor { by })) => {
            drop(tokio::time::timeout_at((*by).into(), closing).await);
        }
        Ok(Over::Moved(_)) => drop(tokio::time::timeout(CLOSE_LIMIT, closing).await),
        Ok(Over::Ended(Ended::Stopped | Ended::Removed)) | Err(_) => drop(closing.await),
    }
    server.abort();
    // No failure: who keeps the process running would start it again, for the same end.
    if matches!(outcome, Ok(Over::Ended(Ended::Removed))) {
        tracing::error!(
            "node {} was removed from the cluster: its server has stopped and its agent ends; its data is untouched. A name is not \
             given again: to bring this host back, empty its directories and run pgkeel join with another --node",
            settings.node
        );
    }
    outcome
}

/// Before anything of the new store is used.
fn remember(settings: &Settings, over: Over) -> Result<Over, AgentError> {
    if let Over::Moved(opening) = &over {
        moving::remember(&stores(settings), opening)?;
    }
    Ok(over)
}

/// One that is led by nobody, or leads nobody, may have been away while the record moved.
async fn ask_others(
    store: Store,
    detect: Duration,
    (caller, configured): (Caller, BTreeMap<NodeName, String>),
    events: mpsc::Sender<Event>,
) {
    while !events.is_closed() {
        tokio::time::sleep(elsewhere::ASK_EVERY).await;
        if store.is_led(detect) || store.state().moved.is_some() {
            continue;
        }
        if let Some(opening) = store.later(&caller, &configured).await {
            let _ = events.send(Event::Told(Box::new(opening))).await;
        }
    }
}

/// Runs, and sees meanwhile that the store comes into being.
async fn run_and_form(
    running: impl Future<Output = Result<Over, String>>,
    store: Store,
) -> Result<Over, AgentError> {
    tokio::pin!(running);
    let mut forming = tokio::spawn(async move { store.form().await });
    let mut formed = false;
    let outcome = loop {
        tokio::select! {
            ended = &mut running => break ended.map_err(AgentError::StoreDied),
            outcome = &mut forming, if !formed => {
                formed = true;
                if let Ok(Err(e)) = outcome {
                    break Err(e.into());
                }
            }
        }
    };
    forming.abort();
    outcome
}

/// Lists who did not get as far as to ask for something.
fn turned_away(audit: Audit) -> http::Turned {
    Arc::new(move |from, why| {
        let (who, what) = ("not known".to_owned(), "connect".to_owned());
        let wish = Wish { who, known: Known::No, says: None, from: from.ip(), what, routine: false };
        audit.ended(wish, Verdict::Refused, &why.to_string());
    })
}

fn fence_of(settings: &Settings, place: &Place) -> Option<Arc<Fence>> {
    match settings.second_line {
        SecondLine::None => None,
        SecondLine::Nftables => Some(Arc::new(Fence::new(place.settings.port))),
    }
}

async fn ended(mut served: watch::Receiver<bool>) {
    let _ = served.wait_for(|ended| *ended).await;
}

fn make_own_dir(dir: &Path) -> Result<(), PgError> {
    std::fs::create_dir_all(dir).map_err(PgError::file("make", dir))
}

async fn listen(settings: &Settings) -> Result<TcpListener, AgentError> {
    TcpListener::bind(&settings.listen).await.map_err(|source| AgentError::Listen {
        node: settings.node.clone(),
        address: settings.listen.clone(),
        source,
    })
}

/// The port is free as soon as who listened on it has ended.
async fn listen_again(settings: &Settings) -> Result<TcpListener, AgentError> {
    let began = Instant::now();
    loop {
        match listen(settings).await {
            Err(AgentError::Listen { .. }) if began.elapsed() < LISTEN_LIMIT => {
                tokio::time::sleep(LISTEN_AGAIN).await;
            }
            listening => return listening,
        }
    }
}

/// The directory of all stores of this node.
fn stores(settings: &Settings) -> PathBuf {
    settings.dir.join("store")
}

fn configured(settings: &Settings) -> Result<BTreeMap<NodeName, String>, cluster::basics::BadNodeName> {
    settings.members.iter().map(|(name, agent)| Ok((name.parse()?, agent.clone()))).collect()
}

/// Opens the store in which the record is now, and says what kind that is.
async fn open_store(
    settings: &Settings,
    me: &NodeName,
    caller: Caller,
) -> Result<(Store, StoreKind), AgentError> {
    let stores = stores(settings);
    let opening = moving::recall(&stores)?;
    let kind = match &opening {
        Some(opening) => opening.kind(&settings.store)?,
        None => settings.store.clone(),
    };
    if let Some(differs) = opening.as_ref().and_then(|opening| opening.differs(&settings.store)) {
        tracing::warn!("the configuration file is out of date: {differs}");
    }
    let options = StoreOptions {
        dir: moving::dir(&stores, opening.as_ref().map_or(0, |opening| opening.number)),
        cluster: settings.cluster.clone(),
        node: me.clone(),
        address: settings.listen.clone(),
        members: configured(settings)?,
        detect: settings.detect,
        founded: settings.founded,
        kind: kind.clone(),
        opening,
        caller,
    };
    let began = Instant::now();
    loop {
        match Store::open(options.clone()).await {
            // Another agent may be asking just now whether this node could use that store.
            Err(StoreError::Locked { .. }) if options.opening.is_some() && began.elapsed() < LOCKED_LIMIT => {
                tokio::time::sleep(LOCKED_AGAIN).await;
            }
            opened => return Ok((opened?, kind)),
        }
    }
}

fn follows(settings: &Settings, successor: &Successor, home: StoreKind, store: &Store) -> api::Follows {
    api::Follows {
        successor: successor.clone(),
        used: Used::of(settings),
        home: home.to_string(),
        configured: settings.store.clone(),
        file_differs: store.opening().and_then(|opening| opening.differs(&settings.store)),
    }
}

fn place(settings: &Settings) -> Result<Option<Place>, AgentError> {
    let Some(postgres) = settings.postgres.clone() else { return Ok(None) };
    let user = match postgres.run_as() {
        Some(name) => os_user::find(name).map_err(PgError::file("read", Path::new("/etc/passwd")))?,
        None => None,
    };
    Ok(Some(Place { settings: postgres, dir: settings.dir.clone(), user }))
}

async fn open_hands(
    place: Place,
    me: &NodeName,
    (store, caller): (&Store, &Caller),
    fence: Option<Arc<Fence>>,
    guard_sender: mpsc::UnboundedSender<GuardEvent>,
) -> Result<Arc<Hands>, AgentError> {
    let marker = Marker::open(&place.dir)?;
    if let Some(parent) = place.data().parent() {
        std::fs::create_dir_all(parent).map_err(PgError::file("make", parent))?;
    }
    files::make_dir(&place, &place.socket_dir(), 0o755)?;
    let attached = GuardHandle::attach(&place.guard_socket()).await.map_err(PgError::from)?;
    let port = place.settings.port;
    let hands =
        Arc::new(Hands::new(place, me.clone(), store.clone(), caller.clone(), marker, fence, guard_sender));
    match attached {
        Some((guard, events)) => {
            tracing::info!("found its server running (postmaster {}); takes it over", guard.pid());
            hands.adopt(guard, events);
            let found = Arc::clone(&hands);
            tokio::spawn(async move { found.refresh().await });
        }
        None if hands.awaits_adoption() => tracing::info!(
            "{} is to be taken over; whoever runs it does so until then",
            hands.place.data().display()
        ),
        None => {
            process::end_orphan(&hands.place).await?;
            check_port(&hands.place).map_err(|source| AgentError::PgPort {
                node: me.to_string(),
                port,
                source,
            })?;
        }
    }
    hands.look().await?;
    Ok(hands)
}

/// Better said now than by a server that does not start later.
fn check_port(place: &Place) -> std::io::Result<()> {
    match std::net::TcpListener::bind((place.settings.host.as_str(), place.settings.port)) {
        Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => Err(e),
        // Another failure is the server's to report: the host may be a name that only others resolve so.
        _ => Ok(()),
    }
}

fn parts(
    settings: &Settings,
    me: NodeName,
    (store, caller): (Store, Caller),
    hands: Option<Arc<Hands>>,
    (epoch_seen, started_in): (Arc<AtomicU64>, Duration),
) -> Result<Parts, AgentError> {
    let names = settings.members.keys().map(|name| name.parse()).collect::<Result<_, _>>()?;
    let postgres = settings.postgres.as_ref().map(|pg| PgAddress { host: pg.host.clone(), port: pg.port });
    let replication = match settings.replication {
        Replication::Async { max_loss_bytes, loss_bound_bytes } => {
            state::Replication::Async { max_loss_bytes, loss_bound_bytes }
        }
        Replication::Quorum { sync_standbys, degrade } => {
            state::Replication::Quorum { k: sync_standbys as usize, degrade }
        }
    };
    let proposed = Proposed {
        cluster: settings.cluster.clone(),
        settings: state::Settings {
            replication,
            detect_ms: settings.detect.as_millis() as u64,
            drift_ppm: u64::from(settings.drift_ppm),
        },
        names,
        record: if store.is_elsewhere() { Record::Elsewhere } else { Record::Nodes },
        adopt: match settings.postgres.as_ref().is_some_and(|pg| pg.adopt) && !settings.founded {
            true => Some(adopt::found(&settings.dir)?),
            false => None,
        },
    };
    let data_dir = settings.postgres.as_ref().map(|pg| pg.data_dir.display().to_string());
    let member = Member { agent: settings.listen.clone(), postgres, tags: settings.tags, data_dir };
    // Later runs have greater names: the leader tells by them which of two reports is the later one.
    let run = uuid::Uuid::now_v7().to_string();
    let hooks = settings.hooks.clone();
    Ok(Parts { me, run, member, proposed, caller, store, hands, epoch_seen, hooks, started_in })
}

/// Names the process for those who look after it; removed when the agent ends in order.
struct PidFile(std::path::PathBuf);

impl PidFile {
    fn write(dir: &Path) -> Result<PidFile, PgError> {
        let path = dir.join("agent.pid");
        std::fs::write(&path, format!("{}\n", std::process::id())).map_err(PgError::file("write", &path))?;
        Ok(PidFile(path))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
