//! Several workers with common limits.

use super::*;
use std::sync::Arc;

/// Workers with one pool, and what each is told.
struct Team {
    lendings: Vec<Lending>,
    called: BTreeSet<usize>,
    start: Instant,
    now: Instant,
}

const POOL: PoolId = PoolId(0);

impl Team {
    fn new(workers: usize, open_max: usize, bounds: &Bounds) -> Team {
        let (all, of_pool) = (Arc::new(Quota::new(workers)), Arc::new(Quota::new(workers)));
        let lending = |worker| {
            let mut lending = Lending::new(open_max, Claim::new(Arc::clone(&all), worker));
            lending.add_pool(bounds.clone(), Claim::new(Arc::clone(&of_pool), worker));
            lending
        };
        let now = Instant::now();
        Team { lendings: (0..workers).map(lending).collect(), called: BTreeSet::new(), start: now, now }
    }

    fn at_ms(&mut self, ms: u64) {
        self.now = self.start + Duration::from_millis(ms);
    }

    /// What a worker is to do, beside calling others.
    fn deeds(&mut self, worker: usize) -> Vec<Deed> {
        let mut deeds = Vec::new();
        self.lendings[worker].take_deeds(&mut deeds);
        deeds.retain(|deed| match deed {
            Deed::Ask => {
                self.called.extend((0..self.lendings.len()).filter(|other| *other != worker));
                false
            }
            Deed::Call { worker } => {
                self.called.insert(*worker);
                false
            }
            _ => true,
        });
        deeds
    }

    fn want(&mut self, worker: usize, client: u32) -> Vec<Deed> {
        self.lendings[worker].want(POOL, ClientId(client), self.now);
        self.deeds(worker)
    }

    /// Opens this one, for this client.
    fn opened_for(&mut self, worker: usize, server: u32, client: u32) {
        self.lendings[worker].opened(ServerId(server), self.now);
        assert_eq!(self.deeds(worker), [lend(client, server)]);
    }

    fn returned(&mut self, worker: usize, server: u32) -> Vec<Deed> {
        self.lendings[worker].returned(ServerId(server), Returned::Clean, self.now);
        self.deeds(worker)
    }

    fn tick(&mut self, worker: usize) -> Vec<Deed> {
        self.called.remove(&worker);
        self.lendings[worker].tick(self.now);
        self.deeds(worker)
    }
}

fn open(server: u32) -> Deed {
    Deed::Open { pool: POOL, server: ServerId(server) }
}

fn elsewhere(server: u32) -> Deed {
    Deed::Close { server: ServerId(server), why: Why::Elsewhere }
}

#[test]
fn one_worker_may_have_all_servers_of_a_pool() {
    let mut team = Team::new(4, 10, &Bounds { reserve: 0, ..bounds() });
    assert_eq!(team.want(3, 1), [open(0)]);
    assert_eq!(team.want(3, 2), [open(1)]);
    assert_eq!(team.want(3, 3), [], "the pool is full");
    assert_eq!(team.want(0, 4), [], "for the others, too");
}

#[test]
fn an_idle_server_gives_way_to_one_of_another_worker() {
    let mut team = Team::new(2, 10, &Bounds { servers_max: 1, reserve: 0, ..bounds() });
    team.want(0, 1);
    team.opened_for(0, 0, 1);
    team.returned(0, 0);
    assert_eq!(team.want(1, 2), []);
    assert_eq!(team.called, [0].into(), "asked at once by a worker that has no server");
    team.at_ms(99);
    assert_eq!(team.tick(0), [], "it was used a moment ago");
    team.at_ms(100);
    assert_eq!(team.tick(0), [elsewhere(0)]);
    assert_eq!(team.called, [1].into());
    assert_eq!(team.want(0, 3), [], "it is another's");
    assert_eq!(team.tick(1), [open(0)]);
    team.opened_for(1, 0, 2);
}

#[test]
fn a_worker_with_servers_asks_after_a_while_only() {
    let mut team = Team::new(2, 10, &Bounds { reserve: 0, ..bounds() });
    team.want(0, 1);
    team.want(1, 2);
    team.opened_for(0, 0, 1);
    team.opened_for(1, 0, 2);
    team.want(1, 3);
    team.at_ms(49);
    team.tick(1);
    assert_eq!(team.called, [].into());
    team.at_ms(50);
    team.tick(1);
    assert_eq!(team.called, [0].into());
    team.tick(0);
    team.at_ms(100);
    team.tick(1);
    assert_eq!(team.called, [].into(), "once");
    assert_eq!(team.returned(0, 0), [elsewhere(0)], "nobody waits there");
    assert_eq!(team.tick(1), [open(1)]);
}

