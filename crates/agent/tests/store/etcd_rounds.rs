//! The rule on which leases rest, watched from outside while leaders come and go: no leader counts a round that was sent after
//! a later leader had begun to lead.

use super::servers::Servers;
use super::trio::*;
use agent::clock::boottime_ms;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const LEADER: &str = "/pgkeel/test/leader";

/// What was seen of one term.
#[derive(Debug)]
struct Term {
    began_ms: u64,
    /// When the youngest round was sent, at the earliest.
    last_round_ms: u64,
    samples: usize,
}

#[test]
fn no_round_was_sent_after_a_later_leader_began() {
    let Some(servers) = Servers::start("etcd-rounds", 3) else { return };
    let mut trio = Trio::formed("etcd-rounds", On::Etcd(servers));
    let (seen, done) = (Mutex::new(BTreeMap::new()), AtomicBool::new(false));
    let On::Etcd(servers) = std::mem::replace(&mut trio.on, On::Embedded) else { panic!("it is etcd") };
    std::thread::scope(|scope| {
        for node in trio.up.values() {
            scope.spawn(|| watch(node, &seen, &done));
        }
        for round in 0..4 {
            disturb(&trio, &servers, round);
        }
        done.store(true, Ordering::Relaxed);
    });
    let seen = seen.into_inner().unwrap();
    let terms: Vec<(&u64, &Term)> = seen.iter().collect();
    for (i, (term, of)) in terms.iter().enumerate() {
        for (later, next) in &terms[i + 1..] {
            assert!(
                of.last_round_ms <= next.began_ms,
                "term {term} counted a round of {} ms, and term {later} began at {} ms",
                of.last_round_ms,
                next.began_ms
            );
        }
    }
    let samples: usize = seen.values().map(|t| t.samples).sum();
    eprintln!("{} terms, {samples} rounds looked at", terms.len());
    assert!(terms.len() > 10 && samples > 1000, "too little was seen: {seen:?}");
    trio.on = On::Etcd(servers);
    trio.record();
    trio.check();
}

fn watch(node: &Node, seen: &Mutex<BTreeMap<u64, Term>>, done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_micros(500));
        let before = node.standing();
        let at = boottime_ms();
        let age = node.store.quorum_age();
        let after = node.standing();
        if !(before.leading && after.leading && before.term == after.term) {
            continue;
        }
        let mut seen = seen.lock().unwrap();
        let term = seen.entry(before.term).or_insert(Term { began_ms: at, last_round_ms: 0, samples: 0 });
        if let Some(age) = age {
            let sent = at.saturating_sub(u64::try_from(age.as_millis()).unwrap());
            term.last_round_ms = term.last_round_ms.max(sent);
            term.samples += 1;
        }
    }
}

/// Takes the leadership from whoever has it, in every way there is.
fn disturb(trio: &Trio, servers: &Servers, round: usize) {
    let pause = || std::thread::sleep(Duration::from_millis(700));
    let leader = || trio.up.values().find(|n| n.standing().leading);
    servers.put(LEADER, b"something that no agent wrote");
    pause();
    servers.delete(LEADER);
    pause();
    servers.delete(LEADER);
    pause();
    if let Some(node) = leader() {
        node.store.may_lead(false);
        pause();
        node.store.may_lead(true);
    }
    let to = trio.up.keys().nth(round % 3).unwrap();
    if let Some(node) = leader() {
        // It may be that one already, or have lost it just now.
        let _ = node.runtime.block_on(node.store.transfer(to));
    }
    pause();
    let frozen = servers.leader();
    servers.signal(frozen, Signal::STOP);
    pause();
    pause();
    // While its member stands still a leader does not hear that it is deposed.
    servers.delete_beside(frozen, LEADER);
    pause();
    servers.signal(frozen, Signal::CONT);
    pause();
}
