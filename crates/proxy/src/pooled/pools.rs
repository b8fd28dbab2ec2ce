//! The pools of one worker: does what [`crate::lend`] says.

use super::ear::Ear;
use super::greeting::Greetings;
use super::open::open;
use super::pause::Paused;
use super::post::{Post, Told};
use crate::cancel::Running;
use crate::error::Refusal;
use crate::lend::{Bounds, Claim, ClientId, Deed, Lending, PoolId, Returned, ServerId};
use crate::logical::{Heard, Holding, Reported, Tally};
use crate::settings::{Lookup, PoolSettings, Settings};
use crate::source::Peer;
use crate::stream::Stream;
use crate::worker::{Shared, Worker};
use pgwire::md5::Md5Verifier;
use pgwire::scram::{ClientKey, Verifier};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};
use tokio::task::spawn_local;

/// A client that has waited so long makes servers scarce.
const SCARCE_AFTER: Duration = Duration::from_millis(50);

/// How a session ends in order.
const TERMINATE: &[u8] = b"X\0\0\0\x04";

/// A server connection.
#[derive(Debug)]
pub struct Lent {
    pub id: ServerId,
    pub stream: Stream,
    pub holding: Holding,
    pub running: Arc<Running>,
    pub epoch: u64,
    /// Since when nobody has had it.
    pub rests_since: Instant,
}

/// A server that was not used for so long is asked for a sign of life before it gets a statement. As short as the pause between two
/// statements of a server that is not idle: one that is frozen, or whose cable is pulled, is noticed after seconds only, and a
/// statement that was sent to it meanwhile cannot be repeated.
const QUIET_MAX: Duration = Duration::from_millis(10);

impl Lent {
    /// When it has given its last sign of life, as it is lent.
    pub fn heard(&self) -> Heard {
        match self.rests_since.elapsed() > QUIET_MAX {
            true => Heard::LongAgo,
            false => Heard::JustNow,
        }
    }
}

/// With what a pool logs in.
#[derive(Clone, Debug)]
pub enum Secret {
    /// The server asks for none.
    None,
    /// What the last client of the pool has shown.
    Key(ClientKey, Verifier),
    /// Likewise, by MD5: it is all that a server asks for.
    Md5(Md5Verifier),
    /// Of the role that looks up verifiers.
    Password(Vec<u8>),
}

/// How to log in for a pool.
#[derive(Debug)]
pub struct Login {
    /// The start-up packet: it tells pools apart.
    pub packet: Box<[u8]>,
    pub secret: RefCell<Secret>,
    /// What the last server reported.
    pub reported: RefCell<Option<Reported>>,
    /// What clients begin with.
    pub greetings: Greetings,
    /// What its clients did.
    pub tally: Rc<Tally>,
}

impl Login {
    /// With this start-up packet, and no secret yet.
    pub fn new(packet: &[u8]) -> Login {
        Login {
            packet: packet.into(),
            secret: RefCell::new(Secret::None),
            reported: RefCell::default(),
            greetings: Greetings::default(),
            tally: Rc::default(),
        }
    }

    /// With what a client has shown elsewhere: what one has shown here is newer.
    pub fn use_if_none(&self, secret: Secret) {
        let mut known = self.secret.borrow_mut();
        if let Secret::None = *known {
            *known = secret;
        }
    }

    /// With the password of the proxy's own role, if it has one.
    pub fn use_password(&self, lookup: &Lookup) {
        if let Some(password) = &lookup.password {
            *self.secret.borrow_mut() = Secret::Password(password.clone().into_bytes());
        }
    }
}

/// A server connection, as people are shown it. It is of the server that has this name last.
#[derive(Clone, Debug)]
pub struct Opened {
    pub running: Arc<Running>,
    pub epoch: u64,
    pub at: SystemTime,
    pub local: Option<SocketAddr>,
    pub remote: Option<Peer>,
}

#[derive(Debug)]
struct Waiter {
    pool: PoolId,
    post: Rc<Post>,
}