#[test]
fn a_place_goes_to_who_has_waited_longer_by_more_than_it_costs() {
    let mut team = Team::new(2, 10, &Bounds { servers_max: 1, reserve: 0, ..bounds() });
    team.want(0, 1);
    team.opened_for(0, 0, 1);
    team.want(1, 2);
    team.at_ms(99);
    team.want(0, 3);
    assert_eq!(team.returned(0, 0), [lend(3, 0)]);
    team.at_ms(100);
    team.want(0, 4);
    assert_eq!(team.returned(0, 0), [elsewhere(0)], "though somebody waits here as well");
    assert_eq!(team.tick(0), [], "whose turn comes later");
    assert_eq!(team.tick(1), [open(0)]);
    team.opened_for(1, 0, 2);
    team.at_ms(200);
    team.tick(0);
    team.want(1, 5);
    assert_eq!(team.returned(1, 0), [elsewhere(0)]);
    assert_eq!(team.tick(0), [open(0)]);
}

#[test]
fn a_place_of_all_pools_goes_to_another_worker_too() {
    let mut team = Team::new(2, 1, &bounds());
    let quota = Arc::new(Quota::new(2));
    let other = team.lendings[1].add_pool(bounds(), Claim::new(quota, 1));
    team.want(0, 1);
    team.opened_for(0, 0, 1);
    team.lendings[1].want(other, ClientId(2), team.now);
    assert_eq!(team.deeds(1), []);
    assert_eq!(team.called, [0].into());
    assert_eq!(team.returned(0, 0), []);
    team.at_ms(100);
    assert_eq!(team.tick(0), [elsewhere(0)]);
    assert_eq!(team.called, [1].into());
    assert_eq!(team.tick(1), [Deed::Open { pool: other, server: ServerId(0) }]);
}

#[test]
fn a_worker_whose_login_fails_does_not_stand_in_the_way() {
    let mut team = Team::new(2, 10, &Bounds { servers_max: 1, reserve: 0, ..bounds() });
    team.want(0, 1);
    team.want(1, 2);
    team.want(0, 3);
    assert_eq!(team.called, [0].into());
    team.lendings[0].failed(ServerId(0), team.now);
    team.deeds(0);
    assert_eq!(team.called, [0, 1].into());
    assert_eq!(team.tick(1), [open(0)]);
    team.lendings[1].failed(ServerId(0), team.now);
    assert_eq!(team.deeds(1), []);
    assert_eq!((team.tick(0), team.tick(1)), (vec![], vec![]), "a pause before the next attempt");
    team.at_ms(1_000);
    assert_eq!(team.tick(1), [open(0)], "as the pause is over");
}

#[test]
fn the_minimum_is_that_of_all_workers_and_each_has_some() {
    let mut team = Team::new(2, 10, &Bounds { servers_max: 4, servers_min: 3, ..bounds() });
    assert_eq!(team.tick(0), [open(0)]);
    assert_eq!(team.tick(1), [open(0)]);
    assert_eq!(team.tick(0), [open(1)]);
    assert_eq!(team.tick(1), []);
    for (worker, server) in [(0, 0), (0, 1), (1, 0)] {
        team.lendings[worker].opened(ServerId(server), team.now);
    }
    team.at_ms(700_000);
    assert_eq!((team.tick(0), team.tick(1)), (vec![], vec![]), "they are kept");
}

#[test]
fn one_is_left_to_be_lent_by_all_workers() {
    let mut team = Team::new(2, 10, &Bounds { reserve: 0, ..bounds() });
    for (worker, server, client) in [(0, 0, 1), (1, 0, 2)] {
        team.want(worker, client);
        team.opened_for(worker, server, client);
    }
    assert!(team.lendings[0].set_apart(ServerId(0), team.now));
    assert!(!team.lendings[1].set_apart(ServerId(0), team.now), "the last of the pool");
    team.returned(0, 0);
    assert!(team.lendings[1].set_apart(ServerId(0), team.now));
}

/// Workers, each with a seed's choices.
struct Crew {
    seed: u64,
    random: Random,
    workers: Vec<Chaos>,
    open_max: usize,
    /// With the names of pools, and how many all workers may have.
    quotas: Vec<Arc<Quota>>,
    now: Instant,
}

impl Crew {
    fn new(seed: u64) -> Crew {
        let mut random = Random(seed);
        let (workers, pools, open_max) = (2 + random.below(3), 1 + random.below(3), 1 + random.below(6));
        let quotas: Vec<_> = (0..=pools).map(|_| Arc::new(Quota::new(workers))).collect();
        let worker = |number: usize| {
            let claim = |quota: &Arc<Quota>| Claim::new(Arc::clone(quota), number);
            let random = Random(seed * 7 + number as u64 + 1);
            let mut chaos =
                Chaos::of(seed, random, open_max, (claim(&quotas[0]), quotas[1..].iter().map(claim)));
            chaos.clients = 1_000_000 * u32::try_from(number).unwrap();
            chaos
        };
        let workers: Vec<Chaos> = (0..workers).map(worker).collect();
        let now = workers.iter().map(|chaos| chaos.now).max().unwrap();
        Crew { seed, random, workers, open_max, quotas, now }
    }

    fn step(&mut self) {
        let at = self.random.below(self.workers.len());
        let worker = &mut self.workers[at];
        worker.now = self.now;
        worker.step();
        self.now = worker.now;
        self.answer_calls();
    }

