//! What a client's task may use: things of its own worker thread, and the few that all workers share.

use crate::cancel::Cancels;
use crate::console::{Consoles, Desks};
use crate::crowd::Crowd;
use crate::error::Refusal;
use crate::guesses::Guesses;
use crate::hba::{Hba, Way};
use crate::logical::Texts;
use crate::once_per_source::OncePerSource;
use crate::peers::PassingOn;
use crate::pool::Pool;
use crate::pooled::{Begins, Bell, Pools, Quotas, Rounds, Secrets};
use crate::reach::Detours;
use crate::reload::Reloads;
use crate::ring::Ring;
use crate::roster::Roster;
use crate::settings::{ClientAuth, Io, Settings};
use crate::source::Peer;
use crate::stats::Stats;
use crate::stream::Stream;
use crate::takeover::{Ferry, Predecessor};
use crate::tls::{Scratch, Tls};
use crate::unix_door::UnixDoor;
use crate::watch::Views;
use identity::Caller;
use pgwire::StartupMessage;
use pgwire::scram::KEY_LEN;
use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, Semaphore, watch};

/// Bytes moved by one read, and most that are kept for a peer that does not take them.
pub const CHUNK_LEN: usize = 16 * 1024;

/// Held clients of one worker that probe a failing primary at the same time; the others queue behind them, so that a
/// server that starts up is not flooded.
const PROBES_MAX: usize = 8;

/// Verifiers that one worker asks for at the same time: who floods it with logins is not to flood agents and servers.
const LOOKUPS_MAX: usize = 2;

/// The same trouble is told once in this time.
const TROUBLE_PAUSE: Duration = Duration::from_secs(60);

/// Shared by all workers.
#[derive(Debug)]
pub struct Shared {
    settings: RwLock<Arc<Settings>>,
    /// How they are read again.
    pub reloads: Reloads,
    pub stats: Stats,
    pub pool: Pool,
    pub cancels: Cancels,
    pub rounds: Rounds,
    /// What the workers' pools may have.
    pub quotas: Quotas,
    pub tls: Arc<Tls>,
    /// Who may come; `None`: everybody, as [`Settings`] say.
    pub hba: Option<Hba>,
    trouble: Mutex<Option<(String, Instant)>>,
    /// Calls the cluster's agents.
    pub caller: Caller,
    pub detours: Detours,
    pub crowd: Crowd,
    /// Where each worker can be asked from the console.
    pub desks: Desks,
    pub consoles: Consoles,
    /// Somebody could not reach the primary: who looks for it looks again.
    pub doubt: Notify,
    /// Who has failed to log in.
    pub guesses: Guesses,
    /// Makes verifiers for users that have none: the same in every worker, as those of users that exist are.
    pub mock: [u8; KEY_LEN],
    garbage: Mutex<OncePerSource>,
    /// By which clients of this host come in.
    pub unix_door: Option<UnixDoor>,
    /// The process whose sockets were taken over, while it still has clients.
    pub predecessor: Predecessor,
    /// The way to the process that has taken the sockets over, when there is one.
    pub leaving: watch::Sender<Option<Ferry>>,
}

impl Shared {
    /// `mock` are random bytes.
    pub fn new(
        (settings, reloads): (Settings, Reloads),
        (tls, hba): (Arc<Tls>, Option<Hba>),
        (caller, desks): (Caller, Desks),
        mock: [u8; KEY_LEN],
    ) -> Shared {
        let pool = Pool::new(settings.clients_max);
        let quotas = Quotas::new(settings.workers.max(1));
        Shared {
            settings: RwLock::new(Arc::new(settings)),
            reloads,
            stats: Stats::default(),
            pool,
            cancels: Cancels::default(),
            rounds: Rounds::default(),
            quotas,
            tls,
            hba,
            trouble: Mutex::default(),
            caller,
            detours: Detours::default(),
            crowd: Crowd::default(),
            desks,
            consoles: Consoles::default(),
            doubt: Notify::new(),
            guesses: Guesses::default(),
            mock,
            garbage: Mutex::default(),
            unix_door: None,
            predecessor: Predecessor::default(),
            leaving: watch::Sender::new(None),
        }
    }

    /// With a Unix socket for clients.
    pub fn with_unix_door(self, unix_door: Option<UnixDoor>) -> Shared {
        Shared { unix_door, ..self }
    }