/// See the module.
#[derive(Debug)]
pub struct Pools {
    pub(super) lending: Lending,
    shared: Arc<Shared>,
    /// Whose they are.
    worker: usize,
    bounds: Bounds,
    by_packet: HashMap<Box<[u8]>, PoolId>,
    pub(super) logins: Vec<Rc<Login>>,
    pub(super) paused: Paused,
    opened: HashMap<ServerId, Opened>,
    /// Those that nobody has, by number.
    idle: Vec<Option<Box<Lent>>>,
    waiters: BTreeMap<ClientId, Waiter>,
    scarce: HashSet<PoolId>,
    /// Who listens for the clients of a pool.
    pub(super) ears: HashMap<PoolId, Rc<Ear>>,
    next_client: u32,
}

/// Most servers of all pools, and the bounds of each: of all workers together, but for looks at verifiers.
fn limits(settings: &Settings) -> (usize, Bounds) {
    let for_lookups = PoolSettings::for_lookups(settings.workers.max(1));
    let settings = settings.pool.as_ref().unwrap_or(&for_lookups);
    let bounds = Bounds {
        servers_max: settings.servers_max.max(1),
        reserve: settings.reserve,
        reserve_after: settings.reserve_after,
        servers_min: settings.servers_min,
        query_wait: settings.query_wait,
        notice_after: settings.notice_after,
        idle_max: settings.idle_max,
        age_max: settings.age_max,
        retry_after: Duration::from_millis(200),
    };
    (settings.open_max.max(1), bounds)
}

/// Takes in the settings of this moment.
pub fn settle(worker: &Rc<Worker>) {
    worker.pools.borrow_mut().take_settings(&worker.shared.settings(), Instant::now());
    do_deeds(worker);
}

impl Pools {
    /// Those of the worker of this number, without any yet. In the session mode only verifiers are looked up.
    pub fn new(shared: &Arc<Shared>, worker: usize) -> Pools {
        let (open_max, bounds) = limits(&shared.settings());
        let all = Claim::new(Arc::clone(&shared.quotas.all), worker);
        Pools {
            lending: Lending::new(open_max, all),
            shared: Arc::clone(shared),
            worker,
            bounds,
            by_packet: HashMap::new(),
            logins: Vec::new(),
            paused: Paused::default(),
            opened: HashMap::new(),
            idle: Vec::new(),
            waiters: BTreeMap::new(),
            scarce: HashSet::new(),
            ears: HashMap::new(),
            next_client: 0,
        }
    }

    fn take_settings(&mut self, settings: &Settings, now: Instant) {
        let (open_max, bounds) = limits(settings);
        self.bounds = bounds;
        self.lending.set_limits(open_max, &self.bounds, now);
    }

    /// The pool of those who log in so; `None` if there are too many pools.
    pub fn pool(&mut self, packet: &[u8]) -> Option<(PoolId, Rc<Login>)> {
        if let Some(id) = self.by_packet.get(packet) {
            return Some((*id, Rc::clone(&self.logins[id.0 as usize])));
        }
        let quota = self.shared.quotas.of_pool(packet)?;
        let id = self.lending.add_pool(self.bounds.clone(), Claim::new(quota, self.worker));
        let login = Rc::new(Login::new(packet));
        if self.paused.concerns(&login) {
            self.lending.pause(id);
        }
        self.by_packet.insert(packet.into(), id);
        self.logins.push(Rc::clone(&login));
        Some((id, login))
    }

    /// The worker's next client.
    pub fn client(&mut self) -> ClientId {
        self.next_client = self.next_client.wrapping_add(1);
        ClientId(self.next_client)
    }

    /// Whether a client waits for a server of this pool, of this worker or another, and has since the last tick at least.
    pub fn is_scarce(&self, pool: PoolId) -> bool {
        self.scarce.contains(&pool)
    }

    /// Which pools are short of servers now; whether any is.
    fn note_scarcity(&mut self, now: Instant) -> bool {
        self.scarce.clear();
        for waiter in self.waiters.values() {
            let since = self.lending.waits_since(waiter.pool);
            if since.is_some_and(|since| now.saturating_duration_since(since) >= SCARCE_AFTER) {
                self.scarce.insert(waiter.pool);
            }
        }
        if let Some(then) = now.checked_sub(SCARCE_AFTER) {
            self.scarce.extend(self.lending.asked_since(then));
        }
        self.scarce.extend(self.paused_and_lent());
        !self.scarce.is_empty()
    }

    fn lay_down(&mut self, lent: Box<Lent>) {
        let place = lent.id.0 as usize;
        if self.idle.len() <= place {
            self.idle.resize_with(place + 1, || None);
        }
        self.idle[place] = Some(lent);
    }

