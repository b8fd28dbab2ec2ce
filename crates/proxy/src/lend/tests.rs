//! Single cases, and what must hold after any events in any order.

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
        check_after: Duration::from_secs(30),
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
        let mut lending = Lending::new(open_max);
        let (pool, now) = (lending.add_pool(bounds), Instant::now());
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
    Deed::Lend { client: ClientId(client), server: ServerId(server), check: false }
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
    let check = Deed::Lend { client: ClientId(3), server: ServerId(1), check: true };
    assert_eq!(story.want(3), [check]);
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
fn another_pools_idle_server_gives_way() {
    let mut story = Story::new(1, bounds());
    story.want(1);
    story.opened(0);
    let other = story.lending.add_pool(bounds());
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
}

impl Shell {
    fn take(&mut self, deed: Deed) {
        match deed {
            Deed::Lend { client, server, .. } => {
                let pool = self.idle.remove(&server).expect("only an idle server is lent");
                let first = self.queues.get_mut(&pool).and_then(VecDeque::pop_front);
                assert_eq!(first, Some(client), "first come, first served");
                self.lent.insert(server, (pool, client));
            }
            Deed::Open { pool, server } => {
                let known = self.idle.contains_key(&server) || self.lent.contains_key(&server);
                assert!(!known && self.opening.insert(server, pool).is_none(), "a new name");
            }
            Deed::Close { server, why } => {
                let known = self.idle.remove(&server).is_some() || self.lent.remove(&server).is_some();
                assert!(known || self.opening.remove(&server).is_some(), "{why:?} of an unknown server");
            }
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

#[test]
fn whatever_happens_nobody_is_forgotten_and_no_bound_is_exceeded() {
    for seed in 1..400 {
        let mut random = Random(seed);
        let open_max = 1 + random.below(5);
        let (mut lending, mut shell) = (Lending::new(open_max), Shell::default());
        let pools: Vec<PoolId> = (0..1 + random.below(3)).map(|_| lending.add_pool(bounds())).collect();
        let (mut now, mut clients) = (Instant::now(), 0);
        for _ in 0..300 {
            let pool = pools[random.below(pools.len())];
            let pick = |map: &BTreeMap<ServerId, PoolId>, random: &mut Random| {
                map.keys().nth(random.below(map.len().max(1))).copied()
            };
            match random.below(9) {
                0 if random.below(2) == 0 => {
                    if let Some(server) = lending.lend_at_once(pool, None, now) {
                        clients += 1;
                        assert!(
                            shell.queues.get(&pool).is_none_or(VecDeque::is_empty),
                            "seed {seed}: out of turn"
                        );
                        assert_eq!(shell.idle.remove(&server), Some(pool), "seed {seed}");
                        shell.lent.insert(server, (pool, ClientId(clients)));
                    }
                }
                0..=2 => {
                    clients += 1;
                    shell.queues.entry(pool).or_default().push_back(ClientId(clients));
                    lending.want(pool, ClientId(clients), now);
                }
                3 | 4 => {
                    if let Some(server) = pick(&shell.opening, &mut random) {
                        let pool = shell.opening.remove(&server).unwrap();
                        match random.below(4) {
                            0 => lending.failed(server, now),
                            _ => {
                                shell.idle.insert(server, pool);
                                lending.opened(server, now);
                            }
                        }
                    }
                }
                5 | 6 => {
                    let server = shell.lent.keys().nth(random.below(shell.lent.len().max(1))).copied();
                    if let Some(server) = server {
                        let (pool, _) = shell.lent.remove(&server).unwrap();
                        shell.idle.insert(server, pool);
                        let how = if random.below(5) == 0 { Returned::Unclean } else { Returned::Clean };
                        lending.returned(server, how, now);
                    }
                }
                7 => match random.below(12) {
                    0 => lending.renew(),
                    1 => {
                        if let Some(server) = pick(&shell.idle, &mut random) {
                            shell.idle.remove(&server);
                            lending.lost(server, now);
                        }
                    }
                    2 => {
                        let queue = shell.queues.entry(pool).or_default();
                        if let Some(client) = queue.remove(random.below(queue.len().max(1))) {
                            lending.forget(pool, client);
                        }
                    }
                    _ => {}
                },
                _ => {
                    now += Duration::from_millis(random.below(20_000) as u64);
                    lending.tick(now);
                }
            }
            let mut deeds = Vec::new();
            lending.take_deeds(&mut deeds);
            deeds.into_iter().for_each(|deed| shell.take(deed));
            let open = shell.opening.len() + shell.idle.len() + shell.lent.len();
            assert_eq!(lending.open(), open);
            assert!(open <= open_max, "seed {seed}");
            for pool in &pools {
                assert!(shell.of(*pool) <= 3, "seed {seed}");
                let waits = shell.queues.get(pool).is_some_and(|q| !q.is_empty());
                let idle = shell.idle.values().any(|p| p == pool);
                assert!(!(waits && idle), "seed {seed}: somebody waits beside an idle server");
            }
        }
        // With servers that open and clients that give back, everybody is served.
        for _ in 0..5_000 {
            now += Duration::from_millis(500);
            lending.tick(now);
            let mut deeds = Vec::new();
            lending.take_deeds(&mut deeds);
            deeds.into_iter().for_each(|deed| shell.take(deed));
            if let Some((server, pool)) = shell.opening.pop_first() {
                shell.idle.insert(server, pool);
                lending.opened(server, now);
            } else if let Some((server, (pool, _))) = shell.lent.pop_first() {
                shell.idle.insert(server, pool);
                lending.returned(server, Returned::Clean, now);
            }
        }
        assert!(shell.queues.values().all(VecDeque::is_empty), "seed {seed}: somebody is never served");
    }
}
