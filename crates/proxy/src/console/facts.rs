//! What a worker tells the console: plain values, which cross threads.

use super::stamp::Moment;
use crate::lend::{Lendings, PoolFacts, Stage as ServerStage};
use crate::logical::Counts;
use crate::pooled::Login;
use crate::roster::{Doing, Seat, Stage};
use crate::source::Peer;
use crate::sql::Pins;
use crate::who::Who;
use crate::worker::Worker;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::{Instant, SystemTime};

/// Longest text of a statement that is shown. Bytes.
const TEXT_LEN_MAX: usize = 1_000;

/// A database and a user.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Of {
    pub database: Box<[u8]>,
    pub user: Box<[u8]>,
}

/// Clients and servers of one database and user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// Pools that differ by other start-up parameters.
    pub pools: usize,
    pub is_pooled: bool,
    pub paused: bool,
    pub logging_in: usize,
    pub idle: usize,
    pub waiting: usize,
    pub linked: usize,
    /// Of those that are linked: outside a transaction, they keep the server for something else.
    pub keeping: usize,
    pub servers_idle: usize,
    pub servers_lent: usize,
    pub servers_opening: usize,
    /// How long the one has waited that has waited longest. Microseconds.
    pub longest_us: u64,
    pub counts: Counts,
    pub lendings: Lendings,
}

/// What a client does, or waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    LoggingIn,
    Idle {
        since: Moment,
    },
    /// For a server, in the queue of a pool.
    Waiting {
        since: Moment,
        paused: bool,
    },
    Linked {
        server: u64,
        runs: bool,
        since: Moment,
        transaction_since: Option<Moment>,
        pins: Pins,
    },
    /// In the session mode, for a server.
    Looking {
        since: Moment,
    },
    OnItsOwn {
        node: String,
        epoch: u64,
        since: Moment,
    },
}

/// A client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    pub id: u64,
    pub who: Who,
    pub peer: Option<Peer>,
    pub local: Option<SocketAddr>,
    pub connected: SystemTime,
    pub prepared: usize,
    pub work: Work,
}

/// A server connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub id: u64,
    pub of: Of,
    pub replication: bool,
    pub state: &'static str,
    pub since: Moment,
    pub node: Option<String>,
    pub epoch: Option<u64>,
    pub remote: Option<Peer>,
    pub local: Option<SocketAddr>,
    pub opened: Option<SystemTime>,
    pub pid: Option<u32>,
    pub outdated: bool,
    /// The client that has it.
    pub client: Option<u64>,
    pub application_name: Box<[u8]>,
}

/// A statement that is prepared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    pub name: String,
    pub text: String,
    pub uses: usize,
}

/// Numbers of a worker's own are made numbers of the proxy.
fn number(worker: &Worker, own: u32) -> u64 {
    let workers = worker.shared.desks.count() as u64;
    u64::from(own) * workers + worker.number as u64
}

/// The worker, and the number that it knows a client by.
pub fn own_number(id: u64, workers: usize) -> (usize, Option<u32>) {
    let workers = workers.max(1) as u64;
    // Less than `workers`.
    ((id % workers) as usize, u32::try_from(id / workers).ok())
}

impl Of {
    fn login(login: &Login) -> Of {
        let Who { database, user, .. } = Who::of_packet(&login.packet);
        Of { database, user }
    }

    fn seat(seat: &Seat) -> Of {
        Of { database: seat.who.database.clone(), user: seat.who.user.clone() }
    }
}

impl Pool {
    fn add_pool(&mut self, facts: &PoolFacts, counts: &Counts) {
        self.pools += 1;
        self.is_pooled = true;
        self.paused |= facts.paused;
        self.servers_idle += facts.idle;
        self.servers_lent += facts.lent;
        self.servers_opening += facts.opening;
        self.add_sums(counts, &facts.lendings);
    }

    fn add_sums(&mut self, counts: &Counts, lendings: &Lendings) {
        let Counts { queries, transactions, received, sent, kept } = counts;
        self.counts.queries += queries;
        self.counts.transactions += transactions;
        self.counts.received += received;
        self.counts.sent += sent;
        self.counts.kept += *kept;
        let Lendings { count, time, waited, given_up } = lendings;
        self.lendings.count += count;
        self.lendings.time += *time;
        self.lendings.waited += *waited;
        self.lendings.given_up += given_up;
    }

