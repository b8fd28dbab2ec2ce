//! Single cases, and what must hold after any events in any order.

mod workers;

use super::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

fn bounds() -> Bounds {
    Bounds {
        servers_max: 2,
        reserve: 1,
        reserve_after: Duration::from_secs(5),
        servers_min: 0,
        query_wait: Duration::from_secs(60),
        notice_after: Duration::from_secs(2),
        idle_max: Duration::from_secs(600),
        age_max: Duration::from_secs(3600),
        retry_after: Duration::from_secs(1),
    }
}

struct Story {
    lending: Lending,
    pool: PoolId,
    start: Instant,
    now: Instant,
}

impl Story {
    fn new(open_max: usize, bounds: Bounds) -> Story {
        let mut lending = Lending::new(open_max, Claim::alone());
        let (pool, now) = (lending.add_pool(bounds, Claim::alone()), Instant::now());
        Story { lending, pool, start: now, now }
    }

    fn at(&mut self, seconds: u64) -> &mut Story {
        self.now = self.start + Duration::from_secs(seconds);
        self
    }

    fn deeds(&mut self) -> Vec<Deed> {
        let mut deeds = Vec::new();
        self.lending.take_deeds(&mut deeds);
        deeds
    }

    fn want(&mut self, client: u32) -> Vec<Deed> {
        self.lending.want(self.pool, ClientId(client), self.now);
        self.deeds()
    }

    fn opened(&mut self, server: u32) -> Vec<Deed> {
        self.lending.opened(ServerId(server), self.now);
        self.deeds()
    }

    fn returned(&mut self, server: u32, how: Returned) -> Vec<Deed> {
        self.lending.returned(ServerId(server), how, self.now);
        self.deeds()
    }

    fn tick(&mut self) -> Vec<Deed> {
        self.lending.tick(self.now);
        self.deeds()
    }

    fn open(&self, server: u32) -> Deed {
        Deed::Open { pool: self.pool, server: ServerId(server) }
    }
}

fn lend(client: u32, server: u32) -> Deed {
    Deed::Lend { client: ClientId(client), server: ServerId(server) }
}

#[test]
fn servers_are_opened_for_those_who_wait_and_lent_in_turn() {
    let mut story = Story::new(10, bounds());
    assert_eq!(story.want(1), [story.open(0)]);
    assert_eq!(story.want(2), [story.open(1)]);
    assert_eq!(story.want(3), [], "the pool is full");
    assert_eq!(story.opened(1), [lend(1, 1)], "first come, first served");
    assert_eq!(story.opened(0), [lend(2, 0)]);
    assert_eq!(story.returned(0, Returned::Clean), [lend(3, 0)]);
    assert_eq!(story.returned(1, Returned::Clean), []);
    assert_eq!(story.returned(0, Returned::Clean), []);
    assert_eq!(story.want(4), [lend(4, 0)], "the one that came back last");
}

#[test]
fn a_server_is_set_apart_where_another_one_is_left_and_closed_when_it_comes_back() {
    let mut story = Story::new(10, Bounds { reserve: 0, ..bounds() });
    story.want(1);
    story.want(2);
    assert!(!story.lending.set_apart(ServerId(0), story.now), "it is not open yet");
    story.opened(0);
    assert!(story.lending.set_apart(ServerId(0), story.now));
    assert_eq!(story.opened(1), [lend(2, 1)]);
    assert!(!story.lending.set_apart(ServerId(1), story.now), "the last of its pool");
    assert_eq!(story.want(3), [], "the pool is full");
    let why = Why::Unclean;
    assert_eq!(
        story.returned(0, Returned::Clean),
        [Deed::Close { server: ServerId(0), why }, story.open(0)],
        "somebody waits"
    );
    let mut story = Story::new(1, bounds());
    story.want(1);
    story.opened(0);
    assert!(!story.lending.set_apart(ServerId(0), story.now), "the last of all");
}