    fn take_up(&mut self, server: ServerId) -> Option<Box<Lent>> {
        self.idle.get_mut(server.0 as usize)?.take()
    }

    /// No server that is open is lent again.
    pub fn renew(&mut self) {
        self.lending.renew();
    }

    /// What is lent, and to whom it is not.
    pub fn lending(&self) -> &Lending {
        &self.lending
    }

    /// Every pool.
    pub fn logins(&self) -> impl Iterator<Item = (PoolId, &Rc<Login>)> {
        (0..).map(PoolId).zip(&self.logins)
    }

    /// A server that was opened.
    pub fn opened(&self, server: ServerId) -> Option<&Opened> {
        self.opened.get(&server)
    }
}

/// A client in the queue; dropping it takes it out.
#[derive(Debug)]
pub struct Waiting<'a> {
    worker: &'a Rc<Worker>,
    pool: PoolId,
    client: ClientId,
    post: Rc<Post>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut pools = self.worker.pools.borrow_mut();
        if pools.waiters.remove(&self.client).is_some() {
            pools.lending.forget(self.pool, self.client);
        }
        drop(pools);
        // It may have been lent one in this very moment.
        while let Some(told) = self.post.take() {
            if let Told::Lent(lent) = told {
                give_back(self.worker, lent, Returned::Clean);
            }
        }
    }
}

impl Waiting<'_> {
    /// What becomes of it.
    pub async fn told(&self) -> Told {
        poll_fn(|cx| self.poll_told(cx)).await
    }

    /// As [`Waiting::told`].
    pub fn poll_told(&self, cx: &mut Context<'_>) -> Poll<Told> {
        self.post.poll_next(cx)
    }
}

/// A client wants a server, the one that it likes if it can be had: one that is there at once, or a place in the queue.
///
/// # Errors
/// The place in the queue, where it is told by its post.
pub fn want<'a>(
    worker: &'a Rc<Worker>,
    pool: PoolId,
    client: ClientId,
    liked: Option<ServerId>,
    post: &Rc<Post>,
) -> Result<Box<Lent>, Waiting<'a>> {
    let now = Instant::now();
    if let Some(lent) = worker.pools.borrow_mut().lend_at_once(pool, liked, now, worker) {
        return Ok(lent);
    }
    {
        let mut pools = worker.pools.borrow_mut();
        pools.waiters.insert(client, Waiter { pool, post: Rc::clone(post) });
        pools.lending.want(pool, client, now);
    }
    do_deeds(worker);
    Err(Waiting { worker, pool, client, post: Rc::clone(post) })
}

/// A client gives a server back.
pub fn give_back(worker: &Rc<Worker>, mut lent: Box<Lent>, how: Returned) {
    let (id, now) = (lent.id, Instant::now());
    lent.rests_since = now;
    {
        let mut pools = worker.pools.borrow_mut();
        pools.lay_down(lent);
        pools.lending.returned(id, how, now);
    }
    do_deeds(worker);
}

/// A server is ready for the first time.
pub fn opened(worker: &Rc<Worker>, lent: Box<Lent>) {
    let id = lent.id;
    let opened = Opened {
        running: Arc::clone(&lent.running),
        epoch: lent.epoch,
        at: SystemTime::now(),
        local: lent.stream.local_addr().ok(),
        remote: lent.stream.peer().ok(),
    };
    {
        let mut pools = worker.pools.borrow_mut();
        pools.opened.insert(id, opened);
        pools.lay_down(lent);
        pools.lending.opened(id, Instant::now());
    }
    do_deeds(worker);
}

/// Why no server could be opened.
#[derive(Debug)]
pub enum NotOpened {
    /// Another attempt may be worth making, at the next client's wish.
    Refusal(Refusal),
    /// The server's own words.
    ByServer(Rc<[u8]>),
}