    fn add_client(&mut self, doing: &Doing, waits_since: Option<Instant>, now: Instant) {
        let waits = |since: Instant| u64::try_from(now.saturating_duration_since(since).as_micros());
        match (doing.stage, waits_since) {
            (_, Some(since)) => {
                self.waiting += 1;
                self.longest_us = self.longest_us.max(waits(since).unwrap_or(u64::MAX));
            }
            (Stage::LoggingIn, None) => self.logging_in += 1,
            // Between the queue and the server.
            (Stage::Idle | Stage::Waiting, None) => self.idle += 1,
            (Stage::Lent(_), None) => {
                self.linked += 1;
                self.keeping += usize::from(!doing.runs && doing.transaction_since.is_none());
            }
            (Stage::Looking, None) => {
                self.waiting += 1;
                self.longest_us = self.longest_us.max(waits(doing.since).unwrap_or(u64::MAX));
            }
            (Stage::OnItsOwn, None) => {
                self.linked += 1;
                self.servers_lent += 1;
            }
        }
    }

    /// Adds what another worker has.
    pub fn add(&mut self, other: &Pool) {
        self.pools = self.pools.max(other.pools);
        self.is_pooled |= other.is_pooled;
        self.paused |= other.paused;
        self.logging_in += other.logging_in;
        self.idle += other.idle;
        self.waiting += other.waiting;
        self.linked += other.linked;
        self.keeping += other.keeping;
        self.servers_idle += other.servers_idle;
        self.servers_lent += other.servers_lent;
        self.servers_opening += other.servers_opening;
        self.longest_us = self.longest_us.max(other.longest_us);
        self.add_sums(&other.counts, &other.lendings);
    }

    /// Clients of any kind.
    pub fn clients(&self) -> usize {
        self.logging_in + self.idle + self.waiting + self.linked
    }

    /// Server connections of any kind.
    pub fn servers(&self) -> usize {
        self.servers_idle + self.servers_lent + self.servers_opening
    }
}

/// Who waits in a queue, by the number of its seat.
fn waiting(worker: &Worker) -> HashMap<u32, Instant> {
    worker.pools.borrow().lending().waiting().map(|(client, since)| (client.0, since)).collect()
}

/// This worker's pools.
pub fn pools(worker: &Worker) -> Vec<(Of, Pool)> {
    let mut all: BTreeMap<Of, Pool> = BTreeMap::new();
    let pools = worker.pools.borrow();
    for (id, login) in pools.logins() {
        if let Some(facts) = pools.lending().facts(id) {
            all.entry(Of::login(login)).or_default().add_pool(&facts, &login.tally.counts());
        }
    }
    let (waiting, now) = (waiting(worker), Instant::now());
    for seat in worker.roster.seats() {
        let waits = waiting.get(&seat.number).copied();
        all.entry(Of::seat(&seat)).or_default().add_client(&seat.doing(), waits, now);
    }
    all.into_iter().collect()
}

/// This worker's clients.
pub fn clients(worker: &Worker) -> Vec<Client> {
    let (waiting, pools) = (waiting(worker), worker.pools.borrow());
    let work = |seat: &Seat| {
        let doing = seat.doing();
        let since = Moment::of(doing.since);
        if let Some(waits) = waiting.get(&seat.number) {
            return Work::Waiting { since: Moment::of(*waits), paused: pools.has_paused(&seat.who.database) };
        }
        match doing.stage {
            Stage::LoggingIn => Work::LoggingIn,
            Stage::Idle | Stage::Waiting => Work::Idle { since },
            Stage::Lent(server) => Work::Linked {
                server: number(worker, server.0),
                runs: doing.runs,
                since,
                transaction_since: doing.transaction_since.map(Moment::of),
                pins: doing.pins,
            },
            Stage::Looking => Work::Looking { since },
            Stage::OnItsOwn => match seat.own_server() {
                Some((server, epoch)) => Work::OnItsOwn { node: server.node.clone(), epoch, since },
                None => Work::Looking { since },
            },
        }
    };
    let client = |seat: &Seat| Client {
        id: number(worker, seat.number),
        who: Who::clone(&seat.who),
        peer: seat.peer,
        local: seat.local,
        connected: seat.connected,
        prepared: seat.doing().prepared,
        work: work(seat),
    };
    worker.roster.seats().iter().map(|seat| client(seat)).collect()
}