#[test]
fn one_is_left_to_be_lent_when_there_may_be_less() {
    let mut story = Story::new(10, Bounds { reserve: 0, ..bounds() });
    story.want(1);
    story.opened(0);
    assert!(story.lending.set_apart(ServerId(0), story.now));
    story.lending.set_limits(1, &Bounds { servers_max: 1, reserve: 0, ..bounds() }, story.now);
    assert_eq!(story.want(2), [story.open(1)]);
}

#[test]
fn a_server_that_is_liked_is_lent_last_or_to_the_same_client() {
    let mut story = Story::new(10, bounds());
    story.want(1);
    story.want(2);
    story.opened(0);
    story.opened(1);
    story.returned(0, Returned::Clean);
    story.returned(1, Returned::Liked);
    assert_eq!(story.want(3), [lend(3, 0)]);
    story.returned(0, Returned::Clean);
    let mut at_once =
        |liked: Option<u32>| story.lending.lend_at_once(story.pool, liked.map(ServerId), story.now);
    assert_eq!(
        [at_once(Some(1)), at_once(Some(1)), at_once(None)],
        [Some(ServerId(1)), Some(ServerId(0)), None]
    );
    story.want(4);
    story.returned(1, Returned::Clean);
    assert_eq!(story.lending.lend_at_once(story.pool, None, story.now), None, "client 4 has it");
    assert_eq!(story.returned(0, Returned::Clean), []);
}

#[test]
fn a_server_that_is_not_clean_is_closed_and_another_one_opened() {
    let mut story = Story::new(1, bounds());
    story.want(1);
    story.opened(0);
    story.want(2);
    let closed = Deed::Close { server: ServerId(0), why: Why::Unclean };
    assert_eq!(story.returned(0, Returned::Unclean), [closed, story.open(0)]);
    assert_eq!(story.opened(0), [lend(2, 0)]);
}

#[test]
fn who_waits_for_long_is_told_gets_from_the_reserve_and_is_given_up_in_the_end() {
    let mut story = Story::new(10, bounds());
    for client in 1..=4 {
        story.want(client);
    }
    story.opened(0);
    story.opened(1);
    let told = |client| Deed::Notice { client: ClientId(client) };
    assert_eq!(story.at(2).tick(), [told(3), told(4)]);
    assert_eq!(story.at(3).tick(), []);
    assert_eq!(story.at(5).tick(), [story.open(2)], "one, not two");
    story.lending.failed(ServerId(2), story.now);
    assert_eq!(story.deeds(), [], "not at once again");
    assert_eq!(story.at(6).tick(), [story.open(2)]);
    let given_up = |client| Deed::GiveUp { client: ClientId(client), waited: Duration::from_secs(60) };
    assert_eq!(story.at(60).tick(), [given_up(3), given_up(4)]);
}

#[test]
fn idle_and_old_servers_are_closed_and_the_minimum_is_kept() {
    let mut story = Story::new(10, Bounds { servers_min: 1, ..bounds() });
    assert_eq!(story.tick(), [story.open(0)]);
    story.opened(0);
    story.want(1);
    story.want(2);
    story.opened(1);
    story.returned(0, Returned::Clean);
    story.returned(1, Returned::Clean);
    assert_eq!(story.at(600).tick(), [Deed::Close { server: ServerId(0), why: Why::Idle }]);
    assert_eq!(story.at(601).tick(), []);
    assert_eq!(story.want(3), [lend(3, 1)]);
    let old = Deed::Close { server: ServerId(1), why: Why::Old };
    assert_eq!(story.at(3700).returned(1, Returned::Clean), [old]);
}

#[test]
fn what_is_outdated_is_not_lent_again() {
    let mut story = Story::new(10, bounds());
    story.want(1);
    story.want(2);
    story.opened(0);
    story.lending.renew();
    let outdated = |server| Deed::Close { server: ServerId(server), why: Why::Outdated };
    assert_eq!(story.opened(1), [outdated(1), story.open(1)]);
    assert_eq!(story.returned(0, Returned::Clean), [outdated(0)]);
    assert_eq!(story.opened(1), [lend(2, 1)]);
}