/// A server could not be opened: whoever waits for it is told why.
pub fn not_opened(worker: &Rc<Worker>, pool: PoolId, server: ServerId, why: &NotOpened) {
    {
        let mut pools = worker.pools.borrow_mut();
        let pools = &mut *pools;
        pools.lending.failed(server, Instant::now());
        let waiting: Vec<ClientId> = pools
            .waiters
            .iter()
            .filter(|(_, waiter)| waiter.pool == pool)
            .map(|(client, _)| *client)
            .collect();
        for client in waiting {
            pools.lending.forget(pool, client);
            let told = match why {
                NotOpened::Refusal(refusal) => Told::Refused(Box::new(refusal.clone())),
                NotOpened::ByServer(message) => Told::RefusedByServer(Rc::clone(message)),
            };
            pools.tell(client, told);
        }
    }
    do_deeds(worker);
}

/// What time brings, or another worker. Clients that keep a server are woken where one is short: they may have no reason any more.
pub fn tick(worker: &Rc<Worker>) {
    let now = Instant::now();
    worker.pools.borrow_mut().lending.tick(now);
    do_deeds(worker);
    let is_scarce = worker.pools.borrow_mut().note_scarcity(now);
    if is_scarce {
        worker.bell.ring();
    }
}

/// Does what the lending says, until it says nothing more.
pub fn do_deeds(worker: &Rc<Worker>) {
    let mut deeds = Vec::new();
    loop {
        let mut pools = worker.pools.borrow_mut();
        pools.lending.take_deeds(&mut deeds);
        if deeds.is_empty() {
            return;
        }
        for deed in deeds.drain(..) {
            pools.deed(deed, worker);
        }
    }
}

impl Pools {
    fn lend_at_once(
        &mut self,
        pool: PoolId,
        liked: Option<ServerId>,
        now: Instant,
        worker: &Worker,
    ) -> Option<Box<Lent>> {
        loop {
            let server = self.lending.lend_at_once(pool, liked, now)?;
            if let Some(mut lent) = self.take_up(server)
                && is_alive(&mut lent, worker)
            {
                return Some(lent);
            }
            self.lending.lost(server, now);
        }
    }

    fn tell(&mut self, client: ClientId, told: Told) {
        if let Told::Waits = told {
            if let Some(waiter) = self.waiters.get(&client) {
                waiter.post.put(told);
            }
        } else if let Some(waiter) = self.waiters.remove(&client) {
            waiter.post.put(told);
        }
    }

    fn deed(&mut self, deed: Deed, worker: &Rc<Worker>) {
        match deed {
            Deed::Lend { client, server } => {
                let Some(mut lent) = self.take_up(server) else { return };
                if is_alive(&mut lent, worker) {
                    return self.tell(client, Told::Lent(lent));
                }
                let now = Instant::now();
                self.lending.lost(server, now);
                if let Some(waiter) = self.waiters.get(&client) {
                    self.lending.want(waiter.pool, client, now);
                }
            }
            Deed::Open { pool, server } => {
                let login = Rc::clone(&self.logins[pool.0 as usize]);
                spawn_local(open(Rc::clone(worker), pool, server, login));
            }
            Deed::Close { server, why } => {
                tracing::debug!("server connection {} is closed: {why:?}", server.0);
                if let Some(mut lent) = self.take_up(server) {
                    // In order, if the server listens; it notices the end without it, too.
                    let _ = lent.stream.try_write(TERMINATE);
                }
            }
            Deed::Ask => self.shared.quotas.call_others(self.worker),
            Deed::Call { worker } => self.shared.quotas.call(worker),
            Deed::Notice { client } => self.tell(client, Told::Waits),
            Deed::GiveUp { client, waited } => {
                let paused = self.waiters.get(&client).is_some_and(|waiter| self.is_paused(waiter.pool));
                let told = match paused {
                    true => Told::Refused(Box::new(Refusal::Paused { waited })),
                    false => Told::GivenUp(waited),
                };
                self.tell(client, told);
            }
        }
    }
}

/// Whether a server that was idle can be lent: it is of the present epoch and has not said goodbye meanwhile.
fn is_alive(lent: &mut Lent, worker: &Worker) -> bool {
    if lent.epoch != worker.views.newest_epoch() {
        return false;
    }
    let mut bytes = [0; 1_024];
    // Behind what it says may be its end.
    loop {
        match lent.stream.try_read(&mut bytes) {
            Ok(len) if len > 0 && len < bytes.len() && lent.holding.heard_idle(&bytes[..len]) => {}
            Ok(_) => return false,
            Err(error) => return error.kind() == std::io::ErrorKind::WouldBlock,
        }
    }
}