/// This worker's server connections.
pub fn servers(worker: &Worker) -> Vec<Server> {
    let pools = worker.pools.borrow();
    let seats = worker.roster.seats();
    let lent = |seat: &Seat| match seat.doing().stage {
        Stage::Lent(server) => Some(server),
        _ => None,
    };
    let users: HashMap<_, _> = seats.iter().filter_map(|seat| Some((lent(seat)?, seat))).collect();
    let logins: HashMap<_, _> = pools.logins().map(|(id, login)| (id, Of::login(login))).collect();
    let pooled = pools.lending().server_facts().map(|facts| {
        let opened = pools.opened(facts.id).filter(|_| facts.stage != ServerStage::Opening);
        let user = users.get(&facts.id);
        Server {
            id: number(worker, facts.id.0),
            of: logins.get(&facts.pool).cloned().unwrap_or_default(),
            replication: false,
            state: match facts.stage {
                ServerStage::Opening => "new",
                ServerStage::Idle => "idle",
                ServerStage::Lent => "active",
                ServerStage::Apart => "listening",
            },
            since: Moment::of(facts.since),
            node: opened.map(|opened| opened.running.server.node.clone()),
            epoch: opened.map(|opened| opened.epoch),
            remote: opened.and_then(|opened| opened.remote),
            local: opened.and_then(|opened| opened.local),
            opened: opened.map(|opened| opened.at),
            pid: opened.map(|opened| opened.running.key.pid()),
            outdated: facts.outdated,
            client: user.map(|seat| number(worker, seat.number)),
            application_name: user.map(|seat| seat.who.application_name.clone()).unwrap_or_default(),
        }
    });
    pooled.chain(seats.iter().filter_map(|seat| of_session(worker, seat))).collect()
}

/// The server of a client in the session mode.
fn of_session(worker: &Worker, seat: &Seat) -> Option<Server> {
    let (server, epoch) = seat.own_server()?;
    let id = number(worker, seat.number);
    Some(Server {
        id,
        of: Of::seat(seat),
        replication: seat.who.replication,
        state: "active",
        since: Moment::of(seat.doing().since),
        node: Some(server.node.clone()),
        epoch: Some(epoch),
        remote: None,
        local: None,
        opened: None,
        pid: None,
        outdated: false,
        client: Some(id),
        application_name: seat.who.application_name.clone(),
    })
}

/// The statements that this worker remembers.
pub fn prepared(worker: &Worker) -> Vec<Prepared> {
    let texts = worker.texts.borrow();
    let shown = |(name, body, uses): (&[u8], &[u8], usize)| {
        let text = body.split(|&b| b == 0).next().unwrap_or_default();
        Prepared {
            name: String::from_utf8_lossy(name).into_owned(),
            text: String::from_utf8_lossy(&text[..text.len().min(TEXT_LEN_MAX)]).into_owned(),
            uses,
        }
    };
    texts.list().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lend::ServerId;
    use std::time::Duration;

    fn doing(stage: Stage, since: Instant) -> Doing {
        Doing { stage, since, transaction_since: None, runs: false, pins: Pins::NONE, prepared: 0 }
    }

    #[test]
    fn every_client_is_counted_once_in_the_pool() {
        let (now, lent) = (Instant::now(), Stage::Lent(ServerId(1)));
        let ago = |seconds| now.checked_sub(Duration::from_secs(seconds)).unwrap();
        let mut pool = Pool::default();
        pool.add_client(&doing(Stage::LoggingIn, now), None, now);
        pool.add_client(&doing(Stage::Idle, now), None, now);
        pool.add_client(&doing(Stage::Waiting, now), Some(ago(3)), now);
        pool.add_client(&doing(Stage::LoggingIn, now), Some(ago(1)), now);
        pool.add_client(&doing(lent, now), None, now);
        pool.add_client(&Doing { runs: true, ..doing(lent, now) }, None, now);
        pool.add_client(&Doing { transaction_since: Some(now), ..doing(lent, now) }, None, now);
        assert_eq!((pool.logging_in, pool.idle, pool.waiting, pool.linked, pool.keeping), (1, 1, 2, 3, 1));
        assert_eq!((pool.clients(), pool.longest_us), (7, 3_000_000));
        let mut both = pool;
        both.add(&pool);
        assert_eq!((both.clients(), both.keeping, both.longest_us), (14, 2, 3_000_000));
    }

    #[test]
    fn an_id_leads_to_its_worker() {
        for workers in 1..5 {
            for own in [0_u32, 1, 7, u32::MAX] {
                for worker in 0..workers {
                    let id = u64::from(own) * workers as u64 + worker as u64;
                    assert_eq!(own_number(id, workers), (worker, Some(own)));
                }
            }
        }
        assert_eq!(own_number(u64::MAX, 1), (0, None));
    }
}