#[test]
fn a_paused_pool_lends_nothing_and_its_servers_go() {
    let mut story = Story::new(10, Bounds { servers_min: 1, ..bounds() });
    story.want(1);
    story.want(2);
    story.opened(0);
    story.opened(1);
    story.returned(0, Returned::Clean);
    story.lending.pause(story.pool);
    let paused = |server| Deed::Close { server: ServerId(server), why: Why::Paused };
    assert_eq!(story.deeds(), [paused(0)]);
    assert_eq!(story.lending.lend_at_once(story.pool, None, story.now), None);
    assert_eq!(story.want(3), []);
    assert_eq!(story.at(3).tick(), [], "no minimum, and no notice that others have the servers");
    assert_eq!(story.returned(1, Returned::Clean), [paused(1)]);
    let facts = story.lending.facts(story.pool).unwrap();
    assert_eq!((facts.paused, facts.waiting, facts.lent, facts.idle, facts.opening), (true, 1, 0, 0, 0));
    story.lending.resume(story.pool, story.now);
    assert_eq!(story.deeds(), [story.open(1)]);
    assert_eq!(story.opened(1), [lend(3, 1)]);
}

#[test]
fn what_was_lent_is_counted() {
    let mut story = Story::new(10, Bounds { servers_max: 1, ..bounds() });
    story.want(1);
    story.at(1).opened(0);
    story.want(2);
    story.at(4).returned(0, Returned::Clean);
    story.at(5).returned(0, Returned::Clean);
    assert_eq!(story.lending.lend_at_once(story.pool, None, story.now), Some(ServerId(0)));
    story.at(7).returned(0, Returned::Clean);
    let lendings = story.lending.facts(story.pool).unwrap().lendings;
    let seconds = Duration::from_secs;
    assert_eq!(lendings, Lendings { count: 3, time: seconds(6), waited: seconds(4), given_up: 0 });
}

#[test]
fn after_a_failed_login_the_minimum_waits_for_a_client() {
    let mut story = Story::new(10, Bounds { servers_min: 1, ..bounds() });
    assert_eq!(story.tick(), [story.open(0)]);
    story.lending.failed(ServerId(0), story.now);
    assert_eq!(story.at(100).tick(), []);
    assert_eq!(story.want(1), [story.open(0)]);
    story.opened(0);
    story.returned(0, Returned::Unclean);
    story.deeds();
    assert_eq!(story.at(101).tick(), [story.open(0)]);
}

#[test]
fn one_pool_is_renewed_without_the_others() {
    let mut story = Story::new(10, bounds());
    let other = story.lending.add_pool(bounds(), Claim::alone());
    story.want(1);
    story.opened(0);
    story.lending.want(other, ClientId(7), story.now);
    story.opened(1);
    story.lending.renew_pool(other);
    assert_eq!(story.returned(0, Returned::Clean), []);
    let outdated = Deed::Close { server: ServerId(1), why: Why::Outdated };
    assert_eq!(story.returned(1, Returned::Clean), [outdated]);
}

#[test]
fn another_pools_idle_server_gives_way() {
    let mut story = Story::new(1, bounds());
    story.want(1);
    story.opened(0);
    let other = story.lending.add_pool(bounds(), Claim::alone());
    story.lending.want(other, ClientId(7), story.now);
    assert_eq!(story.deeds(), [], "it is lent");
    let displaced = Deed::Close { server: ServerId(0), why: Why::Displaced };
    story.lending.returned(ServerId(0), Returned::Clean, story.now);
    story.lending.tick(story.now);
    assert_eq!(story.deeds(), [displaced, Deed::Open { pool: other, server: ServerId(0) }]);
}

/// What the shell would know, told by deeds alone.
#[derive(Default)]
struct Shell {
    queues: BTreeMap<PoolId, VecDeque<ClientId>>,
    opening: BTreeMap<ServerId, PoolId>,
    idle: BTreeMap<ServerId, PoolId>,
    lent: BTreeMap<ServerId, (PoolId, ClientId)>,
    told: BTreeSet<ClientId>,
    paused: BTreeSet<PoolId>,
    /// Workers that are to look at their pools; `None`: all others.
    called: Vec<Option<usize>>,
}