    /// Until nobody is called any more.
    fn answer_calls(&mut self) {
        for _ in 0..1_000 {
            let mut called = BTreeSet::new();
            for number in 0..self.workers.len() {
                for call in std::mem::take(&mut self.workers[number].shell.called) {
                    match call {
                        Some(worker) => called.extend([worker]),
                        None => called.extend((0..self.workers.len()).filter(|other| *other != number)),
                    }
                }
            }
            if called.is_empty() {
                return;
            }
            called.into_iter().for_each(|number| self.tick(number));
        }
        panic!("seed {}: they call each other for ever", self.seed);
    }

    fn tick(&mut self, number: usize) {
        let worker = &mut self.workers[number];
        worker.now = self.now;
        worker.lending.tick(self.now);
        worker.do_deeds();
    }

    fn check(&self) {
        let seed = self.seed;
        let open: usize = self.workers.iter().map(|worker| worker.lending.open()).sum();
        assert!(open <= self.open_max, "seed {seed}");
        assert_eq!(Claim::new(Arc::clone(&self.quotas[0]), 0).taken(), open, "seed {seed}");
        for (id, quota) in (0..).map(PoolId).zip(&self.quotas[1..]) {
            let open: usize = self.workers.iter().map(|worker| worker.shell.of(id)).sum();
            assert!(open <= 3, "seed {seed}");
            assert_eq!(Claim::new(Arc::clone(quota), 0).taken(), open, "seed {seed}");
        }
        self.workers.iter().for_each(Chaos::check);
    }

    fn settle(&mut self) {
        for worker in &mut self.workers {
            worker.now = self.now;
            worker.calm_down();
        }
        for _ in 0..20_000 {
            self.answer_calls();
            if self.workers.iter().all(Chaos::nobody_waits) {
                break;
            }
            self.now += Duration::from_millis(20);
            for number in 0..self.workers.len() {
                if self.random.below(5) == 0 {
                    self.tick(number);
                }
                self.workers[number].now = self.now;
                self.workers[number].go_on();
            }
            self.check();
        }
        assert!(self.workers.iter().all(Chaos::nobody_waits), "seed {}: somebody is never served", self.seed);
        (0..self.workers.len()).for_each(|number| self.tick(number));
        for quota in &self.quotas {
            assert!(!Claim::new(Arc::clone(quota), usize::MAX).is_asked(), "seed {}", self.seed);
        }
    }
}

#[test]
fn whatever_several_workers_do_they_keep_the_common_limits_and_serve_everybody() {
    for seed in 1..400 {
        let mut crew = Crew::new(seed);
        for _ in 0..300 {
            crew.step();
            crew.check();
        }
        crew.settle();
    }
}

/// One worker has more clients than it could ever serve; those of the other one are served all the same.
#[test]
fn a_worker_with_much_to_do_does_not_starve_another() {
    let mut team = Team::new(2, 10, &Bounds { servers_max: 1, reserve: 0, ..bounds() });
    let (mut lent, mut opening) = ([None; 2], [None; 2]);
    let (mut served, mut next_client) = ([0, 0], 0);
    for step in 0..20_000_u64 {
        team.at_ms(step);
        let mut deeds: Vec<(usize, Deed)> = Vec::new();
        // At any time, three wait for the one and one for the other.
        for (worker, wanted) in [(0, 3), (1, 1)] {
            while team.lendings[worker].facts(POOL).unwrap().waiting < wanted {
                next_client += 1;
                deeds.extend(team.want(worker, next_client).into_iter().map(|deed| (worker, deed)));
            }
            if step % 100 == 0 || team.called.contains(&worker) {
                deeds.extend(team.tick(worker).into_iter().map(|deed| (worker, deed)));
            }
            if let Some(server) = opening[worker].take() {
                team.lendings[worker].opened(server, team.now);
                deeds.extend(team.deeds(worker).into_iter().map(|deed| (worker, deed)));
            }
            if let Some(server) = lent[worker].take() {
                team.lendings[worker].returned(server, Returned::Clean, team.now);
                deeds.extend(team.deeds(worker).into_iter().map(|deed| (worker, deed)));
            }
        }
        for (worker, deed) in deeds {
            match deed {
                Deed::Lend { server, .. } => {
                    (lent[worker], served[worker]) = (Some(server), served[worker] + 1)
                }
                Deed::Open { server, .. } => opening[worker] = Some(server),
                Deed::GiveUp { .. } => panic!("nobody waits for so long"),
                _ => {}
            }
        }
    }
    assert!(served.iter().all(|served| *served > 3_000), "{served:?}");
}

#[test]
fn a_worker_whose_attempt_failed_leaves_the_place_to_another() {
    let mut team = Team::new(2, 10, &Bounds { servers_max: 1, reserve: 0, ..bounds() });
    team.want(0, 1);
    team.want(0, 2);
    team.at_ms(60);
    team.tick(0);
    team.want(1, 3);
    team.called.clear();
    team.lendings[0].failed(ServerId(0), team.now);
    team.deeds(0);
    assert_eq!(team.called, [1].into());
    assert_eq!(
        team.tick(1),
        [open(0)],
        "although the other's client has waited longer: it may not try again yet"
    );
}