    /// The settings of this moment: never needed on the path of a query.
    pub fn settings(&self) -> Arc<Settings> {
        // They are replaced as a whole, so a panic elsewhere spoils nothing.
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn set_settings(&self, settings: Arc<Settings>) {
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = settings;
    }

    /// Logs why a server cannot be reached by TLS. Every client that waits for it meets the same trouble many times.
    pub fn log_tls_trouble(&self, node: &str, why: &str) {
        self.log_trouble(format!("{node} cannot be reached by TLS: {why}; trying again"));
    }

    /// Logs what a person has to look at, and that many clients meet: the same once a minute.
    pub fn log_trouble(&self, text: String) {
        let mut last = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = |(known, at): &(String, Instant)| *known == text && at.elapsed() < TROUBLE_PAUSE;
        if !last.as_ref().is_some_and(is_known) {
            tracing::error!("{text}");
            *last = Some((text, Instant::now()));
        }
    }

    /// Whether a client may log in that has sent this start-up packet, and how it has to prove who it is.
    ///
    /// # Errors
    /// What it is told.
    pub fn way_of(&self, client: &Stream, message: &StartupMessage<'_>) -> Result<Way, Refusal> {
        self.way_by(|hba| hba.admit(client, message))
    }

    /// The same for a client without TLS, which comes from this address.
    ///
    /// # Errors
    /// What it would be told.
    pub fn way_from(&self, peer: Peer, message: &StartupMessage<'_>) -> Result<Way, Refusal> {
        self.way_by(|hba| hba.admit_from(peer, None, message))
    }

    fn way_by(&self, admit: impl FnOnce(&Hba) -> Result<Way, Refusal>) -> Result<Way, Refusal> {
        match (&self.hba, self.settings().pool.as_ref().map(|pool| &pool.auth)) {
            (Some(hba), _) => admit(hba),
            (None, Some(ClientAuth::Trust) | None) => Ok(Way::Trust),
            (None, Some(ClientAuth::Md5(_))) => Ok(Way::Md5),
            (None, Some(ClientAuth::Scram(_) | ClientAuth::Rules(..))) => Ok(Way::Scram),
        }
    }

    /// Logs that the rules do not admit a client, once a minute for each source address.
    pub fn log_not_admitted(&self, client: &Stream, refusal: &Refusal) {
        if let (Refusal::NotAdmitted { why, who, .. }, Ok(peer)) = (refusal, client.peer()) {
            self.log_bad_client(peer, &format_args!("the rules do not admit it ({why:?}): {who}"));
        }
    }

    /// Logs what a hostile or broken client sent, once a minute for each source address.
    pub fn log_bad_client(&self, peer: Peer, what: &dyn fmt::Display) {
        let due =
            self.garbage.lock().unwrap_or_else(PoisonError::into_inner).is_due(peer.source(), Instant::now());
        if due {
            tracing::warn!(
                "closed a connection from {peer}: {what} (further ones from {} are not logged for a minute)",
                peer.source()
            );
        }
    }
}

/// Of one worker thread.
#[derive(Debug)]
pub struct Worker {
    /// From 0.
    pub number: usize,
    pub shared: Arc<Shared>,
    pub views: Views,
    pub stop: watch::Receiver<bool>,
    pub probes: Semaphore,
    /// Cancel requests that are passed on to other proxies.
    pub passing_on: RefCell<PassingOn>,
    /// Those that go to the process whose sockets were taken over, likewise.
    pub to_predecessor: Semaphore,
    /// Every session reads through this one buffer, so that an idle client owns none. Never borrowed across an await.
    pub chunk: RefCell<Box<[u8]>>,
    /// Looks for verifiers that are under way.
    pub lookups: Semaphore,
    /// Of the pooled mode; see there.
    pub pools: RefCell<Pools>,
    pub texts: RefCell<Texts>,
    pub secrets: RefCell<Secrets>,
    pub bell: Bell,
    /// Clients whose BEGIN is still to be sent.
    pub begins: Begins,
    /// By which plain connections of the pooled mode are read, if the kernel permits it.
    pub ring: Option<Rc<Ring>>,
    /// Buffers of TLS.
    pub scratch: Rc<Scratch>,
    /// Who is here.
    pub roster: Roster,
    /// What goes to a client and to a server next; as `chunk`, one for all sessions.
    pub outgoing: RefCell<Outgoing>,
    /// As [`Shared::leaving`]: each client looks here, and is woken when it changes.
    pub ferry: RefCell<Option<Ferry>>,
}

/// Bytes made ready for either side.
#[derive(Debug, Default)]
pub struct Outgoing {
    pub to_client: Vec<u8>,
    pub to_server: Vec<u8>,
}

impl Worker {
    /// `None` if the system gives no random bytes.
    pub fn new(
        number: usize,
        shared: Arc<Shared>,
        views: Views,
        stop: watch::Receiver<bool>,
    ) -> Option<Worker> {
        let chunk = RefCell::new(vec![0; CHUNK_LEN].into_boxed_slice());
        let mut names = [0; 8];
        aws_lc_rs::rand::fill(&mut names).ok()?;
        let pools = RefCell::new(Pools::new(&shared, number));
        let ring = ring(number, &shared.settings());
        Some(Worker {
            number,
            shared,
            views,
            stop,
            probes: Semaphore::new(PROBES_MAX),
            passing_on: RefCell::default(),
            lookups: Semaphore::new(LOOKUPS_MAX),
            to_predecessor: Semaphore::new(crate::peers::AT_ONCE_MAX),
            chunk,
            pools,
            texts: RefCell::new(Texts::new(u64::from_be_bytes(names))),
            secrets: RefCell::default(),
            bell: Bell::default(),
            begins: Begins::default(),
            ring,
            scratch: Rc::default(),
            roster: Roster::new(Instant::now()),
            outgoing: RefCell::default(),
            ferry: RefCell::default(),
        })
    }
}

/// What this thread reads connections by.
fn ring(number: usize, settings: &Settings) -> Option<Rc<Ring>> {
    if settings.pool.as_ref()?.io == Io::Epoll {
        return None;
    }
    match Ring::new() {
        Ok(ring) => Some(Rc::new(ring)),
        // Once for the proxy.
        Err(error) if number == 0 => {
            tracing::info!("connections are read by epoll: io_uring is not to be had here ({error})");
            None
        }
        Err(_) => None,
    }
}

/// Returns when the proxy stops.
pub async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the one who could say so is gone, which ends the proxy too.
    let _ = stop.wait_for(|stop| *stop).await;
}