impl Shell {
    fn take(&mut self, deed: Deed) {
        match deed {
            Deed::Lend { client, server } => {
                let pool = self.idle.remove(&server).expect("only an idle server is lent");
                assert!(!self.paused.contains(&pool), "a paused pool lends nothing");
                let first = self.queues.get_mut(&pool).and_then(VecDeque::pop_front);
                assert_eq!(first, Some(client), "first come, first served");
                self.lent.insert(server, (pool, client));
            }
            Deed::Open { pool, server } => {
                assert!(!self.paused.contains(&pool), "a paused pool opens nothing");
                let known = self.idle.contains_key(&server) || self.lent.contains_key(&server);
                assert!(!known && self.opening.insert(server, pool).is_none(), "a new name");
            }
            Deed::Close { server, why } => {
                let known = self.idle.remove(&server).is_some() || self.lent.remove(&server).is_some();
                assert!(known || self.opening.remove(&server).is_some(), "{why:?} of an unknown server");
            }
            Deed::Ask => self.called.push(None),
            Deed::Call { worker } => self.called.push(Some(worker)),
            Deed::Notice { client } => assert!(self.told.insert(client), "told once"),
            Deed::GiveUp { client, .. } => {
                let given_up = self.queues.values_mut().any(|queue| {
                    let first = queue.front() == Some(&client);
                    first.then(|| queue.pop_front());
                    first
                });
                assert!(given_up, "only who has waited longest is given up");
            }
        }
    }

    fn of(&self, pool: PoolId) -> usize {
        let lent = self.lent.values().filter(|(p, _)| *p == pool).count();
        self.opening.values().chain(self.idle.values()).filter(|p| **p == pool).count() + lent
    }
}

/// xorshift64*
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) as usize % limit
    }
}

/// A lending, what the shell knows of it, and a seed's choices.
struct Chaos {
    seed: u64,
    random: Random,
    open_max: usize,
    lending: Lending,
    shell: Shell,
    pools: Vec<PoolId>,
    now: Instant,
    clients: u32,
}

fn pick<T>(map: &BTreeMap<ServerId, T>, random: &mut Random) -> Option<ServerId> {
    map.keys().nth(random.below(map.len().max(1))).copied()
}

impl Chaos {
    fn new(seed: u64) -> Chaos {
        let mut random = Random(seed);
        let (open_max, pools) = (1 + random.below(5), 1 + random.below(3));
        Chaos::of(seed, random, open_max, (Claim::alone(), (0..pools).map(|_| Claim::alone())))
    }

    fn of(
        seed: u64,
        random: Random,
        open_max: usize,
        (all, pools): (Claim, impl Iterator<Item = Claim>),
    ) -> Chaos {
        let mut lending = Lending::new(open_max, all);
        let pools = pools.map(|claim| lending.add_pool(bounds(), claim)).collect();
        let (shell, now) = (Shell::default(), Instant::now());
        Chaos { seed, random, open_max, lending, shell, pools, now, clients: 0 }
    }

    fn step(&mut self) {
        let pool = self.pools[self.random.below(self.pools.len())];
        match self.random.below(9) {
            0 => self.lend_at_once(pool),
            1 | 2 => {
                self.clients += 1;
                self.shell.queues.entry(pool).or_default().push_back(ClientId(self.clients));
                self.lending.want(pool, ClientId(self.clients), self.now);
            }
            3 | 4 => self.end_opening(),
            5 | 6 => self.return_one(),
            7 => self.mishap(pool),
            _ => {
                self.now += Duration::from_millis(self.random.below(20_000) as u64);
                self.lending.tick(self.now);
            }
        }
        self.do_deeds();
    }

    fn lend_at_once(&mut self, pool: PoolId) {
        let liked = pick(&self.shell.idle, &mut self.random);
        let Some(server) = self.lending.lend_at_once(pool, liked, self.now) else { return };
        assert!(!self.shell.paused.contains(&pool), "seed {}: a paused pool lends nothing", self.seed);
        self.clients += 1;
        let in_turn = self.shell.queues.get(&pool).is_none_or(VecDeque::is_empty);
        assert!(in_turn, "seed {}: out of turn", self.seed);
        assert_eq!(self.shell.idle.remove(&server), Some(pool), "seed {}", self.seed);
        self.shell.lent.insert(server, (pool, ClientId(self.clients)));
    }

    fn end_opening(&mut self) {
        let Some(server) = pick(&self.shell.opening, &mut self.random) else { return };
        let Some(pool) = self.shell.opening.remove(&server) else { return };
        if self.random.below(4) == 0 {
            self.lending.failed(server, self.now);
        } else {
            self.shell.idle.insert(server, pool);
            self.lending.opened(server, self.now);
        }
    }

    fn return_one(&mut self) {
        let Some(server) = pick(&self.shell.lent, &mut self.random) else { return };
        let Some((pool, _)) = self.shell.lent.remove(&server) else { return };
        self.shell.idle.insert(server, pool);
        let how = [Returned::Unclean, Returned::Liked, Returned::Clean][self.random.below(5).min(2)];
        self.lending.returned(server, how, self.now);
    }

    fn mishap(&mut self, pool: PoolId) {
        match self.random.below(14) {
            0 => self.lending.renew(),
            3 => {
                self.shell.paused.insert(pool);
                self.lending.pause(pool);
            }
            4 => {
                self.shell.paused.remove(&pool);
                self.lending.resume(pool, self.now);
            }
            1 => {
                if let Some(server) = pick(&self.shell.idle, &mut self.random) {
                    self.shell.idle.remove(&server);
                    self.lending.lost(server, self.now);
                }
            }
            2 => {
                let queue = self.shell.queues.entry(pool).or_default();
                if let Some(client) = queue.remove(self.random.below(queue.len().max(1))) {
                    self.lending.forget(pool, client);
                }
            }
            _ => {}
        }
    }

    fn do_deeds(&mut self) {
        let mut deeds = Vec::new();
        self.lending.take_deeds(&mut deeds);
        deeds.into_iter().for_each(|deed| self.shell.take(deed));
    }

    fn check(&self) {
        let (seed, shell) = (self.seed, &self.shell);
        let open = shell.opening.len() + shell.idle.len() + shell.lent.len();
        assert_eq!(self.lending.open(), open);
        assert!(open <= self.open_max, "seed {seed}");
        for pool in &self.pools {
            assert!(shell.of(*pool) <= 3, "seed {seed}");
            let waits = shell.queues.get(pool).is_some_and(|q| !q.is_empty());
            let idle = shell.idle.values().any(|p| p == pool);
            assert!(!(waits && idle), "seed {seed}: somebody waits beside an idle server");
        }
    }

    /// With servers that open and clients that give back, everybody is served.
    fn settle(&mut self) {
        self.calm_down();
        for _ in 0..5_000 {
            self.now += Duration::from_millis(500);
            self.lending.tick(self.now);
            self.do_deeds();
            self.go_on();
        }
        assert!(self.nobody_waits(), "seed {}: somebody is never served", self.seed);
    }

    /// Nobody is given up any more, and nothing is paused.
    fn calm_down(&mut self) {
        let patient = Bounds { query_wait: Duration::from_secs(1_000_000), ..bounds() };
        self.lending.set_limits(self.open_max, &patient, self.now);
        self.shell.paused.clear();
        for pool in &self.pools {
            self.lending.resume(*pool, self.now);
        }
        self.do_deeds();
    }

    /// A server opens, or a client gives one back.
    fn go_on(&mut self) {
        if let Some((server, pool)) = self.shell.opening.pop_first() {
            self.shell.idle.insert(server, pool);
            self.lending.opened(server, self.now);
        } else if let Some((server, (pool, _))) = self.shell.lent.pop_first() {
            self.shell.idle.insert(server, pool);
            self.lending.returned(server, Returned::Clean, self.now);
        }
        self.do_deeds();
    }

    fn nobody_waits(&self) -> bool {
        self.shell.queues.values().all(VecDeque::is_empty)
    }
}

#[test]
fn whatever_happens_nobody_is_forgotten_and_no_bound_is_exceeded() {
    for seed in 1..400 {
        let mut chaos = Chaos::new(seed);
        for _ in 0..300 {
            chaos.step();
            chaos.check();
        }
        chaos.settle();
    }
}
